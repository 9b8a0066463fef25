"""The generalization gap: how much better a network does on what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Callback, LightningModule, Trainer


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
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that there is something to hold the training against."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the gaps of an epoch that was validated; those of two epochs would mean nothing."""
        if self._validated:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            pl_module.log_dict(generalization_gap(metrics), sync_dist=True)
            self._validated = False
