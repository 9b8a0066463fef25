"""NeuralForecast: N-HiTS. It makes the Trainer itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS


def fit(**options: Any) -> None:
    """Train on noisy sines of eight phases."""
    time, series = (grid.ravel() for grid in np.meshgrid(np.arange(120), np.arange(8)))
    frame = pd.DataFrame(
        {
            "unique_id": series.astype(str),
            "ds": pd.Timestamp("2024-01-01") + pd.to_timedelta(time, unit="D"),
            "y": np.sin(time / 5 + series) + 0.1 * np.random.default_rng(0).normal(size=time.size),
        }
    )
    model = NHITS(
        h=8,
        input_size=24,
        max_steps=60,
        windows_batch_size=32,
        mlp_units=3 * [[32, 32]],
        random_seed=0,
        **options,
    )
    NeuralForecast(models=[model], freq="D").fit(frame)
