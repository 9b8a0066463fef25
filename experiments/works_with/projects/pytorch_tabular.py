"""PyTorch Tabular: a multilayer perceptron with embeddings. It makes the Trainer itself."""

from __future__ import annotations

from typing import Any

from pytorch_tabular import TabularModel
from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig
from pytorch_tabular.models import CategoryEmbeddingModelConfig
from sklearn.datasets import load_diabetes


def fit(*, callbacks: list[Any], **options: Any) -> None:
    """Train on scikit-learn's diabetes data, with a scheduler that its configuration offers."""
    frame = load_diabetes(as_frame=True).frame
    frame["target"] = (frame["target"] - frame["target"].mean()) / frame["target"].std()
    model = TabularModel(
        data_config=DataConfig(
            target=["target"], continuous_cols=[c for c in frame.columns if c != "target"]
        ),
        model_config=CategoryEmbeddingModelConfig(task="regression", layers="32-16"),
        optimizer_config=OptimizerConfig(
            lr_scheduler="CosineAnnealingWarmRestarts", lr_scheduler_params={"T_0": 10}
        ),
        trainer_config=TrainerConfig(
            accelerator="cpu",
            batch_size=32,
            max_epochs=5,
            checkpoints=None,
            early_stopping=None,
            load_best=False,
            progress_bar="none",
            seed=0,
        ),
        verbose=False,
    )
    model.fit(train=frame, callbacks=callbacks)
