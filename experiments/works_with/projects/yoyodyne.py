"""Yoyodyne: a recurrent network that turns one word into another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from lightning.pytorch import Trainer
from yoyodyne.data import DataModule
from yoyodyne.models import GRUModel
from yoyodyne.models.modules import GRUEncoder
from yoyodyne.schedulers import WarmupInverseSquareRoot


def fit(**options: Any) -> None:
    """Train to write words backwards, with a scheduler of its own."""
    words = ["".join(Random(seed).choices("abcdefgh", k=6)) for seed in range(480)]
    file = Path("train.tsv")
    file.write_text("".join(f"{word}\t{word[::-1]}\n" for word in words))
    data = DataModule(model_dir=".", train=str(file), val=str(file), batch_size=32)
    model = GRUModel(
        source_encoder=GRUEncoder(embedding_size=32, hidden_size=32),
        embedding_size=32,
        decoder_hidden_size=32,
        vocab_size=data.vocab_size,
        target_vocab_size=data.target_vocab_size,
        scheduler=partial(WarmupInverseSquareRoot, warmup_epochs=2),
    )
    Trainer(max_epochs=4, **options).fit(model, datamodule=data)
