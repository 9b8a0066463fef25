"""What measurements have in common: when they are taken, on what, and how they are logged."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from lightning_onecycle import _generators
from lightning_onecycle._checks import whole
from lightning_onecycle._copies import copy_module, what_is_shared
from lightning_onecycle._lightning import Callback, class_for, of_either_lightning


class Measurement(Callback):
    """Measure before every n-th optimizer step, and log what was found.

    Args:
        every_n_steps: Optimizer steps from one measurement to the next, at least 1.

    Attributes:
        latest: What was measured last, by its tag.
    """

    takes_part_in_range_test = False

    def __init__(self, every_n_steps: int) -> None:
        super().__init__()
        self.every_n_steps = whole("every_n_steps", every_n_steps, 1)
        self.latest: dict[str, float] = {}
        self._measured_at = -1

    def measure(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> dict[str, float]:
        """Return the values at the present weights, by their tags; the same on each rank."""
        raise NotImplementedError

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start again; a checkpoint is restored after this hook."""
        self.latest = {}
        self._measured_at = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be measured."""
        self.check(trainer, pl_module)

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be measured, before a range test of the training as well.

        Raises:
            MisconfigurationException: If that is known at fit start.
        """
        name = type(self).__name__
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                f"{name} needs automatic optimization: it calls the training_step of a copy of"
                f" {type(pl_module).__name__}, and a manual one would step the optimizer."
            )
        if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
            raise MisconfigurationException(
                f"{name} needs a training_step that takes a batch, and"
                f" {type(pl_module).__name__}'s takes dataloader_iter."
            )
        strategy = trainer.strategy
        if (
            not isinstance(strategy, of_either_lightning(SingleDeviceStrategy, DDPStrategy))
            or strategy.handles_gradient_accumulation  # DeepSpeed
        ):
            raise MisconfigurationException(
                f"{name} needs all of the weights on each device: one device, or strategy='ddp';"
                f" got {type(strategy).__name__}."
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure, if it is time, before the first batch of an optimizer step."""
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self._measured_at:
            self._take(trainer, pl_module, batch, batch_idx)

    def _take(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._measured_at = trainer.global_step
        found = self.measure(trainer, pl_module, batch, batch_idx)
        self.latest = {tag: value for tag, value in found.items() if math.isfinite(value)}
        if self.latest:
            # The axis that Lightning has for what a module logs during this step.
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
            for logger in trainer.loggers:
                logger.log_metrics(self.latest, step=step)

    def state_dict(self) -> dict[str, Any]:
        """Return where the last measurement was taken."""
        return {"measured_at": self._measured_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._measured_at = whole("measured_at", state_dict["measured_at"], -1)


@contextmanager
def silent_copy(trainer: Trainer, module: LightningModule) -> Iterator[LightningModule]:
    """Yield a copy of ``module`` that may be run and trained without leaving a trace.

    Metrics, buffers and attributes that change are the copy's, nothing is logged, and afterwards
    the random number generators are where they were. An iterator of a loader is not touched.
    """
    with ExitStack() as stack:
        stack.enter_context(_generators.isolated(trainer.strategy.root_device))
        memo, _ = what_is_shared(trainer, module)
        copied = copy_module(module, memo)
        copied.trainer = trainer  # Lightning's copies have none, and are in epoch 0 for ever
        copied.log = copied.log_dict = _nothing  # type: ignore[method-assign]
        if trainer.loggers:
            stack.callback(setattr, trainer, "loggers", trainer.loggers)
            trainer.loggers = [class_for(DummyLogger, trainer)()]
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            # A copy would be compiled again each time, and has no second derivative then.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield copied


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


def training_loss(module: LightningModule, batch: Any, batch_idx: int) -> Tensor | None:
    """Return the loss of ``training_step``, with its graph, or None where a batch is skipped."""
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    output: Any = module.training_step(batch, *([batch_idx] if takes_index else []))
    return output["loss"] if isinstance(output, dict) else output


def flat_gradient(module: nn.Module, value: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Return the gradient of ``value`` with respect to all that is trained, shape (n,)."""
    module.zero_grad(set_to_none=True)
    value.backward(retain_graph=retain_graph)
    gradients = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    return flat.to(torch.promote_types(flat.dtype, torch.float32))
