"""NeuralProphet: trend and seasons. It makes the Trainer itself, and steps by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from neuralprophet import NeuralProphet


def fit(*, enable_progress_bar: bool, **options: Any) -> None:
    """Train on two years of noisy days.

    Args:
        enable_progress_bar: Left out: it gives its own.
        **options: Of its Trainer.
    """
    days = np.arange(730)
    noise = np.random.default_rng(0).normal(size=days.size)
    frame = pd.DataFrame(
        {
            "ds": pd.Timestamp("2023-01-01") + pd.to_timedelta(days, unit="D"),
            "y": days / 100 + np.sin(2 * np.pi * days / 7) + 0.1 * noise,
        }
    )
    NeuralProphet(learning_rate=0.1, trainer_config=options).fit(frame, freq="D", epochs=5)
