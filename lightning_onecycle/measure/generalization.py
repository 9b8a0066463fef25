"""The generalization gap: how much better a network does on what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning.pytorch import LightningModule, Trainer

from lightning_onecycle._checks import number
from lightning_onecycle._lightning import Callback


def generalization_gap(metrics: Mapping[str, float]) -> dict[str, float]:
    r"""Return the gaps between training and validation, both positive for an overfit network.

    ``gap/loss`` = ``val/loss`` - ``train/loss`` (Smith, arXiv:1803.09820, figure 1b) and
    ``gap/acc`` = ``train/acc`` - ``val/acc`` (Smith and Topin, arXiv:1708.07120, figure 4), each
    where both of its metrics are there.

    Example:
        >>> generalization_gap({"train/loss": 0.25, "val/loss": 0.5, "val/acc": 0.9})
        {'gap/loss': 0.25}
    """
    gaps = {}
    if "train/loss" in metrics and "val/loss" in metrics:
        gaps["gap/loss"] = metrics["val/loss"] - metrics["train/loss"]
    if "train/acc" in metrics and "val/acc" in metrics:
        gaps["gap/acc"] = metrics["train/acc"] - metrics["val/acc"]
    return gaps


def onset(train: Sequence[float], val: Sequence[float], rise: float = 0.01) -> int | None:
    r"""Return where over-fitting starts: the epoch of the lowest validation loss, or None.

    A network over-fits if, from there to the end, its training loss falls and its validation loss
    rises, by more than a part ``rise`` of its lowest value: the "generalization loss" of Prechelt,
    *Early stopping -- but when?*, 1998, section 2.2, at the end of training,

    .. math::
        GL = \frac{E_\text{val}(T)}{\min_t E_\text{val}(t)} - 1

    At a large learning rate the validation loss is noisy, and may have its lowest value there by
    chance. Whether it has risen is decided by its value at the end, at a small rate.

    Args:
        train: Training loss of each epoch.
        val: Validation loss of each epoch, of the same length.
        rise: Of the validation loss, >= 0.

    Returns:
        The epoch, counted from 0, the last of several that are equal; or None if there is none.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> onset([0.9, 0.6, 0.4, 0.2], [0.95, 0.7, 0.75, 0.8])
        1
        >>> onset([0.9, 0.6, 0.4, 0.2], [0.95, 0.7, 0.6, 0.6]) is None
        True
    """
    rise = number("rise", rise, ">= 0", lambda v: v >= 0)
    if not val or len(train) != len(val):
        raise ValueError(
            f"train and val must have a loss for each epoch, got {len(train)} and {len(val)}"
        )
    best = min(reversed(range(len(val))), key=val.__getitem__)
    return best if val[-1] > (1 + rise) * val[best] and train[-1] < train[best] else None


class GeneralizationGap(Callback):
    """Log ``gap/loss`` and ``gap/acc`` at the end of each epoch that is validated.

    The module logs ``train/loss``, ``val/loss``, ``train/acc``, ``val/acc``, or some of them. The
    training values are means over the epoch, in training mode and on augmented data: with strong
    regularization the gap can be negative.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=GeneralizationGap(), logger=False)
    """

    def __init__(self) -> None:
        super().__init__()
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that the epoch was validated."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the gaps of an epoch that was validated; those of two epochs would mean nothing."""
        if self._validated:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            pl_module.log_dict(generalization_gap(metrics), sync_dist=True)
            self._validated = False
