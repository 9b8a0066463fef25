"""What LearningRateMonitor writes down, and our callback; and where packages come from."""

from __future__ import annotations

import csv
import tempfile
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from packaging.requirements import Requirement
from torch.optim import AdamW, Rprop

from experiments.benchmarks.traps.toys import Net, fit, torch_one_cycle, used
from experiments.benchmarks.traps.trap import (
    Outcome,
    Section,
    claim,
    error_of,
    not_applicable,
    outcome,
)
from lightning_onecycle import OneCycle

SECTION = Section("LearningRateMonitor and loggers")


def _points(column: str) -> list[tuple[int, float]]:
    """Return the steps and values of a column of the last run's log."""
    rows = _rows()
    return [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]


def _columns() -> set[str]:
    return {column for row in _rows() for column in row}


def _rows() -> list[dict[str, str]]:
    # There is none where nothing was logged.
    files = sorted(Path().rglob("metrics.csv"), key=lambda f: f.stat().st_mtime_ns)
    return [*csv.DictReader(files[-1].open())] if files else []


def _logged(net: Any, *callbacks: Any, **arguments: Any) -> None:
    fit(net, *callbacks, logger=CSVLogger(tempfile.mkdtemp(dir=".")), **arguments)


def _cycle(net: Net) -> Any:
    return torch_one_cycle(net)


@SECTION.them(56, "only every 50th step is logged: of a short run, nothing")
def _() -> Outcome:
    _logged(Net(_cycle), LearningRateMonitor(), data=40, max_epochs=1)
    short = "lr-SGD" in _columns()
    _logged(Net(_cycle), LearningRateMonitor(), data=40, max_epochs=3)
    points = len(_points("lr-SGD"))
    return outcome(
        (short, f"40 steps: {'an' if short else 'no'} lr"), (points > 100, f"120: {points} points")
    )


@SECTION.us(56)
def _() -> Outcome:
    claims = []
    for epochs in (1, 3):
        _logged(Net(), OneCycle(), data=40, max_epochs=epochs)
        points = _points("lr")
        right = points == list(enumerate(used()))
        claims.append((right, f"{40 * epochs} steps: {len(points)} points"))
    return outcome(*claims)


@SECTION.them(57, "with accumulation each step is logged several times")
def _() -> Outcome:
    _logged(Net(_cycle), LearningRateMonitor(), **_BY_FOUR)
    return _once("lr-SGD")


@SECTION.us(57)
def _() -> Outcome:
    _logged(Net(), OneCycle(), **_BY_FOUR)
    return _once("lr")


_BY_FOUR: dict[str, Any] = {"data": 40, "accumulate_grad_batches": 4, "log_every_n_steps": 1}


def _once(column: str) -> Outcome:
    steps = [step for step, _ in _points(column)]
    return outcome((steps == list(range(20)), f"{len(steps)} points for 20 steps: {steps[:5]}..."))


def _rprop(net: Net) -> Rprop:
    return Rprop(net.parameters(), lr=0.1)


@SECTION.them(58, "log_weight_decay raises for an optimizer that has none")
def _() -> Outcome:
    def configure(net: Net) -> Any:
        return torch_one_cycle(net, of=_rprop(net), cycle_momentum=False)  # type: ignore[arg-type]

    monitor = LearningRateMonitor(log_weight_decay=True)
    error = error_of(lambda: _logged(Net(configure), monitor, log_every_n_steps=1))
    return outcome((not error, error))


@SECTION.us(58)
def _() -> Outcome:
    _logged(Net(_rprop), OneCycle())
    right = len(_points("lr")) == 24 and "weight_decay" not in _columns()
    return outcome((right, f"{len(_points('lr'))} points of lr, and no weight_decay"))


@SECTION.them(59, "without a logger the run does not start")
def _() -> Outcome:
    error = error_of(lambda: fit(Net(_cycle), LearningRateMonitor()))
    return outcome((not error, error))


@SECTION.us(59)
def _() -> Outcome:
    fit(Net(), OneCycle())
    return outcome((len(used()) == 24, f"{len(used())} of 24 steps are taken"))


@SECTION.them(60, "an lr that is a tensor: the monitor's history is one value, many times")
def _() -> Outcome:
    def configure(net: Net) -> Any:
        return torch_one_cycle(net, of=_tensor(net))  # type: ignore[arg-type]

    monitor = LearningRateMonitor()
    _logged(Net(configure), monitor, log_every_n_steps=1)
    history = {float(lr) for lr in monitor.lrs["lr-AdamW"]}
    kept = len({lr for _, lr in _points("lr-AdamW")})
    return outcome((len(history) == kept, f"history: {len(history)} value(s), logged: {kept}"))


@SECTION.us(60)
def _() -> Outcome:
    callback = OneCycle()
    _logged(Net(_tensor), callback)
    logged = [lr for _, lr in _points("lr")]
    same = len(logged) == 24 and all(abs(a - b) < 1e-6 for a, b in zip(logged, used(), strict=True))
    return outcome((same, f"logged: {len(set(logged))} values, those used; there is no history"))


def _tensor(net: Net) -> AdamW:
    return AdamW(net.parameters(), lr=torch.tensor(0.1), foreach=False)


def _adamw(net: Net) -> AdamW:
    return AdamW(net.parameters(), lr=0.1)


@SECTION.them(61, "momentum is not logged by default, beta1 is named momentum, beta2 is not there")
def _() -> Outcome:
    def configure(net: Net) -> Any:
        return torch_one_cycle(net, of=_adamw(net))  # type: ignore[arg-type]

    claims = []
    for monitor in (LearningRateMonitor(), LearningRateMonitor(log_momentum=True)):
        _logged(Net(configure), monitor, log_every_n_steps=1)
        names = sorted(name for name in _columns() if name.startswith("lr-"))
        when = "log_momentum" if monitor.log_momentum else "by default"
        claims.append((any("beta" in name for name in names), f"{when}: {', '.join(names)}"))
    return outcome(*claims)


@SECTION.us(61)
def _() -> Outcome:
    _logged(Net(_adamw), OneCycle())
    names = sorted(_columns() & {"lr", "momentum", "weight_decay", "beta1", "beta2", "betas"})
    return outcome(
        ({"lr", "momentum"} <= {*names}, f"by default: {', '.join(names)}"),
        claim("beta1" in names, "AdamW's beta1 has its name"),
        claim("beta2" in names, "beta2 is logged"),
    )


@SECTION.them(62, 'logging_interval="epoch" has the optimizer steps as its axis')
def _() -> Outcome:
    _logged(Net(_cycle), LearningRateMonitor(logging_interval="epoch"), max_epochs=3)
    steps = [step for step, _ in _points("lr-SGD")]
    return outcome((steps == [0, 1, 2], f"3 epochs, at {steps}"))


@SECTION.us(62)
def _() -> Outcome:
    return not_applicable("nothing is logged by epochs; the axis is always optimizer steps")


@SECTION.them(63, "the history of rates grows without bound")
def _() -> Outcome:
    monitor = LearningRateMonitor()
    _logged(Net(_cycle), monitor, data=500, log_every_n_steps=1)
    kept = len(monitor.lrs["lr-SGD"])
    return outcome((kept < 10, f"{kept} numbers after 1000 steps"))


@SECTION.us(63)
def _() -> Outcome:
    callback = OneCycle()
    sizes = []
    for batches in (50, 500):
        _logged(Net(), callback, data=batches)
        state = [*vars(callback).values(), *callback.schedulers]
        sizes.append(sum(len(value) for value in state if hasattr(value, "__len__")))
    logged = len(_points("lr"))
    return outcome(
        claim(sizes[0] == sizes[1], f"the same after 100 and 1000 steps; {logged} logged")
    )


SUPPLY = Section("Supply")


@SUPPLY.them(64, "lightning 2.6.2 and 2.6.3 were withdrawn after a compromise")
def _() -> Outcome:
    return not_applicable("withdrawn from PyPI; a lock file or a mirror may still name them")


@SUPPLY.us(64)
def _() -> Outcome:
    ranges = [Requirement(line) for line in requires("lightning-onecycle") or ()]
    (needed,) = (range.specifier for range in ranges if range.name == "lightning")
    taken = [v for v in ("2.6.1", "2.6.2", "2.6.3", "2.6.4", "2.6.6") if v in needed]
    return outcome((taken == ["2.6.1", "2.6.4", "2.6.6"], f"the package takes {', '.join(taken)}"))
