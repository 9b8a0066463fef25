"""A look at the training to come, and at what the recipe is going to change in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from lightning_onecycle import _groups
from lightning_onecycle.phases import Schedule
from lightning_onecycle.search.fits import Survey
from lightning_onecycle.search.recipe import Recipe


class RecipeSurvey(Survey):
    """Also reads weight decay and momentum off the optimizer, and refuses one without.

    Attributes:
        recipe: What is to be tried, and what the optimizer and the schedule have.
        scales: Whether the effective rate grows with :math:`1 / (1 - m)`. Adam's does not: it
            averages gradients, and does not add them up.
    """

    def __init__(self, recipe: Recipe, **range_test: Any) -> None:
        super().__init__(**range_test)
        self.recipe = recipe
        self.scales = True

    def lay(self, trainer: Trainer, optimizer: Optimizer) -> tuple[Schedule, Any]:
        """Read the optimizer's own values, before a schedule writes to it."""
        name, groups = type(optimizer).__name__, optimizer.param_groups
        decays = [decay for g in groups if (decay := _groups.weight_decay(g)) is not None]
        momenta = [momentum for g in groups if (momentum := _groups.momentum(g))]
        if self.recipe.weight_decays and len(decays) < len(groups):
            raise ValueError(
                f"weight_decays must be None with {name}, which has no weight_decay, got"
                f" {self.recipe.weight_decays}"
            )
        if self.recipe.momenta and not momenta:
            raise ValueError(
                f"momenta must be None with {name}, which has no momentum or betas, or a momentum"
                f" of 0, got {self.recipe.momenta}"
            )
        laid = super().lay(trainer, optimizer)
        assert self.schedule is not None
        of_optimizer = (momenta[0], momenta[0]) if momenta else None
        self.recipe = replace(
            self.recipe,
            own_weight_decay=max(decays, default=None),
            own_momentum=self.schedule.momentum or of_optimizer,
        )
        self.scales = not any("betas" in group for group in groups)
        return laid

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the conditions of the training, without what the recipe changes."""
        super().on_train_start(trainer, pl_module)
        self.recipe = replace(self.recipe, conditions=self.conditions)
