import copy
import csv
import math
import os
import pickle
import time
from datetime import timedelta
from functools import partial

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, IterableDataset

from conftest import Tiny, Used, expected, fit, loader, quiet_trainer, sgd
from lightning_onecycle import (
    LRCurve,
    LRFinder,
    OneCycle,
    ScheduleCallback,
    one_cycle,
    scheduler_config,
    step_decay,
)


def laid_over(*totals, peak=0.4):
    """Return the values of a run re-planned as it goes: (total, first step, step past the last)."""
    return [
        pair
        for total, start, end in totals
        for pair in expected(one_cycle(), total, peak)[start:end]
    ]


def every_step(folder):
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)


def every_epoch(folder):
    return ModelCheckpoint(
        folder, "{step}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True
    )


def check_resuming(train, folder, steps, saving=every_step):
    """Train, and again from the checkpoints after ``steps``: the same values and weights."""

    def weights(used):
        return [parameter.tolist() for parameter in used.trainer.lightning_module.parameters()]

    whole = train(saving(folder))
    for step in steps:
        rest = train(ckpt_path=folder / f"step={step}.ckpt")
        assert rest.values == whole.values[step:]
        assert weights(rest) == weights(whole)
    return whole


# ---- how long the run is ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "total"),
    [
        ({"max_epochs": 2}, 24),
        ({"max_epochs": 2, "accumulate_grad_batches": 3}, 8),
        ({"max_epochs": 2, "accumulate_grad_batches": 5}, 6),
        ({"max_epochs": 2, "limit_train_batches": 5}, 10),
        ({"max_epochs": 2, "limit_train_batches": 0.25}, 6),
        ({"max_epochs": 2, "overfit_batches": 3}, 6),
        ({"max_steps": 17}, 17),
        ({"max_steps": 17, "accumulate_grad_batches": 4}, 17),
        ({"max_epochs": 2, "max_steps": 17}, 17),
        ({"max_epochs": 1, "max_steps": 17}, 12),
        ({"max_steps": 1}, 1),
        ({"fast_dev_run": True}, 1),
        ({"fast_dev_run": 3}, 3),
    ],
    ids=str,
)
def test_a_whole_cycle_whatever_the_length(arguments, total):
    used = fit(Tiny(), OneCycle(), **arguments)
    assert used.values == expected(one_cycle(), total)


@pytest.mark.parametrize("schedule_first", [True, False])
def test_gradient_accumulation_scheduler(schedule_first):
    pair = [OneCycle(), GradientAccumulationScheduler({0: 5, 1: 4, 3: 1})]
    used = fit(Tiny(), *pair[:: 1 if schedule_first else -1], max_epochs=4)
    assert used.values == expected(one_cycle(), 3 + 3 + 3 + 12)


class Endless(IterableDataset):
    def __iter__(self):
        return iter(range(7))


@pytest.mark.parametrize(
    ("callback", "arguments", "total", "taken"),
    [
        (OneCycle(total_steps=14), {"max_epochs": 2}, 14, 14),
        (OneCycle(total_steps=20), {"max_epochs": 2}, 20, 14),
        (OneCycle(), {"max_steps": 9}, 9, 9),
        (OneCycle(), {"max_epochs": 2, "limit_train_batches": 4}, 8, 8),
    ],
    ids=["total_steps", "total_steps beyond the end", "max_steps", "limit_train_batches"],
)
def test_data_without_a_length(callback, arguments, total, taken):
    used = fit(Tiny(), callback, data=DataLoader(Endless()), **arguments)
    assert used.values == expected(one_cycle(), total)[:taken]


@pytest.mark.parametrize(
    ("data", "arguments"),
    [(DataLoader(Endless()), {"max_epochs": 2}), (12, {"max_epochs": -1})],
    ids=["no length", "no end"],
)
def test_an_unknown_length_is_refused_with_what_to_give(data, arguments):
    message = r"OneCycle\(total_steps=.*Trainer\(max_steps=.*Trainer\(max_time=.*budget='time'"
    with pytest.raises(MisconfigurationException, match=message):
        fit(Tiny(), OneCycle(), data=data, **arguments)


def test_data_that_grow(tmp_path, told):
    class Growing(Tiny):
        def train_dataloader(self):
            return loader(4 * (self.trainer.current_epoch + 1))

    def train(*callbacks, **arguments):
        growing = {"data": None, "max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}
        return fit(Growing(), OneCycle(), *callbacks, **growing, **arguments)

    used = check_resuming(train, tmp_path, (2, 6, 20))
    assert used.values == laid_over((12, 0, 4), (20, 4, 12), (24, 12, 24))
    before = len(told())
    train()
    assert ["another length" in message for message in told()[before:]] == [True]


def test_an_epoch_that_is_cut_short(tmp_path, told):
    class Impatient(Tiny):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if self.current_epoch == 0 and batch_idx == 4 else None

    def train(*callbacks, **arguments):
        return fit(Impatient(), OneCycle(), *callbacks, max_epochs=3, **arguments)

    used = check_resuming(train, tmp_path, (2,))
    assert used.values == laid_over((36, 0, 4), (28, 4, 28))
    assert told()[:1] == [
        "The schedule has 28 optimizer steps, not 36: an epoch has another length than planned."
    ]


def test_batches_without_a_loss():
    class Lazy(Tiny):
        def training_step(self, batch, batch_idx):
            return self.loss() if batch_idx % 2 else None

    used = fit(Lazy(), OneCycle(), max_epochs=2)
    assert used.values == expected(one_cycle(), 24)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_that_grad_scaler_skips(accumulate, tmp_path):
    class Overflowing(Tiny):
        def training_step(self, batch, batch_idx):
            bad = self.trainer.global_step in (2, 3, 9)
            return self.loss() * (math.inf if bad else 1.0)

    def train(*callbacks, **arguments):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        return fit(
            Overflowing(),
            OneCycle(),
            *callbacks,
            max_epochs=2,
            accumulate_grad_batches=accumulate,
            plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
            **arguments,
        )

    used = check_resuming(train, tmp_path, (1, 3, 7, 11))
    whole = 24 // accumulate
    # The position stays where it is, and the run has one step less from there on.
    plan = laid_over((whole, 0, 3), (whole - 1, 2, 3), (whole - 2, 2, 8), (whole - 3, 7, whole))
    assert used.values == plan
    assert used.lrs[-1] == pytest.approx(0.4 * 0.001)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(precision):
    used = fit(Tiny(), OneCycle(), max_epochs=2, precision=precision)
    assert used.values == expected(one_cycle(), 24)


class Sleepy(Tiny):
    def training_step(self, batch, batch_idx):
        time.sleep(0.01)
        return self.loss()


def test_time_budget():
    callback = OneCycle(budget="time")
    used = fit(Sleepy(), callback, max_time=timedelta(seconds=2), max_epochs=-1)
    taken = len(used.steps)
    assert taken > 50
    # What the last step used lies at the annihilated end, and the peak was met on the way.
    assert used.lrs[-1] < 0.04 * 0.25
    assert max(used.lrs) == pytest.approx(0.4, rel=0.1)
    assert used.lrs.index(max(used.lrs)) / taken == pytest.approx(0.45, abs=0.1)


def test_time_budget_with_epochs_that_end_sooner():
    used = fit(Tiny(), OneCycle(budget="time"), max_time=timedelta(hours=1), max_epochs=2)
    assert used.values == expected(one_cycle(), 24)


def test_time_budget_takes_any_timer(told):
    timer = Timer(timedelta(seconds=0.7))
    used = fit(Sleepy(), timer, OneCycle(budget="time"), max_epochs=-1)
    assert used.lrs[-1] < 0.04 * 0.5
    assert told() == []


# ---- beside other callbacks ---------------------------------------------------------------------


@pytest.mark.parametrize("schedule_first", [True, False])
def test_batch_size_finder(schedule_first, tmp_path, told):
    class Sized(Tiny):
        batch_size = 1

        def train_dataloader(self):
            return DataLoader(torch.arange(64).float(), batch_size=self.batch_size)

    pair = [OneCycle(), BatchSizeFinder(init_val=2, max_trials=3, steps_per_trial=2)]
    module = Sized()
    used = fit(
        module,
        *pair[:: 1 if schedule_first else -1],
        data=None,
        max_epochs=2,
        default_root_dir=tmp_path,
    )
    batches = 64 // module.batch_size
    assert module.batch_size > 2
    assert used.values == expected(one_cycle(), 2 * batches)
    assert told() == []


class WithLR(Tiny):
    lr = 0.4

    def configure_optimizers(self):
        return sgd(self.parameters(), lr=self.lr)


@pytest.mark.parametrize("schedule_first", [True, False])
def test_learning_rate_finder(schedule_first, tmp_path, told):
    finder = LearningRateFinder(min_lr=1e-3, max_lr=1.0, num_training_steps=20)
    module = WithLR()
    used = fit(
        module,
        *[OneCycle(), finder][:: 1 if schedule_first else -1],
        data=24,
        max_epochs=1,
        default_root_dir=tmp_path,
    )
    assert module.lr != 0.4
    assert used.values == expected(one_cycle(), 24, peak=module.lr)
    assert told() == []


@pytest.mark.parametrize("schedule_first", [True, False])
def test_it_stops_where_weight_averaging_takes_over(schedule_first, told):
    class Longer(Tiny):  # later epochs are longer, so that the plan is looked at again
        def train_dataloader(self):
            return loader(4 + self.trainer.current_epoch)

    swa = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=3, annealing_epochs=1)
    used = fit(
        Longer(),
        *[OneCycle(), swa][:: 1 if schedule_first else -1],
        data=None,
        max_epochs=4,
        reload_dataloaders_every_n_epochs=1,
    )
    assert used.values[:9] == laid_over((16, 0, 4), (19, 4, 9))
    assert any("for `SWALR`" in message for message in told())
    held = used.lrs[9]
    assert used.lrs[9:15] == [held] * 6
    assert used.lrs[15:] == [0.05] * (len(used.lrs) - 15)


def test_learning_rate_monitor(tmp_path):
    monitor = LearningRateMonitor(logging_interval="step", log_momentum=True)
    logger = CSVLogger(tmp_path)
    used = fit(
        Tiny(), OneCycle(), monitor, data=24, max_epochs=1, logger=logger, log_every_n_steps=1
    )
    assert column(logger, "lr-SGD") == pytest.approx(dict(enumerate(used.lrs)))
    momenta = [momentum for _, momentum in used.values]
    assert column(logger, "lr-SGD-momentum") == pytest.approx(dict(enumerate(momenta)))


def test_a_modules_own_lr_scheduler_step_is_left_out_of_it():
    class Timm(Tiny):
        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step_update(num_updates=self.global_step)

    assert fit(Timm(), OneCycle(), max_epochs=2).values == expected(one_cycle(), 24)


# ---- the peak -----------------------------------------------------------------------------------


def two_groups(module):
    return sgd([{"params": [module.net.weight]}, {"params": [module.net.bias], "lr": 0.1}])


@pytest.mark.parametrize(
    ("max_lr", "peaks"), [(None, (0.4, 0.1)), (0.8, (0.8, 0.2)), ([0.3, 0.6], (0.3, 0.6))]
)
def test_peaks(max_lr, peaks):
    module = Tiny()
    module.configure_optimizers = lambda: two_groups(module)
    used = fit(module, OneCycle(max_lr), max_epochs=1)
    for group, peak in enumerate(peaks):
        assert [step[group][:2] for step in used.steps] == expected(one_cycle(), 12, peak)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: OneCycle(-1.0), ValueError, "max_lr must be > 0, got -1.0"),
        (lambda: OneCycle("0.1"), ValueError, "max_lr must be a number, .* got the text '0.1'"),
        (lambda: OneCycle([0.1, 0.0]), ValueError, r"max_lr\[1\] must be > 0, got 0.0"),
        (lambda: OneCycle(total_steps=0), ValueError, "total_steps must be a whole number >= 1"),
        (lambda: OneCycle(budget="epochs"), ValueError, "budget must be one of 'steps', 'time'"),
        (lambda: OneCycle(total_steps=9, budget="time"), ValueError, "total_steps must be None"),
        (lambda: OneCycle(pct_start=1.5), ValueError, r"pct_start must be in \(0, 1\), got 1.5"),
        (lambda: ScheduleCallback("1cycle"), TypeError, "schedule must be a Schedule, got str"),
    ],
)
def test_bad_arguments_are_refused_where_they_are_given(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---- what cannot go right -----------------------------------------------------------------------


def with_scheduler(make):
    def configure(parameters):
        optimizer = sgd(parameters)
        return {"optimizer": optimizer, "lr_scheduler": make(optimizer)}

    return Tiny(configure)


class Manual(Tiny):
    """Two optimizers; the second steps after every third batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [
            sgd([self.net.weight]),
            torch.optim.AdamW([self.net.bias], lr=0.1),
        ]

    def training_step(self, batch, batch_idx):
        for every, optimizer in zip((1, 3), self.optimizers(), strict=True):
            if batch_idx % every == 0:
                optimizer.zero_grad()
                self.manual_backward(self.loss())
                optimizer.step()


@pytest.mark.parametrize(
    ("module", "callbacks", "message"),
    [
        (
            with_scheduler(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1)),
            [OneCycle(own_schedulers="refuse")],
            r"OneCycle\(own_schedulers='refuse'\) found a scheduler of the module, StepLR",
        ),
        (
            Tiny(lambda parameters: scheduler_config(sgd(parameters), one_cycle(), 12)),
            [OneCycle(own_schedulers="refuse")],
            "found a scheduler of the module, ScheduleLR",
        ),
        (
            Tiny(),
            [OneCycle(), ScheduleCallback(step_decay())],
            "OneCycle and ScheduleCallback would both write the learning rate",
        ),
        (Tiny(lambda _: None), [OneCycle()], "OneCycle needs an optimizer; the module has none"),
        (Manual(), [OneCycle()], r"give OneCycle\(total_steps=...\), counted for each optimizer"),
        (
            Manual(),
            [OneCycle([0.1], total_steps=9)],
            "max_lr must be None or a number with several optimizers",
        ),
        (Tiny(), [OneCycle(budget="time")], r"needs Trainer\(max_time=...\)"),
    ],
    ids=[
        "a scheduler",
        "our scheduler",
        "two callbacks",
        "no optimizer",
        "manual",
        "a sequence for several optimizers",
        "no time limit",
    ],
)
def test_refused_with_the_reason(module, callbacks, message):
    with pytest.raises(MisconfigurationException, match=message):
        fit(module, *callbacks, max_epochs=1)


def test_manual_optimization_counts_for_each_optimizer():
    used = fit(Manual(), OneCycle(total_steps=8), max_epochs=2)
    whole = expected(one_cycle(), 8)
    assert used.of(0) == whole + [whole[-1]] * 16
    assert used.of(1) == expected(one_cycle(), 8, peak=0.1)


# ---- fits that follow, and resuming -------------------------------------------------------------


def test_a_second_fit_is_a_new_cycle_over_what_is_left():
    trainer_used = fit(Tiny(), OneCycle(), max_epochs=1)
    trainer = trainer_used.trainer
    assert trainer_used.values == expected(one_cycle(), 12)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, loader(12))
    assert trainer_used.values[12:] == expected(one_cycle(), 24)


@pytest.mark.parametrize(
    "optimizer", [sgd, partial(torch.optim.AdamW, lr=0.4)], ids=["SGD", "AdamW"]
)
@pytest.mark.parametrize(
    ("saving", "accumulate", "steps"),
    [(every_step, 1, (5, 12, 17)), (every_step, 5, (2, 3, 4)), (every_epoch, 1, (12, 24))],
    ids=["at steps", "at steps, accumulating", "at epoch ends"],
)
def test_resuming_changes_nothing(optimizer, saving, accumulate, steps, tmp_path, told):
    def train(*callbacks, **arguments):
        length = {"max_epochs": 3, "accumulate_grad_batches": accumulate}
        return fit(Tiny(optimizer), OneCycle(), *callbacks, **length, **arguments)

    whole = check_resuming(train, tmp_path, steps, saving)
    assert whole.values == expected(one_cycle(), 3 * math.ceil(12 / accumulate))
    assert told() == []


@pytest.mark.parametrize(
    ("max_epochs", "peak", "says"),
    [
        (4, 0.4, "total_steps 24 -> 48"),
        (3, 0.2, "total_steps 24 -> 36, peak [0.4] -> [0.2]"),
        (2, 0.2, "peak [0.4] -> [0.2]"),
    ],
)
@pytest.mark.parametrize("step", [12, 7])
def test_resuming_under_another_configuration(max_epochs, peak, says, step, tmp_path, told):
    fit(Tiny(), OneCycle(), every_step(tmp_path), max_epochs=2)
    path = tmp_path / f"step={step}.ckpt"
    used = fit(Tiny(partial(sgd, lr=peak)), OneCycle(), max_epochs=max_epochs, ckpt_path=path)
    assert used.values == expected(one_cycle(), 12 * max_epochs, peak)[step:]
    (message,) = told()
    assert f"continues after {step} steps" in message
    assert message.endswith(f"{says}.")


class Breaks(Tiny):
    """Raises in the middle of a batch."""

    at = None

    def training_step(self, batch, batch_idx):
        if self.at == self.trainer.fit_loop.epoch_loop.total_batch_idx:
            raise RuntimeError("out of memory")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("kind", ["on exception", "model checkpoint"])
@pytest.mark.parametrize(
    ("accumulate", "at"), [(1, 5), (1, 11), (1, 12), (1, 17), (4, 6), (4, 14), (5, 23)]
)
def test_a_checkpoint_of_a_batch_that_raised_is_gone_on_from(kind, accumulate, at, tmp_path):
    arguments = {"max_epochs": 2, "accumulate_grad_batches": accumulate}
    whole = fit(Tiny(), OneCycle(), **arguments)
    saving = {
        "on exception": lambda: OnExceptionCheckpoint(tmp_path, "raised"),
        "model checkpoint": lambda: ModelCheckpoint(
            tmp_path, "raised", save_on_exception=True, every_n_epochs=100
        ),
    }[kind]()
    module, used = Breaks(), Used()
    module.at = at
    trainer = quiet_trainer(OneCycle(), used, saving, **arguments | {"enable_checkpointing": True})
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.fit(module, loader(12))
    (path,) = tmp_path.glob("*.ckpt")
    rest = fit(Tiny(), OneCycle(), **arguments, ckpt_path=path)
    assert used.values + rest.values == whole.values


@pytest.mark.parametrize(("batch_size", "steps"), [(6, 4), (12, 2), (2, 12)])
def test_resumed_with_another_batch_size_it_goes_on_at_the_same_fraction(
    batch_size, steps, tmp_path, told
):
    def data(size):
        return DataLoader(torch.arange(24).float(), batch_size=size)

    fit(Tiny(), OneCycle(), every_epoch(tmp_path), data=data(4), max_epochs=4)
    path = tmp_path / "step=12.ckpt"  # half of the run
    used = fit(Tiny(), OneCycle(), data=data(batch_size), max_epochs=4, ckpt_path=path)
    assert used.values == expected(one_cycle(), 4 * steps)[2 * steps :]
    assert any(f"the 12 steps taken count as {2 * steps}" in message for message in told())


@pytest.mark.parametrize("limit", [{"data": 6}, {"limit_train_batches": 6}], ids=str)
def test_resumed_in_an_epoch_that_has_become_shorter_it_ends_at_its_end(limit, tmp_path):
    fit(Tiny(), OneCycle(), every_step(tmp_path), max_epochs=2)
    arguments = {"max_epochs": 2, "ckpt_path": tmp_path / "step=10.ckpt", **limit}
    used = fit(Tiny(), OneCycle(), **arguments)
    # Lightning goes over the first epoch again: 10 steps are taken, and 12 are still to come.
    assert used.values == expected(one_cycle(), 22)[10:]


def test_with_max_steps_a_step_is_a_step_whatever_the_batch_size(tmp_path, told):
    def data(size):
        return DataLoader(torch.arange(24).float(), batch_size=size)

    fit(Tiny(), OneCycle(), every_step(tmp_path), data=data(4), max_steps=24)
    path = tmp_path / "step=12.ckpt"
    used = fit(Tiny(), OneCycle(), data=data(2), max_steps=24, ckpt_path=path)
    assert used.values == expected(one_cycle(), 24)[12:]


def test_one_callback_serves_several_fits_also_after_a_checkpoint_and_an_error(tmp_path):
    fit(Tiny(), OneCycle(), every_step(tmp_path), max_epochs=2)
    shared = OneCycle()
    optimizer = sgd(Tiny().parameters())
    module = Breaks(lambda _: optimizer)
    module.at = 20
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(module, shared, max_epochs=2, ckpt_path=tmp_path / "step=7.ckpt")
    assert not shared.schedulers[0].attached  # the optimizer is the user's again
    shared = pickle.loads(pickle.dumps(copy.deepcopy(shared)))
    for epochs in (1, 3):
        assert fit(Tiny(), shared, max_epochs=epochs).values == expected(one_cycle(), 12 * epochs)


@pytest.mark.parametrize("optimizer", [sgd, partial(torch.optim.AdamW, lr=0.4)])
def test_momentum_is_the_optimizers_own_after_a_cycle_of_it(optimizer, tmp_path):
    fit(Tiny(optimizer), OneCycle(), every_step(tmp_path), max_epochs=2)
    path = tmp_path / "step=7.ckpt"
    rest = fit(Tiny(optimizer), OneCycle(cycle_momentum=False), max_epochs=2, ckpt_path=path)
    assert {momentum for _, momentum in rest.values} == {0.9}
    module = Tiny()
    kept = optimizer(module.parameters())
    module.configure_optimizers = lambda: kept
    fit(module, OneCycle(), max_epochs=1)
    again = fit(module, OneCycle(cycle_momentum=False), max_epochs=1)
    assert {momentum for _, momentum in again.values} == {0.9}


def test_a_run_that_weight_averaging_took_over_goes_on_under_it(tmp_path):
    def train(*callbacks, **arguments):
        swa = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2, annealing_epochs=1)
        return fit(Tiny(), OneCycle(), swa, *callbacks, max_epochs=4, **arguments)

    whole = train(every_step(tmp_path))
    for step in (24, 30, 36, 40):
        rest = train(ckpt_path=tmp_path / f"step={step}.ckpt")
        assert rest.lrs == whole.lrs[step:]


@pytest.mark.parametrize("step", [3, 6, 8, 9, 13])
def test_resumed_with_an_accumulation_scheduler_the_plan_is_what_lightning_does(step, tmp_path):
    def train(*callbacks, **arguments):
        accumulation = GradientAccumulationScheduler({0: 4, 2: 2})
        return fit(Tiny(), OneCycle(), accumulation, *callbacks, max_epochs=4, **arguments)

    train(every_step(tmp_path))  # 3 + 3 + 6 + 6 steps
    rest = train(ckpt_path=tmp_path / f"step={step}.ckpt")
    # Lightning keeps an accumulation of 1 in an epoch that is gone on with.
    assert rest.values[-1] == expected(one_cycle(), step + len(rest.values))[-1]
    assert rest.values == expected(one_cycle(), step + len(rest.values))[step:]


def test_resumed_with_more_batches_in_an_epoch_it_ends_at_its_end(tmp_path):
    fit(Tiny(), OneCycle(), every_step(tmp_path), data=6, max_epochs=2)
    rest = fit(Tiny(), OneCycle(), data=12, max_epochs=2, ckpt_path=tmp_path / "step=6.ckpt")
    # Lightning begins the second epoch behind as many batches as the first had.
    assert rest.values == expected(one_cycle(), 12)[6:]


def test_resumed_twice_the_fraction_is_kept(tmp_path):
    def data(size):
        return DataLoader(torch.arange(24).float(), batch_size=size)

    fit(Tiny(), OneCycle(), every_step(tmp_path / "0"), data=data(4), max_epochs=4)
    arguments = {"data": data(4), "max_epochs": 4, "ckpt_path": tmp_path / "0" / "step=8.ckpt"}
    fit(Tiny(), OneCycle(), every_step(tmp_path / "1"), **arguments)
    path = tmp_path / "1" / "step=10.ckpt"
    rest = fit(Tiny(), OneCycle(), data=data(2), max_epochs=4, ckpt_path=path)
    total = 20 + len(rest.values)  # the 10 steps count as 20
    assert rest.values == expected(one_cycle(), total)[20:]


# ---- other optimizers in the middle of a fit ----------------------------------------------------


class Swap(Callback):
    """Puts another optimizer in at the third epoch."""

    def __init__(self, how, hook):
        setattr(self, hook, partial(self.swap, how))

    @staticmethod
    def swap(how, trainer, pl_module, *_):
        if trainer.global_step != 24:
            return
        other = [torch.optim.AdamW(pl_module.parameters(), lr=0.01)]
        if how == "setup":
            pl_module.make_optimizer = lambda _: other[0]
            trainer.strategy.setup_optimizers(trainer)
        elif how == "trainer":
            trainer.optimizers = other
        else:
            trainer.strategy.optimizers = other


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_batch_start"])
@pytest.mark.parametrize("schedule_first", [True, False])
@pytest.mark.parametrize("how", ["trainer", "strategy", "setup"])
def test_another_optimizer_goes_on_where_the_first_was(how, schedule_first, hook, said):
    pair = [OneCycle(), Swap(how, hook)][:: 1 if schedule_first else -1]
    counted = []

    class Count(Callback):
        def on_train_batch_end(self, trainer, *_):
            counted.append(trainer.lr_scheduler_configs[0].scheduler.last_epoch)

    used = fit(Tiny(), *pair, Count(), max_epochs=4)
    assert used.values[:24] == expected(one_cycle(), 48)[:24]
    assert used.values[25:] == expected(one_cycle(), 48, peak=0.01)[25:]
    assert used.values[24] == expected(one_cycle(), 48, peak=0.01)[24]
    assert counted == list(range(1, 49))
    (message,) = [message for message in said() if "another optimizer" in message]
    assert "AdamW, after 24 of 48 steps: its peak is 0.01." in message


# ---- what is told -------------------------------------------------------------------------------


class NeverSteps(Tiny):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(self.loss())


def test_an_epoch_without_a_counted_step_is_told():
    message = "No optimizer step was counted in epoch 0: the schedule stands at step 0 of 24"
    with pytest.warns(UserWarning, match=message) as warned:
        fit(NeverSteps(), OneCycle(total_steps=24), max_epochs=2)
    assert sum("No optimizer step" in str(warning.message) for warning in warned) == 1


@pytest.mark.parametrize("steps", [2, 3, 9, 10])
def test_a_run_of_few_steps_is_told(steps, recwarn):
    fit(Tiny(), OneCycle(), max_steps=steps)
    few = [w for w in recwarn if "optimizer steps for its schedule" in str(w.message)]
    assert len(few) == (steps < 10)


@pytest.mark.parametrize(
    "cut",
    [
        lambda: {"max_epochs": 2, "max_steps": 200, "data": DataLoader(Endless())},
        lambda: {"max_epochs": 20, "callback": StopAfter(14)},
    ],
    ids=["a stream that ends", "stopped early"],
)
def test_a_fit_that_ends_before_its_schedule_says_so(cut, told):
    arguments = cut()
    callback = arguments.pop("callback", Callback())
    fit(Tiny(), OneCycle(), callback, **arguments)
    assert any(message.startswith("The fit ends at step 14 of 2") for message in told())


class StopAfter(Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.steps


def test_an_optimizer_with_a_learning_rate_of_0_trains_at_0(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    used = fit(Tiny(partial(sgd, lr=0.0)), OneCycle(), max_epochs=1, logger=logger)
    assert used.lrs == [0.0] * 12


def test_a_curve_is_a_peak_or_the_reason_why_not():
    rates = [10 ** (k / 2 - 5) for k in range(11)]
    curve = LRCurve(rates, [2.3, 2.3, 2.3, 2.3, 2.2, 1.8, 1.2, 0.9, 0.8, 1.9, 9.0])
    assert OneCycle(max_lr=curve).max_lr == curve.suggestion()
    with pytest.raises(ValueError, match="max_lr must suggest a peak, got none: 3 finite"):
        OneCycle(max_lr=LRCurve((0.01, 0.1, 1.0), (2.3, 2.3, 2.3)))


# ---- several processes --------------------------------------------------------------------------


class Written(Callback):
    """Each process writes down what it used."""

    def __init__(self, folder):
        self.folder = folder
        self.lines = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        group = optimizer.param_groups[0]
        self.lines.append(f"{group['lr']!r} {group['momentum']!r}")

    def on_train_end(self, trainer, pl_module):
        (self.folder / f"{trainer.global_rank}.txt").write_text("\n".join(self.lines))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing to fork with")
def test_two_processes(tmp_path):
    trainer = quiet_trainer(
        OneCycle(), Written(tmp_path), strategy="ddp_fork", devices=2, max_epochs=2
    )
    trainer.fit(Tiny(), loader(12))
    plan = "\n".join(f"{lr!r} {momentum!r}" for lr, momentum in expected(one_cycle(), 12))
    assert sorted(os.listdir(tmp_path)) == ["0.txt", "1.txt"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {plan}


# ---- logging ------------------------------------------------------------------------------------


def column(logger, name):
    """Return what a CSVLogger has of one metric, by step."""
    logger.save()
    with open(logger.experiment.metrics_file_path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(name)]
    points = [(int(row["step"]), float(row[name])) for row in rows]
    assert len(dict(points)) == len(points)  # one point for a step
    return dict(points)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_short_run_logs_every_step(accumulate, tmp_path):
    logger = CSVLogger(tmp_path)
    used = fit(
        Tiny(partial(sgd, weight_decay=0.01)),
        OneCycle(),
        max_epochs=3,
        accumulate_grad_batches=accumulate,
        logger=logger,
    )
    for tag, place in (("lr", 0), ("momentum", 1), ("weight_decay", 2)):
        values = [groups[0][place] for groups in used.steps]
        assert column(logger, tag) == pytest.approx(dict(enumerate(values)))


def test_a_long_run_logs_about_100_points(tmp_path):
    logger = CSVLogger(tmp_path)
    used = fit(Tiny(), OneCycle(), data=1000, max_epochs=1, logger=logger)
    points = column(logger, "lr")
    assert 95 < len(points) < 110
    assert points == pytest.approx({step: used.lrs[step] for step in points})
    assert {0, used.lrs.index(max(used.lrs)), 999} <= set(points)


def test_without_a_logger_nothing_is_written_or_said(tmp_path, told):
    used = fit(Tiny(), OneCycle(), max_epochs=1, default_root_dir=tmp_path)
    assert used.values == expected(one_cycle(), 12)
    assert (os.listdir(tmp_path), told()) == ([], [])


def test_groups_and_optimizers_have_tags_of_their_own(tmp_path):
    logger = CSVLogger(tmp_path)
    module = Tiny()
    module.configure_optimizers = lambda: two_groups(module)
    fit(module, OneCycle(), max_epochs=1, logger=logger)
    assert column(logger, "lr/pg2") == pytest.approx(
        {step: lr / 4 for step, lr in column(logger, "lr").items()}
    )
    logger = CSVLogger(tmp_path)
    fit(Manual(), OneCycle(total_steps=12), max_epochs=1, logger=logger)
    assert column(logger, "lr-1")[0] == pytest.approx(0.01)
    assert column(logger, "momentum-1")[0] == pytest.approx(0.95)


def test_tensorboard_has_the_curves_and_the_figure(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    used = fit(Tiny(), OneCycle(), max_epochs=2, logger=logger)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert {"lr", "momentum", "weight_decay"} <= set(events.Tags()["scalars"])
    points = {event.step: event.value for event in events.Scalars("lr")}
    assert points == pytest.approx(dict(enumerate(used.lrs)), rel=1e-6)
    (figure,) = events.Images("schedule")
    assert figure.step == 0
    assert figure.encoded_image_string.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("total", "says"), [(24, None), (30, "the schedule is cut off"), (20, "holds its end")]
)
def test_total_steps_that_are_not_those_of_the_fit_are_told(told, total, says):
    fit(Tiny(), OneCycle(total_steps=total), max_epochs=2)
    messages = [message for message in told() if "total_steps=" in message]
    assert len(messages) == (says is not None)
    assert says is None or says in messages[0]


def test_arguments_of_others_are_refused_by_name():
    rule = "OneCycle has no argument anneal_strategy. There are max_lr, "
    with pytest.raises(TypeError, match=rule):
        OneCycle(anneal_strategy="cos")
    with pytest.raises(TypeError, match=r"_steps\. Do you mean num_training\?"):
        LRFinder(num_training_steps=100)
