"""PyTorch Forecasting: a temporal fusion transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch import Trainer
from pytorch_forecasting import QuantileLoss, TemporalFusionTransformer, TimeSeriesDataSet


def fit(**options: Any) -> None:
    """Train on noisy sines of eight phases."""
    time, series = (grid.ravel() for grid in np.meshgrid(np.arange(100), np.arange(8)))
    value = np.sin(time / 5 + series) + 0.1 * np.random.default_rng(0).normal(size=time.size)
    frame = pd.DataFrame({"time": time, "series": series.astype(str), "value": value})
    data = TimeSeriesDataSet(
        frame,
        time_idx="time",
        target="value",
        group_ids=["series"],
        max_encoder_length=20,
        max_prediction_length=5,
        time_varying_known_reals=["time"],
        time_varying_unknown_reals=["value"],
    )
    loader = data.to_dataloader(train=True, batch_size=32)
    model = TemporalFusionTransformer.from_dataset(
        data, learning_rate=0.03, hidden_size=8, loss=QuantileLoss(), optimizer="adam"
    )
    Trainer(max_epochs=3, gradient_clip_val=0.1, **options).fit(
        model, loader, data.to_dataloader(train=False, batch_size=64)
    )
