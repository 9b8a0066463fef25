"""torch-lr-finder and the LR finder of ignite, where they can be imported."""

from __future__ import annotations

import contextlib
import inspect
import io
import math
from functools import partial
from typing import Any

from lightning.pytorch import seed_everything
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

import lightning_onecycle
from experiments.benchmarks.traps.finder_curve import ours
from experiments.benchmarks.traps.others import (
    SECTION,
    SPAN,
    Loss,
    Pairs,
    keeps_ratio,
    lag,
    nan_at_12,
    no_lag,
    same,
    sigmoid,
    with_and_without,
)
from experiments.benchmarks.traps.toys import (
    SEEN,
    Net,
    forget,
    loader,
    torch_one_cycle,
    trainer,
    used,
)
from experiments.benchmarks.traps.trap import Outcome, error_of, outcome

IGNITE, TORCH = "ignite", "torch_lr_finder"

# ---- torch-lr-finder ----------------------------------------------------------------------------


def _finder(loss: nn.Module | None = None, of: Any = None, net: nn.Module | None = None) -> Any:
    from torch_lr_finder import LRFinder

    net = net or nn.Linear(4, 1)
    of = of or SGD(net.parameters(), lr=0.1, momentum=0.9)
    return LRFinder(net, of, loss or Loss(), device="cpu")


def _test(finder: Any, **options: Any) -> Any:
    from torch_lr_finder import TrainDataLoaderIter

    class Batches(TrainDataLoaderIter):
        def __init__(self, batches: Any) -> None:
            self.data_loader, self._iterator, self.auto_reset = batches, iter(batches), True

    options = {"start_lr": SPAN[0], "end_lr": SPAN[1], "num_iter": 100, **options}
    with contextlib.redirect_stderr(io.StringIO()):
        finder.range_test(Batches(Pairs()), **options)
    return finder


@SECTION.them("T1", "torch-lr-finder: the net stays trained by the test until reset()", needs=TORCH)
def _() -> Outcome:
    finder = _finder()
    before = [p.tolist() for p in finder.model.parameters()]
    _test(finder)
    kept = before == [p.tolist() for p in finder.model.parameters()]
    return outcome((kept, f"weights {'as before' if kept else 'are those of the test'}"))


@SECTION.us("T1")
def _() -> Outcome:
    net = Net()
    before = [p.tolist() for p in net.parameters()]
    ours(net)
    kept = before == [p.tolist() for p in net.parameters()]
    return outcome((kept, f"weights {'as before' if kept else 'are those of the test'}"))


@SECTION.them("T2", "torch-lr-finder: the training after test and reset is another", needs=TORCH)
def _() -> Outcome:
    losses = []
    for test in (False, True):
        seed_everything(1, verbose=False)
        finder = _finder()
        if test:
            _test(finder).reset()
        finder.criterion.seen.clear()
        for x, y in Pairs():
            finder.optimizer.zero_grad()
            finder.criterion(finder.model(x), y).backward()
            finder.optimizer.step()
        losses.append(finder.criterion.seen)
    return same(*losses)


@SECTION.us("T2")
def _() -> Outcome:
    return same(*with_and_without())


@SECTION.them("T3", "torch-lr-finder: no number without a plot", needs=TORCH)
def _() -> Outcome:
    finder = _test(_finder(Loss(sigmoid)))
    names = [name for name in dir(finder) if "suggest" in name]
    needs = "suggest_lr" in inspect.signature(finder.plot).parameters
    where = "it is what plot(suggest_lr=True) returns" if needs else "plot has it not"
    return outcome((bool(names), f"methods that suggest: {names or 'none'}; {where}"))


@SECTION.us("T3")
def _() -> Outcome:
    curve = ours(Net(script=sigmoid), num_training=101, min_lr=SPAN[0], max_lr=SPAN[1])
    lr = curve.suggestion()
    return outcome((lr is not None, f"suggestion() returns {lr}"))


@SECTION.them("T4", "torch-lr-finder: refuses an optimizer with a scheduler", needs=TORCH)
def _() -> Outcome:
    net = nn.Linear(4, 1)
    OneCycleLR(of := SGD(net.parameters(), lr=0.1, momentum=0.9), 0.1, 100)
    error = error_of(lambda: _test(_finder(of=of, net=net)))
    return outcome((not error, error or "runs"))


@SECTION.us("T4")
def _() -> Outcome:
    curve = ours(Net(partial(torch_one_cycle, total=100)))
    right = used() == list(curve.lrs)
    return outcome((right, f"{len(curve.lrs)} points, at the rates of the test"))


@SECTION.them("T5", "torch-lr-finder: ratios of groups are lost", needs=TORCH)
def _() -> Outcome:
    net = nn.Linear(4, 1)
    groups = [
        {"params": [p], "lr": lr} for p, lr in zip(net.parameters(), (0.01, 0.1), strict=True)
    ]
    of = SGD(groups, lr=0.1, momentum=0.9)
    rates = []
    of.register_step_pre_hook(lambda *_: rates.append([g["lr"] for g in of.param_groups]))
    _test(_finder(of=of, net=net), start_lr=[SPAN[0] / 10, SPAN[0]])
    first, last = (a / b for a, b in (rates[0], rates[-1]))
    right = math.isclose(first, 0.1) and math.isclose(last, 0.1)
    return outcome((right, f"ratio 0.1 of two groups: {first:.2g} ... {last:.2g}"))


@SECTION.us("T5")
def _() -> Outcome:
    return keeps_ratio()


@SECTION.them("T6", "torch-lr-finder: validation goes over all data at every step", needs=TORCH)
def _() -> Outcome:
    from torch_lr_finder import ValDataLoaderIter

    class Batches(ValDataLoaderIter):
        def __init__(self, batches: Any) -> None:
            self.data_loader, self._iterator = batches, iter(batches)
            self.run_limit, self.run_counter = len(batches), 0

    finder = _finder(loss := Loss())
    _test(finder, val_loader=Batches(Pairs(8)))
    validated = loss.calls - len(finder.history["lr"])
    return outcome((validated <= 200, f"8 batches, 100 steps: {validated} batches"))


@SECTION.us("T6")
def _() -> Outcome:
    class Validated(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            """Count, and return the loss."""
            super().validation_step(batch, batch_idx)
            return self.net(batch[0]).square().mean()

    forget()
    tuner = lightning_onecycle.Tuner(trainer(max_epochs=100))
    curve = tuner.lr_find(
        Validated(),
        loader(),
        val_dataloaders=loader(8),
        val_batches=2,
        num_training=100,
        early_stop_threshold=None,
    )
    right = SEEN.validated == 2 * len(curve.val_losses) == 40
    return outcome(
        (right, f"val_batches=2: {SEEN.validated} batches, {len(curve.val_losses)} losses")
    )


@SECTION.them("T7", "torch-lr-finder: negative losses stop the test, a NaN does not", needs=TORCH)
def _() -> Outcome:
    negative = len(_test(_finder(Loss(lambda k: -1 + 0.01 * k))).history["lr"])
    after_nan = len(_test(_finder(Loss(nan_at_12))).history["lr"])
    return outcome(
        (negative >= 100, f"losses from -1 rising slowly: {negative} of 100 steps"),
        (after_nan <= 14, f"NaN at step 12: goes on to step {after_nan}"),
    )


@SECTION.us("T7")
def _() -> Outcome:
    curve = ours(Net(script=lambda k: -1 + 0.01 * k), num_training=100)
    negative = (
        len(curve.lrs) == 100,
        f"losses from -1 rising slowly: {len(curve.lrs)} of 100 steps",
    )
    curve = ours(Net(script=nan_at_12), num_training=100)
    return outcome(negative, (len(curve.lrs) == 13, f"NaN at step 12: {curve.stopped}"))


@SECTION.them("T8", "torch-lr-finder: a running average shifts the suggestion", needs=TORCH)
def _() -> Outcome:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    finder = _test(_finder(Loss(sigmoid)))
    _, lr = finder.plot(ax=pyplot.subplots()[1], suggest_lr=True)
    return outcome(lag("steepest", lr))


@SECTION.us("T8")
def _() -> Outcome:
    return no_lag()


# ---- ignite -------------------------------------------------------------------------------------


def _ignite(loss: Loss, net: nn.Module, **options: Any) -> tuple[Any, list[float]]:
    """Run ignite's finder; return it, and the rate of each step."""
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    of = SGD(net.parameters(), lr=0.5, momentum=0.9)
    rates: list[float] = []
    of.register_step_pre_hook(lambda *_: rates.append(of.param_groups[0]["lr"]))
    engine, finder = create_supervised_trainer(net, of, loss), FastaiLRFinder()
    keep = {"model": net, "optimizer": of}
    options = {"start_lr": 1e-6, "end_lr": 1.0, "num_iter": 36, "diverge_th": 1e9, **options}
    with finder.attach(engine, to_save=keep, **options) as tested:
        tested.run(Pairs())
    return finder, rates


@SECTION.them(
    "I1",
    "ignite: the first step is at the optimizer's rate, and all are logged one late",
    needs=IGNITE,
)
def _() -> Outcome:
    finder, rates = _ignite(Loss(lambda k: 1.0), nn.Linear(4, 1))
    logged = finder.get_results()["lr"]
    return outcome(
        (rates[0] < 1e-5, f"start_lr=1e-6: the first step is at {rates[0]:.2g}"),
        (math.isclose(logged[1], rates[1]), f"step 2 at {rates[1]:.2g}, logged {logged[1]:.2g}"),
    )


@SECTION.us("I1")
def _() -> Outcome:
    curve = ours(Net(script=lambda k: 1.0), min_lr=1e-6)
    return outcome(
        (used()[0] == 1e-6, f"min_lr=1e-6: the first step is at {used()[0]:.2g}"),
        (used() == list(curve.lrs), f"step 2 at {used()[1]:.2g}, in the curve {curve.lrs[1]:.2g}"),
    )


@SECTION.them("I2", "ignite: an exception in the test leaves the net trained by it", needs=IGNITE)
def _() -> Outcome:
    class Fails(Loss):
        def forward(self, out: Tensor, y: Tensor) -> Tensor:
            if self.calls == 10:
                raise ArithmeticError
            return super().forward(out, y)

    net = nn.Linear(4, 1)
    before = [p.tolist() for p in net.parameters()]
    error = error_of(lambda: _ignite(Fails(), net))
    kept = before == [p.tolist() for p in net.parameters()]
    return outcome(
        (kept and bool(error), f"weights {'as before' if kept else 'are those of the test'}")
    )


@SECTION.us("I2")
def _() -> Outcome:
    def fails(batch: int) -> float:
        if batch == 10:
            raise ArithmeticError
        return 1.0

    net = Net(script=fails)
    before = [p.tolist() for p in net.parameters()]
    error = error_of(lambda: ours(net))
    kept = before == [p.tolist() for p in net.parameters()]
    return outcome(
        (kept and bool(error), f"weights {'as before' if kept else 'are those of the test'}")
    )
