"""What a search has chosen beside the peak, compared with the training that takes its peak."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from lightning_onecycle import _groups
from lightning_onecycle.phases import Schedule

if TYPE_CHECKING:
    from lightning_onecycle.search.result import Search


def refuse_other_settings(search: Search, optimizer: Optimizer, schedule: Schedule) -> None:
    """Refuse a training with another weight decay or momentum than a recipe has chosen.

    Args:
        search: Whose peak is taken. Without a recipe it has chosen nothing else.
        optimizer: That of the training.
        schedule: That of the training.

    Raises:
        MisconfigurationException: With each difference, and what to do.
    """
    recipe, groups = search.recipe, optimizer.param_groups
    if recipe is None:
        return
    differences = []
    decay = max((_groups.weight_decay(group) or 0.0 for group in groups), default=None)
    if recipe.weight_decays and search.weight_decay != decay:
        differences.append(f"weight_decay: {search.weight_decay}, now {decay}")
    own = _groups.momentum(groups[0])
    momentum = schedule.momentum or (own, own)
    chosen = search.momentum or recipe.own_momentum
    if recipe.momenta and chosen != momentum:
        differences.append(f"momentum: {chosen}, now {momentum}")
    if differences:
        raise MisconfigurationException(
            "The search chose other settings than this training has:"
            f" {'; '.join(differences)}. Give the optimizer search.weight_decay, and the trainer"
            " search.callback(), which has the momentum."
        )
