"""Chemprop: properties of molecules, by message passing."""

from __future__ import annotations

from typing import Any

import numpy as np
from chemprop.data import MoleculeDatapoint, MoleculeDataset, build_dataloader
from chemprop.models import MPNN
from chemprop.nn import BondMessagePassing, MeanAggregation, RegressionFFN
from lightning.pytorch import Trainer


def fit(**options: Any) -> None:
    """Train to tell alcohols from amines."""
    smiles = ["C" * n + "C(C)" * m + end for n in range(1, 21) for m in range(6) for end in "ON"]
    points = [MoleculeDatapoint.from_smi(s, np.array([float(s[-1] == "O")])) for s in smiles]
    loader = build_dataloader(MoleculeDataset(points), batch_size=80)
    model = MPNN(BondMessagePassing(d_h=64), MeanAggregation(), RegressionFFN(input_dim=64))
    Trainer(max_epochs=20, **options).fit(model, loader)
