"""The tasks of other kinds: what a method loses on them, and that the problems are well-formed."""

import math

import pytest
import torch

from experiments.benchmarks.kinds.data import prior
from experiments.benchmarks.kinds.table import Truth, interpolated, random_search
from experiments.benchmarks.kinds.tasks import OPTIMIZERS, TASKS

OF_STATSMODELS = ("co2", "elnino", "series", "sunspots", "visits", "voters")
LADDER = {-3.0: 2.0, -2.0: 1.0, -1.0: 1.5}


def row(exponent, seed, loss):
    return {"task": "a", "exponent": exponent, "seed": seed, "loss": loss, "trivial": 3.0}


@pytest.fixture
def truth():
    rows = [row(-3.0, seed, 2.0) for seed in range(3)]
    rows += [row(-2.0, seed, loss) for seed, loss in enumerate((0.9, 1.0, 1.1))]
    return Truth([*rows, row(-1.0, 0, 4.0), row(-1.0, 1, None), row(-1.0, 2, 1.0)])


@pytest.mark.parametrize(
    ("exponent", "loss"), [(-2.0, 1.0), (-2.5, 1.5), (-1.25, 1.375), (-9.0, 2.0), (-0.9, 3.0)]
)
def test_the_loss_is_linear_over_the_exponent(exponent, loss):
    assert interpolated(LADDER, exponent, beyond=3.0) == pytest.approx(loss)


def test_the_best_peak_has_the_lowest_mean_over_seeds(truth):
    # At 0.1 one seed is worse than trivial and one diverges: (3 + 3 + 1) / 3.
    assert truth.best("a") == (-2.0, pytest.approx(1.0))


def test_what_is_lost_is_a_part_of_what_the_best_gains(truth):
    assert truth.lost("a", 1.5) == pytest.approx(25.0)
    assert truth.lost("a", 0.9) == pytest.approx(-5.0)
    assert truth.lost("a", 8.0) == truth.lost("a", None) == 100.0
    assert truth.loss("a", 2, 10**-1.5) == pytest.approx(1.05)


def test_random_search_finds_more_with_more_trainings():
    losses = [random_search(LADDER, 3.0, n) for n in (1, 4, 16)]
    assert 1.0 < losses[2] < losses[1] < losses[0] < 3.0


def test_tasks_are_of_many_kinds_and_some_are_kept_apart():
    assert len({task.name for task in TASKS}) == len(TASKS)
    for tuned, fewest in ((True, 14), (False, 5)):
        group = [task for task in TASKS if task.tuned == tuned]
        assert len(group) >= fewest
        assert len({task.optimizer for task in group}) >= 4
    assert {task.optimizer for task in TASKS} == set(OPTIMIZERS)
    steps = {task.name: task.steps for task in TASKS}
    assert steps["sunspots-gru-adam-x10"] == 10 * steps["sunspots-gru-adam"]


def test_a_prior_is_the_entropy_of_the_frequencies():
    labels = torch.tensor([0, 1]).repeat(10_000)
    assert prior(labels, labels) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    "task",
    [
        # A network that is to be finetuned is trained first.
        pytest.param(task, marks=pytest.mark.slow if "finetuning" in task.name else ())
        for task in TASKS
        if not task.name.startswith("fashion")  # of Debian
    ],
    ids=lambda task: task.name,
)
def test_a_problem_has_a_loss_and_a_gradient_for_each_parameter(task):
    if task.name.startswith(OF_STATSMODELS):
        pytest.importorskip("statsmodels")
    torch.manual_seed(0)
    problem = task.make()
    assert len({len(x) for x in problem.train}) == len({len(x) for x in problem.val}) == 1
    loss = problem.loss(problem.net, [x[: task.batch_size] for x in problem.train])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for p in problem.net.parameters())
    untrained = problem.loss(problem.net.eval(), [x[: task.batch_size] for x in problem.val])
    assert untrained > 0.5 * problem.trivial
