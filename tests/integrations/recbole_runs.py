"""A small generated data set in RecBole's format, and runs of its models on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_seed

USERS, ITEMS, PAIRS = 30, 40, 360
SMALL: dict[str, Any] = {
    "embedding_size": 8, "mf_embedding_size": 8, "mlp_embedding_size": 8,
    "mlp_hidden_size": [8], "hidden_size_list": [8, 8], "n_layers": 2, "reg_weight": 0.01,
}  # fmt: skip
NEGATIVES = {"distribution": "uniform", "sample_num": 2, "alpha": 1.0, "dynamic": False,
             "candidate_num": 0}  # fmt: skip


def write_data(folder: Path, name: str = "tiny") -> None:
    """Clicks near each user's taste, and one in five anywhere, as RecBole's atomic file."""
    draw = np.random.default_rng(0)
    users = draw.integers(USERS, size=PAIRS)
    near = (users + draw.integers(8, size=PAIRS)) % ITEMS
    items = np.where(draw.random(PAIRS) < 0.8, near, draw.integers(ITEMS, size=PAIRS))
    pairs = np.unique(np.stack([users, items], axis=1), axis=0)
    place = folder / name / f"{name}.inter"
    place.parent.mkdir()
    lines = ["user_id:token\titem_id:token", *(f"u{user}\ti{item}" for user, item in pairs)]
    place.write_text("\n".join(lines) + "\n")


def set_up(folder: Path, model_name: str, *, model_class: Any = None, **settings: Any) -> Any:
    """(trainer, train_data, valid_data) as RecBole's quick start makes them; seeded."""
    config = Config(
        model=model_name if model_class is None else model_class,
        dataset="tiny",
        config_dict={
            "data_path": str(folder), "checkpoint_dir": str(folder / "saved"), "use_gpu": False,
            "seed": 7, "epochs": 3, "train_batch_size": 100, "eval_batch_size": 4096,
            "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user",
                          "mode": {"valid": "full", "test": "full"}},
            "metrics": ["Recall"], "topk": [5], "valid_metric": "Recall@5",
            "load_col": {"inter": ["user_id", "item_id"]}, "show_progress": False,
            **SMALL, **settings,
        },
    )  # fmt: skip
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    kind = model_class or get_model(model_name)
    model = kind(config, train_data.dataset).to(config["device"])
    trainer: Trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.tensorboard.close()  # its thread would outlive the test, and write where that was
    trainer.tensorboard = _Silent()
    return trainer, train_data, valid_data


class _Silent:
    """A TensorBoard writer that writes nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: None
