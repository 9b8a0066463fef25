"""The callback that measures how sharp the loss is around the weights."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_onecycle import _generators
from lightning_onecycle._checks import number, whole
from lightning_onecycle.measure._measurement import (
    Measurement,
    flat_gradient,
    silent_copy,
    training_loss,
)
from lightning_onecycle.measure.landscape import box_sharpness, top_eigenvalue

_SEED = 0
_PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed")


class Sharpness(Measurement):
    r"""Log how sharp the training loss is around the present weights.

    - ``measure/sharpness``: Keskar's, in per cent (`box_sharpness`), in the whole space
    - ``measure/sharpness_subspace``: the same in a random subspace, if asked for
    - ``measure/hessian_eigenvalue``: the largest eigenvalue of the Hessian (`top_eigenvalue`)

    The loss is what ``training_step`` returns on a copy of the module, in evaluation mode (without
    dropout, with the running statistics of batch normalization), in the precision of the weights,
    over the last batches of the training and all devices. It is also measured at the end of the
    training. The run is identical with and without this callback.

    One measurement costs some tens of training steps: ``iterations + 2`` forward and backward
    passes for the box, and up to 20 backward passes through the gradient for the eigenvalue.
    Both change under reparametrizations that do not change the network's function (Dinh et al.,
    arXiv:1703.04933).

    Args:
        every_n_steps: Optimizer steps from one measurement to the next, at least 1.
        epsilon: Of the box, > 0.
        subspace: Dimensions of a random subspace; the paper has 100. It needs memory for so many
            copies of the weights. None: no such measurement.
        eigenvalue: Whether to measure the eigenvalue: the loss has to be differentiable twice.
        iterations: Steps uphill in the box, at least 1.
        num_batches: Batches of a device to measure on, at least 1.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: At fit start, under manual optimization, where a device has only
            a part of the weights, or where these are kept in half precision.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=Sharpness(every_n_steps=500), logger=False)
    """

    def __init__(
        self,
        every_n_steps: int = 1000,
        epsilon: float = 1e-3,
        subspace: int | None = None,
        eigenvalue: bool = True,
        iterations: int = 10,
        num_batches: int = 1,
    ) -> None:
        super().__init__(every_n_steps)
        self.epsilon = number("epsilon", epsilon, "> 0", lambda v: v > 0)
        self.subspace = None if subspace is None else whole("subspace", subspace, 1)
        self.eigenvalue = eigenvalue
        self.iterations = whole("iterations", iterations, 1)
        self.num_batches = whole("num_batches", num_batches, 1)
        self._batches: deque[tuple[Any, int]] = deque(maxlen=self.num_batches)

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be measured."""
        super().check(trainer, pl_module)
        if trainer.precision not in _PRECISIONS:
            raise MisconfigurationException(
                "Sharpness needs weights in full precision, because it moves them by a thousandth:"
                f" precision must be one of {', '.join(_PRECISIONS)}, got {trainer.precision}."
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch, and measure if it is time."""
        self._batches.append((copy.deepcopy(batch), batch_idx))
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure at the minimum that was found."""
        if self._batches and self._measured_at != trainer.global_step:
            self._take(trainer, pl_module, *self._batches[-1])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the batches."""
        self._batches.clear()

    def measure(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> dict[str, float]:
        """Measure on the last batches; nothing where ``training_step`` skips one."""
        found: dict[str, float] = {}
        mixed = trainer.precision.endswith("mixed")
        context = nullcontext() if mixed else trainer.precision_plugin.forward_context()
        with (
            silent_copy(trainer, pl_module) as copied,
            torch.enable_grad(),
            context,
            sdpa_kernel(SDPBackend.MATH),  # fused attention has no second derivative
            suppress(_NoLoss),
        ):
            loss = _Loss(trainer, copied.eval(), list(self._batches))
            center = loss.weights()
            if self.eigenvalue:
                start = _random(len(center), like=center)
                found["measure/hessian_eigenvalue"] = top_eigenvalue(loss.hessian(), start)
            find = partial(
                box_sharpness, loss, center, epsilon=self.epsilon, iterations=self.iterations
            )
            found["measure/sharpness"] = find()
            if self.subspace is not None:
                basis = _random(len(center), self.subspace, like=center)
                found["measure/sharpness_subspace"] = find(basis=basis)
        return found


def _random(*shape: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(*shape, generator=generator, dtype=like.dtype).to(like.device)


class _NoLoss(Exception):
    pass


class _Loss:
    """The mean loss over batches and devices, as a function of all weights that are trained."""

    def __init__(
        self, trainer: Trainer, module: LightningModule, batches: list[tuple[Any, int]]
    ) -> None:
        self._module, self._batches = module, batches
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._mean = partial(trainer.strategy.reduce, reduce_op="mean")
        # The same random numbers each time: otherwise it is no function.
        self._rewind = _generators.global_state(trainer.strategy.root_device)

    def weights(self) -> Tensor:
        """Return the present weights, shape (n,)."""
        return torch.cat([parameter.detach().flatten() for parameter in self._parameters])

    def __call__(self, weights: Tensor) -> tuple[float, Tensor]:
        """Move to ``weights``, and return the loss there and its gradient."""
        sizes = [parameter.numel() for parameter in self._parameters]
        with torch.no_grad():
            for parameter, values in zip(self._parameters, weights.split(sizes), strict=True):
                parameter.copy_(values.view_as(parameter))
        loss = self._loss()
        both = self._mean(torch.cat([loss.detach().reshape(1), flat_gradient(self._module, loss)]))
        return both[0].item(), both[1:]

    def hessian(self) -> Callable[[Tensor], Tensor]:
        """Return the product of the Hessian at the present weights with a vector."""
        slopes = torch.autograd.grad(
            self._loss(), self._parameters, create_graph=True, materialize_grads=True
        )
        slope = torch.cat([part.flatten() for part in slopes])

        def product(vector: Tensor) -> Tensor:
            """Return the product with a flat vector, by a second backward pass."""
            along = slope.dot(vector)
            if not along.requires_grad:  # a linear loss
                return torch.zeros_like(vector)
            # Not autograd.grad, which silently skips what cannot be differentiated twice.
            return self._mean(flat_gradient(self._module, along, retain_graph=True))

        return product

    def _loss(self) -> Tensor:
        self._rewind()
        losses = [
            # A training_step may change its batch in place.
            training_loss(self._module, copy.deepcopy(batch), batch_idx)
            for batch, batch_idx in self._batches
        ]
        kept = [loss for loss in losses if loss is not None]
        if len(kept) < len(losses):
            raise _NoLoss
        return torch.stack(kept).mean()
