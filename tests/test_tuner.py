"""The range test: its rates, what it keeps of the training, what it records, when it stops."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import CombinedLoader
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, IterableDataset

from conftest import Used, quiet_trainer, sgd, two_processes
from lightning_onecycle import (
    LRCurve,
    LRFinder,
    OneCycle,
    RunRecord,
    ScheduleCallback,
    Tuner,
    constant,
    one_cycle,
    scheduler_config,
)
from lightning_onecycle.range_test import check_peak, conditions_of
from lightning_onecycle.range_test.stopping import Divergence

# What happened in copies is seen here, where it is not copied.
SEEN = SimpleNamespace()


@pytest.fixture(autouse=True)
def seen():
    vars(SEEN).clear()
    vars(SEEN).update(steps=[], batches=[], hooks=[], validated=[])


class Spy(Used):
    """Writes down, where the copy can be seen, what the optimizer used."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        super().on_before_optimizer_step(trainer, pl_module, optimizer)
        SEEN.steps = self.steps


class Scripted(LightningModule):
    """Its loss at batch k is ``losses(k)``, whatever it learns."""

    def __init__(self, losses=lambda k: 1.0, optimizer=sgd, configure=None):
        super().__init__()
        self.losses, self.make_optimizer, self.configure = losses, optimizer, configure
        self.net = torch.nn.Linear(2, 1)
        self.batches = 0

    def training_step(self, batch, batch_idx):
        SEEN.batches.append(batch.tolist())
        loss = self.losses(self.batches)
        self.batches += 1
        return None if loss is None else 0 * self.net.weight.sum() + loss

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.parameters())
        return optimizer if self.configure is None else self.configure(optimizer)


def loader(batches, size=1):
    return DataLoader(torch.arange(batches * size).float(), batch_size=size)


def find(module=None, *callbacks, data=12, trainer=None, find=None, **arguments):
    trainer = trainer or quiet_trainer(*callbacks, Spy(), **arguments)
    options = {"min_lr": 1e-3, "max_lr": 10.0, "num_training": 9, **(find or {})}
    return Tuner(trainer).lr_find(module or Scripted(), loader(data), **options)


# ---- rates -------------------------------------------------------------------------------------


def test_rates_are_evenly_spaced_and_meet_both_ends():
    curve = find(find={"num_training": 41})
    assert curve.lrs[0] == 1e-3
    assert curve.lrs[-1] == 10.0
    assert curve.lrs == pytest.approx([10 ** (-3 + k / 10) for k in range(41)])
    assert [groups[0][0] for groups in SEEN.steps] == list(curve.lrs)
    assert curve.stopped == "range completed"
    assert curve.results == {"lr": list(curve.lrs), "loss": [1.0] * 41}


def test_linear_rates():
    curve = find(find={"mode": "linear", "min_lr": 0.1, "max_lr": 0.9, "num_training": 5})
    assert curve.lrs == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert curve.mode == "linear"
    assert [groups[0][0] for groups in SEEN.steps] == list(curve.lrs)


def two_groups(parameters, lrs=(0.3, 0.03)):
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, lrs, strict=True)]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)


@pytest.mark.parametrize("max_lr", [None, 4.0, [0.2, 0.8]])
def test_groups_keep_the_ratio_they_will_train_with(max_lr):
    curve = find(Scripted(optimizer=two_groups), OneCycle(max_lr=max_lr))
    ratio = 4.0 if isinstance(max_lr, list) else 0.1
    for groups, lr in zip(SEEN.steps, curve.lrs, strict=True):
        assert max(group[0] for group in groups) == lr
        assert groups[1][0] == pytest.approx(groups[0][0] * ratio)
        assert groups[0][2] == groups[1][2] == 0.01


def warm_up(optimizer):
    return [optimizer], [LambdaLR(optimizer, lambda k: k / 10)]


def test_a_scheduler_that_starts_at_zero_does_not_hide_the_ratio():
    find(Scripted(optimizer=two_groups, configure=warm_up))
    assert all(b[0] == pytest.approx(0.1 * a[0]) for a, b in SEEN.steps)


# ---- the conditions of the training ------------------------------------------------------------


def torch_one_cycle(optimizer):
    scheduler = OneCycleLR(optimizer, 0.4, total_steps=99, base_momentum=0.8)
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def own_config(optimizer):
    return scheduler_config(optimizer, one_cycle(base_momentum=0.7), 99)


@pytest.mark.parametrize(
    ("callbacks", "options", "configure", "momentum"),
    [
        ([], {}, None, 0.9),
        ([OneCycle(base_momentum=0.8)], {}, None, 0.8),
        ([OneCycle(base_momentum=0.8)], {"schedule": one_cycle(base_momentum=0.6)}, None, 0.6),
        ([ScheduleCallback(constant())], {}, None, 0.9),
        ([], {}, torch_one_cycle, 0.8),
        ([], {}, own_config, 0.7),
    ],
    ids=["own", "callback", "argument", "not scheduled", "OneCycleLR", "scheduler_config"],
)
def test_momentum_is_that_of_the_peak(callbacks, options, configure, momentum):
    curve = find(Scripted(configure=configure), *callbacks, find=options)
    assert {groups[0][1] for groups in SEEN.steps} == {momentum}
    assert curve.conditions.momentum == momentum


@pytest.mark.parametrize("schedule", [one_cycle(base_momentum=0.8), None])
def test_beta1_is_that_of_the_peak_and_beta2_is_kept(schedule):
    adam = partial(torch.optim.AdamW, betas=(0.9, 0.98))
    curve = find(Scripted(optimizer=adam), find={"schedule": schedule})
    beta1 = 0.8 if schedule else 0.9
    assert {groups[0][1] for groups in SEEN.steps} == {beta1}
    assert curve.conditions.momentum == beta1
    assert curve.conditions.groups[0]["betas"] == [0.98]


def test_momentum_that_is_off_stays_off():
    curve = find(Scripted(optimizer=partial(torch.optim.SGD, lr=0.1)), OneCycle())
    assert {groups[0][1] for groups in SEEN.steps} == {0}
    assert curve.conditions.momentum == 0


class Brought(Scripted):
    def configure_callbacks(self):
        return [OneCycle(base_momentum=0.8), EarlyStopping("nothing"), Hooked("brought")]


class Hooked(Callback):
    def __init__(self, name):
        self.name = name

    def on_train_start(self, trainer, pl_module):
        SEEN.hooks.append(self.name)


def test_callbacks_that_the_module_brings_are_kept_and_left_out_alike():
    find(Brought())
    assert {groups[0][1] for groups in SEEN.steps} == {0.8}
    assert SEEN.hooks == ["brought"]


def test_callbacks_that_end_litter_or_time_a_run_are_left_out(tmp_path):
    callbacks = [
        ModelCheckpoint(tmp_path, every_n_train_steps=1),
        EarlyStopping("nothing"),
        Timer({"seconds": 0}),
        LearningRateMonitor(),
        RunRecord(tmp_path / "result.json"),
        LRFinder(),
        OneCycle(),
        Hooked("kept"),
    ]
    curve = find(None, *callbacks, min_epochs=50, min_steps=500)
    assert len(curve.lrs) == 9
    assert SEEN.hooks == ["kept"]
    assert len(SEEN.batches) == 9
    assert not list(tmp_path.iterdir())


class TakesNoPart(Hooked):
    takes_part_in_range_test = False


class StoppingThatTakesPart(EarlyStopping):
    takes_part_in_range_test = True

    def on_train_start(self, trainer, pl_module):
        SEEN.hooks.append("stopping")


def test_a_callback_says_itself_whether_it_takes_part():
    find(
        None,
        TakesNoPart("left out"),
        Hooked("kept"),
        StoppingThatTakesPart("nothing", strict=False),
    )
    assert SEEN.hooks == ["kept", "stopping"]


class Clipped(Scripted):
    """Loses its weights times a hundred, so that the gradient is known."""

    def training_step(self, batch, batch_idx):
        return 100 * self.net.weight.sum()

    def on_before_zero_grad(self, optimizer):
        if self.net.weight.grad is not None:
            SEEN.steps.append(self.net.weight.grad.norm().item())


def test_gradients_are_clipped():
    curve = find(Clipped(), trainer=quiet_trainer(gradient_clip_val=0.25))
    assert max(SEEN.steps) <= 0.2501
    assert curve.conditions.gradient_clip == "norm 0.25"


@pytest.mark.parametrize(
    ("arguments", "callbacks", "accumulation"),
    [
        ({"accumulate_grad_batches": 3}, [], 3),
        ({}, [GradientAccumulationScheduler({0: 3})], 3),
        ({}, [GradientAccumulationScheduler({0: 3, 5: 1})], {"0": 3, "5": 1}),
    ],
)
def test_a_loss_is_the_mean_over_the_batches_of_a_step(arguments, callbacks, accumulation):
    curve = find(Scripted(lambda k: float(k)), *callbacks, data=15, **arguments)
    assert len(SEEN.batches) == 27
    assert curve.losses == pytest.approx([3 * k + 1 for k in range(9)])
    assert curve.conditions.accumulation == accumulation


def test_a_short_window_at_the_end_of_the_data_is_a_step_with_a_loss_of_its_own():
    curve = find(Scripted(lambda k: float(k)), data=4, accumulate_grad_batches=3)
    assert curve.losses[:4] == pytest.approx([1, 3, 5, 7])


def test_the_data_are_gone_over_again():
    curve = find(data=2, max_epochs=1, max_steps=3)
    assert [batch for (batch,) in SEEN.batches] == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert curve.conditions.data_settings["samples"] == [2]


class Limits(Scripted):
    def training_step(self, batch, batch_idx):
        trainer = self.trainer
        SEEN.hooks.append((trainer.max_epochs, trainer.estimated_stepping_batches))
        return super().training_step(batch, batch_idx)


def test_the_module_sees_the_limits_of_the_training():
    find(Limits(), data=4, max_epochs=3)
    assert set(SEEN.hooks) == {(3, 12)}


def test_a_step_that_the_scaler_skips_is_not_a_point():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    curve = find(
        Clipped(optimizer=partial(torch.optim.SGD, lr=0.1)),
        trainer=quiet_trainer(plugins=MixedPrecision("16-mixed", "cpu", scaler)),
        find={"early_stop_threshold": None},
    )
    assert curve.lrs[0] == 1e-3
    assert len(curve.lrs) == len(set(curve.lrs)) == 9
    assert len(SEEN.steps) > 9
    assert scaler.get_scale() == 2.0**127


# ---- schedulers and manual optimization --------------------------------------------------------


class Asks(Scripted):
    def training_step(self, batch, batch_idx):
        SEEN.hooks.append(self.lr_schedulers().get_last_lr())
        return super().training_step(batch, batch_idx)

    def lr_scheduler_step(self, scheduler, metric):
        SEEN.hooks.append("stepped")


@pytest.mark.parametrize("kind", ["step", "plateau"])
def test_own_scheduler_is_there_but_not_stepped(kind):
    def configure(optimizer):
        scheduler = LambdaLR(optimizer, lambda k: 1.0)
        if kind == "plateau":
            scheduler = ReduceLROnPlateau(optimizer)
        monitored = {"scheduler": scheduler, "interval": "step", "monitor": "nothing"}
        return {"optimizer": optimizer, "lr_scheduler": monitored}

    curve = find(Asks(configure=configure))
    assert len(curve.lrs) == 9
    assert "stepped" not in SEEN.hooks


class Manual(Scripted):
    def __init__(self, steps=1, raw=False, every=1):
        super().__init__(lambda k: float(k))
        self.automatic_optimization = False
        self.steps, self.raw, self.every = steps, raw, every

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers(use_pl_optimizer=not self.raw)
        optimizer.zero_grad()
        self.manual_backward(loss)
        for _ in range(self.steps if self.batches % self.every == 0 else 0):
            optimizer.step()
        return loss


@pytest.mark.parametrize("raw", [False, True])
def test_manual_optimization(raw):
    curve = find(Manual(raw=raw))
    assert curve.losses == pytest.approx(range(9))
    assert curve.lrs[-1] == 10.0


def test_manual_accumulation():
    assert find(Manual(every=2)).losses == pytest.approx([0.5 + 2 * k for k in range(9)])


def test_several_steps_in_a_training_step_are_refused():
    with pytest.raises(MisconfigurationException, match="at most one optimizer step"):
        find(Manual(steps=2))


@pytest.mark.parametrize("n", [0, 2])
def test_other_than_one_optimizer_is_refused(n):
    module = Manual()
    module.configure_optimizers = lambda: [sgd(module.parameters()) for _ in range(n)] or None
    named = "2: SGD, SGD" if n else "none"
    with pytest.raises(MisconfigurationException, match=f"configure_optimizers returned {named}"):
        find(module)


# ---- stopping ----------------------------------------------------------------------------------

FLAT = [2.0] * 30
FALL = [2.0 - 0.05 * k for k in range(30)]


@pytest.mark.parametrize("shift", [0.0, -100.0])
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e6])
def test_divergence_is_seen_in_any_unit(scale, shift):
    losses = [scale * (loss + shift) for loss in FLAT + FALL + [2.0 * 2**k for k in range(20)]]
    diverged = Divergence(4.0, 100)
    first = next(k for k, loss in enumerate(losses) if diverged(loss))
    assert 60 < first < 68


@pytest.mark.parametrize("losses", ["noise", "constant", "zero", "fall", "spike", "plateau"])
@pytest.mark.parametrize("seed", range(5))
def test_no_divergence_is_seen_where_there_is_none(losses, seed):
    noise = torch.randn(100, generator=torch.Generator().manual_seed(seed)).tolist()
    rows = {
        "noise": [1.0 + x for x in noise],
        "constant": [0.1 + 1e-9 * x for x in noise],
        "zero": [0.0] * 100,
        "fall": [5.0 - 0.04 * k + 0.3 * x for k, x in enumerate(noise)],
        "spike": [1e6 if k == 50 else 1.0 + 0.1 * x for k, x in enumerate(noise)],
        "plateau": [
            2.3 if k > 90 else 1.3 + abs(60 - k) / 60 + 0.01 * x for k, x in enumerate(noise)
        ],
    }
    diverged = Divergence(4.0, 100)
    assert not any(diverged(loss) for loss in rows[losses])


def rising(k):
    return 2.0 - 0.1 * k if k < 10 else 2.0 * 3 ** (k - 10)


def test_divergence_ends_the_test_and_is_named():
    curve = find(Scripted(rising), find={"num_training": 30})
    assert 10 < len(curve.lrs) < 20
    assert curve.stopped == f"diverged at lr {curve.lrs[-1]:.3g}"
    assert len(SEEN.batches) == len(curve.lrs)


def test_threshold_none_never_ends_the_test():
    curve = find(Scripted(rising), find={"num_training": 30, "early_stop_threshold": None})
    assert curve.stopped == "range completed"


@pytest.mark.parametrize("at", [0, 4])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_loss_that_is_not_finite_ends_the_test(at, bad):
    curve = find(Scripted(lambda k: bad if k == at else 1.0))
    assert len(curve.lrs) == at + 1
    assert curve.stopped == f"loss not finite at lr {curve.lrs[-1]:.3g}"


class Refuses(Scripted):
    """Raises an error where its weight is too large, as a distribution does."""

    def __init__(self, error=ValueError, limit=2.0):
        super().__init__()
        self.error, self.limit = error, limit

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        if self.net.weight.max() > self.limit or batch.item() == 7:
            raise self.error("no distribution")
        return -self.net.weight.sum()


class RefusesByHand(Refuses):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return loss


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", [Refuses, RefusesByHand])
def test_a_step_that_only_the_trained_weights_make_fail_ends_the_test(kind, accumulate):
    if kind is RefusesByHand and accumulate > 1:
        pytest.skip("Lightning accumulates under automatic optimization only")
    curve = find(kind(), data=7, accumulate_grad_batches=accumulate)
    assert 3 < len(curve.lrs) < 9
    assert curve.stopped == f"training_step raised ValueError at lr {curve.lrs[-1]:.3g}"
    assert [math.isnan(loss) for loss in curve.losses] == [False] * (len(curve.lrs) - 1) + [True]


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (Refuses(limit=math.inf), {"max_lr": 0.1}),  # the batch
        (Refuses(limit=-math.inf), {}),  # the first step
        (Refuses(MisconfigurationException), {}),
        (Refuses(torch.cuda.OutOfMemoryError), {}),
    ],
    ids=["batch", "first step", "misconfiguration", "memory"],
)
def test_a_step_that_fails_for_another_reason_is_an_error(module, options):
    with pytest.raises(module.error, match="no distribution"):
        find(module, find=options)


def test_steps_without_a_loss_are_passed_over():
    curve = find(Scripted(lambda k: None if k % 3 == 1 else 1.0))
    assert len(curve.lrs) == 6


def test_the_test_ends_where_the_last_step_has_no_loss():
    curve = find(Scripted(lambda k: None if k == 8 else 1.0))
    assert len(curve.lrs) == 8
    assert curve.stopped == "range completed"
    assert len(SEEN.batches) == 9


class ManualThatLogs(Manual):
    """Logs what its step does not return, as under manual optimization it need not."""

    def __init__(self, names):
        super().__init__()
        self.names = names

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log_dict({name: loss * (k + 1) for k, name in enumerate(self.names)})


@pytest.mark.parametrize("names", [["loss_of_net"], ["train_loss", "loss_of_net"]])
def test_a_loss_that_a_manual_step_logs_is_recorded(names):
    assert find(ManualThatLogs(names)).losses == find(Manual()).losses


def test_logged_losses_of_which_none_is_it_are_refused():
    with pytest.raises(MisconfigurationException, match=r"a_loss, b_loss\. Let training_step"):
        find(ManualThatLogs(["a_loss", "b_loss"]))


class ManualWithoutALoss(Manual):
    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)


@pytest.mark.parametrize("module", [ManualWithoutALoss(), Scripted(lambda k: None)])
@pytest.mark.parametrize("steps", [5, 50])
def test_steps_that_never_have_a_loss_are_refused(module, steps):
    with pytest.raises(MisconfigurationException, match="training_step return the loss"):
        find(module, find={"num_training": steps})
    assert len(SEEN.batches) == min(steps, 10)


# ---- the rates are the planned ones, the epochs perhaps not ---------------------------------


class Sets(Scripted):
    def on_before_optimizer_step(self, optimizer):
        for group in optimizer.param_groups:
            group["lr"] = 0.02


def test_a_rate_that_other_code_sets_is_refused():
    with pytest.raises(MisconfigurationException, match=r"to 0.001 at step 0.* set it to 0.02"):
        find(Sets())


def test_a_rate_in_a_tensor_is_the_planned_one():
    module = Scripted(optimizer=lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1)))
    assert len(find(module).lrs) == 9


@pytest.mark.parametrize(
    ("limits", "times"), [({"max_epochs": 2}, 1), ({"max_epochs": 9}, 0), ({"max_epochs": -1}, 0)]
)
def test_epochs_that_the_training_never_reaches_are_told(limits, times, told, caplog):
    find(data=2, **limits)
    told_of = [text for text in caplog.messages if "epochs than the training, which has 2" in text]
    assert len(told_of) == times


# ---- validation --------------------------------------------------------------------------------


class Validated(Scripted):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        SEEN.validated.append(batch.tolist())
        assert not self.training
        return self.validation(batch_idx)


class Logs(Validated):
    def validation_step(self, batch, batch_idx):
        self.log("train_loss", 7.0)
        self.log("val/loss", float(batch_idx), on_step=False, on_epoch=True)


class LogsAll(Validated):
    def __init__(self, names, **how):
        super().__init__()
        self.names, self.how = names, how

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        for index, name in enumerate(self.names):
            self.log(name, float(index + 10 * dataloader_idx), **self.how)


def validate(module, val_batches=2, **options):
    module.validation = lambda batch_idx: torch.tensor(float(batch_idx))
    tuner = Tuner(quiet_trainer(Spy(), check_val_every_n_epoch=3))
    options = {"num_training": 40, "min_lr": 1e-3, "val_dataloaders": loader(5), **options}
    return tuner.lr_find(module, loader(7), val_batches=val_batches, **options)


@pytest.mark.parametrize("kind", [Validated, Logs])
def test_validation_loss_at_twenty_steps(kind):
    curve = validate(kind())
    assert curve.val_lrs == tuple(curve.lrs[1::2])
    assert curve.val_losses == (0.5,) * 20
    if kind is Validated:
        assert SEEN.validated == [[0.0], [1.0]] * 20


@pytest.mark.parametrize(
    ("names", "index"),
    [
        (["l2_loss", "loss", "val_loss"], 2),
        (["val_l1_loss", "val/loss", "loss"], 1),
        (["acc", "my_loss"], 1),
    ],
)
def test_logged_validation_loss_is_the_one_of_that_name(names, index):
    assert validate(LogsAll(names)).val_losses[0] == index
    assert validate(LogsAll(names, on_step=True, on_epoch=True)).val_losses[0] == index
    both = {"val_dataloaders": [loader(5), loader(5)]}
    assert validate(LogsAll(names), **both).val_losses[0] == index + 5


def test_logged_validation_losses_of_which_none_is_it_are_refused():
    with pytest.raises(MisconfigurationException, match="losses are logged: a_loss, l2_loss"):
        validate(LogsAll(["l2_loss", "a_loss"]))


def test_fewer_steps_than_validations():
    curve = validate(Validated(), num_training=5)
    assert curve.val_lrs == curve.lrs


def test_no_validation_unless_asked_for():
    curve = validate(Validated(), val_batches=0)
    assert curve.val_lrs == curve.val_losses == ()
    assert not SEEN.validated


def test_validation_without_a_loss_is_refused():
    module = Validated()
    module.validation_step = lambda batch, batch_idx: None
    with pytest.raises(MisconfigurationException, match="val_batches=2 needs a loss"):
        validate(module)


def test_validation_without_data_is_refused():
    with pytest.raises(MisconfigurationException, match="needs a validation loader"):
        validate(Validated(), val_dataloaders=None)


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_lr": 1.0, "max_lr": 0.1}, "max_lr must be > min_lr = 1, got 0.1"),
        ({"min_lr": 1.0, "max_lr": 1.0}, "max_lr must be > min_lr = 1, got 1.0"),
        ({"min_lr": 0.1, "max_lr": math.nextafter(0.1, 1)}, "max_lr must be > min_lr = 0.1"),
        ({"min_lr": 0.0}, "min_lr must be > 0, got 0.0"),
        ({"num_training": 2}, "num_training must be a whole number >= 3, got 2"),
        ({"mode": "cubic"}, "mode must be one of 'exponential', 'linear', got 'cubic'"),
        ({"early_stop_threshold": 0}, "early_stop_threshold must be > 0 or None, got 0"),
        ({"val_batches": -1}, "val_batches must be a whole number >= 0, got -1"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(options, message):
    with pytest.raises(ValueError, match=message):
        find(find=options)
    if "val_batches" not in options:
        with pytest.raises(ValueError, match=message):
            LRFinder(**options)
    assert not SEEN.batches


class Empty(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (DataLoader([]), {}),
        (DataLoader(Empty()), {}),
        ([], {}),
        (loader(3), {"limit_train_batches": 0}),
        ((x for x in [torch.ones(1)]), {}),
    ],
    ids=["no samples", "empty iterable", "empty list", "limit 0", "generator"],
)
def test_data_that_cannot_be_used_are_refused(data, arguments):
    with pytest.raises(MisconfigurationException, match=r"batches|more than once"):
        Tuner(quiet_trainer(**arguments)).lr_find(Scripted(), data)
    assert not SEEN.batches


class OnlyOnce:
    """An iterator as the protocol has it."""

    def __init__(self):
        self.batches = iter([torch.ones(1), torch.ones(1)])

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.batches)


ONCE = {
    "generator": lambda: (x for x in [torch.ones(1)]),
    "zip": lambda: zip([torch.ones(1)], [torch.ones(1)], strict=True),
    "iterator of a list": lambda: iter([torch.ones(1)]),
    "iterator of a loader": lambda: iter(loader(3)),
    "return self": OnlyOnce,
}
AMONG = {
    "alone": lambda data: data,
    "list": lambda data: [loader(3), data],
    "dict": lambda data: {"a": {"b": data}, "c": loader(3)},
    "combined": lambda data: CombinedLoader([loader(3), data]),
    "combined in a list": lambda data: [CombinedLoader([data])],
}


@pytest.mark.parametrize("among", AMONG)
@pytest.mark.parametrize("kind", ONCE)
def test_data_that_one_pass_uses_up_are_refused_and_nothing_is_drawn(kind, among):
    data = ONCE[kind]()
    with pytest.raises(MisconfigurationException, match="train_dataloaders must be iterable"):
        Tuner(quiet_trainer()).lr_find(Scripted(), AMONG[among](data))
    assert next(data) is not None
    with pytest.raises(MisconfigurationException, match="val_dataloaders must be iterable"):
        Tuner(quiet_trainer()).lr_find(Scripted(), loader(3), val_dataloaders=AMONG[among](data))


def test_validation_goes_over_loaders_one_after_the_other():
    both = CombinedLoader([loader(5), loader(5)], "sequential")
    assert validate(Validated(), val_dataloaders=both).val_losses == (0.5,) * 20
    assert SEEN.validated == [[0.0], [1.0], [0.0], [1.0]] * 20


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="trainer must be a Lightning Trainer"):
        Tuner(None)
    with pytest.raises(TypeError, match="model must be a LightningModule, got Linear"):
        find(torch.nn.Linear(1, 1))
    for call in ("lr_find", "search"):  # the order of Trainer.fit
        with pytest.raises(TypeError, match="datamodule must be a LightningDataModule, got DataL"):
            getattr(Tuner(quiet_trainer()), call)(Scripted(), loader(3), loader(3))
    with pytest.raises(TypeError, match="schedule must be a Schedule or None"):
        find(find={"schedule": "one_cycle"})


# ---- what the answer is given to ---------------------------------------------------------------


class Learns(LightningModule):
    """A line through noisy points: its curve falls and rises."""

    def __init__(self, lr=0.1, **more):
        super().__init__()
        self.save_hyperparameters({"lr": lr, "optimizer": {"lr": lr}, **more})
        self.net = torch.nn.Linear(4, 1)

    def training_step(self, x, batch_idx):
        return (self.net(x) - x.sum(1, keepdim=True)).square().mean()

    def configure_optimizers(self):
        return sgd(self.parameters())


def points(size=8):
    torch.manual_seed(0)
    return DataLoader(torch.randn(64, 4), batch_size=size, shuffle=True)


def learn(module, *callbacks, **options):
    options = {"min_lr": 1e-4, "num_training": 80, **options}
    return Tuner(quiet_trainer(*callbacks, max_epochs=2)).lr_find(module, points(), **options)


@pytest.mark.parametrize("name", ["", "lr", "optimizer.lr", "net.rate"])
def test_update_attr(name):
    module = Learns()
    module.net.rate = 0.1
    curve = learn(module, update_attr=True, attr_name=name)
    assert 0.001 < curve.suggestion() < 1
    value = {
        "optimizer.lr": lambda: module.hparams.optimizer["lr"],
        "net.rate": lambda: module.net.rate,
    }.get(name, lambda: module.hparams.lr)
    assert value() == curve.suggestion()


def test_nothing_is_updated_unless_asked_for():
    module = Learns()
    learn(module)
    assert module.hparams.lr == 0.1


@pytest.mark.parametrize(("name", "said"), [("", "'lr' or 'learning_rate'"), ("a.b", "'a.b'")])
def test_update_attr_without_one_is_refused(name, said):
    with pytest.raises(AttributeError, match=f"update_attr=True needs an attribute {said}"):
        find(find={"update_attr": True, "attr_name": name})
    assert not SEEN.batches


def test_no_suggestion_leaves_the_attribute():
    module = Scripted()
    module.lr = 0.1
    with pytest.warns(UserWarning, match="The learning rate stays as it is"):
        find(module, find={"update_attr": True})
    assert module.lr == 0.1


def fit(*callbacks, module=None, size=8, **arguments):
    trainer = quiet_trainer(*callbacks, max_epochs=2, **arguments)
    trainer.fit(module or Learns(), points(size))
    return trainer


def test_curve_under_the_same_conditions_is_trained_with(tmp_path):
    curve = learn(Learns(), OneCycle())
    curve.save(tmp_path / "lr.json")
    cycle, used = OneCycle(pct_start=0.3), Used()
    fit(LRFinder(tmp_path / "lr.json"), cycle, used)
    assert max(used.lrs) == pytest.approx(curve.suggestion())


def decayed(module):
    module.configure_optimizers = lambda: sgd(module.parameters(), weight_decay=0.01)
    return module


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 16}, "batch_size: 8, now 16"),
        ({"gradient_clip_val": 1.0}, "gradient_clip: none, now norm 1"),
        ({"accumulate_grad_batches": 2}, "accumulation: 1, now 2"),
        ({"module": decayed(Learns())}, "weight_decay: 0, now 0.01"),
        ({"momentum": 0.9}, "momentum: 0.85, now 0.9"),
    ],
)
def test_curve_from_other_conditions_is_refused_unless_allowed(change, said):
    curve = learn(Learns(), OneCycle())
    change = dict(change)
    momentum = change.pop("momentum", 0.85)
    with pytest.raises(MisconfigurationException, match=said) as refusal:
        fit(LRFinder(curve), OneCycle(base_momentum=momentum), **change)
    assert str(refusal.value).count("\n  ") == 1
    with pytest.warns(UserWarning, match=said):
        fit(LRFinder(curve, allow_differences=True), OneCycle(base_momentum=momentum), **change)


class Check(Callback):
    def __init__(self, check):
        self.check = check

    def on_train_start(self, trainer, pl_module):
        SEEN.hooks.append(self.check(trainer, pl_module))


def test_conditions_of_a_test_and_of_its_training_are_the_same():
    module = Learns()
    module.configure_optimizers = lambda: two_groups(module.net.parameters())
    curve = learn(module, OneCycle())
    cycle = OneCycle(max_lr=3.0)
    fit(cycle, Check(lambda t, m: conditions_of(t, m, cycle.schedule)), module=module)
    assert SEEN.hooks == [curve.conditions]
    assert [group["lr_ratio"] for group in curve.conditions.groups] == [1.0, 0.1]


class Shows(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)

    def extra_repr(self):
        return repr(self.function)


def test_where_a_function_of_the_model_lies_in_memory_is_no_condition():
    modules = [Learns(), Learns()]
    for module in modules:
        module.net = torch.nn.Sequential(module.net, Shows(lambda x: 1.0 * x))
    curves = [learn(module, OneCycle()) for module in modules]
    assert str(modules[0]) != str(modules[1])
    assert curves[0].conditions == curves[1].conditions


def test_other_versions_are_told_and_not_refused():
    curve = learn(Learns())
    object.__setattr__(curve.conditions, "versions", {"torch": "1.0"})
    with pytest.warns(UserWarning, match="library version of torch: 1.0"):
        fit(Check(lambda t, m: check_peak(curve, t, m)))


def test_curve_without_conditions_is_refused():
    curve = learn(Learns())
    with pytest.raises(MisconfigurationException, match="does not say what it was measured under"):
        fit(LRFinder(LRCurve(curve.lrs, curve.losses)), OneCycle())


@pytest.mark.parametrize(
    ("callbacks", "said"),
    [
        ([], "there are 0"),
        ([OneCycle(), ScheduleCallback(constant())], "there are 2"),
        ([OneCycle()], "it stands before"),
    ],
)
def test_finder_without_someone_to_tell_is_refused(callbacks, said):
    first = callbacks if len(callbacks) == 1 else []
    rest = callbacks if len(callbacks) != 1 else []
    with pytest.raises(MisconfigurationException, match=said):
        fit(*first, LRFinder(), *rest)


def test_finder_without_a_peak_is_refused():
    with pytest.raises(MisconfigurationException, match=r"range completed.* shows no peak"):
        quiet_trainer(LRFinder(num_training=9), OneCycle()).fit(Scripted(), loader(3))


def test_finder_finds_what_the_tuner_finds_and_keeps_ratios():
    module = Learns()
    module.configure_optimizers = lambda: two_groups(module.net.parameters(), (0.1, 0.1))
    options = {"min_lr": 1e-4, "num_training": 80}
    curve = learn(module, OneCycle(max_lr=[0.1, 0.4]), **options)
    finder, used = LRFinder(**options), Used()
    torch.manual_seed(0)
    trainer = quiet_trainer(finder, OneCycle(max_lr=[0.1, 0.4]), used, max_epochs=2)
    data = points()
    trainer.fit(module, data)
    assert finder.curve.lrs == curve.lrs[: len(finder.curve.lrs)]
    peaks = [max(groups[i][0] for groups in used.steps) for i in (0, 1)]
    assert peaks == pytest.approx([finder.max_lr / 4, finder.max_lr])
    with pytest.raises(ValueError, match="with a curve there is no test"):
        LRFinder(curve, num_training=9)


def test_progress_bar_is_shown_where_the_trainer_has_one(capsys):
    find(trainer=quiet_trainer(TQDMProgressBar(), enable_progress_bar=True))
    assert "LR range test" in capsys.readouterr().err
    find()
    assert "LR range test" not in capsys.readouterr().err


# ---- two processes -----------------------------------------------------------------------------

SCRIPT = """
import json, os
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader
from lightning_onecycle import LRFinder, OneCycle, Tuner


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)
        self.losses = []

    def training_step(self, x, batch_idx):
        loss = (self.net(x) - x.sum(1, keepdim=True)).square().mean()
        self.losses.append(loss.item())
        return loss + 10 * self.global_rank

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


OPTIONS = dict(min_lr=1e-3, max_lr=100.0, num_training=20)


def run(mode):
    seed_everything(1, verbose=False)
    data = DataLoader(torch.randn(32, 4), batch_size=4, shuffle=True)
    finder = LRFinder(method=lambda lrs, losses: 0.05, **OPTIONS)
    callbacks = [*([finder] if mode == "callback" else []), OneCycle(max_lr=0.05)]
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
                      enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, callbacks=callbacks)
    module = Module()
    curve = Tuner(trainer).lr_find(module, data, **OPTIONS) if mode == "tuner" else None
    trainer.fit(module, data)
    curve = finder.curve if mode == "callback" else curve
    measured = None if curve is None else [curve.lrs, curve.losses, curve.stopped]
    return {"losses": module.losses, "curve": measured, "world": trainer.world_size}


if __name__ == "__main__":
    results = {mode: run(mode) for mode in ("tuner", "none", "callback")}
    with open(f"result.{os.environ['LOCAL_RANK']}", "w") as file:
        json.dump(results, file)
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Run the script, and return the results of both ranks."""
    folder = tmp_path_factory.mktemp("ddp")
    found = two_processes(folder, SCRIPT)
    assert {path.name for path in folder.iterdir()} == {"result.0", "result.1", "main.py"}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["tuner", "callback"])
def test_two_processes_agree_and_nothing_is_left(ranks, mode):
    first, second = (of_rank[mode] for of_rank in ranks)
    assert first["curve"] == second["curve"]
    assert first["world"] == 2
    lrs, losses, stopped = first["curve"]
    assert stopped.startswith("diverged")
    assert len(lrs) < 20
    assert 5 < losses[0] < 20  # the mean over ranks, of which one has 10 more
    for of_rank in ranks:
        assert of_rank[mode]["losses"] == of_rank["none"]["losses"]


def test_a_test_inside_a_test_is_refused():
    class AtEpochs(Callback):
        """Find a rate in the middle of a training; its copy takes part in the test."""

        def on_train_epoch_start(self, trainer, pl_module):
            Tuner(trainer).lr_find(pl_module, loader(12), num_training=5)

    with pytest.raises(MisconfigurationException, match="lr_find was called inside a range test"):
        quiet_trainer(AtEpochs(), max_epochs=1).fit(Scripted(), loader(12))


class ReadsResults(Scripted):
    """Reads, after each epoch and at the end, what validations and checkpoints have left."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", 1.0)

    def on_train_epoch_end(self):
        SEEN.hooks.append(self.trainer.callback_metrics["val_loss"])

    def on_train_end(self):
        SEEN.hooks.append(self.trainer.checkpoint_callback.best_model_path)


class AlsoReads(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        SEEN.hooks.append(trainer.callback_metrics["val_loss"].item())


@pytest.mark.parametrize(
    ("method", "options"), [("lr_find", {"num_training": 60}), ("search", {"cost": 1.0})]
)
def test_a_hook_that_reads_results_which_a_test_does_not_have_is_told_of(method, options, tmp_path):
    callbacks = OneCycle(), AlsoReads(), ModelCheckpoint(tmp_path)
    trainer = quiet_trainer(*callbacks, max_epochs=8, enable_checkpointing=True)
    module, data = ReadsResults(), {"val_dataloaders": loader(4)}
    with pytest.warns(UserWarning, match="A range test and a search go on") as warned:
        getattr(Tuner(trainer), method)(module, loader(12), **data, **options)
    told = [str(w.message).split(":")[0] for w in warned if "go on" in str(w.message)]
    assert sorted(told) == [
        "AlsoReads.on_train_epoch_end raised KeyError",
        "ReadsResults.on_train_end raised AttributeError",
        "ReadsResults.on_train_epoch_end raised KeyError",
    ]
    SEEN.hooks.clear()
    trainer.fit(module, loader(12), **data)
    assert len(SEEN.hooks) == 17


def test_a_test_leaves_what_there_is_to_say_of_the_optimizer_to_the_training(told):
    module = Scripted(optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    trainer = quiet_trainer(OneCycle(), max_epochs=8)
    Tuner(trainer).search(module, loader(12))
    assert told() == []
    trainer.fit(module, loader(12))
    assert told() == ["The schedule of SGD: momentum is not cycled, because its momentum is 0."]


class LooksAtValidationData(Scripted):
    """Keeps some of them to draw, as a training that validates lets it."""

    def validation_step(self, batch, batch_idx):
        raise AssertionError("a test that does not validate")

    def on_train_start(self):
        self.kept = self.trainer.val_dataloaders.dataset[:2]
        SEEN.hooks.append((len(self.kept), self.trainer.num_val_batches))


def test_a_module_finds_the_validation_data_in_a_test_that_does_not_validate():
    Tuner(quiet_trainer()).lr_find(
        LooksAtValidationData(), loader(12), val_dataloaders=loader(4), num_training=9
    )
    assert SEEN.hooks == [(2, [4])]
