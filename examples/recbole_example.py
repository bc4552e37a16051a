"""A RecBole model, plain and denoised: ``python examples/recbole_example.py``.

Needs the extra ``recbole``, in an environment of its own (docs/recbole.md). The clicks are
generated, a fifth of them noise, and the test set is clean. RecBole reads its settings from the
command line as ever: ``--model=NeuMF --learning_rate=0.001 --epochs=30``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from sklearn.metrics import roc_auc_score

from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from sgdl_wrap.integrations.recbole import denoise
from sgdl_wrap.testing import Clicks, planted_clicks

SETTINGS = {
    "model": "LightGCN", "data_path": ".", "benchmark_filename": ["train", "valid", "test"],
    "load_col": {"inter": ["user_id", "item_id"]}, "use_gpu": False,
    "epochs": 30, "train_batch_size": 1024, "learning_rate": 0.01, "reg_weight": 0.001,
    "eval_step": 3, "metrics": ["Recall", "NDCG"], "topk": [20], "valid_metric": "NDCG@20",
}  # fmt: skip


def main() -> None:
    """Trains twice from the same seed, and prints what was found on the clean test set."""
    clicks = planted_clicks()
    print(f"{clicks.n_users} users, {clicks.n_items} items, {len(clicks.users):,} clicks")
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole writes where it is started
        # its checkpoints hold its Config, which torch loads only from files that one trusts
        os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        try:
            write(clicks, Path("clicks"))
            _, _, plain = train(denoised=False)
            denoiser, dataset, better = train(denoised=True)
        finally:
            os.chdir(home)
    for metric in plain:
        print(f"{metric}: plain {plain[metric]:.4f}, denoised {better[metric]:.4f}")
    assert denoiser is not None
    print(f"Phase II after epoch {denoiser.memorization_point}")
    truth = clicks.is_noise.float().mean()
    print(f"noise rate: estimated {denoiser.noise_rate:.3f}, true {truth:.3f}")

    rows = denoiser.report().rows  # RecBole's ids, most suspicious first
    users = dataset.id2token("user_id", rows["user"]).astype(int)
    items = dataset.id2token("item_id", rows["item"]).astype(int)
    noisy, suspicion = clicks.noise_of(users, items), np.nan_to_num(rows["suspicion"])
    print(f"suspicion finds the noise with AUC {roc_auc_score(noisy, suspicion):.3f}")


def train(*, denoised: bool) -> tuple[SelfGuidedDenoiser | None, Any, dict[str, float]]:
    """RecBole's quick start, with one line more; returns what the test set says too."""
    config = Config(dataset="clicks", config_dict=dict(SETTINGS))
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, train_data.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    denoiser = None
    if denoised:
        denoiser = denoise(trainer, train_data, config=DenoiserConfig(history_length=10))
    trainer.fit(train_data, valid_data, verbose=False)
    result = trainer.evaluate(test_data)  # at the epoch that was best on validation
    trainer.tensorboard.close()
    return denoiser, train_data.dataset, dict(result)


def write(clicks: Clicks, folder: Path) -> None:
    """Train, validation (every tenth click) and test as RecBole's atomic files."""
    folder.mkdir()
    held = np.arange(len(clicks.users)) % 10 == 0  # the clicks are in random order
    splits = {
        "train": (clicks.users[~held], clicks.items[~held]),
        "valid": (clicks.users[held], clicks.items[held]),
        "test": (clicks.test_users, clicks.test_items),
    }
    for name, pairs in splits.items():
        np.savetxt(
            folder / f"{folder.name}.{name}.inter", np.stack(pairs, axis=1), fmt="%d",
            delimiter="\t", header="user_id:token\titem_id:token", comments="",
        )  # fmt: skip


if __name__ == "__main__":
    main()
