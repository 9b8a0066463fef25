"""RecTools: SASRec, a transformer that recommends. Its module keeps its optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pytorch_lightning import Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def fit(**options: Any) -> None:
    """Train on users who go through the items in order."""
    users, times = (grid.ravel() for grid in np.meshgrid(np.arange(320), np.arange(8)))
    frame = pd.DataFrame(
        {
            Columns.User: users,
            Columns.Item: (users + times) % 40,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2024-01-01") + pd.to_timedelta(times, unit="D"),
        }
    )
    model = SASRecModel(
        n_blocks=1,
        n_heads=2,
        n_factors=16,
        session_max_len=8,
        batch_size=32,
        get_trainer_func=lambda: Trainer(max_epochs=6, **options),
    )
    model.fit(Dataset.construct(frame))
