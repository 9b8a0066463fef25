import copy
import gc
import io
import math
import pickle
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from lightning_utilities.core.imports import RequirementCache
from torch.optim.lr_scheduler import (
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)
from torch.optim.swa_utils import SWALR

from conftest import Tiny, expected, fit, sgd, snapshot
from lightning_onecycle import (
    Phase,
    Schedule,
    ScheduleCallback,
    ScheduleLR,
    constant,
    one_cycle,
    scheduler_config,
    step_decay,
)

TOTAL = 11
# one_cycle() over 11 steps, by hand: up over 5 points, down over 5 (one is shared), annihilate.
FACTORS = [0.1, 0.325, 0.55, 0.775, 1.0, 0.775, 0.55, 0.325, 0.1, 0.0505, 0.001]
MOMENTA = [0.95, 0.925, 0.9, 0.875, 0.85, 0.875, 0.9, 0.925, 0.95, 0.95, 0.95]


def weight(*shape):
    parameter = torch.nn.Parameter(torch.ones(*shape or (2, 2)))
    parameter.grad = torch.ones_like(parameter)
    return parameter


def run(optimizer, steps, step=None):
    """Take steps; return what each of them used, read inside ``optimizer.step``."""
    used = []
    handle = optimizer.register_step_pre_hook(lambda opt, *_: used.append(snapshot(opt)))
    for _ in range(steps):
        (step or optimizer.step)()
    handle.remove()
    return used


def first_group(used):
    return [groups[0][:2] for groups in used]


def lrs(used, group=0):
    return [groups[group][0] for groups in used]


# ---- what is written ----------------------------------------------------------------------------


def test_lr_and_momentum_are_those_worked_out_by_hand(told):
    optimizer = sgd([weight()])
    ScheduleLR(optimizer, one_cycle(), TOTAL)
    used = first_group(run(optimizer, TOTAL))
    assert [lr for lr, _ in used] == pytest.approx([0.4 * factor for factor in FACTORS])
    assert [momentum for _, momentum in used] == pytest.approx(MOMENTA)
    assert told() == []


def test_the_update_itself_has_the_scheduled_lr():
    parameter = weight(1)
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    ScheduleLR(optimizer, one_cycle(), TOTAL)
    taken = []
    for _ in range(TOTAL):
        before = parameter.item()
        optimizer.step()
        taken.append(before - parameter.item())
    assert taken == pytest.approx([0.5 * factor for factor in FACTORS], abs=1e-6)


def test_momentum_is_left_alone_where_it_is_not_scheduled(told):
    optimizer = sgd([weight()])
    ScheduleLR(optimizer, one_cycle(cycle_momentum=False), TOTAL)
    assert {momentum for _, momentum in first_group(run(optimizer, TOTAL))} == {0.9}
    assert told() == []


def test_past_the_end_the_last_value_holds():
    optimizer = sgd([weight()])
    ScheduleLR(optimizer, one_cycle(), TOTAL)
    used = first_group(run(optimizer, TOTAL + 5))
    assert used[:TOTAL] == expected(one_cycle(), TOTAL)
    assert used[TOTAL:] == 5 * [used[TOTAL - 1]]


# ---- as a torch scheduler -----------------------------------------------------------------------


def test_step_may_be_called_at_any_time():
    optimizer = sgd([weight()])
    scheduler = ScheduleLR(optimizer, one_cycle(), TOTAL)
    assert isinstance(scheduler, LRScheduler)

    def with_too_many_scheduler_steps():
        scheduler.step()
        optimizer.step()
        assert scheduler.get_last_lr() == scheduler.get_lr() == [optimizer.param_groups[0]["lr"]]
        scheduler.step()

    assert first_group(run(optimizer, TOTAL, with_too_many_scheduler_steps)) == expected(
        one_cycle(), TOTAL
    )
    assert scheduler.last_epoch == TOTAL
    assert scheduler.base_lrs == [0.4]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_returned_from_configure_optimizers(accumulate):
    # Lightning steps the scheduler after each micro-batch.
    def configure(parameters):
        return scheduler_config(sgd(parameters), one_cycle(), 24 // accumulate, max_lr=0.8)

    used = fit(Tiny(configure), max_epochs=2, accumulate_grad_batches=accumulate)
    assert used.values == expected(one_cycle(), 24 // accumulate, peak=0.8)


def test_total_steps_may_be_set_again():
    optimizer = sgd([weight()])
    scheduler = ScheduleLR(optimizer, one_cycle(), 100)
    run(optimizer, 5)
    scheduler.total_steps = 20
    assert first_group(run(optimizer, 15)) == expected(one_cycle(), 20)[5:]
    with pytest.raises(ValueError, match="total_steps must be a whole number >= 1, got 0"):
        scheduler.total_steps = 0


# ---- peaks and parameter groups -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_lr", "peaks"),
    [
        (None, [0.4, 0.1]),
        (0.8, [0.8, 0.2]),
        ((0.3, 0.6), [0.3, 0.6]),
        ([1, 2], [1.0, 2.0]),
    ],
)
def test_each_group_has_its_peak(max_lr, peaks):
    optimizer = sgd([{"params": [weight()]}, {"params": [weight()], "lr": 0.1}])
    scheduler = ScheduleLR(optimizer, one_cycle(), TOTAL, max_lr=max_lr)
    used = run(optimizer, TOTAL)
    assert scheduler.max_lrs == peaks
    for group, peak in enumerate(peaks):
        assert lrs(used, group) == pytest.approx([peak * factor for factor in FACTORS])


@pytest.mark.parametrize(
    ("max_lr", "message"),
    [
        (0, "max_lr must be > 0, got 0"),
        (-0.1, "max_lr must be > 0, got -0.1"),
        (math.nan, "max_lr must be > 0, got nan"),
        ("0.1", "max_lr must be a number, .* got the text '0.1'"),
        ([0.1, 0.2], "max_lr must have one value for each of the 1 parameter groups"),
        ([-1.0], r"max_lr\[0\] must be > 0, got -1.0"),
    ],
)
def test_bad_max_lr(max_lr, message):
    with pytest.raises(ValueError, match=message):
        ScheduleLR(sgd([weight()]), one_cycle(), TOTAL, max_lr=max_lr)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None, one_cycle(), 5), TypeError, "optimizer must be a torch Optimizer, got NoneType"),
        ((sgd([weight()]), "1cycle", 5), TypeError, "schedule must be a Schedule, got str"),
        ((sgd([weight()]), one_cycle(), 0), ValueError, "total_steps must be a whole number >= 1"),
        ((sgd([weight()]), one_cycle(), math.inf), ValueError, "total_steps must be"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ScheduleLR(*arguments)


@pytest.mark.parametrize(
    ("max_lr", "given", "peak"),
    [
        (None, {}, 0.4),
        (0.8, {}, 0.8),
        (None, {"lr": 0.05}, None),
    ],
)
@pytest.mark.parametrize("tensor", [False, True])
def test_group_added_later(max_lr, given, peak, tensor):
    lr = torch.tensor(0.4, dtype=torch.float64) if tensor else 0.4
    optimizer = torch.optim.AdamW([weight()], lr=lr, foreach=False)
    ScheduleLR(optimizer, one_cycle(), TOTAL, max_lr=max_lr)
    first = run(optimizer, 2)
    optimizer.add_param_group({"params": [weight()], **given})
    used = run(optimizer, TOTAL - 2)
    assert lrs(first + used) == pytest.approx([(max_lr or 0.4) * factor for factor in FACTORS])
    # Without an lr, the default's peak; with one, that lr is what the next step uses.
    peak = peak or given["lr"] / FACTORS[2]
    assert lrs(used, group=1) == pytest.approx([peak * factor for factor in FACTORS[2:]])


def test_group_added_just_before_another_scheduler_takes_over():
    optimizer = sgd([weight()])
    ScheduleLR(optimizer, one_cycle(), TOTAL)
    optimizer.add_param_group({"params": [weight()]})
    scheduler = ScheduleLR(optimizer, one_cycle(), TOTAL)
    assert scheduler.max_lrs == [0.4, 0.4]


# A weight decay that moves as well, so that its bases have to survive resuming.
MOVING = Schedule(
    (
        Phase(0.5, (0.1, 1.0), (0.95, 0.85), weight_decay=(1.0, 0.5)),
        Phase(0.5, (1.0, 0.01), (0.85, 0.95), weight_decay=(0.5, 0.8)),
    )
)


class Finetuned(Tiny):
    def __init__(self):
        super().__init__(lambda _: sgd(self.net.parameters(), weight_decay=0.1))
        self.backbone = torch.nn.Linear(2, 2)
        torch.nn.init.eye_(self.backbone.weight)

    def loss(self):
        angle = torch.tensor(float(self.trainer.global_step))
        return self.net(self.backbone(torch.stack([angle.sin(), angle.cos()]))).square().mean()


def finetune(schedule_first, *callbacks, max_lr=None, **arguments):
    unfreezing = BackboneFinetuning(unfreeze_backbone_at_epoch=1, train_bn=False)
    pair = [ScheduleCallback(MOVING, max_lr=max_lr), unfreezing]
    pair = pair if schedule_first else pair[::-1]
    return fit(Finetuned(), *pair, *callbacks, data=4, max_epochs=4, **arguments)


@pytest.mark.parametrize("schedule_first", [True, False])
def test_backbone_finetuning(schedule_first, tmp_path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = finetune(schedule_first, saving)
    plan = [0.4 * point.lr for point in MOVING.trace(16)]
    assert lrs(whole.steps) == plan
    # BackboneFinetuning gives the backbone a tenth of the head's learning rate.
    assert all(len(groups) == 1 for groups in whole.steps[:4])
    assert lrs(whole.steps[4:], group=1) == pytest.approx([0.1 * lr for lr in plan[4:]])

    for step in (3, 6, 8, 13):
        rest = finetune(schedule_first, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert rest.steps == whole.steps[step:]


@pytest.mark.parametrize("orders", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("max_lr", [None, 0.8])
def test_backbone_finetuning_resumed_twice(orders, max_lr, tmp_path):
    saving = partial(ModelCheckpoint, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole = finetune(orders[0], saving(tmp_path / "0"), max_lr=max_lr)
    first = tmp_path / "0" / "step=6.ckpt"
    finetune(orders[0], saving(tmp_path / "1"), max_lr=max_lr, ckpt_path=first)
    second = tmp_path / "1" / "step=11.ckpt"
    rest = finetune(orders[1], max_lr=max_lr, ckpt_path=second)
    assert rest.steps == whole.steps[11:]


# ---- tensors, compiled steps, mixed precision ---------------------------------------------------

needs_tensor_betas = pytest.mark.skipif(
    not RequirementCache("torch>=2.6"), reason="older AdamW takes no tensors as betas"
)


@needs_tensor_betas
def test_tensor_lr_and_beta1_are_filled_in_place():
    lr, beta1, beta2 = (torch.tensor(v, dtype=torch.float64) for v in (0.4, 0.9, 0.999))
    optimizer = torch.optim.AdamW([weight()], lr=lr, betas=(beta1, beta2), foreach=False)
    ScheduleLR(optimizer, one_cycle(), TOTAL)
    group = optimizer.param_groups[0]
    given = (group["lr"], *group["betas"])
    assert first_group(run(optimizer, TOTAL)) == expected(one_cycle(), TOTAL)
    assert all(a is b for a, b in zip(given, (group["lr"], *group["betas"]), strict=True))
    assert (beta2.item(), lr.item()) == (0.999, 0.4)


def test_groups_that_share_a_tensor_lr_have_peaks_of_their_own():
    lr = torch.tensor(0.4, dtype=torch.float64)
    optimizer = torch.optim.AdamW(
        [{"params": [weight()]}, {"params": [weight()]}], lr=lr, foreach=False
    )
    ScheduleLR(optimizer, one_cycle(), TOTAL, max_lr=[0.2, 0.8])
    used = run(optimizer, TOTAL)
    assert lrs(used, 0) == pytest.approx([0.2 * factor for factor in FACTORS])
    assert lrs(used, 1) == pytest.approx([0.8 * factor for factor in FACTORS])


def capturable(parameters):
    """What a captured graph needs: everything that changes is a tensor."""
    lr, *betas = (torch.tensor(v) for v in (0.5, 0.9, 0.999))
    return torch.optim.AdamW(parameters, lr=lr, betas=betas, foreach=False, capturable=True)


@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (partial(sgd, lr=0.5), partial(sgd, lr=0.5)),
        (partial(torch.optim.AdamW, lr=0.5), partial(torch.optim.AdamW, lr=0.5)),
        pytest.param(capturable, partial(torch.optim.AdamW, lr=0.5), marks=needs_tensor_betas),
    ],
    ids=["SGD", "AdamW", "AdamW capturable"],
)
def test_compiled_step(make, reference):
    torch._dynamo.reset()
    results = []
    for build, wrap in ((make, partial(torch.compile, backend="eager")), (reference, lambda f: f)):
        parameter = weight(1)
        optimizer = build([parameter])
        scheduler = ScheduleLR(optimizer, one_cycle(), TOTAL)
        step = wrap(optimizer.step)
        for _ in range(TOTAL):
            step()
        assert scheduler.last_epoch == TOTAL
        results.append(parameter.item())
    compiled, eager = results
    assert compiled == pytest.approx(eager, abs=1e-4)  # bias corrections in single precision


@pytest.mark.parametrize(
    "make",
    [sgd, partial(sgd, fused=True), torch.optim.AdamW, partial(torch.optim.AdamW, fused=True)],
    ids=["SGD", "SGD fused", "AdamW", "AdamW fused"],
)
def test_steps_that_grad_scaler_skips_do_not_count(make):
    parameter = weight(2)
    optimizer = make([parameter], lr=0.4)
    scheduler = ScheduleLR(optimizer, one_cycle(), TOTAL)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    used = []
    for call in range(TOTAL + 4):
        skipped = call in (0, 1, 5, 9)
        before = parameter.detach().clone()
        values = snapshot(optimizer)[0][:2]
        optimizer.zero_grad()
        scaler.scale(parameter.sum() * (math.inf if skipped else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(parameter, before) == skipped
        if not skipped:
            used.append(values)
    assert used == expected(one_cycle(), TOTAL)
    assert scheduler.last_epoch == TOTAL


def test_an_optimizer_that_calls_its_parents_step_counts_once():
    class Louder(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    sgd([weight()])  # from here on, torch runs the hooks in the parent's step as well
    optimizer = Louder([weight()], lr=0.4, momentum=0.9)
    scheduler = ScheduleLR(optimizer, one_cycle(), TOTAL)
    run(optimizer, TOTAL)
    assert scheduler.last_epoch == TOTAL


def test_a_step_that_raises_does_not_count():
    optimizer = sgd([weight()])
    scheduler = ScheduleLR(optimizer, one_cycle(), TOTAL)

    def fails():
        raise RuntimeError("out of memory")

    for _ in range(2):
        optimizer.step()
        with pytest.raises(RuntimeError, match="out of memory"):
            optimizer.step(fails)
    assert scheduler.last_epoch == 2


# ---- weight decay -------------------------------------------------------------------------------


def test_weight_decay_is_a_factor_of_each_groups_own():
    ramp = Schedule((Phase(1.0, (1.0, 1.0), weight_decay=(1.0, 0.0)),))
    groups = [{"params": [weight()]}, {"params": [weight()], "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, lr=0.4, weight_decay=0.01)
    ScheduleLR(optimizer, ramp, 5)
    used = run(optimizer, 5)
    assert [g[0][2] for g in used] == pytest.approx([0.01, 0.0075, 0.005, 0.0025, 0.0])
    assert [g[1][2] for g in used] == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0])


def test_weight_decay_is_left_alone_where_it_is_not_scheduled():
    optimizer = sgd([weight()], weight_decay=0.01)
    ScheduleLR(optimizer, one_cycle(), TOTAL)
    optimizer.param_groups[0]["weight_decay"] = 0.02
    assert {groups[0][2] for groups in run(optimizer, TOTAL)} == {0.02}


# ---- state --------------------------------------------------------------------------------------


def saved_after(steps, schedule=None, total=TOTAL, **arguments):
    """Return the states of optimizer and scheduler after so many steps, through torch.save."""
    optimizer = sgd([weight()])
    scheduler = ScheduleLR(optimizer, schedule or one_cycle(), total, **arguments)
    run(optimizer, steps)
    buffer = io.BytesIO()
    torch.save((optimizer.state_dict(), scheduler.state_dict()), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_state_is_small_and_plain():
    optimizer = sgd([{"params": [weight(1)], "lr": 0.1 + 0.001 * i} for i in range(64)])
    scheduler = ScheduleLR(optimizer, one_cycle(), 10**6)
    run(optimizer, 3)
    buffer = io.BytesIO()
    torch.save(scheduler.state_dict(), buffer)
    assert buffer.tell() < 4096
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == scheduler.state_dict()
    assert "initial_lr" not in optimizer.param_groups[0]


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({}, None),
        ({"total_steps": 20}, "total_steps 11 -> 20"),
        ({"max_lr": 0.2}, "peak [0.4] -> [0.2]"),
        ({"schedule": one_cycle(pct_start=0.3)}, "other phases"),
    ],
    ids=["same", "total", "peak", "phases"],
)
@pytest.mark.parametrize("scheduler_state_first", [True, False])
def test_resume_goes_on_under_the_present_configuration(now, says, scheduler_state_first, told):
    optimizer_state, scheduler_state = saved_after(4)
    optimizer = sgd([weight()])
    present = {"schedule": one_cycle(), "total_steps": TOTAL, "max_lr": 0.4, **now}
    scheduler = ScheduleLR(optimizer, **present)
    loads = [
        lambda: scheduler.load_state_dict(scheduler_state),
        lambda: optimizer.load_state_dict(optimizer_state),
    ]
    for load in loads if scheduler_state_first else loads[::-1]:
        load()
    total, peak = present["total_steps"], present["max_lr"]
    used = first_group(run(optimizer, total - 4))
    assert used == expected(present["schedule"], total, peak)[4:]
    assert len(told()) == (says is not None)
    assert all(says in message and "after 4 steps" in message for message in told())


def test_resume_past_the_end_warns_and_holds():
    _, state = saved_after(9)
    optimizer = sgd([weight()])
    scheduler = ScheduleLR(optimizer, one_cycle(), 5)
    scheduler.load_state_dict(state)
    with pytest.warns(UserWarning, match="9 optimizer steps are taken, .* has only 5"):
        used = run(optimizer, 2)
    assert lrs(used) == pytest.approx([0.0004, 0.0004])


def test_takes_the_position_of_a_torch_one_cycle():
    optimizer = sgd([weight()])
    theirs = OneCycleLR(optimizer, max_lr=0.4, total_steps=TOTAL)
    for _ in range(4):
        optimizer.step()
        theirs.step()
    optimizer = sgd([weight()])
    ours = ScheduleLR(optimizer, one_cycle(), TOTAL)
    ours.load_state_dict(theirs.state_dict())
    assert first_group(run(optimizer, TOTAL - 4)) == expected(one_cycle(), TOTAL)[4:]


def test_a_state_without_a_position_is_refused():
    scheduler = ScheduleLR(sgd([weight()]), one_cycle(), TOTAL)
    with pytest.raises(ValueError, match=r"state_dict must have 'last_epoch', got \['x'\]"):
        scheduler.load_state_dict({"x": 1})


def test_loading_a_plain_optimizers_state_keeps_the_schedule():
    plain = sgd([weight()], lr=123.0)
    plain.step()
    optimizer = sgd([weight()])
    ScheduleLR(optimizer, one_cycle(), TOTAL)
    used = run(optimizer, 3)
    optimizer.load_state_dict(plain.state_dict())
    used += run(optimizer, TOTAL - 3)
    assert first_group(used) == expected(one_cycle(), TOTAL)


@pytest.mark.parametrize("max_lr", [None, 0.8])
def test_built_after_the_optimizers_state_was_loaded_it_has_the_checkpoints_peaks(max_lr, said):
    optimizer_state, scheduler_state = saved_after(7, step_decay(gamma=0.5), max_lr=max_lr)
    optimizer = sgd([weight()])
    optimizer.load_state_dict(optimizer_state)
    scheduler = ScheduleLR(optimizer, step_decay(gamma=0.5), TOTAL, max_lr=max_lr)
    scheduler.load_state_dict(scheduler_state)
    used = lrs(run(optimizer, TOTAL - 7))
    assert used == [lr for lr, _ in expected(step_decay(gamma=0.5), TOTAL, max_lr or 0.4)][7:]
    assert [message for message in said() if "peak" in message] == []


def test_built_after_a_state_was_loaded_with_another_lr_it_warns():
    optimizer_state, scheduler_state = saved_after(7)
    optimizer = sgd([weight()])
    optimizer.load_state_dict(optimizer_state)
    optimizer.param_groups[0]["lr"] = 0.3  # neither the checkpoint's peak nor its present rate
    scheduler = ScheduleLR(optimizer, one_cycle(), TOTAL)
    with pytest.warns(UserWarning, match=r"they are \[0.3\], and the checkpoint's are \[0.4\]"):
        scheduler.load_state_dict(scheduler_state)
    assert first_group(run(optimizer, 4)) == expected(one_cycle(), TOTAL, 0.3)[7:]


# ---- what torch's schedulers have ----------------------------------------------------------------


def test_it_has_all_that_a_scheduler_of_torchs_has():
    theirs = StepLR(sgd([weight()]), 3)
    ours = ScheduleLR(sgd([weight()]), one_cycle(), TOTAL)
    of_theirs = {"step_size", "gamma", "verbose"}  # the last one in old releases alone
    has = (set(dir(LRScheduler)) | set(vars(theirs))) - of_theirs
    assert {name for name in has if not hasattr(ours, name)} == set()
    run(ours.optimizer, 3)
    assert (ours.last_epoch, ours._step_count, ours.base_lrs) == (3, 4, [0.4])


def test_the_position_is_written_by_nobody_else(told):
    optimizer = sgd([weight()])
    scheduler = ScheduleLR(optimizer, one_cycle(), TOTAL)

    def step():  # as ignite and Accelerate do
        optimizer.step()
        scheduler.last_epoch += 1
        scheduler._step_count += 1
        scheduler.step()

    assert first_group(run(optimizer, TOTAL, step)) == expected(one_cycle(), TOTAL)
    assert scheduler.last_epoch == TOTAL
    assert ["last_epoch is not to be set" in message for message in told()] == [True]


def test_a_part_of_a_sequential_scheduler_is_refused():
    optimizer = sgd([weight()])
    parts = [LinearLR(optimizer), ScheduleLR(optimizer, one_cycle(), TOTAL)]
    with pytest.raises(TypeError, match="cannot be a part of torch's SequentialLR"):
        SequentialLR(optimizer, parts, [3])


def test_a_shallow_copy_is_the_same_writer():
    optimizer = sgd([weight()])
    scheduler = ScheduleLR(optimizer, one_cycle(), TOTAL)
    other = copy.copy(scheduler)
    assert first_group(run(optimizer, TOTAL)) == expected(one_cycle(), TOTAL)
    assert (scheduler.last_epoch, other.last_epoch) == (TOTAL, TOTAL)


# ---- one writer ---------------------------------------------------------------------------------


def test_a_second_schedule_takes_over_with_the_firsts_peaks():
    optimizer = sgd([{"params": [weight()]}, {"params": [weight()], "lr": 0.1}])
    first = ScheduleLR(optimizer, one_cycle(), TOTAL)
    run(optimizer, 3)
    second = ScheduleLR(optimizer, step_decay(), 8)
    used = run(optimizer, 8)
    assert lrs(used, 0) == [0.4 * point.lr for point in step_decay().trace(8)]
    assert lrs(used, 1) == [0.1 * point.lr for point in step_decay().trace(8)]
    assert (first.attached, first.last_epoch) == (False, 3)
    assert (second.attached, second.last_epoch) == (True, 8)


@pytest.mark.parametrize("lr", [0.4, torch.tensor(0.4)], ids=["float", "tensor"])
def test_it_stops_where_a_scheduler_that_was_built_later_begins_to_write(lr, told):
    # torch's recipe for SWA: both are built before the training.
    optimizer = sgd([weight()], lr=lr)
    scheduler = ScheduleLR(optimizer, one_cycle(), TOTAL)
    swa = SWALR(optimizer, swa_lr=0.05, anneal_epochs=1)
    used = run(optimizer, 5)
    assert lrs(used) == pytest.approx([lr for lr, _ in expected(one_cycle(), TOTAL)[:5]])
    assert told() == []
    swa.step()
    used = run(optimizer, 3)
    assert not scheduler.attached
    assert lrs(used) == pytest.approx([0.05] * 3)
    assert scheduler.last_epoch == 5
    (message,) = told()
    assert "has set lr to 0.05: the schedule stops after 5 of 11 steps" in message


@pytest.mark.parametrize("change", ["reversed", "replaced", "inserted"])
def test_peaks_move_with_their_groups(change):
    first, second = ({"params": [weight()], "lr": lr} for lr in (0.4, 0.1))
    optimizer = sgd([first, second], weight_decay=0.01)
    ScheduleLR(optimizer, one_cycle(), TOTAL)
    run(optimizer, 3)
    factor = FACTORS[3]
    third = {"params": [weight()], "lr": 0.2 * factor, "momentum": 0.9}
    if change == "reversed":
        optimizer.param_groups.reverse()
        peaks = [0.1, 0.4]
    else:
        if change == "replaced":
            del optimizer.param_groups[0]
        optimizer.add_param_group(third)
        peaks = [0.1, 0.2] if change == "replaced" else [0.4, 0.1, 0.2]
    for step, groups in enumerate(run(optimizer, TOTAL - 3), start=3):
        assert [group[0] for group in groups] == pytest.approx([p * FACTORS[step] for p in peaks])


def test_a_state_of_fewer_groups_leaves_the_others_their_peaks():
    def build(groups):
        optimizer = sgd([{"params": [weight()], "lr": 0.1 * (i + 1)} for i in range(groups)])
        return optimizer, ScheduleLR(optimizer, constant(), TOTAL)

    optimizer, scheduler = build(3)
    scheduler.load_state_dict(build(2)[1].state_dict() | {"groups_when_built": 1})
    assert scheduler.max_lrs == pytest.approx([0.1, 0.2, 0.3])
    assert [lrs(run(optimizer, 1), group)[0] for group in range(3)] == scheduler.max_lrs


def test_a_group_that_is_gone_for_a_while_may_come_back():
    optimizer = sgd([{"params": [weight()], "lr": lr} for lr in (0.4, 0.1)])
    ScheduleLR(optimizer, one_cycle(), TOTAL)
    run(optimizer, 2)
    frozen = optimizer.param_groups.pop()
    run(optimizer, 3)
    optimizer.add_param_group(frozen | {"lr": 0.1 * FACTORS[5]})
    used = run(optimizer, TOTAL - 5)
    assert lrs(used, 1) == pytest.approx([0.1 * factor for factor in FACTORS[5:]])


def test_peaks_are_those_of_the_group_when_others_are_gone(said):
    groups = [{"params": [weight()], "lr": lr} for lr in (0.1, 0.2, 0.3)]
    optimizer = sgd(groups)
    ScheduleLR(optimizer, one_cycle(), TOTAL)
    run(optimizer, 3)
    del optimizer.param_groups[0]
    used = run(optimizer, 1)
    assert (lrs(used, 0), lrs(used, 1)) == ([0.2 * FACTORS[3]], [0.3 * FACTORS[3]])
    assert any("1 of its parameter groups are gone" in message for message in said())
    assert ScheduleLR(optimizer, one_cycle(), TOTAL).max_lrs == [0.2, 0.3]
    used = run(optimizer, TOTAL)
    assert lrs(used, 1) == [0.3 * point.lr for point in one_cycle().trace(TOTAL)]


def test_what_is_set_by_hand_between_two_schedules_counts():
    decay = Schedule((Phase(1.0, lr=(1.0, 0.1), weight_decay=(1.0, 0.1)),))
    groups = [{"params": [weight()], "lr": lr} for lr in (0.1, 0.2)]
    optimizer = sgd(groups, weight_decay=0.01)
    ScheduleLR(optimizer, decay, TOTAL)
    run(optimizer, 3)
    optimizer.param_groups[0]["lr"] = 0.7
    optimizer.param_groups[1]["weight_decay"] = 0.5
    second = ScheduleLR(optimizer, decay, TOTAL)
    assert second.max_lrs == [0.7, 0.2]
    assert second.state_dict()["weight_decays"] == [0.01, 0.5]


@pytest.mark.parametrize("stepped", [False, True])
def test_another_scheduler_built_before_has_no_say(stepped, told):
    optimizer = sgd([weight()])
    other = OneCycleLR(optimizer, max_lr=3.0, total_steps=TOTAL)
    ScheduleLR(optimizer, one_cycle(), TOTAL, max_lr=0.4)

    def step():
        optimizer.step()
        if stepped:
            other.step()

    assert first_group(run(optimizer, TOTAL, step)) == expected(one_cycle(), TOTAL)
    assert ["by a scheduler built before" in message for message in told()] == [True] * stepped


def test_an_lr_that_other_code_sets_is_restored_and_told_once(told):
    optimizer = sgd([weight()])
    ScheduleLR(optimizer, one_cycle(), TOTAL)

    values = iter(range(7, 99))

    def meddle():
        optimizer.param_groups[0]["lr"] = next(values)
        optimizer.step()

    # The first pre hook is the scheduler's, so what is recorded is what the step has.
    assert first_group(run(optimizer, TOTAL, meddle)) == expected(one_cycle(), TOTAL)
    assert len(told()) == 1
    assert "lr was set to 7 by other code" in told()[0]


def test_detached_keeps_the_present_values():
    optimizer = sgd([weight()])
    scheduler = ScheduleLR(optimizer, one_cycle(), TOTAL)
    run(optimizer, 4)
    scheduler.detach()
    scheduler.detach()
    assert set(first_group(run(optimizer, 3))) == {expected(one_cycle(), TOTAL)[4]}


@pytest.mark.parametrize("first", ["optimizer", "scheduler"])
def test_nothing_is_kept_alive_that_torchs_own_schedulers_would_free(first):
    gc.disable()  # reference counts alone
    try:
        held = {"optimizer": sgd([weight()])}
        held["scheduler"] = ScheduleLR(held["optimizer"], constant(), TOTAL)
        run(held["optimizer"], 2)
        buffer = held["optimizer"].state[held["optimizer"].param_groups[0]["params"][0]]
        references = [
            *map(weakref.ref, held.values()),
            weakref.ref(held["optimizer"].param_groups[0]["params"][0]),
            weakref.ref(buffer["momentum_buffer"]),
        ]
        del buffer
        del held[first]
        held.clear()
        assert [reference() for reference in references] == [None] * 4
    finally:
        gc.enable()


def test_a_schedule_that_nobody_holds_goes_on():
    optimizer = sgd([weight()])
    ScheduleLR(optimizer, one_cycle(), TOTAL)
    gc.collect()
    assert first_group(run(optimizer, TOTAL)) == expected(one_cycle(), TOTAL)


def test_an_optimizer_used_again_starts_a_new_cycle_from_its_own_lr():
    optimizer = sgd([weight()])
    first = ScheduleLR(optimizer, one_cycle(), 4)
    for _ in range(4):
        optimizer.step()
    first.detach()
    assert optimizer.param_groups[0]["lr"] < 0.4
    assert ScheduleLR(optimizer, one_cycle(), 4).max_lrs == [0.4]


def test_an_lr_set_after_detaching_is_the_next_peak():
    optimizer = sgd([weight()])
    ScheduleLR(optimizer, one_cycle(), 4).detach()
    optimizer.param_groups[0]["lr"] = 0.1
    assert ScheduleLR(optimizer, one_cycle(), 4).max_lrs == [0.1]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["deepcopy", "pickle"]
)
def test_a_copy_goes_on_with_the_optimizer_that_was_copied_with_it(copied):
    scheduler = ScheduleLR(sgd([weight()]), one_cycle(), 10)
    for _ in range(3):
        scheduler.optimizer.step()
    other = copied(scheduler)
    for _ in range(4):
        other.optimizer.step()
    assert (scheduler.last_epoch, other.last_epoch) == (3, 7)
    assert other.get_last_lr() == [0.4 * one_cycle().at(7, 10).lr]


def test_values_of_groups_that_differ_in_weight_decay_alone():
    groups = [{"params": [weight()]}, {"params": [weight()], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.4, momentum=0.9, weight_decay=0.01)
    values = ScheduleLR(optimizer, one_cycle(), 10).values()
    assert (values["weight_decay"], values["weight_decay/pg2"]) == (0.01, 0.0)


def tags_of(*groups):
    parameters = [{"params": [weight()], **group} for group in groups]
    return set(ScheduleLR(sgd(parameters, weight_decay=0.01), one_cycle(), 10).values())


def test_named_groups_have_tags_of_their_names():
    plain = {"lr", "momentum", "weight_decay"}
    assert tags_of({"name": "all"}) == plain
    backbone, head = {"name": "backbone", "lr": 0.1}, {"name": "head", "lr": 0.2}
    assert tags_of(backbone, head) == plain | {"lr/backbone", "lr/head"}
    assert tags_of({"lr": 0.1}, {"lr": 0.2}) == plain | {"lr/pg2"}
    assert tags_of({"lr": 0.1}, {"lr": 0.1}) == plain


def test_many_groups_have_a_handful_of_tags():
    layers = [{"lr": 0.1 * 0.75**depth, "name": f"layer {depth}"} for depth in range(25)]
    assert tags_of(*layers) == {"lr", "momentum", "weight_decay", "lr/min", "lr/max"}


def test_peaks_from_an_array():
    groups = [{"params": [weight()]}, {"params": [weight()]}]
    optimizer = torch.optim.SGD(groups, lr=0.4)
    assert ScheduleLR(optimizer, one_cycle(), 4, max_lr=torch.tensor([1.0, 2.0])).max_lrs == [1, 2]


def test_the_weight_decay_of_the_configuration_wins_over_a_checkpoints(told):
    def built(weight_decay):
        optimizer = torch.optim.SGD([weight()], lr=0.4, momentum=0.9, weight_decay=weight_decay)
        return optimizer, ScheduleLR(optimizer, one_cycle(), 10)

    saved_optimizer, saved = built(0.01)
    optimizer, scheduler = built(0.1)
    optimizer.load_state_dict(saved_optimizer.state_dict())
    scheduler.load_state_dict(saved.state_dict() | {"last_epoch": 3})
    optimizer.step()
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert "weight decay [0.01] -> [0.1]" in told()[-1]


# ---- what other code does to the groups ---------------------------------------------------------


def two_groups(lr, **options):
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = torch.ones(2)
    return torch.optim.SGD(
        [{"params": [p], "lr": lr} for p in parameters], lr=0.5, momentum=0.9, **options
    )


@pytest.mark.parametrize("closure", [True, False])
def test_a_rate_of_0_that_other_code_set_is_restored_before_a_step(closure, said):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    scheduler = ScheduleLR(optimizer, one_cycle(), 10)

    def loss():
        value = (parameter**2).sum()
        value.backward()
        return value

    optimizer.param_groups[0]["lr"] = 0.0
    for _ in range(10):
        optimizer.zero_grad()
        optimizer.step(loss if closure else None)  # without a closure: there are no gradients
    assert "lr was set to 0 by other code and is restored" in " ".join(said())
    assert scheduler.last_epoch == 10
    assert (parameter.tolist() != [1.0, 1.0]) is closure


def test_a_tensor_that_groups_share_becomes_one_for_each(said):
    optimizer = two_groups(torch.tensor(0.1))
    scheduler = ScheduleLR(optimizer, one_cycle(), 5, max_lr=[1.0, 2.0])
    assert scheduler.get_last_lr() == pytest.approx([0.1, 0.2])
    optimizer.add_param_group(
        {"params": [torch.nn.Parameter(torch.ones(1))], "lr": optimizer.param_groups[0]["lr"]}
    )
    optimizer.step()
    assert "other code" not in " ".join(said())
    assert len({id(group["lr"]) for group in optimizer.param_groups}) == 3
    first, second, third = scheduler.get_last_lr()
    assert second == pytest.approx(2 * first)
    assert third == pytest.approx(first)


def test_a_copy_with_a_tensor_says_nothing_of_other_code(said):
    optimizer = two_groups(torch.tensor(0.1))
    scheduler = ScheduleLR(optimizer, one_cycle(), 10)
    for _ in range(3):
        optimizer.step()
    copied, its_optimizer = copy.deepcopy((scheduler, optimizer))
    its_optimizer.step()
    assert (copied.last_epoch, scheduler.last_epoch) == (4, 3)
    assert "other code" not in " ".join(said())


@pytest.mark.parametrize("lr", [None, torch.tensor(1)])
def test_groups_without_a_rate_that_can_be_scheduled_are_refused(lr):
    optimizer = two_groups(0.1)
    optimizer.param_groups[1]["lr"] = lr
    if lr is None:
        del optimizer.param_groups[1]["lr"]
    rule = "lr must be a number or a floating-point tensor in each parameter group of SGD"
    with pytest.raises(TypeError, match=rule):
        ScheduleLR(optimizer, one_cycle(), 10)


def test_a_weight_decay_of_numpy_is_a_plain_number_in_the_state(tmp_path):
    optimizer = two_groups(0.1, weight_decay=np.float64(1e-3))
    torch.save(ScheduleLR(optimizer, one_cycle(), 10).state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["weight_decays"] == [1e-3, 1e-3]
