"""Caffe's "inv" regime, the baseline of the MNIST rows of arXiv:1803.09820, as phases."""

from __future__ import annotations

from itertools import pairwise

from lightning_onecycle import Phase, Schedule


def inverse_decay(rate: float = 1.0, power: float = 0.75, pieces: int = 20) -> Schedule:
    r"""Return the learning rate :math:`(1 + r t)^{-p}` over the run, :math:`t` from 0 to 1.

    Caffe writes it :math:`(1 + \gamma k)^{-p}` over the iteration :math:`k`: :math:`r` is
    :math:`\gamma` times the iterations of the run. It is laid out as straight lines between
    points of the curve, and leaves it by less than .001 in a run of 1,600 steps.

    Args:
        rate: :math:`r`, > 0. LeNet's :math:`\gamma` = 1e-4 over 85 epochs of MNIST, 9,960
            iterations of 512 images, makes it 1.
        power: :math:`p`, > 0.
        pieces: How many lines.

    Example:
        >>> [round(point.lr, 2) for point in inverse_decay().trace(2001)[::500]]
        [1.0, 0.85, 0.74, 0.66, 0.59]
    """
    times = [piece / pieces for piece in range(pieces + 1)]
    factors = [(1.0 + rate * time) ** -power for time in times]
    return Schedule(tuple(Phase(1.0 / pieces, span) for span in pairwise(factors)))
