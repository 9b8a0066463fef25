"""The curves of OneCycleLR: their ends, their numbers, and the optimizers they are written into."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim import SGD, AdamW, RMSprop
from torch.optim.lr_scheduler import OneCycleLR

from experiments.benchmarks.traps.toys import (
    SEEN,
    Net,
    TheirNet,
    drive,
    fit,
    optimizer,
    ours,
    torch_one_cycle,
    used,
)
from experiments.benchmarks.traps.trap import Outcome, Section, claim, error_of, outcome, told
from lightning_onecycle import OneCycle, one_cycle

SECTION = Section("OneCycleLR: the curve")
_SECOND = {"seconds": 1.5}
SHORT = ((10, 0.1), (20, 0.05), (100, 0.01), (4, 0.25))
"""Total steps and pct_start, of which the product is 1."""


@SECTION.them(1, "linear: after the last step the rate is negative")
def _() -> Outcome:
    of = optimizer()
    rates = drive(of, 100, OneCycleLR(of, 1.0, 100, anneal_strategy="linear"))
    of = optimizer()
    cos = drive(of, 100, OneCycleLR(of, 1.0, 100, anneal_strategy="cos"))
    return outcome(
        (rates[-1] >= 0, f"linear: {rates[-1]:.2g} x peak after step 100 of 100"),
        (cos[-1] <= 1.01 * min(cos), f"cos: climbs to {cos[-1] / min(cos):.0f}x its lowest"),
    )


@SECTION.us(1)
def _() -> Outcome:
    claims = []
    for anneal in ("linear", "cos"):
        ours(of := optimizer(), 100, one_cycle(anneal=anneal))  # type: ignore[arg-type]
        rates = drive(of, 110)
        end = rates[99]
        right = max(rates) == 1.0 and min(rates) == end == rates[-1] == 0.001
        claims.append(claim(right, f"{anneal}: {end:.2g} x peak, and stays"))
    return outcome(*claims)


@SECTION.them(2, "a step past the end, the training crashes")
def _() -> Outcome:
    of = optimizer()
    schedule = OneCycleLR(of, 1.0, 100)
    error = error_of(lambda: drive(of, 150, schedule))
    return outcome((not error, error or "150 steps taken"))


@SECTION.us(2)
def _() -> Outcome:
    ours(of := optimizer(), 100)
    rates = drive(of, 150)
    return outcome(
        claim(rates[149] == rates[99] == 0.001, f"holds {rates[149]:.2g} x peak for 50 steps more")
    )


@SECTION.them(7, "lr and momentum of the optimizer are overwritten without a word")
def _() -> Outcome:
    claims = []
    for kind, arguments in ((SGD, {"momentum": 0.0}), (RMSprop, {"momentum": 0.0})):
        of = optimizer(kind, lr=0.4, **arguments)
        OneCycleLR(of, 1.0, 100)
        momentum = of.param_groups[0]["momentum"]
        claims.append((momentum == 0, f"{kind.__name__}: momentum 0 -> {momentum}"))
    of = optimizer(AdamW, lr=0.4)
    OneCycleLR(of, 1.0, 100)
    lr, beta1 = of.param_groups[0]["lr"], _beta1(of)
    claims.append((lr == 0.4 and beta1 == 0.9, f"AdamW: lr 0.4 -> {lr:.2f}, beta1 0.9 -> {beta1}"))
    claims.append((told("momentum"), "told" if told("momentum") else "nothing is said"))
    return outcome(*claims)


@SECTION.us(7)
def _() -> Outcome:
    claims = []
    for kind in (SGD, RMSprop):
        of = optimizer(kind, lr=0.4, momentum=0.0)
        ours(of, 100)
        rates, momentum = drive(of, 100), of.param_groups[0]["momentum"]
        right = momentum == 0 and max(rates) == 0.4 and told(f"{kind.__name__}: momentum")
        what = f"{kind.__name__}: lr 0.4 is the peak, momentum 0 stays and is told"
        claims.append(claim(right, what))
    ours(of := optimizer(AdamW, lr=0.4), 100)
    claims.append((_beta1(of) == 0.9, f"AdamW: beta1 0.9 -> {_beta1(of)}, the schedule's, untold"))
    return outcome(*claims)


def _beta1(of: Any) -> float:
    return of.param_groups[0]["betas"][0]


WITHOUT_MOMENTUM = ["Adagrad", "Adadelta", "Adafactor", "ASGD", "Rprop", "LBFGS"]
if not hasattr(torch.optim, "Adafactor"):  # before torch 2.5
    WITHOUT_MOMENTUM.remove("Adafactor")


@SECTION.them(8, "the default raises for optimizers without momentum")
def _() -> Outcome:
    errors = {}
    for name in WITHOUT_MOMENTUM:
        of = _without_momentum(name)
        errors[name] = error_of(lambda of=of: OneCycleLR(of, 1.0, 100))  # type: ignore[misc]
    refused = [name for name, error in errors.items() if error]
    return outcome((not refused, f"{', '.join(refused)}: {next(iter(errors.values()))}"))


@SECTION.us(8)
def _() -> Outcome:
    peaks = []
    for name in WITHOUT_MOMENTUM:
        of = _without_momentum(name)
        ours(of, 20)
        rates = []
        for _ in range(20):
            rates.append(of.param_groups[0]["lr"])
            of.step(lambda: torch.zeros(()))
        peaks.append(max(rates) == 0.5 and told(f"{name}: momentum is not cycled"))
    return outcome((all(peaks), f"{sum(peaks)} of {len(peaks)} get the rate alone, and are told"))


def _without_momentum(name: str) -> Any:
    kind = getattr(torch.optim, name)
    if name == "LBFGS":
        return kind([torch.nn.Parameter(torch.zeros(2))], lr=0.5)
    return optimizer(kind, lr=0.5)


@SECTION.them(9, "ZeroDivisionError where pct_start x total_steps is 1")
def _() -> Outcome:
    errors = [error_of(lambda t=t, p=p: _theirs(t, pct_start=p)) for t, p in SHORT]  # type: ignore
    other = (
        error_of(lambda: _theirs(10, pct_start=1.0)),
        error_of(lambda: _theirs(10, div_factor=0)),
    )
    return outcome(
        (not any(errors), f"{sum(map(bool, errors))} of {len(errors)} short runs: {errors[0]}"),
        (_named(other[0], "pct_start"), f"pct_start=1.0: {other[0]}"),
        (_named(other[1], "div_factor"), f"div_factor=0: {other[1]}"),
    )


@SECTION.us(9)
def _() -> Outcome:
    whole = []
    for total, pct_start in SHORT:
        ours(of := optimizer(), total, one_cycle(pct_start=pct_start))
        rates = drive(of, total - 1)
        whole.append(max(rates) == 1.0 and rates[-1] == 0.001)
    errors = error_of(lambda: one_cycle(pct_start=1.0)), error_of(lambda: one_cycle(div_factor=0))
    return outcome(
        (all(whole), f"{sum(whole)} of {len(whole)} short runs have peak and end"),
        (_named(errors[0], "pct_start"), errors[0]),
        (_named(errors[1], "div_factor"), errors[1]),
    )


def _theirs(total: Any, **arguments: Any) -> list[float]:
    of = optimizer()
    return drive(of, int(total), OneCycleLR(of, 1.0, total, **arguments))


def _named(error: str, argument: str) -> bool:
    return argument in error and "ValueError" in error


@SECTION.them(10, "only an int will do for total_steps, and the error does not tell")
def _() -> Outcome:
    claims = []
    for total in (np.int64(10), 1e1, "10"):
        error = error_of(lambda total=total: _theirs(total))  # type: ignore[misc]
        claims.append((not error, f"{total!r}: {error}"))
    for total in (math.inf, -1):
        error = error_of(lambda total=total: OneCycleLR(optimizer(), 1.0, total))  # type: ignore
        claims.append(("length" in error, f"{total!r}: {error}"))
    return outcome(*claims)


@SECTION.us(10)
def _() -> Outcome:
    claims = []
    for total in (np.int64(10), 1e1):
        ours(of := optimizer(), total)  # type: ignore[arg-type]
        claims.append(claim(max(drive(of, 9)) == 1.0, f"{total!r}: as 10"))
    for bad in ("10", 10.5, math.inf, -1):
        error = error_of(lambda bad=bad: ours(optimizer(), bad))  # type: ignore[misc]
        rule = "total_steps must be a whole number >= 1, got"
        claims.append(claim(f"{rule} {bad!r}" in error, f"{bad!r}: refused with value and rule"))
    return outcome(*claims)


@SECTION.them(11, "peaks for each group, from Hydra: a ListConfig is no list")
def _() -> Outcome:
    from hydra.utils import instantiate

    config = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "_partial_": True}
    make = instantiate({**config, "max_lr": [0.1, 1.0], "total_steps": 10})
    error = error_of(lambda: make(optimizer(groups=2)))
    return outcome((not error, error))


@SECTION.us(11)
def _() -> Outcome:
    from hydra.utils import instantiate

    config = {"_target_": "lightning_onecycle.OneCycle", "max_lr": [0.001, 0.1]}
    fit(Net(_two), instantiate(config))
    peaks = [max(lrs) for lrs in zip(*_rates(), strict=True)]
    from omegaconf import OmegaConf

    scheduler = ours(optimizer(groups=2), 10, max_lr=OmegaConf.create([0.1, 1.0]))
    return outcome(
        (peaks == [0.001, 0.1], f"callback: peaks {peaks}"),
        (scheduler.max_lrs == [0.1, 1.0], f"scheduler: peaks {scheduler.max_lrs}"),
    )


def _rates() -> list[list[float]]:
    return [[lr for lr, _ in groups] for groups in SEEN.steps]


def _two(net: Net) -> SGD:
    return SGD([{"params": [p]} for p in net.parameters()], lr=1.0, momentum=0.9)


@SECTION.them(12, "the peak is not reached")
def _() -> Outcome:
    peaks = {total: max(_theirs(total)) for total in (25, 101)}
    missed = sum(max(_theirs(total)) < 1 - 1e-9 for total in range(5, 201) if total * 0.3 != 1)
    return outcome(
        (missed == 0, f"{peaks[25]:.3f} of it at 25 steps; missed at {missed} of 196 lengths")
    )


@SECTION.us(12)
def _() -> Outcome:
    exact = 0
    for total in range(5, 201):
        rates = [point.lr for point in one_cycle(pct_start=0.3).trace(total)]
        exact += rates.count(1.0) == 1
    return outcome((exact == 196, f"exact, at one step, at {exact} of 196 lengths"))


@SECTION.them(13, "three phases: the third has no length of its own")
def _() -> Outcome:
    rates = _theirs(100, three_phase=True, pct_start=0.6, anneal_strategy="linear")
    return outcome((rates[99] < 0.04, f"pct_start=0.6: ends at {rates[99]:.2f} x peak, untold"))


@SECTION.us(13)
def _() -> Outcome:
    ours(of := optimizer(), 100, one_cycle(pct_start=0.6, pct_final=0.2))
    rates = drive(of, 99)
    error = error_of(lambda: one_cycle(pct_start=0.6, pct_final=0.5))
    ends = [59 + min(range(41), key=lambda i: abs(rates[59 + i] - lr)) for lr in (1.0, 0.1, 0.001)]
    return outcome(
        claim(ends == [59, 78, 99], f"pct_start=0.6, pct_final=0.2: phases end at {ends}"),
        ("pct_final" in error, error),
    )


@SECTION.them(14, "final_div_factor divides the start, not the peak; pct_start is a fraction")
def _() -> Outcome:
    end = 1 / min(_theirs(100))
    return outcome((round(end) == 1e4, f"final_div_factor=1e4 ends at the peak / {end:,.0f}"))


@SECTION.us(14)
def _() -> Outcome:
    end = one_cycle(div_factor=10, final_div_factor=100).at(99, 100).lr
    return outcome(
        (end == 1 / 100, f"torch's names and meaning: final_div_factor=100 ends at {end:g} x peak")
    )


@SECTION.them(15, "fast_dev_run, one step: trains at the lowest rate")
def _() -> Outcome:
    fit(TheirNet(), fast_dev_run=True)
    return outcome((used()[0] > 0.01, f"the one step has {used()[0] / 0.1:.1g} x peak"))


@SECTION.us(15)
def _() -> Outcome:
    fit(Net(), OneCycle(), fast_dev_run=True)
    factor, first = used()[0] / 0.1, one_cycle().at(0, 1000).lr
    return outcome(
        claim(abs(factor - first) < 1e-9, f"{factor:.2g} x peak, as a real run's first step")
    )


@SECTION.them(21, "max_lr=-1 and max_momentum=1.5 are taken")
def _() -> Outcome:
    errors = [
        error_of(lambda a=a: OneCycleLR(optimizer(), **a))  # type: ignore[misc]
        for a in (
            {"max_lr": -1, "total_steps": 10},
            {"max_lr": 1, "total_steps": 10, "max_momentum": 1.5},
        )
    ]
    return outcome(*((bool(e), e or "taken without a word") for e in errors))


@SECTION.us(21)
def _() -> Outcome:
    errors = error_of(lambda: OneCycle(max_lr=-1)), error_of(lambda: one_cycle(max_momentum=1.5))
    return outcome(
        *((_named(e, a), e) for e, a in zip(errors, ("max_lr", "max_momentum"), strict=True))
    )


@SECTION.them(22, "a run that ends early ends near the peak", slow=True)
def _() -> Outcome:
    fit(
        Net(lambda net: torch_one_cycle(net), script=_constant),
        _patient(),
        max_epochs=10,
    )
    early = used()[-1] / 0.1
    fit(Net(lambda net: torch_one_cycle(net), script=_slow), max_epochs=1000, max_time=_SECOND)
    timed = used()[-1] / 0.1
    return outcome(
        (early < 0.04, f"EarlyStopping: ends at {early:.2f} x peak"),
        (
            max(used()) > 0.05 and timed < 0.04,
            f"max_time: highest rate {max(used()) / 0.1:.2f} x peak, ends at {timed:.2f}",
        ),
    )


@SECTION.us(22)
def _() -> Outcome:
    fit(Net(script=_constant), _patient(), OneCycle(), max_epochs=10)
    early = used()[-1] / 0.1
    fit(Net(script=_slow), OneCycle(budget="time"), max_epochs=1000, max_time=_SECOND)
    top, timed = max(used()) / 0.1, used()[-1] / 0.1
    return outcome(
        (early < 0.04, f"EarlyStopping: ends at {early:.2f} x peak"),
        (
            top > 0.9 and timed < 0.04,
            f'budget="time": reaches {top:.2f} x peak, ends at {timed:.3f}',
        ),
    )


def _patient() -> EarlyStopping:
    return EarlyStopping("loss", patience=3, check_on_train_epoch_end=True)


def _constant(batch: int) -> float:
    return 1.0


def _slow(batch: int) -> float:
    time.sleep(0.005)
    return 1.0
