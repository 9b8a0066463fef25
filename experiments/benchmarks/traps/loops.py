"""How Lightning steps a scheduler, and how long it says a fit will be."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, IterableDataset

from experiments.benchmarks.traps.toys import (
    Net,
    TheirNet,
    fit,
    forget,
    loader,
    ours,
    sgd,
    torch_one_cycle,
    trainer,
    used,
)
from experiments.benchmarks.traps.trap import (
    Claim,
    Outcome,
    Section,
    claim,
    error_of,
    outcome,
    told,
)
from lightning_onecycle import OneCycle, one_cycle

SECTION = Section("Lightning's handling of schedulers")
END = one_cycle().at(99, 100).lr


def _bare(net: Net, level: bool = False) -> Any:
    """Return torch's scheduler as the docstring of ``estimated_stepping_batches`` does."""
    of = sgd(net)
    return [of], [OneCycleLR(of, net.lr, net.trainer.estimated_stepping_batches)]  # type: ignore


def _ours_bare(net: Net) -> Any:
    of = sgd(net)
    return [of], [ours(of, net.trainer.estimated_stepping_batches)]  # type: ignore[arg-type]


def _whole(rates: list[float]) -> bool:
    """Whether a cycle with a peak of 0.1 reached it, and ended well below its start."""
    return max(rates) > 0.099 and 0 <= rates[-1] <= 0.1 * END * 1.001


@SECTION.them(24, "a scheduler that is returned bare is stepped once an epoch, untold")
def _() -> Outcome:
    fit(Net(_bare), data=40, max_epochs=5)
    said = told("interval") or told("OneCycleLR")
    top = max(used()) / 0.1
    words = "told" if said else "nothing is said"
    return outcome((top > 0.99, f"200 steps: highest rate {top:.2f} x peak"), (said, words))


@SECTION.us(24)
def _() -> Outcome:
    fit(Net(_ours_bare), data=40, max_epochs=5)
    return outcome(
        claim(_whole(used()), "200 steps: the whole cycle; it counts the optimizer's steps")
    )


def _wrong_level(scheduler: Callable[[Any, int], Any]) -> Callable[[Net], Any]:
    def configure(net: Net) -> Any:
        of = sgd(net)
        total: Any = net.trainer.estimated_stepping_batches
        return {"optimizer": of, "lr_scheduler": scheduler(of, total), "interval": "step"}

    return configure


@SECTION.them(25, '"interval" at the wrong level of the dict: stepped once an epoch')
def _() -> Outcome:
    fit(Net(_wrong_level(lambda of, total: OneCycleLR(of, 0.1, total))), data=40, max_epochs=5)
    top, said = max(used()) / 0.1, told("unsupported keys")
    words = "told of unsupported keys" if said else "nothing is said"
    return outcome((top > 0.99, f"highest rate {top:.2f} x peak, {words}"))


@SECTION.us(25)
def _() -> Outcome:
    fit(Net(_wrong_level(ours)), data=40, max_epochs=5)
    return outcome(claim(_whole(used()), "the whole cycle; the interval does not matter"))


# ---- the length of a fit ------------------------------------------------------------------------


class _Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(torch.randn(48, 4, generator=torch.Generator().manual_seed(1)))


class _Unpacked(Net):
    """Takes batches that are no tuples."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(0.005 if self.trainer.max_epochs == 1000 else 0)
        return super().training_step((batch,), batch_idx)


class _Growing(Net):
    def train_dataloader(self) -> Any:
        return loader(6 * (self.current_epoch + 1))


class _Manual(Net):
    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        of: Any = self.optimizers()
        for _ in range(2):
            of.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            of.step()
            scheduler: Any = self.lr_schedulers()
            if scheduler is not None:
                scheduler.step()


class _CutShort(Net):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx >= 6 else None


_SECOND = {"seconds": 1.2}
_RELOAD = {"reload_dataloaders_every_n_epochs": 1}
_STREAM = DataLoader(_Stream(), 4)
_PLAIN = DataLoader(torch.randn(48, 4), 4)


def _theirs(name: str, net: Any, *callbacks: Any, data: Any = 12, **arguments: Any) -> Claim:
    made = net(torch_one_cycle)
    error = error_of(lambda: fit(made, *callbacks, data=data, **arguments))
    if error:
        return False, f"{name}: {error} after {len(used())} steps"
    return _whole(used()), f"{name}: {_ending()}"


@SECTION.them(26, "the estimated length is wrong, or there is none", slow=True)
def _() -> Outcome:
    forever = {"max_epochs": -1, "max_steps": -1}
    return outcome(
        _theirs("GradientAccumulationScheduler", Net, GradientAccumulationScheduler({1: 4})),
        _theirs("max_time", _Unpacked, data=_PLAIN, max_epochs=1000, max_time=_SECOND),
        _theirs("max_epochs=-1", _Unpacked, data=_PLAIN, max_time=_SECOND, **forever),
        _theirs("IterableDataset", _Unpacked, data=_STREAM),
        _theirs("growing data", _Growing, data=None, max_epochs=3, **_RELOAD),
        _theirs("manual, 2 steps a batch", _Manual),
        _theirs("epochs cut short", _CutShort),
    )


def _us(name: str, net: Any, *callbacks: Any, data: Any = 12, **arguments: Any) -> Claim:
    error = error_of(lambda: fit(net(), *callbacks, data=data, **arguments))
    if error:
        return "cannot know how many" in error or "give" in error, f"{name}: refused, {error}"
    return _whole(used()), f"{name}: {_ending()}"


def _ending() -> str:
    return f"{len(used())} steps, {max(used()) / 0.1:.2f} x peak, ends at {used()[-1] / 0.1:.3f}"


@SECTION.us(26)
def _() -> Outcome:
    claims = [
        _us(
            "GradientAccumulationScheduler", Net, GradientAccumulationScheduler({1: 4}), OneCycle()
        ),
        _us("IterableDataset", _Unpacked, OneCycle(total_steps=24), data=_STREAM),
        _us("growing data", _Growing, OneCycle(), data=None, max_epochs=3, **_RELOAD),
        _us("manual, total_steps=48", _Manual, OneCycle(total_steps=48)),
        _us("epochs cut short", _CutShort, OneCycle()),
    ]
    for name, arguments in (
        ("max_time", {"max_epochs": 1000}),
        ("max_epochs=-1", {"max_epochs": -1}),
    ):
        budget = OneCycle(budget="time")
        fit(_Unpacked(), budget, data=_PLAIN, max_time=_SECOND, **arguments)  # type: ignore
        rates = used()
        claims.append((max(rates) > 0.09 and rates[-1] < 0.001, f"{name}: {_ending()}"))
    unknown = error_of(lambda: fit(_Unpacked(), OneCycle(), data=_STREAM))
    claims.append(
        claim("cannot know how many" in unknown, "no length given: refused with what to give")
    )
    return outcome(*claims)


# ---- other ways to be off -----------------------------------------------------------------------


class _Sized(Net):
    batch_size = 1

    def train_dataloader(self) -> Any:
        return DataLoader(loader(64, 1).dataset, self.batch_size)

    def val_dataloader(self) -> Any:
        return loader(1)


@SECTION.them(27, "BatchSizeFinder shortens the run after it was planned")
def _() -> Outcome:
    net = _Sized(torch_one_cycle)
    fit(net, BatchSizeFinder(init_val=2, max_trials=3, steps_per_trial=2), data=None)
    top = max(used()[-(128 // net.batch_size) :]) / 0.1
    return outcome((top > 0.99, f"batch size 1 -> {net.batch_size}: highest rate {top:.2f} x peak"))


@SECTION.us(27)
def _() -> Outcome:
    net = _Sized()
    fit(net, OneCycle(), BatchSizeFinder(init_val=2, max_trials=3, steps_per_trial=2), data=None)
    rates = used()[-(128 // net.batch_size) :]
    return outcome(claim(_whole(rates), f"batch size 1 -> {net.batch_size}: the whole cycle"))


def _twice(net: Net, *callbacks: Any) -> list[float]:
    of = trainer(*callbacks)
    of.fit(net, loader())
    of.fit_loop.max_epochs = 4
    forget()
    of.fit(net, loader())
    return used()


@SECTION.them(28, "a second fit counts the steps of the first")
def _() -> Outcome:
    end = _twice(TheirNet())[-1] / 0.1
    return outcome((end < 0.01, f"the second fit ends at {end:.2f} x peak"))


@SECTION.us(28)
def _() -> Outcome:
    return outcome((_whole(_twice(Net(), OneCycle())), f"the second fit: {_ending()}"))


def _every_second(net: Net, scheduler: Any, of: SGD) -> Any:
    config = {"scheduler": scheduler, "interval": "step", "frequency": 2}
    return {"optimizer": of, "lr_scheduler": config}


def _moves(rates: list[float]) -> list[int]:
    """Return at which steps the rate is another than at the step before."""
    return [i for i in range(1, len(rates)) if rates[i] != rates[i - 1]]


@SECTION.them(29, "frequency counts batches, and starts again with each epoch")
def _() -> Outcome:
    def configure(net: Net) -> Any:
        return _every_second(net, OneCycleLR(of := sgd(net), 0.1, 42), of)

    fit(Net(configure), data=20, accumulate_grad_batches=3, max_epochs=6)
    at = _moves(used())
    gaps = sorted({b - a for a, b in itertools.pairwise(at)})
    return outcome((gaps == [2], f"every 2nd step is asked for; there are gaps of {gaps}"))


@SECTION.us(29)
def _() -> Outcome:
    def configure(net: Net) -> Any:
        return _every_second(net, ours(of := sgd(net), 42), of)

    fit(Net(configure), data=20, accumulate_grad_batches=3, max_epochs=6)
    right = _moves(used()) == list(range(1, 42)) and _whole(used())
    return outcome(
        claim(right, "moves with each of the 42 optimizer steps, whatever the frequency is")
    )


def _half(batch: int) -> float | None:
    return 1.0 if batch % 2 else None


@SECTION.them(30, "training_step returns None: the schedule counts a step that does nothing")
def _() -> Outcome:
    fit(Net(torch_one_cycle, script=_half), data=20)
    return outcome(
        (len(_moves(used())) == 19, f"40 batches, 20 losses: {1 + len(_moves(used()))} steps")
    )


@SECTION.us(30)
def _() -> Outcome:
    fit(Net(script=_half), OneCycle(), data=20)
    moved = 1 + len(_moves(used()))
    what = f"40 batches, 20 losses: {moved} steps; Lightning calls the optimizer, and that counts"
    return outcome((moved == 20, what))
