"""Schedulers of torch beside their optimizer: checkpoints, groups, tensors, skipped steps."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import torch
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ConstantLR, CyclicLR, OneCycleLR, SequentialLR

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
    weight,
)
from experiments.benchmarks.traps.trap import SAID, Outcome, Section, claim, error_of, outcome, told
from lightning_onecycle import OneCycle, ScheduleLR, one_cycle, triangular

SECTION = Section("OneCycleLR and CyclicLR: their state and their optimizer")


def _kept(net: Any, *callbacks: Any, step: int, **arguments: Any) -> str:
    """Train, and return the checkpoint after a step."""
    folder = f"saved-{arguments['max_epochs']}"
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(net, saving, *callbacks, enable_checkpointing=True, **arguments)
    return f"{folder}/step={step}.ckpt"


@SECTION.them(3, "resumed with more epochs, the run crashes; with fewer, it is never annealed")
def _() -> Outcome:
    path = _kept(TheirNet(), step=24, max_epochs=2)
    error = error_of(lambda: fit(TheirNet(), max_epochs=4, ckpt_path=path))
    more = f"2 -> 4 epochs: {error or 'runs'} after {len(used())} step(s)"
    path = _kept(TheirNet(), step=24, max_epochs=8)
    fit(TheirNet(), max_epochs=4, ckpt_path=path)
    end = used()[-1] / 0.1
    return outcome((not error, more), (end < 0.04, f"8 -> 4 epochs: ends at {end:.2f} x peak"))


@SECTION.us(3)
def _() -> Outcome:
    claims = []
    for before, after in ((2, 4), (8, 4)):
        path = _kept(Net(), OneCycle(), step=24, max_epochs=before)
        fit(Net(), OneCycle(), max_epochs=after, ckpt_path=path)
        end, steps = used()[-1] / 0.1, len(used())
        right = steps == 24 and abs(end - 0.001) < 1e-9
        claims.append((right, f"{before} -> {after} epochs: {steps} steps on, ends at {end:.3f}"))
    return outcome(*claims, claim(told("total_steps 24 -> 48"), "told"))


@SECTION.them(4, "resumed with another max_lr, the old one goes on without a word")
def _() -> Outcome:
    path = _kept(Net(lambda n: torch_one_cycle(n, max_lr=1.0)), step=6, max_epochs=2)
    SAID.clear()
    fit(Net(lambda n: torch_one_cycle(n, max_lr=0.2)), max_epochs=2, ckpt_path=path)
    words = told("max_lr") or told("peak")
    return outcome(
        (max(used()) <= 0.2, f"1.0 -> 0.2: trains at up to {max(used()):.2f}"),
        (words, "told" if words else "nothing is said"),
    )


@SECTION.us(4)
def _() -> Outcome:
    path = _kept(Net(), OneCycle(max_lr=1.0), step=6, max_epochs=2)
    fit(Net(), OneCycle(max_lr=0.2), max_epochs=2, ckpt_path=path)
    words = told("peak [1.0] -> [0.2]")
    return outcome(
        (max(used()) <= 0.2, f"1.0 -> 0.2: up to {max(used()):.2f}"), claim(words, "told")
    )


@SECTION.them(5, "an optimizer's state that is loaded later takes the scheduler's keys away")
def _() -> Outcome:
    of = optimizer()
    schedule = OneCycleLR(of, 1.0, 10)
    of.load_state_dict(optimizer().state_dict())
    error = error_of(lambda: drive(of, 5, schedule))
    return outcome((not error, error))


@SECTION.us(5)
def _() -> Outcome:
    ours(of := optimizer(), 10)
    of.load_state_dict(optimizer().state_dict())
    rates = drive(of, 9)
    right = rates == [point.lr for point in one_cycle().trace(10)]
    return outcome((right, "all 10 rates are the schedule's" if right else str(rates)))


@SECTION.them(6, "a parameter group that is added later (unfreezing) crashes the run")
def _() -> Outcome:
    claims = []
    of = optimizer()
    for schedule in (OneCycleLR(of, 1.0, 10), CyclicLR(other := optimizer(), 0.1, 1.0, 5)):
        target = of if isinstance(schedule, OneCycleLR) else other
        target.add_param_group({"params": [weight()], "lr": 0.1})
        error = error_of(lambda t=target, s=schedule: drive(t, 5, s))  # type: ignore[misc]
        claims.append((not error, f"{type(schedule).__name__}: {error}"))
    net = _Finetuned(lambda net: torch_one_cycle(net, of=_trainable(net)))
    error = error_of(lambda: fit(net, _unfreeze(), data=4, max_epochs=4))
    return outcome(*claims, (not error, f"BackboneFinetuning: {error} after {len(used())} steps"))


@SECTION.us(6)
def _() -> Outcome:
    ours(of := optimizer(), 10)
    drive(of, 3)
    of.add_param_group({"params": [weight()], "lr": of.param_groups[0]["lr"] / 10})
    ratios, rates = [], []
    for _ in range(6):
        of.step()
        rates.append(of.param_groups[0]["lr"])
        ratios.append(of.param_groups[1]["lr"] / of.param_groups[0]["lr"])
    planned = [one_cycle().at(step, 10).lr for step in range(4, 10)]
    fit(_Finetuned(), _unfreeze(), OneCycle(), data=4, max_epochs=4)
    tenth = [groups[1][0] / groups[0][0] for groups in SEEN.steps[4:]]
    return outcome(
        claim(
            _all(ratios, 0.1) and rates == planned, "the new group follows the schedule at a tenth"
        ),
        claim(len(SEEN.steps) == 16 and _all(tenth, 0.1), "BackboneFinetuning: the same, 16 steps"),
    )


def _all(values: list[float], wanted: float) -> bool:
    return bool(values) and all(math.isclose(value, wanted) for value in values)


class _Finetuned(Net):
    """Has a backbone, which does not train at first."""

    def __init__(self, configure: Any = None) -> None:
        super().__init__(configure or _trainable)
        self.backbone = nn.Linear(4, 4)
        self.net = nn.Sequential(self.backbone, nn.Linear(4, 1))


def _trainable(net: Net) -> SGD:
    return SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9)


def _unfreeze() -> BackboneFinetuning:
    return BackboneFinetuning(1, lambda epoch: 1.0, backbone_initial_ratio_lr=0.1)


@SECTION.them(16, "a second scheduler on the optimizer overwrites the first one's numbers")
def _() -> Outcome:
    first = OneCycleLR(of := optimizer(), 1.0, 100)
    OneCycleLR(of, 0.1, 100)
    peak = max(drive(of, 99, first))
    of = optimizer()
    both = [ConstantLR(of, 0.5, 10), OneCycleLR(of, 1.0, 90)]
    rates = drive(of, 10, SequentialLR(of, both, [10]))
    return outcome(
        (peak > 0.99, f"the first, of peak 1.0, reaches {peak:.2g}"),
        (_all(rates[:10], 0.5), f"SequentialLR: {rates[0]:.2g} in place of 0.5 x lr at first"),
    )


@SECTION.us(16)
def _() -> Outcome:
    first = ours(of := optimizer(), 100)
    second = ours(of, 100)
    peak = max(drive(of, 99))
    taken = not first.attached and second.attached and peak == 1.0
    ours(of := optimizer(), 100)
    OneCycleLR(of, 0.1, 100)
    of.step()
    error = error_of(lambda: fit(TheirNet(), OneCycle()))
    replaced = not error and told("OneCycle replaces the OneCycleLR")
    return outcome(
        claim(taken, f"the second takes over, peak {peak:g}, and the first stops"),
        claim(told("Another scheduler was built"), "torch's built on it: ours stops and says so"),
        claim(replaced, "callback: replaces the module's and says so"),
    )


@SECTION.them(
    17, "the state holds the optimizer, and is as large", note="fixed in 2024 by PT#123775"
)
def _() -> Outcome:
    of = SGD(nn.Linear(1000, 1000).parameters(), lr=1.0, momentum=0.9)
    return _size(OneCycleLR(of, 1.0, 100).state_dict())


@SECTION.us(17)
def _() -> Outcome:
    of = SGD(nn.Linear(1000, 1000).parameters(), lr=1.0, momentum=0.9)
    return _size(ours(of, 100).state_dict())


def _size(state: Any) -> Outcome:
    file = io.BytesIO()
    torch.save(state, file)
    size = file.tell()
    file.seek(0)
    error = error_of(lambda: torch.load(file, weights_only=True))
    right = size < 10_000 and not error
    return outcome((right, f"{size / 1000:.1f} kB, {error or 'loads with weights_only'}"))


@SECTION.them(18, "CyclicLR: loading eats the caller's state, and a lambda is not in it")
def _() -> Outcome:
    state = CyclicLR(optimizer(), 0.1, 1.0).state_dict()
    CyclicLR(optimizer(), 0.1, 1.0).load_state_dict(state)
    twice = error_of(lambda: CyclicLR(optimizer(), 0.1, 1.0).load_state_dict(state))
    made = CyclicLR(optimizer(), 0.1, 1.0, scale_fn=lambda x: 0.5**x).state_dict()
    kept = any(callable(value) for value in made.values())
    return outcome(
        (not twice, f"second load: {twice}"),
        (kept, f"scale_fn in the state: {made['_scale_fn_custom']}"),
    )


@SECTION.us(18)
def _() -> Outcome:
    first = ours(of := optimizer(), 100, triangular(3))
    drive(of, 40)
    state = first.state_dict()
    before = copy.deepcopy(state)
    rates = []
    for _ in range(2):
        again = ours(other := optimizer(), 100, triangular(3))
        again.load_state_dict(state)
        rates.append(drive(other, 5))
    right = state == before and rates[0] == rates[1] == drive(of, 5) and len({*rates[0]}) == 6
    return outcome(
        claim(right, "loaded twice, unchanged, and goes on the same; there are no lambdas")
    )


@SECTION.them(19, "AMP: steps that the GradScaler skips use up the warm-up")
def _() -> Outcome:
    fit(_Overflowing(torch_one_cycle), max_epochs=4, plugins=[_amp()], data=10)
    first = used()[10] / 0.1
    return outcome(
        (first < 0.05, f"10 of 40 steps skipped: the first real one has {first:.2f} x peak")
    )


@SECTION.us(19)
def _() -> Outcome:
    callback = OneCycle()
    fit(_Overflowing(), callback, max_epochs=4, plugins=[_amp()], data=10)
    first, last = used()[10] / 0.1, used()[-1] / 0.1
    right = math.isclose(first, 0.1) and math.isclose(last, 0.001)
    return outcome((right, f"the first real step has {first:.2f} x peak, the last {last:.3f}"))


class _Overflowing(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * math.inf if SEEN.batches <= 10 else loss


def _amp() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**16))


def _of_tensors() -> Any:
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    return optimizer(AdamW, lr=torch.tensor(0.5), betas=betas, foreach=False)


@SECTION.them(20, "a beta1 that is a tensor becomes a float, which a captured graph cannot see")
def _() -> Outcome:
    of = _of_tensors()
    given = of.param_groups[0]["betas"][0]
    drive(of, 5, OneCycleLR(of, 1.0, 10))
    now = of.param_groups[0]["betas"][0]
    return outcome((now is given, f"beta1 is a {type(now).__name__} now"))


@SECTION.us(20)
def _() -> Outcome:
    of = _of_tensors()
    group = of.param_groups[0]
    ours(of, 11)
    given = group["lr"], group["betas"][0]
    drive(of, 5)
    same = group["lr"] is given[0] and group["betas"][0] is given[1]
    value = f"lr {given[0]:.2f}, beta1 {given[1]:.2f} at step 5"
    point = one_cycle().at(5, 11)
    right = same and abs(given[0] - 0.5 * point.lr) + abs(given[1] - point.momentum) < 1e-6
    return outcome(claim(right, f"filled in place: {value}"))


@SECTION.them(23, "last_epoch=N, to start in the middle, raises on a new run")
def _() -> Outcome:
    of = optimizer()
    error = error_of(lambda: drive(of, 5, OneCycleLR(of, 1.0, 100, last_epoch=30)))
    return outcome((not error, error))


@SECTION.us(23)
def _() -> Outcome:
    ScheduleLR(of := optimizer(), one_cycle(), 100).load_state_dict({"last_epoch": 30})
    right = drive(of, 5) == [one_cycle().at(step, 100).lr for step in range(30, 36)]
    return outcome(claim(right, 'load_state_dict({"last_epoch": 30}): goes on from step 30'))
