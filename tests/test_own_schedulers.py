"""Modules that bring schedulers of their own, and cannot be edited: the callback replaces them."""

import copy
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.optim import lr_scheduler as theirs
from torch.utils.data import DataLoader

from conftest import Tiny, expected, fit, loader, quiet_trainer, sgd
from lightning_onecycle import LRFinder, OneCycle, Tuner, one_cycle, scheduler_config, step_decay

# Forms that configure_optimizers can return.
FORMS = {
    "bare": lambda o: ([o], [theirs.StepLR(o, 1)]),
    "list of dicts": lambda o: ([o], [{"scheduler": theirs.StepLR(o, 1), "interval": "step"}]),
    "dict": lambda o: {"optimizer": o, "lr_scheduler": theirs.CosineAnnealingLR(o, 10)},
    "every step": lambda o: {
        "optimizer": o,
        "lr_scheduler": {"scheduler": theirs.ExponentialLR(o, 0.5), "interval": "step"},
    },
    "warm-up": lambda o: ([o], [theirs.LambdaLR(o, lambda step: (step + 1) / 100)]),
    "warm-up from nothing": lambda o: ([o], [theirs.LambdaLR(o, lambda step: step / 100)]),
    "one after the other": lambda o: (
        [o],
        [theirs.SequentialLR(o, [theirs.LinearLR(o, 0.01), theirs.StepLR(o, 1)], [5])],
    ),
    "chained": lambda o: (
        [o],
        [theirs.ChainedScheduler([theirs.ConstantLR(o, 0.1), theirs.ExponentialLR(o, 0.9)])],
    ),
    "two of one optimizer": lambda o: ([o], [theirs.LinearLR(o, 0.01), theirs.StepLR(o, 1)]),
}


def made(form):
    return Tiny(lambda parameters: form(sgd(parameters)))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_scheduler_of_the_module_is_replaced(form, said):
    used = fit(made(form), OneCycle(), max_epochs=2)
    assert used.values == expected(one_cycle(), 24)
    (message,) = [message for message in said() if "replaces" in message]
    assert message.startswith("OneCycle replaces the ")
    assert "of SGD: the peak is 0.4, the lr of the optimizer" in message


def plateau(o):
    scheduler = theirs.ReduceLROnPlateau(o, patience=0)
    return {"optimizer": o, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


class Validated(Tiny):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", torch.tensor(float(self.current_epoch)))


def validated(form=plateau):
    return Validated(lambda parameters: form(sgd(parameters)))


@pytest.fixture
def val_loader(monkeypatch):
    monkeypatch.setattr(Validated, "train_dataloader", lambda _: loader(12))
    monkeypatch.setattr(Validated, "val_dataloader", lambda _: loader(2))


@pytest.mark.usefixtures("val_loader")
def test_a_plateau_scheduler_with_its_monitor_is_replaced(said):
    used = fit(
        validated(), OneCycle(), EarlyStopping("val_loss", patience=9), data=None, max_epochs=3
    )
    assert used.values == expected(one_cycle(), 36)
    says = "replaces the ReduceLROnPlateau of SGD: the peak is 0.4, the lr of the optimizer."
    assert any(says in message for message in said())


@pytest.mark.parametrize(
    ("scheduler", "source"),
    [
        (partial(theirs.OneCycleLR, max_lr=0.7, total_steps=99), "its max_lr"),
        (partial(theirs.CyclicLR, base_lr=0.01, max_lr=0.7), "its max_lr"),
    ],
    ids=["OneCycleLR", "CyclicLR"],
)
def test_a_cycle_of_torchs_gives_its_own_peak_and_takes_its_momentum_away(scheduler, source, said):
    def form(optimizer):
        return [optimizer], [{"scheduler": scheduler(optimizer), "interval": "step"}]

    used = fit(made(form), OneCycle(), max_epochs=1)
    assert used.values == expected(one_cycle(), 12, peak=0.7)
    (told,) = [message for message in said() if "the peak" in message]
    assert f"the peak is 0.7, {source}." in told
    # Without cyclical momentum the optimizer's own counts, not what the scheduler has put there.
    plain = fit(made(form), OneCycle(cycle_momentum=False), max_epochs=1)
    assert {momentum for _, momentum in plain.values} == {0.9}


def test_groups_get_their_own_peaks_back():
    def form(parameters):
        weight, bias = parameters
        optimizer = sgd([{"params": [weight]}, {"params": [bias], "lr": 0.1}])
        return [optimizer], [theirs.LambdaLR(optimizer, lambda step: 0.01)]

    used = fit(Tiny(form), OneCycle(), max_epochs=1)
    for group, peak in enumerate((0.4, 0.1)):
        assert [step[group][:2] for step in used.steps] == expected(one_cycle(), 12, peak)


def test_a_schedule_of_ours_is_replaced_with_its_peak(said):
    module = Tiny(
        lambda parameters: scheduler_config(sgd(parameters), step_decay(), 12, max_lr=0.7)
    )
    assert fit(module, OneCycle(), max_epochs=1).values == expected(one_cycle(), 12, peak=0.7)
    assert any("replaces the ScheduleLR of SGD: the peak is 0.7, its peak." in m for m in said())


@pytest.mark.parametrize("cycle_momentum", [True, False])
def test_only_what_a_cycle_of_torchs_has_overwritten_is_put_back(cycle_momentum):
    def form(parameters):
        weight, bias = parameters
        groups = [{"params": [weight], "betas": (0.5, 0.9)}, {"params": [bias]}]
        optimizer = torch.optim.Adam(groups, lr=0.1)
        return [optimizer], [theirs.OneCycleLR(optimizer, 0.1, total_steps=99)]

    betas = []

    class Read(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            betas.append([group["betas"] for group in optimizer.param_groups])

    used = fit(Tiny(form), OneCycle(cycle_momentum=cycle_momentum), Read(), max_epochs=1)
    # The first group has betas of its own: what its beta1 was before, nobody knows.
    cycled = [point.momentum for point in one_cycle().trace(12)]
    of_first, of_second = (cycled, cycled) if cycle_momentum else ([0.95] * 12, [0.9] * 12)
    assert [pair[0] for pair in betas] == [(beta1, 0.9) for beta1 in of_first]
    assert [pair[1] for pair in betas] == [(beta1, 0.999) for beta1 in of_second]
    assert used.lrs == [0.1 * point.lr for point in one_cycle().trace(12)]


def test_a_momentum_that_a_group_alone_has_is_cycled():
    def form(parameters):
        optimizer = torch.optim.SGD([{"params": list(parameters), "momentum": 0.7}], lr=0.4)
        return [optimizer], [theirs.OneCycleLR(optimizer, 0.4, total_steps=99)]

    assert fit(Tiny(form), OneCycle(), max_epochs=1).values == expected(one_cycle(), 12)


def test_a_key_of_the_projects_own_is_no_peak():
    def form(parameters):
        optimizer = sgd([{"params": list(parameters), "max_lr": 9.0}])
        return [optimizer], [theirs.StepLR(optimizer, 1)]

    assert fit(Tiny(form), OneCycle(), max_epochs=1).values == expected(one_cycle(), 12)


class HomeMade:
    """A warm-up without torch's base class."""

    def __init__(self, optimizer, keep=False):
        self.optimizer = optimizer
        if keep:
            self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 1e-5

    def step(self):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        pass


class StepsThem(Tiny):
    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step()


@pytest.mark.parametrize(
    ("keep", "peak", "source"),
    [
        (True, 0.4, "the peak is 0.4, the lr of the optimizer before the scheduler changed it."),
        (False, 1e-5, "the peak is 1e-05, the lr that the scheduler has left; give max_lr if"),
    ],
)
def test_a_scheduler_of_the_projects_own_class_is_replaced(keep, peak, source, said):
    module = StepsThem(lambda p: (lambda o: ([o], [HomeMade(o, keep)]))(sgd(p)))
    assert fit(module, OneCycle(), max_epochs=1).values == expected(one_cycle(), 12, peak)
    assert any(source in message for message in said())


def test_a_given_peak_is_said_to_be_given(said):
    assert fit(made(FORMS["warm-up"]), OneCycle(0.2), max_epochs=1).values == expected(
        one_cycle(), 12, peak=0.2
    )
    assert any("the peak is 0.2, the max_lr of OneCycle." in message for message in said())


# ---- what the module and other callbacks do with them --------------------------------------------


class OwnSteps(Tiny):
    """Manual optimization, two optimizers; it steps its schedulers itself."""

    def __init__(self, schedulers):
        super().__init__()
        self.automatic_optimization = False
        self.bring = schedulers

    def configure_optimizers(self):
        optimizers = [sgd([self.net.weight]), sgd([self.net.bias], lr=0.1)]
        return optimizers, [make(optimizers) for make in self.bring]

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss())
            optimizer.step()

    def on_train_epoch_end(self):
        found = self.lr_schedulers()
        assert isinstance(found, list) is (len(self.bring) > 1)
        for scheduler in found if isinstance(found, list) else [found]:
            if isinstance(scheduler, theirs.ReduceLROnPlateau):
                raise AssertionError("it is still there")
            scheduler.step(0.5)
            scheduler.step(metrics=0.5)


BRING = {
    "one each": [lambda o: theirs.StepLR(o[0], 1), lambda o: theirs.StepLR(o[1], 1)],
    "the second alone": [lambda o: theirs.ReduceLROnPlateau(o[1])],
    "the first alone": [lambda o: theirs.ReduceLROnPlateau(o[0])],
}


@pytest.mark.parametrize("bring", BRING.values(), ids=BRING)
def test_several_optimizers_are_all_scheduled_and_the_module_finds_as_many_schedulers(
    bring, tmp_path
):
    def train(*callbacks, **arguments):
        module = OwnSteps(bring)
        return fit(module, OneCycle(total_steps=24), *callbacks, max_epochs=2, **arguments)

    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    whole = train(saving)
    assert whole.of(0) == expected(one_cycle(), 24)
    assert whole.of(1) == expected(one_cycle(), 24, peak=0.1)
    # Both go on where they were, also the one without a place among the module's.
    rest = train(ckpt_path=tmp_path / "step=14.ckpt")  # seven steps of each
    assert rest.of(0) == expected(one_cycle(), 24)[7:]
    assert rest.of(1) == expected(one_cycle(), 24, peak=0.1)[7:]


SOME = [[], BRING["the second alone"]]
NAMES = ["none", "the second", "both"]


@pytest.mark.parametrize("now", [*SOME, BRING["one each"][::-1]], ids=NAMES)
@pytest.mark.parametrize("then", [*SOME, BRING["one each"]], ids=NAMES)
def test_positions_are_those_of_the_optimizers_whatever_schedulers_the_module_brings(
    then, now, tmp_path
):
    class Unequal(OwnSteps):
        def training_step(self, batch, batch_idx):
            for every, optimizer in zip((1, 3), self.optimizers(), strict=True):
                if batch_idx % every == 0:
                    optimizer.zero_grad()
                    self.manual_backward(self.loss())
                    optimizer.step()

        def on_train_epoch_end(self):
            pass

    saving = ModelCheckpoint(tmp_path, "half", every_n_epochs=1, save_on_train_epoch_end=True)
    fit(Unequal(then), OneCycle(total_steps=24), saving, max_epochs=1)
    arguments = {"max_epochs": 2, "ckpt_path": tmp_path / "half.ckpt"}
    rest = fit(Unequal(now), OneCycle(total_steps=24), **arguments)
    assert rest.of(0) == expected(one_cycle(), 24)[12:]
    assert rest.of(1) == expected(one_cycle(), 24, peak=0.1)[4:8]


def test_a_learning_rate_monitor_logs_it_under_the_modules_name(tmp_path):
    def form(optimizer):
        return [optimizer], [{"scheduler": theirs.StepLR(optimizer, 1), "name": "rate"}]

    logger = CSVLogger(tmp_path)
    monitor = LearningRateMonitor(logging_interval="step")
    arguments = {"max_epochs": 1, "logger": logger, "log_every_n_steps": 1}
    used = fit(made(form), OneCycle(), monitor, **arguments)
    assert monitor.lrs["rate"] == pytest.approx(used.lrs)
    # Without an interval of its own, at that of the module's scheduler: each epoch.
    monitor = LearningRateMonitor()
    used = fit(made(form), OneCycle(), monitor, max_epochs=2, logger=CSVLogger(tmp_path))
    assert monitor.lrs["rate"] == pytest.approx([used.lrs[0], used.lrs[12]])


def test_a_step_of_its_own_kind_is_never_called():
    class Timm(Tiny):
        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step_update(num_updates=self.global_step)

    def form(parameters):
        optimizer = sgd(parameters)
        return [optimizer], [{"scheduler": theirs.StepLR(optimizer, 1), "interval": "step"}]

    assert fit(Timm(form), OneCycle(), max_epochs=2).values == expected(one_cycle(), 24)


# ---- resumed, fitted again, tested ---------------------------------------------------------------


@pytest.mark.parametrize("form", [FORMS["warm-up"], FORMS["chained"]], ids=["warm-up", "chained"])
def test_resuming_changes_nothing(form, tmp_path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(made(form), OneCycle(), saving, max_epochs=2)
    for step in (5, 12, 17):
        rest = fit(made(form), OneCycle(), max_epochs=2, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert rest.values == whole.values[step:]


@pytest.mark.parametrize("form", [*FORMS.values(), lambda o: o], ids=[*FORMS, "no scheduler"])
def test_a_checkpoint_that_was_written_without_the_callback_is_gone_on_from(form, tmp_path, said):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(made(form), saving, max_epochs=2)
    used = fit(made(form), OneCycle(), max_epochs=2, ckpt_path=tmp_path / "step=7.ckpt")
    assert used.values == expected(one_cycle(), 24)[7:]
    says = "written without OneCycle: the schedule continues after the 7 steps that SGD has taken"
    assert any(says in message for message in said())


@pytest.mark.usefixtures("val_loader")
def test_a_checkpoint_of_a_plateau_scheduler_is_gone_on_from(tmp_path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(validated(), saving, data=None, max_epochs=2)
    path = tmp_path / "step=12.ckpt"
    used = fit(validated(), OneCycle(), data=None, max_epochs=2, ckpt_path=path)
    assert used.values == expected(one_cycle(), 24)[12:]


def test_a_second_fit_is_a_new_cycle_with_the_same_peak():
    module = made(FORMS["warm-up"])
    used = fit(module, OneCycle(), max_epochs=1)
    used.trainer.fit_loop.max_epochs = 3
    used.trainer.fit(module, loader(12))
    assert used.values[12:] == expected(one_cycle(), 24)


def test_an_optimizer_that_outlives_the_fit_has_the_same_peak_in_the_next():
    module = Tiny()
    optimizer = sgd(module.parameters())
    for form in (FORMS["warm-up"], FORMS["bare"], FORMS["chained"]):
        module.configure_optimizers = lambda form=form: form(optimizer)
        assert fit(module, OneCycle(), max_epochs=1).values == expected(one_cycle(), 12)


def test_a_peak_that_was_given_to_one_fit_is_not_that_of_the_next():
    module = Tiny()
    optimizer = sgd(module.parameters())
    module.configure_optimizers = lambda: optimizer
    for given, peak in ((0.7, 0.7), (None, 0.4), (0.2, 0.2), (None, 0.4)):
        used = fit(module, OneCycle(given), max_epochs=1)
        assert used.values == expected(one_cycle(), 12, peak)


def trainable(form):
    inputs = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))

    class Module(Tiny):
        def training_step(self, batch, batch_idx):
            return (self.net(batch).squeeze() - batch.sum(1)).square().mean()

    return Module(lambda parameters: form(sgd(parameters))), DataLoader(inputs, batch_size=8)


@pytest.mark.parametrize(
    "form", [FORMS["warm-up"], FORMS["chained"], FORMS["bare"]], ids=["warm-up", "chained", "bare"]
)
def test_a_range_test_and_a_finder_before_the_fit(form):
    module, data = trainable(form)
    trainer = quiet_trainer(OneCycle(), max_epochs=1)
    curve = Tuner(trainer).lr_find(module, data, min_lr=1e-3, max_lr=1.0, num_training=4)
    assert curve.lrs == pytest.approx([0.001, 0.01, 0.1, 1.0])
    finder = LRFinder(min_lr=1e-4, num_training=100)
    used = fit(copy.deepcopy(module), finder, OneCycle(), data=data, max_epochs=2)
    assert used.values == expected(one_cycle(), 16, peak=finder.max_lr)


@pytest.mark.parametrize("where", ["both in the module", "the schedule in the module"])
def test_a_finder_with_callbacks_that_the_module_brings(where, said):
    class Own(Callback):
        pass

    module, data = trainable(lambda o: o)
    finder = LRFinder(min_lr=1e-4, num_training=100)
    both = where == "both in the module"
    module.configure_callbacks = lambda: [*([finder] if both else []), OneCycle(), Own()]
    used = fit(module, *([] if both else [finder]), data=data, max_epochs=2)
    assert not any("override existing callbacks" in message for message in said())
    assert used.values == expected(one_cycle(), 16, peak=finder.max_lr)


def test_the_option_refuses_instead():
    module = made(FORMS["warm-up"])
    with pytest.raises(Exception, match="found a scheduler of the module, LambdaLR"):
        fit(module, OneCycle(own_schedulers="refuse"), max_epochs=1)
    with pytest.raises(ValueError, match="own_schedulers must be one of 'replace', 'refuse'"):
        OneCycle(own_schedulers="keep")
