"""The noise of stochastic gradients: how large it is, and how large a batch averages it out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities import rank_zero_warn
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_onecycle import _groups
from lightning_onecycle._checks import number, whole
from lightning_onecycle.measure._measurement import (
    Measurement,
    flat_gradient,
    silent_copy,
    training_loss,
)


class NoiseScale(NamedTuple):
    r"""The covariance of per-example gradients, :math:`\mathrm{tr}\,\Sigma`, and :math:`|G|^2`."""

    trace: float
    grad_sq: float

    @property
    def value(self) -> float:
        r"""The simple noise scale, in samples; infinite where the noise hides the gradient.

        :math:`\mathcal{B}_\text{simple} = \mathrm{tr}\,\Sigma / |G|^2` (McCandlish et al.,
        arXiv:1812.06162, section 2.2). Far below it a larger batch size helps; far above it,
        it does not.
        """
        return self.trace / self.grad_sq if self.grad_sq > 0 else math.inf


def simple_noise_scale(
    small_sq: float, big_sq: float, small_batch: float, big_batch: float
) -> NoiseScale:
    r"""Return unbiased estimates from the squared norms of gradients of two batch sizes.

    From :math:`E|G_B|^2 = |G|^2 + \mathrm{tr}\,\Sigma / B` at two :math:`B`,

    .. math::
        \mathrm{tr}\,\Sigma \approx
            \frac{|G_\text{small}|^2 - |G_\text{big}|^2}{1/B_\text{small} - 1/B_\text{big}}, \quad
        |G|^2 \approx \frac{B_\text{big} |G_\text{big}|^2 - B_\text{small} |G_\text{small}|^2}
                           {B_\text{big} - B_\text{small}}

    (McCandlish et al., arXiv:1812.06162, appendix A.1). A single estimate is noisy, and either may
    be negative: average both, and then take the ratio.

    Args:
        small_sq: Squared norm of the mean gradient over the small batch, or a mean of such.
        big_sq: The same over the big batch.
        small_batch: Samples in the small batch.
        big_batch: Samples in the big one, more than in the small.

    Returns:
        Both estimates; their ratio is its ``value``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> simple_noise_scale(small_sq=6.0, big_sq=3.0, small_batch=2, big_batch=8)
        NoiseScale(trace=8.0, grad_sq=2.0)
        >>> simple_noise_scale(6.0, 3.0, 2, 8).value
        4.0
    """
    small_sq = number("small_sq", small_sq, ">= 0", lambda v: v >= 0)
    big_sq = number("big_sq", big_sq, ">= 0", lambda v: v >= 0)
    small = number("small_batch", small_batch, "> 0", lambda v: v > 0)
    big = number("big_batch", big_batch, f"> small_batch={small_batch!r}", lambda v: v > small)
    return NoiseScale(
        trace=(small_sq - big_sq) / (1 / small - 1 / big),
        grad_sq=(big * big_sq - small * small_sq) / (big - small),
    )


def noise_factor(lr: float, batch_size: int, momentum: float = 0.0) -> float:
    r"""Return the part of SGD's noise that hyper-parameters decide, :math:`\eta / (S (1 - m))`.

    Without momentum it is the :math:`\eta / S` of Jastrzebski et al., arXiv:1711.04623: SGD moves
    as if at a temperature that is in proportion to it, and to the variance of the gradients. A
    velocity adds up :math:`1 / (1 - m)` steps (Smith and Le, arXiv:1710.06451).

    Args:
        lr: The learning rate, >= 0.
        batch_size: Samples in an optimizer step, on all devices.
        momentum: In [0, 1).

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> noise_factor(0.5, 100), noise_factor(0.5, 100, momentum=0.75)
        (0.005, 0.02)
    """
    lr = number("lr", lr, ">= 0", lambda v: v >= 0)
    momentum = number("momentum", momentum, "in [0, 1)", lambda v: 0 <= v < 1)
    return lr / (whole("batch_size", batch_size, 1) * (1 - momentum))


class GradientNoiseScale(Measurement):
    r"""Log the gradient noise scale, and the noise that the learning rate makes of it.

    The batch is split into parts, and the gradient of each is taken on a copy of the module. These
    are the small gradients; the mean over parts and devices is the big one (`simple_noise_scale`).
    Numerator and denominator are averaged separately over the measurements. The run is the same
    with this callback and without it. One measurement costs two to four training steps.

    - ``measure/noise_scale``: :math:`\mathrm{tr}\,\Sigma / |G|^2`, in samples
    - ``measure/grad_variance``, ``measure/grad_sq``: :math:`\mathrm{tr}\,\Sigma`, :math:`|G|^2`
    - ``measure/noise_factor``: :math:`\eta / S`, for the batch of all devices and accumulations
    - ``measure/noise_factor_momentum``: :math:`\eta / (S (1 - m))`, for an optimizer with momentum
    - ``measure/sgd_noise``: :math:`\eta\,\mathrm{tr}\,\Sigma / S`: in proportion to the learning
      rate and to the variance of the gradients, divided by the batch size

    The learning rate is that of the largest group. The loss is taken to be a mean over the batch.
    Dropout is part of the noise. With batch normalization each part has its own statistics, so
    that parts should not be too small.

    Args:
        every_n_steps: Optimizer steps from one measurement to the next, at least 1.
        num_parts: Parts of the batch of a device, at least 2. A smaller batch is not measured.
        decay: Of the exponential average over measurements, in [0, 1), corrected for its start.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: At fit start, under manual optimization or where a device has
            only a part of the weights.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=GradientNoiseScale(every_n_steps=50), logger=False)
    """

    def __init__(self, every_n_steps: int = 100, num_parts: int = 4, decay: float = 0.9) -> None:
        super().__init__(every_n_steps)
        self.num_parts = whole("num_parts", num_parts, 2)
        self.decay = number("decay", decay, "in [0, 1)", lambda v: 0 <= v < 1)
        self._weight = self._trace = self._grad_sq = 0.0
        self._told = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start again."""
        super().setup(trainer, pl_module, stage)
        self._weight = self._trace = self._grad_sq = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        averages = {"weight": self._weight, "trace": self._trace, "grad_sq": self._grad_sq}
        return super().state_dict() | averages

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the averages of a checkpoint."""
        super().load_state_dict(state_dict)
        self._weight = float(state_dict["weight"])
        self._trace, self._grad_sq = float(state_dict["trace"]), float(state_dict["grad_sq"])

    def measure(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> dict[str, float]:
        """Measure one batch, and return the averages so far with the noise at this step."""
        norms = any(isinstance(module, _BatchNorm) for module in pl_module.modules())
        parts = self._parts(batch, smallest=2 if norms else 1)  # one sample has no variance
        if not trainer.strategy.reduce_boolean_decision(bool(parts)):
            return {}
        now = self._estimate(trainer, pl_module, parts, batch_idx)
        if now is None or not math.isfinite(now.trace + now.grad_sq):
            return {}
        self._weight = self.decay * self._weight + 1 - self.decay
        self._trace = self.decay * self._trace + (1 - self.decay) * now.trace
        self._grad_sq = self.decay * self._grad_sq + (1 - self.decay) * now.grad_sq
        mean = NoiseScale(self._trace / self._weight, self._grad_sq / self._weight)

        group = max(trainer.optimizers[0].param_groups, key=lambda group: float(group["lr"]))
        size = sum(len(tree_flatten(part)[0][0]) for part in parts)
        size *= trainer.world_size * trainer.accumulate_grad_batches
        factor, momentum = noise_factor(float(group["lr"]), size), _groups.momentum(group)
        found = {
            "measure/noise_scale": mean.value,
            "measure/grad_variance": mean.trace,
            "measure/grad_sq": mean.grad_sq,
            "measure/noise_factor": factor,
            "measure/sgd_noise": factor * mean.trace,
        }
        if momentum is not None:
            found["measure/noise_factor_momentum"] = factor / (1 - momentum)
        return found

    def _parts(self, batch: Any, smallest: int) -> list[Any]:
        """Return the batch in parts, none where it cannot be split."""
        leaves, tree = tree_flatten(batch)
        sizes = {len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else None for leaf in leaves}
        if len(sizes) != 1 or None in sizes:
            if not self._told:
                self._told = True
                rank_zero_warn(
                    "GradientNoiseScale measures nothing: to split a batch it needs tensors that"
                    f" are all as long as the batch, got {type(batch).__name__} of"
                    f" {sorted({type(leaf).__name__ for leaf in leaves})} with first dimensions"
                    f" {sorted(size for size in sizes if size is not None)}."
                )
            return []
        each = sizes.pop() // self.num_parts  # type: ignore[operator]
        if each < smallest:
            return []
        # Copies: a training_step may change its batch in place.
        split = [leaf[: each * self.num_parts].clone().split(each) for leaf in leaves]
        return [tree_unflatten(list(part), tree) for part in zip(*split, strict=True)]

    def _estimate(
        self, trainer: Trainer, pl_module: LightningModule, parts: list[Any], batch_idx: int
    ) -> NoiseScale | None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        gradient_sums: list[Tensor] = []
        squares = []
        with silent_copy(trainer, pl_module) as copied, torch.enable_grad():
            for part in parts:
                with trainer.precision_plugin.train_step_context():
                    loss = training_loss(copied, part, batch_idx)
                if loss is None:
                    return None
                gradient = flat_gradient(copied, loss * scale) / scale
                squares.append(gradient.dot(gradient))
                gradient_sums = [sum(gradient_sums, gradient)]
        small = len(tree_flatten(parts[0])[0][0])
        # Where batches differ from device to device, the mean of their inverses is what counts.
        means = torch.stack([torch.stack(squares).mean(), squares[0].new_tensor(1 / small)])
        both = torch.cat([means, gradient_sums[0] / len(parts)])
        both = trainer.strategy.reduce(both, reduce_op="mean")
        small_sq, inverse, big = both[0].item(), both[1].item(), both[2:]
        if not math.isfinite(small_sq):  # a step that the gradient scaler would skip
            return None
        count = len(parts) * trainer.world_size
        return simple_noise_scale(small_sq, big.dot(big).item(), 1 / inverse, count / inverse)
