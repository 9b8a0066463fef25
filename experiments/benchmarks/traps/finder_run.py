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
import torch
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

import lightning_onecycle
from experiments.benchmarks.traps.finder_curve import POINTS, ours, theirs
from experiments.benchmarks.traps.toys import (
    SEEN,
    Net,
    TheirNet,
    fit,
    forget,
    loader,
    sgd,
    trainer,
    two_groups,
    used,
)
from experiments.benchmarks.traps.trap import Outcome, Section, error_of, named, outcome
from lightning_onecycle import LRFinder, OneCycle

SECTION = Section("LR finder: what it does to the run")
RANGE: dict[str, Any] = {"min_lr": 1e-4, "max_lr": 10.0}
TEST = 60
DATA = partial(loader, 12, 32)


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
    return _resumed(_their_callback(max_lr=0.1), tested=TEST)


@SECTION.us(32)
def _() -> Outcome:
    return _resumed(*_our_callbacks(), tested=0)


class _Configured(Net):
    def __init__(self) -> None:
        from omegaconf import OmegaConf

        super().__init__()
        self.save_hyperparameters({"cfg": OmegaConf.create({"lr": 0.1})})


def _with_config(run: Any) -> Outcome:
    net = _Configured()
    before = [p.tolist() for p in net.parameters()]
    error = error_of(lambda: run(net))
    kept = before == [p.tolist() for p in net.parameters()]
    files = [path.name for path in Path().rglob("*.ckpt")]
    return outcome(
        (not error, error or f"{len(used())} points"),
        (kept, "weights as before" if kept else "weights are those of the test"),
        (not files, f"{len(files)} checkpoint(s) left on disk"),
    )


@SECTION.them(33, "OmegaConf in the hyperparameters: fails when the test is over")
def _() -> Outcome:
    return _with_config(theirs)


@SECTION.us(33)
def _() -> Outcome:
    return _with_config(ours)


@SECTION.them(34, "the callback's answer is used for one step, then the old schedule goes on")
def _() -> Outcome:
    finder = _their_callback()
    fit(Net(lambda net: sgd_with_cycle(net)), finder, data=DATA(), max_epochs=4)
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
    fit(Net(), finder, cycle, data=DATA(), max_epochs=4)
    rates = used()[-48:]
    right = max(rates) == finder.max_lr and math.isclose(rates[-1], 0.001 * finder.max_lr)
    return outcome(
        (right, f"found {finder.max_lr:.2g}: it is the peak, and the end is 0.001 of it")
    )


def sgd_with_cycle(net: Net) -> Any:
    """Return torch's OneCycleLR over 48 steps, with a peak that is written down."""
    of = sgd(net)
    cycle = torch.optim.lr_scheduler.OneCycleLR(of, 0.5, 49)
    return {"optimizer": of, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def _ratios(*callbacks: Any) -> Outcome:
    fit(Net(two_groups), *callbacks, data=DATA())
    ratios = [groups[0][0] / groups[1][0] for groups in SEEN.steps]
    claims = []
    for name, of in (("in the test", ratios[:TEST]), ("after it", ratios[-24:])):
        right = all(math.isclose(ratio, 0.01) for ratio in of)
        claims.append((right, f"ratio 0.01 {name}: {of[0]:.2g}"))
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


class _Failing(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if SEEN.batches == 10:
            raise MemoryError("out of memory")
        return super().training_step(batch, batch_idx)


def _failed(tuner: Any) -> Outcome:
    of = trainer(ModelCheckpoint(), logger=CSVLogger("."), enable_checkpointing=True)
    of.limit_val_batches = 3

    def state() -> dict[str, Any]:
        return {
            "callbacks": list(of.callbacks),  # type: ignore[attr-defined]
            "logger": of.logger,
            "limit_val_batches": of.limit_val_batches,
            "random numbers": torch.get_rng_state().tolist(),
        }

    before = state()
    try:
        tuner(of).lr_find(_Failing(), loader(1, shuffle=True), num_training=POINTS)
    except MemoryError:
        pass
    after = state()
    changed = [name for name, value in before.items() if after[name] != value]
    return outcome((not changed, f"changed: {', '.join(changed) or 'nothing'}"))


@SECTION.them(49, "an exception in the test leaves the trainer as the test had it")
def _() -> Outcome:
    return _failed(lightning_tuner.Tuner)


@SECTION.us(49)
def _() -> Outcome:
    return _failed(lightning_onecycle.Tuner)


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


# ---- what is left of it -------------------------------------------------------------------------


def _tags(folder: str) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = []
    for file in Path(folder).rglob("events*"):
        events = EventAccumulator(str(file))
        events.Reload()
        names += [tag for kind in ("scalars", "images") for tag in events.Tags()[kind]]
    return sorted(set(names))


def _logged(tuner: Any) -> tuple[Any, list[str]]:
    of = trainer(logger=TensorBoardLogger("logs"), log_every_n_steps=1, max_epochs=6)
    curve = tuner(of).lr_find(Net(), DATA(), num_training=TEST, update_attr=False, **RANGE)
    of.fit(Net(), DATA())
    return curve, _tags("logs")


def _has_test(tags: list[str]) -> bool:
    return any("lr_find" in tag for tag in tags)


@SECTION.them(51, "nothing of the test is in TensorBoard")
def _() -> Outcome:
    tags = _logged(lightning_tuner.Tuner)[1]
    return outcome((_has_test(tags), f"tags: {', '.join(tags)}"))


@SECTION.us(51)
def _() -> Outcome:
    from experiments.lr_find import show_curve

    curve, tags = _logged(lightning_onecycle.Tuner)
    show_curve(curve, curve.suggest(), TensorBoardLogger("shown"), Path("shown"))
    files = [name for name in ("lr_find.json", "lr_find.png") if Path("shown", name).exists()]
    shown = [tag for tag in _tags("shown") if "lr_find" in tag]
    return outcome(
        (_has_test(tags), f"Tuner: tags {', '.join(tags)}"),
        (len(shown) == 2 and len(files) == 2, f"train.py: {', '.join(shown)}; {', '.join(files)}"),
    )


class _Loads(Net):
    """Makes a loader with a generator of its own, which it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.made = torch.Generator().manual_seed(3), 0

    def train_dataloader(self) -> Any:
        SEEN.made += 1
        return loader(shuffle=True, generator=self.generator)


def _order_kept(tuner: Any) -> Outcome:
    SEEN.made = 0
    losses = []
    for test in (False, True):
        SEEN.made = 0
        torch.manual_seed(1)
        net, of = _Loads(), trainer()
        if test:
            tuner(of).lr_find(net, num_training=POINTS, update_attr=False)
        forget()
        of.fit(net)
        losses.append(SEEN.losses)
    same = sum(a == b for a, b in zip(*losses))
    what = f"{same} of 24 losses are those without the test; {SEEN.made} loaders made"
    return outcome((same == 24, what))


@SECTION.them(53, "loaders are made again, and their own generators move on")
def _() -> Outcome:
    return _order_kept(lightning_tuner.Tuner)


@SECTION.us(53)
def _() -> Outcome:
    return _order_kept(lightning_onecycle.Tuner)


class _Looks(Net):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        SEEN.files = [path for path in Path().rglob("*") if path.name != "output"]


def _on_disk(run: Any) -> Outcome:
    run(_Looks())
    names = [path.name[:8] + "..." + path.suffix for path in SEEN.files]
    return outcome((not names, f"during the test: {', '.join(names) or 'no file'}"))


@SECTION.them(54, "a whole checkpoint is written to disk")
def _() -> Outcome:
    return _on_disk(theirs)


@SECTION.us(54)
def _() -> Outcome:
    return _on_disk(ours)


@SECTION.them(55, "state leaks into the training, in release after release", slow=True)
def _() -> Outcome:
    return _leaks("Lightning's Tuner")


@SECTION.us(55)
def _() -> Outcome:
    return _leaks("lightning_onecycle")


def _leaks(kind: str) -> Outcome:
    from experiments.benchmarks import finder_traces

    checks = finder_traces.TRACES.values()
    kept = sum(finder_traces.outcome(check, kind) == "yes" for check in checks)
    return outcome((kept == len(checks), f"{kept} of {len(checks)} kinds of state as before"))
