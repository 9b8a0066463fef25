"""`Logged`: what a step logs, for the loss of one that returns none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor


class Logged:
    """Keep the numbers that a module logs while ``is_open``.

    Args:
        module: A copy, whose ``log`` is replaced.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> module = BoringModel()
        >>> module.log = lambda name, value: None
        >>> logged = Logged(module)
        >>> module.log("before", 1.0)
        >>> logged.is_open = True
        >>> module.log("val_loss", 0.5)
        >>> logged.take(), logged.take()
        ([{'val_loss': tensor(0.5000)}], [])
    """

    def __init__(self, module: LightningModule) -> None:
        self.is_open = False
        self._values: list[Mapping[str, Any]] = []
        log = module.log

        def keep(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
            """Keep the value, and log it."""
            if self.is_open and isinstance(value, (Tensor, float)):
                self._values.append({name: torch.as_tensor(value).detach().float().mean()})
            log(name, value, *args, **kwargs)

        module.log = keep  # type: ignore[method-assign]

    def take(self) -> list[Mapping[str, Any]]:
        """Return the name and the value of each call since the last time."""
        values, self._values = self._values, []
        return values
