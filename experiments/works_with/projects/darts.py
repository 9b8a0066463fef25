"""Darts: N-BEATS. It makes the Trainer itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from darts import TimeSeries
from darts.models import NBEATSModel


def fit(**options: Any) -> None:
    """Train on a noisy sine."""
    noise = np.random.default_rng(0).normal(size=300)
    values = np.sin(np.arange(300) / 5) + 0.1 * noise
    model = NBEATSModel(
        input_chunk_length=24,
        output_chunk_length=8,
        num_stacks=2,
        layer_widths=32,
        batch_size=16,
        n_epochs=3,
        random_state=0,
        pl_trainer_kwargs=options,
    )
    model.fit(TimeSeries.from_values(values.astype(np.float32)))
