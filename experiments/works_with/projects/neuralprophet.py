"""NeuralProphet: trend and seasons. It makes the Trainer itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from neuralprophet import NeuralProphet


def fit(**options: Any) -> None:
    """Train on two years of noisy days."""
    days = np.arange(730)
    noise = np.random.default_rng(0).normal(size=days.size)
    frame = pd.DataFrame(
        {
            "ds": pd.Timestamp("2023-01-01") + pd.to_timedelta(days, unit="D"),
            "y": days / 100 + np.sin(2 * np.pi * days / 7) + 0.1 * noise,
        }
    )
    NeuralProphet(learning_rate=0.1, trainer_config=options).fit(frame, freq="D", epochs=5)
