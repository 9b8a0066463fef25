"""Casanovo: the peptide behind a mass spectrum, by a transformer."""

from __future__ import annotations

from typing import Any

import torch
from casanovo.denovo.model import Spec2Pep
from depthcharge.tokenizers import PeptideTokenizer
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

RESIDUES = "GASPVT"


def fit(**options: Any) -> None:
    """Train on peptides whose spectra show which residues are where."""
    numbers = torch.Generator().manual_seed(0)
    residues = torch.randint(len(RESIDUES), (320, 6), generator=numbers)
    tokenizer = PeptideTokenizer()
    loader = DataLoader(
        [
            {
                "mz_array": 200.0 + 100 * torch.arange(6) + 10 * peptide,
                "intensity_array": torch.ones(6),
                "precursor_mz": torch.tensor(600.0),
                "precursor_charge": torch.tensor(2),
                "seq": tokenizer.tokenize(["".join(RESIDUES[i] for i in peptide)])[0],
            }
            for peptide in residues
        ],
        batch_size=32,
        shuffle=True,
    )
    model = Spec2Pep(
        dim_model=32, n_head=4, dim_feedforward=64, n_layers=1, tokenizer=tokenizer, lr=0.005
    )
    Trainer(max_epochs=6, **options).fit(model, loader)
