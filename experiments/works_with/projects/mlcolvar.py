"""Mlcolvar: slow modes of a molecule's motion, learned from its trajectory."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer
from mlcolvar.cvs import DeepTICA
from mlcolvar.data import DictModule
from mlcolvar.utils.timelagged import create_timelagged_dataset


def fit(**options: Any) -> None:
    """Train on a random walk with one slow direction."""
    generator = torch.Generator().manual_seed(0)
    walk, pulls = torch.zeros(1500, 4), torch.tensor([0.97, 0.87, 0.48, 0.1])
    for step in range(1, len(walk)):
        walk[step] = pulls * walk[step - 1] + 0.2 * torch.randn(4, generator=generator)
    data = DictModule(create_timelagged_dataset(walk, lag_time=5), batch_size=200)
    options_of_model = {"optimizer": {"lr": 1e-3}, "nn": {"activation": "shifted_softplus"}}
    model = DeepTICA([4, 16, 2], options=options_of_model)
    Trainer(max_epochs=10, **options).fit(model, data)
