"""The loss around a point: its highest value in a small box, and its largest curvature."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_onecycle._checks import number, whole

_SEED = 0


def box_sharpness(
    loss_and_gradient: Callable[[Tensor], tuple[float, Tensor]],
    center: Tensor,
    epsilon: float = 1e-3,
    *,
    basis: Tensor | None = None,
    iterations: int = 10,
) -> float:
    r"""Return by how many per cent the loss rises, at most, in a small box around ``center``.

    .. math::
        \phi = 100\,\frac{\max_{y \in C_\epsilon} f(x + Ay) - f(x)}{1 + f(x)}, \quad
        C_\epsilon = \{y : |y_i| \le \epsilon (|(A^+ x)_i| + 1)\}

    (Keskar et al., arXiv:1609.04836, metric 2.1). The paper takes ten iterations of L-BFGS-B
    uphill. This function takes ten of ``torch.optim.Rprop``, keeps them in the box, and returns the
    highest point. Both find a local maximum. The first point is a thousandth of the box's width off
    the centre, because a minimum has no slope.

    Args:
        loss_and_gradient: From weights, shape (n,), to the loss and its gradient, shape (n,).
        center: :math:`x`, shape (n,).
        epsilon: Of the box, > 0. The paper has 1e-3 and 5e-4.
        basis: :math:`A`, shape (n, p). None: the whole space.
        iterations: Steps uphill, at least 1.

    Returns:
        :math:`\phi`, in per cent; NaN where :math:`f(x) = -1`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> def half_square(x):  # of a box from -1.5 to 3.5 on both axes, the highest is a corner
        ...     return 0.5 * float(x @ x), x
        >>> box_sharpness(half_square, torch.ones(2, dtype=torch.double), epsilon=1.25)
        562.5
    """
    epsilon = number("epsilon", epsilon, "> 0", lambda v: v > 0)
    iterations = whole("iterations", iterations, 1)
    coordinates = center
    if basis is not None:
        coordinates = torch.linalg.solve(basis.T @ basis, basis.T @ center)
    radius = epsilon * (coordinates.abs() + 1)
    # In units of the box: it is from -1 to 1, and a first step of 2 reaches a corner.
    generator = torch.Generator().manual_seed(_SEED)
    start = torch.rand(len(radius), generator=generator, dtype=radius.dtype) * 2 - 1
    y = (start * 1e-3).to(radius.device).requires_grad_()
    optimizer = torch.optim.Rprop([y], lr=2.0, step_sizes=(1e-6, 2.0), maximize=True)
    at_center, _ = loss_and_gradient(center)
    highest = at_center
    for step in range(iterations + 1):
        move = y.detach() * radius
        loss, gradient = loss_and_gradient(center + (move if basis is None else basis @ move))
        highest = max(highest, loss)
        if step < iterations:
            y.grad = (gradient if basis is None else basis.T @ gradient) * radius
            optimizer.step()
            with torch.no_grad():
                y.clamp_(-1, 1)
    if at_center == -1:
        return math.nan
    return 100 * (highest - at_center) / (1 + at_center)


def top_eigenvalue(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    iterations: int = 20,
    tolerance: float = 1e-3,
) -> float:
    r"""Return the largest eigenvalue of a symmetric matrix that is known by its products.

    Lanczos' method, with every new vector made orthogonal to all before it: after :math:`k`
    products the largest eigenvalue of the matrix in the space of
    :math:`v, Hv, \ldots, H^{k-1} v`. It rises with :math:`k`, and is exact when :math:`k` is the
    number of distinct eigenvalues.

    Args:
        product: From a vector, shape (n,), to the matrix times it, shape (n,).
        start: :math:`v`, shape (n,); a random vector.
        iterations: Products at most, at least 1. As many vectors are held in memory.
        tolerance: It ends when the value has risen by less than this part of itself.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.double)
        >>> f"{top_eigenvalue(matrix.mv, torch.tensor([1.0, 0.0], dtype=torch.double)):.6f}"
        '3.000000'
    """
    iterations = whole("iterations", iterations, 1)
    tolerance = number("tolerance", tolerance, ">= 0", lambda v: v >= 0)
    vectors = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    value = -math.inf
    while True:
        following = product(vectors[-1])
        diagonal.append(following.dot(vectors[-1]).item())
        if not math.isfinite(diagonal[-1]):
            return math.nan
        tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.double))
        tridiagonal += torch.diag(torch.tensor(beside, dtype=torch.double), -1)
        previous, value = value, torch.linalg.eigvalsh(tridiagonal)[-1].item()
        if len(diagonal) >= min(iterations, len(start)) or value - previous < tolerance * abs(
            value
        ):
            return value
        for _ in range(2):  # once is not enough in floating point
            for vector in vectors:
                following = following - following.dot(vector) * vector
        rest = following.norm().item()
        if rest <= 1e-6 * abs(value):  # the space is invariant
            return value
        beside.append(rest)
        vectors.append(following / rest)
