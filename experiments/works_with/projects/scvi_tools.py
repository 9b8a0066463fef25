"""scvi-tools: a variational autoencoder of gene counts. It makes the Trainer itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import scvi
from anndata import AnnData


def fit(*, devices: int, logger: bool, **options: Any) -> None:
    """Train on counts of four kinds of cells.

    Args:
        devices: Left out: it gives its own.
        logger: Left out: its monitor of the learning rate needs the logger that it gives.
        **options: Of its Trainer.
    """
    scvi.settings.seed = 0  # of its split
    numbers = np.random.default_rng(0)
    rates = numbers.gamma(2.0, size=(4, 50))[numbers.integers(4, size=640)]
    data = AnnData(numbers.poisson(rates).astype(np.float32))
    scvi.model.SCVI.setup_anndata(data)
    model = scvi.model.SCVI(data, n_hidden=32)
    model.train(
        max_epochs=15,
        check_val_every_n_epoch=1,
        plan_kwargs={"reduce_lr_on_plateau": True},
        **options,
    )
