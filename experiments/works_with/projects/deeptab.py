"""DeepTab: a multilayer perceptron for tables. It makes the Trainer itself."""

from __future__ import annotations

from typing import Any

from deeptab.configs import TrainerConfig
from deeptab.models import MLPRegressor
from sklearn.datasets import load_diabetes


def fit(*, enable_checkpointing: bool, enable_model_summary: bool, **options: Any) -> None:
    """Train on scikit-learn's diabetes data, with a scheduler that its configuration offers.

    Args:
        enable_checkpointing: Left out: it loads its best checkpoint at the end.
        enable_model_summary: Left out: it brings a summary.
        **options: Of its Trainer.
    """
    data = load_diabetes(as_frame=True)
    settings = TrainerConfig(
        max_epochs=5,
        batch_size=32,
        lr=0.001,
        scheduler_type="OneCycleLR",
        scheduler_kwargs={"max_lr": 0.01, "total_steps": 60},
        scheduler_interval="step",
    )
    MLPRegressor(trainer_config=settings, random_state=0).fit(data.data, data.target, **options)
