"""PINA: a physics-informed network. Its Trainer is a subclass of Lightning's."""

from __future__ import annotations

from typing import Any

from pina import Trainer
from pina.model import FeedForward
from pina.problem.zoo import Poisson2DSquareProblem
from pina.solver import PhysicsInformedSingleModelSolver


def fit(**options: Any) -> None:
    """Solve Poisson's equation on a square."""
    problem = Poisson2DSquareProblem()
    problem.discretise_domain(160, "random")
    net = FeedForward(input_dimensions=2, output_dimensions=1)
    solver = PhysicsInformedSingleModelSolver(problem, net)
    Trainer(solver, max_epochs=60, **options).train()
