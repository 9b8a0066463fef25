"""The task of every experiment: classify images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy


class Classifier(LightningModule):
    """Train ``net`` with cross-entropy and log loss and accuracy of each split.

    Args:
        net: From images to one logit for each class.
        optimizer: From parameter groups to an optimizer. Its learning rate is the peak.
        num_classes: Number of classes.
        decay_bias_and_norm: Whether weight decay is applied to biases and normalization too, as in
            Smith's Caffe runs. Goyal et al., arXiv:1706.02677, section 5.1, leave them out.
        label_smoothing: In [0, 1): how much of the target is spread over all classes.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        num_classes: int,
        decay_bias_and_norm: bool = True,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        # For the conditions of a range test; what they are logged with is the whole configuration.
        self.save_hyperparameters("decay_bias_and_norm", "label_smoothing", logger=False)
        self.net = net
        self.optimizer = optimizer
        self.decay_bias_and_norm = decay_bias_and_norm
        self.label_smoothing = label_smoothing
        self.losses = nn.ModuleDict()
        self.accuracies = nn.ModuleDict()
        for stage in ("train", "val", "test"):
            self.losses[f"{stage}/loss"] = MeanMetric()
            self.accuracies[f"{stage}/acc"] = MulticlassAccuracy(num_classes, average="micro")
        # In the checkpoint, so that an epoch resumed in its middle reports the whole of it.
        self.losses["train/loss"].persistent(True)
        self.accuracies["train/acc"].persistent(True)
        self._has_logged = False

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (batch, classes), of images, (batch, channels, height, width)."""
        return self.net(images)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer alone; its schedule is a callback's."""
        return self.optimizer(parameter_groups(self.net, self.decay_bias_and_norm))

    def on_train_start(self) -> None:
        """Log the metrics again where a run is resumed in the middle of an epoch."""
        self._has_logged = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        if batch_idx == 0:  # a checkpoint of an epoch's end has the metrics of that epoch
            self.losses["train/loss"].reset()
            self.accuracies["train/acc"].reset()
            self._has_logged = False
        loss = self._step("train", batch, self.label_smoothing)
        if not self._has_logged:
            # Lightning computes a logged metric at the end of the epoch. To log it with each batch
            # costs as much as a small step.
            self._log_metrics("train")
            self._has_logged = True
        self.log("train/loss_step", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Measure one batch of the validation split; a search compares losses batch by batch."""
        loss = self._step("val", batch)
        self._log_metrics("val")
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Measure one batch of the test set."""
        self._step("test", batch)
        self._log_metrics("test")

    def _step(self, stage: str, batch: tuple[Tensor, Tensor], smoothing: float = 0.0) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = cross_entropy(logits, labels, label_smoothing=smoothing)
        self.losses[f"{stage}/loss"].update(loss.detach(), len(labels))
        self.accuracies[f"{stage}/acc"].update(logits.detach(), labels)
        return loss

    def _log_metrics(self, stage: str) -> None:
        whole_epoch = {"on_step": False, "on_epoch": True}
        loss, accuracy = f"{stage}/loss", f"{stage}/acc"
        self.log(loss, self.losses[loss], **whole_epoch)
        self.log(accuracy, self.accuracies[accuracy], prog_bar=stage == "val", **whole_epoch)


def parameter_groups(net: nn.Module, decay_bias_and_norm: bool) -> list[dict[str, Any]]:
    """Return the net's parameters in one group, or those with and those without weight decay.

    Biases and the weights of normalization layers are the parameters of fewer than two dimensions.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    if decay_bias_and_norm:
        return [{"params": parameters}]
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
