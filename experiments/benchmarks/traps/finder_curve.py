"""What an LR finder measures, and what it reads off."""

from __future__ import annotations

import inspect
import itertools
import math
from typing import Any

import lightning.pytorch.tuner as lightning_tuner
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import LearningRateFinder
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

import lightning_onecycle
from experiments.benchmarks.traps.toys import SEEN, Net, fit, forget, loader, trainer, used
from experiments.benchmarks.traps.trap import Outcome, Section, claim, outcome, told
from lightning_onecycle import LRCurve, OneCycle

SECTION = Section("LR finder: what it measures and suggests")
LOW, HIGH, POINTS = 1e-3, 1.0, 21


def find(tuner: Any, net: Any, *callbacks: Callback, data: Any = 12, **arguments: Any) -> Any:
    """Run a range test, and return the curve; the options that are its own are told apart."""
    names = ("num_training", "early_stop_threshold", "min_lr", "max_lr", "mode")
    options: dict[str, Any] = {"min_lr": LOW, "max_lr": HIGH, "num_training": POINTS}
    options |= {"update_attr": False, "early_stop_threshold": None}
    options |= {name: arguments.pop(name) for name in names if name in arguments}
    forget()
    of = trainer(*callbacks, **{"max_epochs": 100, **arguments})
    return tuner(of).lr_find(net, loader(data) if isinstance(data, int) else data, **options)


def theirs(*arguments: Any, **options: Any) -> Any:
    """Run Lightning's range test."""
    return find(lightning_tuner.Tuner, *arguments, **options)


def ours(*arguments: Any, **options: Any) -> LRCurve:
    """Run our range test."""
    return find(lightning_onecycle.Tuner, *arguments, **options)


# ---- the suggestion -----------------------------------------------------------------------------


class _Classes(LightningModule):
    """A small MLP for four classes of points."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss of a batch."""
        x, y = batch
        loss = cross_entropy(self.net(x), y)
        SEEN.losses.append(float(loss))
        return loss

    def configure_optimizers(self) -> SGD:
        """Return SGD."""
        return SGD(self.parameters(), lr=self.lr, momentum=0.9)


def _classes() -> DataLoader:
    random = torch.Generator().manual_seed(1)
    x, way = torch.randn(512, 8, generator=random), torch.randn(8, 4, generator=random)
    return DataLoader(TensorDataset(x, (x @ way).argmax(1)), 32, shuffle=True)


def _trained(tuner: Any) -> Outcome:
    """Train with 1cycle at what five tests by default suggest."""
    suggested, good = [], 0
    for seed in range(5):
        seed_everything(seed, verbose=False)
        of = trainer(max_epochs=100)
        curve = tuner(of).lr_find(_Classes(), _classes(), update_attr=False)
        lr = curve.suggestion()
        suggested.append("none" if lr is None else f"{lr:.1e}")
        if lr is not None:
            fit(_Classes(), OneCycle(max_lr=lr), data=_classes(), max_epochs=5)
            good += sum(SEEN.losses[-16:]) / 16 < 0.5 * sum(SEEN.losses[:4]) / 4
    what = f"suggests {', '.join(suggested)}: 1cycle halves the loss with {good} of 5"
    return outcome((good == 5, what))


@SECTION.them(31, "the suggestion is noise at the low end of the range", slow=True)
def _() -> Outcome:
    return _trained(lightning_tuner.Tuner)


@SECTION.us(31)
def _() -> Outcome:
    return _trained(lightning_onecycle.Tuner)


@SECTION.them(52, "one number, the steepest point; 1cycle needs the largest rate")
def _() -> Outcome:
    curve = _u_shaped(theirs)
    lr, steepest_only = (
        curve.suggestion(),
        "method" not in inspect.signature(curve.suggestion).parameters,
    )
    return outcome((not steepest_only, f"minimum at 0.1: suggests {lr:.2g}, and there is no other"))


@SECTION.us(52)
def _() -> Outcome:
    curve = _u_shaped(ours)
    peak: Any = curve.suggestion()
    steepest: Any = curve.suggestion("steepest")
    bounds: Any = curve.bounds()
    what = f"minimum at 0.1: peak {peak:.2g}, bounds {bounds[0]:.2g} to {bounds[1]:.2g}"
    right = 0.03 < peak <= 0.12 and bounds == (peak / 4, peak) and steepest < peak
    return outcome((right, f"{what}, steepest {steepest:.2g}; the curve says why it stopped"))


def _u_shaped(run: Any) -> Any:
    """Return the curve of losses that fall to their lowest at a rate of 0.1."""

    def loss(batch: int) -> float:
        place = -3 + 3 * batch / 60
        return 2.0 - 1.5 * math.exp(-((place + 1) ** 2)) + 0.01 * math.sin(7 * batch)

    return run(Net(script=loss), num_training=61)


# ---- the ladder of rates ------------------------------------------------------------------------


class _Manual(Net):
    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        of: Any = self.optimizers()
        of.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        of.step()
        return loss


@SECTION.them(36, "manual optimization: the rate never moves, and it suggests all the same")
def _() -> Outcome:
    curve = theirs(_Manual())
    return outcome((len(set(used())) == POINTS, f"{len(set(used()))} rate(s); {_suggests(curve)}"))


@SECTION.us(36)
def _() -> Outcome:
    curve = ours(_Manual())
    right = len(set(used())) == POINTS and used() == list(curve.lrs)
    return outcome((right, f"{len(set(used()))} rates from {used()[0]:g} to {used()[-1]:g}"))


def _suggests(curve: Any) -> str:
    lr = curve.suggestion()
    return "suggests nothing" if lr is None else f"suggests {lr:.1e}"


@SECTION.them(37, "too few batches cut the range off, by a reason that is not true")
def _() -> Outcome:
    curve = theirs(Net(), data=20, max_epochs=1, num_training=100, min_lr=1e-8)
    reason = "says that the loss diverged" if told("diverging") else "says nothing"
    last = f"ends at {max(used()):.1e} of 1; {reason}; {_suggests(curve)}"
    return outcome((max(used()) > 0.9, last))


@SECTION.us(37)
def _() -> Outcome:
    curve = ours(Net(), data=20, max_epochs=1, num_training=100, min_lr=1e-8)
    right = used()[-1] == HIGH and curve.stopped == "range completed"
    return outcome(
        (right, f"20 batches, gone over again: {len(curve.lrs)} points, {curve.stopped}")
    )


@SECTION.them(42, "the first step of the ladder is doubled")
def _() -> Outcome:
    theirs(Net())
    return _even(used())


@SECTION.us(42)
def _() -> Outcome:
    ours(Net())
    return _even(used())


def _even(rates: list[float]) -> Outcome:
    steps = [b / a for a, b in itertools.pairwise(rates)]
    even = all(math.isclose(step, steps[-1], rel_tol=1e-6) for step in steps)
    return outcome((even, f"factors {steps[0]:.2f}, {steps[1]:.2f}, ... {steps[-1]:.2f}"))


# ---- the loss -----------------------------------------------------------------------------------


@SECTION.them(38, "a constant loss starts at half of itself, and rises")
def _() -> Outcome:
    return _flat(theirs(Net(script=lambda k: 1.0)))


@SECTION.us(38)
def _() -> Outcome:
    return _flat(ours(Net(script=lambda k: 1.0)))


def _flat(curve: Any) -> Outcome:
    losses = curve.results["loss"]
    flat = all(math.isclose(loss, 1.0) for loss in losses)
    return outcome(
        (flat, f"1, 1, 1, ... is {losses[0]:.3g}, {losses[1]:.3g}, ... {losses[-1]:.3g}")
    )


class _FineTune(LearningRateFinder):
    """The recipe of Lightning's documentation."""

    def __init__(self, milestones: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.milestones, self.points = milestones, {}

    def on_fit_start(self, *args: Any, **kwargs: Any) -> None:
        return

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        epoch = trainer.current_epoch
        if epoch in self.milestones:
            self.lr_find(trainer, pl_module)
            self.points[epoch] = len(self.optimal_lr.results["loss"])


@SECTION.them(39, "the documented recipe for tests at later epochs ends after one step")
def _() -> Outcome:
    finder = _FineTune((0, 2), num_training_steps=20)
    fit(Net(), finder, max_epochs=4)
    said = "; says that the loss diverged" if told("diverging") else ""
    points = ", ".join(f"epoch {epoch}: {n} points of 20" for epoch, n in finder.points.items())
    return outcome((finder.points.get(2, 0) > 10, points + said))


class _OursAtEpochs(Callback):
    """Runs our range test at epochs, as that recipe does; its own copy in the test does not."""

    def __init__(self, milestones: Any) -> None:
        self.milestones, self.points = milestones, {}

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        epoch, before = trainer.current_epoch, len(SEEN.losses)
        if epoch in self.milestones and not SEEN.testing:
            SEEN.testing = True
            tuner = lightning_onecycle.Tuner(trainer)
            curve = tuner.lr_find(pl_module, loader(), num_training=20, early_stop_threshold=None)
            SEEN.testing = False
            self.points[epoch] = len(curve.lrs)
            del SEEN.losses[before:]


@SECTION.us(39)
def _() -> Outcome:
    seed_everything(1, verbose=False)
    fit(Net(), max_epochs=4)
    without = SEEN.losses
    seed_everything(1, verbose=False)
    callback = _OursAtEpochs((0, 2))
    fit(Net(), callback, max_epochs=4)
    points = ", ".join(f"epoch {epoch}: {n} points of 20" for epoch, n in callback.points.items())
    return outcome(
        (callback.points == {0: 20, 2: 20}, points),
        claim(SEEN.losses == without, "the losses of the training are those without a test"),
    )


@SECTION.them(40, "negative losses stop the test at once")
def _() -> Outcome:
    return _length(theirs(Net(script=lambda k: -1 - 0.1 * k), early_stop_threshold=4.0))


@SECTION.us(40)
def _() -> Outcome:
    return _length(ours(Net(script=lambda k: -1 - 0.1 * k), early_stop_threshold=4.0))


def _length(curve: Any) -> Outcome:
    points = len(curve.results["lr"])
    return outcome((points == POINTS, f"losses from -1 falling: {points} points of {POINTS}"))


def _nan(batch: int) -> float:
    return math.nan if batch == 12 else 2.0 - 0.05 * batch


@SECTION.them(41, "one NaN spoils all points after it, and the test goes on")
def _() -> Outcome:
    curve = theirs(Net(script=_nan), num_training=100, early_stop_threshold=4.0)
    bad = sum(not math.isfinite(loss) for loss in curve.results["loss"])
    return outcome((bad <= 1, f"NaN at step 12: {bad} of 100 points are NaN, {_suggests(curve)}"))


@SECTION.us(41)
def _() -> Outcome:
    curve = ours(Net(script=_nan), num_training=100)
    right = len(curve.lrs) == 13 and curve.stopped.startswith("loss not finite at lr")
    return outcome((right, f"NaN at step 12: {curve.stopped}, {len(curve.lrs)} points"))


@SECTION.them(43, "accumulation: a fraction of the last batch's loss, and points are lost")
def _() -> Outcome:
    return _accumulated(theirs(Net(script=_by_three), data=40, **_THREE))


@SECTION.us(43)
def _() -> Outcome:
    return _accumulated(ours(Net(script=_by_three), data=40, **_THREE))


_THREE: dict[str, Any] = {"accumulate_grad_batches": 3, "num_training": 100}


def _by_three(batch: int) -> float:
    """Return 1, 2, 3 for the three batches of a step; an epoch of 40 ends with one of a single."""
    return 1.0 + batch % 40 % 3


def _accumulated(curve: Any) -> Outcome:
    losses, steps = curve.results["loss"], len(used())
    level = losses[10]
    return outcome(
        (abs(level - 2.0) < 0.05, f"losses 1, 2, 3 of a step are {level:.2f}"),
        (len(losses) == steps, f"{len(losses)} points for {steps} steps"),
    )


def _diverging(batch: int) -> float:
    return 2.0 - 0.02 * batch if batch < 30 else 2.0 * 1.5 ** (batch - 30)


@SECTION.them(46, "min_epochs or min_steps: divergence does not stop the test")
def _() -> Outcome:
    return _stops(theirs)


@SECTION.us(46)
def _() -> Outcome:
    return _stops(ours)


def _stops(run: Any) -> Outcome:
    options = {"num_training": 100, "early_stop_threshold": 4.0}
    claims = []
    for limits in ({"min_epochs": 50}, {"min_steps": 500}):
        points = len(run(Net(script=_diverging), **options, **limits).results["lr"])
        name = next(iter(limits))
        claims.append((points < 60, f"{name}: diverges at step 30, {points} points of 100"))
    return outcome(*claims)
