"""A small generated data set in RecBole's format, and runs of its models on it; used by
test_recbole*.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender import BPR
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_seed

from sgdl_wrap import DenoiserConfig, SelfGuidedDenoiser
from sgdl_wrap.integrations.recbole import denoise
from tests.support.models_zoo import snapshot, stream_states, without

MARKS = [
    pytest.mark.filterwarnings("ignore:A value is trying to be set on a copy:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.torch.cuda.amp.GradScaler:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.sparse.SparseTensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS:UserWarning"),
    pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy:UserWarning"),
]
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


class Own(BPR):
    """A user's own model: BPR with something more than the mean."""

    def calculate_loss(self, interaction: Any) -> Any:
        return self.more(super().calculate_loss(interaction), interaction)


def outcome(trainer: Any, train_data: Any) -> Any:
    """All that a run leaves: parameters, optimizer, losses, scores, random streams."""
    return (
        without(snapshot(trainer.model, trainer.optimizer), "storages"),
        trainer.train_loss_dict, trainer.best_valid_score, trainer.best_valid_result,
        stream_states(), train_data.generator.get_state(),
    )  # fmt: skip


def run(
    home: Path, name: Any, config: DenoiserConfig | None = None, **settings: Any
) -> tuple[SelfGuidedDenoiser | None, Any]:
    """Fits a model, denoised if a config is given."""
    trainer, train_data, valid_data = set_up(home, name, **settings)
    denoiser = None if config is None else denoise(trainer, train_data, config=config)
    trainer.fit(train_data, valid_data, verbose=False)
    return denoiser, outcome(trainer, train_data)
