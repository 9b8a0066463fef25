"""GluonTS: DeepAR. It makes the Trainer itself, and its loader has no length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from gluonts.dataset.common import ListDataset
from gluonts.torch import DeepAREstimator


def fit(**options: Any) -> None:
    """Train on noisy sines of eight phases."""
    numbers = np.random.default_rng(0)
    data = ListDataset(
        [
            {
                "start": pd.Period("2024-01-01", freq="D"),
                "target": np.sin(np.arange(120) / 5 + phase) + 0.1 * numbers.normal(size=120),
            }
            for phase in range(8)
        ],
        freq="D",
    )
    estimator = DeepAREstimator(
        freq="D",
        prediction_length=8,
        context_length=16,
        hidden_size=16,
        num_batches_per_epoch=30,
        trainer_kwargs={
            **options,
            "max_epochs": 2,
            "limit_train_batches": 30,  # OneCycle has to know how long an epoch is
            "enable_checkpointing": True,  # it reads its best checkpoint at the end
        },
    )
    estimator.train(data)
