"""What an LR finder does to the run that it is part of."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch.tuner as lightning_tuner
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

import lightning_onecycle
from experiments.benchmarks.traps.finder_curve import POINTS, ours, theirs
from experiments.benchmarks.traps.toys import (
    SEEN,
    Net,
    fit,
    loader,
    sgd,
    torch_one_cycle,
    trainer,
    two_groups,
    used,
)
from experiments.benchmarks.traps.trap import Outcome, Section, claim, error_of, outcome
from lightning_onecycle import LRFinder, OneCycle

SECTION = Section("LR finder: what it does to the run")
RANGE: dict[str, Any] = {"min_lr": 1e-4, "max_lr": 10.0}
TEST = 100
DATA = partial(loader, 12, 32, shuffle=True)


def _their_callback(**arguments: Any) -> LearningRateFinder:
    defaults = {"num_training_steps": TEST, "early_stop_threshold": None, **RANGE}
    return LearningRateFinder(**{**defaults, **arguments})


def _our_callbacks() -> list[Any]:
    return [LRFinder(num_training=TEST, **RANGE), OneCycle()]


# ---- beside the training ------------------------------------------------------------------------


def _resumed(*callbacks: Any, tested: int) -> Outcome:
    first = Net()
    saving = ModelCheckpoint("saved", "{epoch}", save_top_k=-1)
    fit(first, saving, *callbacks, data=DATA(), enable_checkpointing=True)
    fit(Net(), *callbacks, data=DATA(), max_epochs=4, ckpt_path="saved/epoch=1.ckpt")
    steps = len(used()) - tested
    return outcome((steps == 24, f"resumed after 24 of 48 steps: {steps} more are taken"))


@SECTION.them(32, "the callback undoes the resuming: the run starts again, untold")
def _() -> Outcome:
    return _resumed(_their_callback(max_lr=0.1, num_training_steps=20), tested=20)


@SECTION.us(32)
def _() -> Outcome:
    return _resumed(*_our_callbacks(), tested=0)


@SECTION.them(34, "the callback's answer is used for one step, then the old schedule goes on")
def _() -> Outcome:
    finder = _their_callback()
    fit(Net(partial(torch_one_cycle, max_lr=0.5)), finder, data=DATA(), max_epochs=10)
    found: Any = finder.optimal_lr.suggestion()
    steps = sum(math.isclose(lr, found) for lr in used()[TEST:])
    top = max(used()[TEST + 1 :])
    return outcome(
        (
            math.isclose(top, found),
            f"found {found:.2g}: {steps} step(s) at it, then up to {top:.2g}",
        )
    )


@SECTION.us(34)
def _() -> Outcome:
    finder, cycle = _our_callbacks()
    fit(Net(), finder, cycle, data=DATA(), max_epochs=10)
    rates = used()[-120:]
    right = max(rates) == finder.max_lr and math.isclose(rates[-1], 0.001 * finder.max_lr)
    return outcome(
        claim(right, f"found {finder.max_lr:.2g}: it is the peak, and the end is 0.001 of it")
    )


def _ratios(*callbacks: Any) -> Outcome:
    fit(Net(two_groups), *callbacks, data=DATA(), max_epochs=10)
    ratios = [groups[0][0] / groups[1][0] for groups in SEEN.steps]
    claims = []
    for name, of in (("in the test", ratios[:-120]), ("after it", ratios[-120:])):
        right = all(math.isclose(ratio, 0.1) for ratio in of)
        claims.append((right, f"ratio 0.1 {name}: {of[-1]:.2g}"))
    return outcome(*claims)


@SECTION.them(35, "all groups get one rate, in the test and after it")
def _() -> Outcome:
    return _ratios(_their_callback())


@SECTION.us(35)
def _() -> Outcome:
    return _ratios(*_our_callbacks())


# ---- two processes ------------------------------------------------------------------------------


def _in_two(who: str, strategy: str) -> Any:
    """Return the losses for an unbiased and a biased second rank, or the last line of the error."""
    name = __name__.replace("finder_run", "two_processes")
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-m", name, who, strategy],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = [
            line for line in done.stderr.splitlines() if "Exception" in line or "Error" in line
        ]
        return lines[-1] if lines else done.stderr[-80:]
    return json.loads(Path("curves.json").read_text())


def _reduced(who: str) -> Outcome:
    curves = _in_two(who, "ddp")
    if isinstance(curves, str):
        return outcome((False, curves))
    one, ten = (curve[10] for curve in curves)
    return outcome(
        (abs(ten / one - 5.5) < 0.01, f"loss x 10 on rank 1: the curve is x {ten / one:.2f}")
    )


@SECTION.them(44, "two processes: the loss of rank 0 alone", slow=True)
def _() -> Outcome:
    return _reduced("them")


@SECTION.us(44)
def _() -> Outcome:
    return _reduced("us")


def _spawned(who: str) -> Outcome:
    curves = _in_two(who, "ddp_spawn")
    text = curves if isinstance(curves, str) else f"{len(curves[0])} points"
    return outcome((not isinstance(curves, str), text))


@SECTION.them(45, "ddp_spawn, as in notebooks: the test raises in the workers", slow=True)
def _() -> Outcome:
    return _spawned("them")


@SECTION.us(45)
def _() -> Outcome:
    return _spawned("us")


# ---- hooks and attributes -----------------------------------------------------------------------


class _Validated(Net):
    def val_dataloader(self) -> Any:
        return loader(8)


@SECTION.them(47, "validation runs in the test, where it is switched off")
def _() -> Outcome:
    theirs(_Validated(), limit_val_batches=0)
    return outcome((SEEN.validated == 0, f"limit_val_batches=0: {SEEN.validated} batches"))


@SECTION.us(47)
def _() -> Outcome:
    ours(_Validated(), limit_val_batches=0)
    return outcome((SEEN.validated == 0, f"limit_val_batches=0: {SEEN.validated} batches"))


class _Timm(LambdaLR):
    """Has a step of another name, as timm's schedulers."""

    def step_update(self, num_updates: int) -> None:
        self.step()


class _TimmNet(Net):
    def __init__(self) -> None:
        super().__init__(lambda net: _timm(sgd(net)))

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step_update(num_updates=self.global_step)


def _timm(of: Optimizer) -> Any:
    schedule = _Timm(of, lambda step: 1.0)
    return [of], [{"scheduler": schedule, "interval": "step"}]


def _survives(run: Any) -> Outcome:
    error = error_of(lambda: run(_TimmNet()))
    return outcome((not error and len(used()) == POINTS, error or f"{len(used())} points"))


@SECTION.them(48, "a lr_scheduler_step of the user's own (timm) breaks the test")
def _() -> Outcome:
    return _survives(theirs)


@SECTION.us(48)
def _() -> Outcome:
    return _survives(ours)


class _Partial(Net):
    """As in lightning-hydra-template: a partial of the optimizer, and no lr."""

    def __init__(self) -> None:
        super().__init__(lambda net: net.make(params=net.parameters()))
        del self.lr
        self.make = partial(SGD, lr=0.1)


def _without_lr(tuner: Any) -> Outcome:
    of = trainer(max_epochs=100)
    error = error_of(lambda: tuner(of).lr_find(_Partial(), loader(), num_training=POINTS))
    return outcome((not error, error or f"{len(used())} points"))


@SECTION.them(50, "by default it needs an attribute lr, which a partial optimizer has not")
def _() -> Outcome:
    return _without_lr(lightning_tuner.Tuner)


@SECTION.us(50)
def _() -> Outcome:
    return _without_lr(lightning_onecycle.Tuner)
