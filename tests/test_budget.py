import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import GradientAccumulationScheduler, Timer

from lightning_onecycle import budget


def trainer(batches=10, max_epochs=4, accumulate=1, done=None, callbacks=(), **now):
    """What the functions look at; ``done`` batches of the present epoch, None at its start."""
    batches_done = done or 10
    progress = SimpleNamespace(
        is_last_batch=done is None,
        current=SimpleNamespace(ready=batches_done, processed=batches_done, completed=batches_done),
    )
    return SimpleNamespace(
        num_training_batches=batches,
        max_epochs=max_epochs,
        max_steps=now.get("max_steps", -1),
        accumulate_grad_batches=accumulate,
        callbacks=list(callbacks),
        current_epoch=now.get("epoch", 0),
        global_step=now.get("step", 0),
        fit_loop=SimpleNamespace(
            epoch_loop=SimpleNamespace(batch_progress=progress),
            epoch_progress=SimpleNamespace(
                current=SimpleNamespace(ready=int(done is not None), processed=0)
            ),
        ),
    )


@pytest.mark.parametrize(
    ("arguments", "first_epoch", "steps"),
    [
        ({}, 0, 40),
        ({}, 3, 10),
        ({}, 4, 0),
        ({"accumulate": 5}, 0, 8),
        ({"accumulate": 4}, 0, 12),
        ({"accumulate": 99}, 0, 4),
        ({"plan": {0: 10, 2: 5}}, 0, 1 + 1 + 2 + 2),
        ({"plan": {1: 3}}, 0, 10 + 4 + 4 + 4),
        ({"batches": math.inf}, 0, None),
        ({"max_epochs": -1}, 0, None),
        ({"max_epochs": None}, 0, None),
        ({"batches": 0}, 0, 0),
    ],
    ids=str,
)
def test_steps_in_epochs(arguments, first_epoch, steps):
    if "plan" in arguments:
        arguments = {"callbacks": [GradientAccumulationScheduler(dict(arguments["plan"]))]}
    assert budget.steps_in_epochs(trainer(**arguments), first_epoch) == steps


@given(
    batches=st.integers(1, 40),
    epochs=st.integers(0, 12),
    plan=st.dictionaries(st.integers(0, 12), st.integers(1, 9), min_size=1),
)
def test_steps_in_epochs_is_what_a_loop_takes(batches, epochs, plan):
    taken, accumulate = 0, 1
    for epoch in range(epochs):
        accumulate = plan.get(epoch, accumulate)
        for batch in range(1, batches + 1):
            taken += batch % accumulate == 0 or batch == batches
    callback = GradientAccumulationScheduler(dict(sorted(plan.items())))
    fitting = trainer(batches, epochs, callbacks=[callback])
    assert budget.steps_in_epochs(fitting) == taken


@pytest.mark.parametrize(
    ("arguments", "epoch_starts", "steps"),
    [
        ({}, True, 40),
        ({}, False, 40),
        # Earlier epochs took what they took.
        ({"epoch": 1, "step": 7}, True, 30),
        ({"epoch": 1, "step": 7}, False, 30),
        ({"epoch": 1, "step": 13, "done": 3}, False, 27),
        ({"epoch": 1, "step": 13, "done": 3}, True, 30),
        ({"epoch": 1, "step": 4, "done": 5, "accumulate": 4}, False, 3 * 3 - 1),
        ({"max_steps": 25}, True, 25),
        ({"max_steps": 25, "epoch": 2, "step": 20}, True, 5),
        ({"max_steps": 99, "epoch": 2, "step": 20}, True, 20),
        ({"max_steps": 25, "step": 30}, True, 0),
        ({"max_steps": 25, "batches": math.inf}, True, 25),
        ({"max_steps": 25, "max_epochs": -1}, False, 25),
        ({"epoch": 9, "step": 90}, True, 0),
        ({"max_epochs": -1}, True, None),
        ({"batches": math.inf}, False, None),
    ],
    ids=str,
)
def test_steps_left(arguments, epoch_starts, steps):
    assert budget.steps_left(trainer(**arguments), epoch_starts=epoch_starts) == steps


def test_time_limit_is_the_timer_with_a_duration():
    ends = Timer("00:00:01:00")
    assert budget.time_limit(trainer(callbacks=[Timer(), ends])) is ends
    assert budget.time_limit(trainer(callbacks=[Timer()])) is None
    assert budget.time_limit(trainer()) is None


@pytest.mark.parametrize(
    ("elapsed", "remaining", "taken", "steps"),
    [
        (10.0, 90.0, 50, 500),
        (0.1, 99.9, 1, 1000),
        (100.0, 0.0, 50, 51),  # there is always a step to come
        (101.0, -1.0, 50, 51),
        (3.0, 7.0, 1, 3),
        (10.0, 90.0, 0, None),
        (0.0, 100.0, 5, None),
        (10.0, None, 5, None),
    ],
)
def test_steps_in_time(elapsed, remaining, taken, steps):
    timer = SimpleNamespace(time_elapsed=lambda: elapsed, time_remaining=lambda: remaining)
    assert budget.steps_in_time(timer, taken) == steps
