"""Optimizers that are made before configure_optimizers is called, wherever they are kept."""

import copy
from functools import partial, update_wrapper
from types import MethodType

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader, TensorDataset

from conftest import quiet_trainer
from lightning_onecycle import LRFinder, OneCycle, Tuner, one_cycle, scheduler_config
from test_isolation import FEATURES, Losses, points, shuffled

OPTIMIZER = SCHEDULER = HOLDER = None
HELD = {}


class Bare(LightningModule):
    """Has no optimizer until it is given one, as with LightningCLI."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        (x,) = batch
        return (self.net(x).squeeze(1) - x.sum(1)).square().mean()


def plain(optimizer):
    return optimizer


def warmed_up(optimizer):
    """Return it with a scheduler that writes into it when it is built, each time further down."""
    return [optimizer], [LinearLR(optimizer)]


def one_cycled(optimizer):
    return scheduler_config(optimizer, one_cycle(), 12)


# ---- where an optimizer is kept, and what configure_optimizers makes of it -------------------


def in_a_closure(module, optimizer, made):
    module.configure_optimizers = lambda: made(optimizer)


def in_a_list(module, optimizer, made):
    optimizers = [optimizer]
    module.configure_optimizers = lambda: made(optimizers[0])


def in_a_dict(module, optimizer, made):
    optimizers = {"a": {"b": optimizer}}
    module.configure_optimizers = lambda: made(optimizers["a"]["b"])


def in_a_default(module, optimizer, made):
    module.configure_optimizers = lambda optimizer=optimizer: made(optimizer)


def in_a_partial(module, optimizer, made):
    module.configure_optimizers = partial(lambda optimizer: made(optimizer), optimizer=optimizer)


def in_a_method_of_a_partial(module, optimizer, made):
    def configure(module, optimizer):
        return made(optimizer)

    held = partial(configure, optimizer=optimizer)
    module.configure_optimizers = MethodType(update_wrapper(held, configure), module)


def in_an_attribute(module, optimizer, made):
    module.kept = {"a": optimizer}
    module.configure_optimizers = lambda: made(module.kept["a"])


def in_a_global(module, optimizer, made):
    global OPTIMIZER
    OPTIMIZER = optimizer
    module.configure_optimizers = lambda: made(OPTIMIZER)


def in_a_global_dict(module, optimizer, made):
    HELD["a"] = optimizer
    module.configure_optimizers = lambda: made(HELD["a"])


def in_an_object(module, optimizer, made):
    global HOLDER
    HOLDER = lambda: optimizer  # noqa: E731
    module.configure_optimizers = lambda: made(HOLDER())


NEVER_SEEN = [
    *(in_a_closure, in_a_list, in_a_dict, in_a_default, in_a_partial, in_a_method_of_a_partial),
    *(in_an_attribute, in_a_global, in_a_global_dict),
]
EVERYWHERE = [*NEVER_SEEN, in_an_object]


class Wrapper(torch.optim.Optimizer):
    """Steps another with the same groups, which it keeps as an attribute."""

    def __init__(self, params, **options):
        super().__init__(params, options)
        self.inner = torch.optim.SGD(self.param_groups, **options)
        self.param_groups = self.inner.param_groups

    def step(self, closure=None):
        return self.inner.step(closure)


def build(keep, *callbacks, made=plain, kind=torch.optim.SGD, steps=0):
    """Return module, optimizer, trainer, loader and losses; the optimizer may have state."""
    torch.manual_seed(1)
    module = Bare()
    names = [{"params": [parameter]} for parameter in module.parameters()]
    optimizer = kind(names, lr=0.05, momentum=0.9)
    for _ in range(steps):
        module.net(torch.ones(2, FEATURES)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    keep(module, optimizer, made)
    losses = Losses()
    trainer = quiet_trainer(*callbacks, losses, max_epochs=2)
    return module, optimizer, trainer, shuffled(), losses.losses


def find(run, **options):
    module, _, trainer, data, _ = run
    options = {"num_training": 10, "max_lr": 1.0, "early_stop_threshold": None, **options}
    return Tuner(trainer).lr_find(module, data, **options)


def fit(run):
    module, _, trainer, data, losses = run
    trainer.fit(module, data)
    return losses


def look(optimizer):
    """Return all that an optimizer is: what it holds, and copies of what that holds."""
    held = [*vars(optimizer).values(), *optimizer.param_groups, *optimizer.state.values()]
    ids = {name: id(value) for name, value in vars(optimizer).items()}
    parts = [dict(value) if isinstance(value, dict) else value for value in held]
    tensors = [tensor.clone() for state in optimizer.state.values() for tensor in state.values()]
    inner = look(optimizer.inner) if hasattr(optimizer, "inner") else None
    return ids, [id(part) for part in held], repr(parts), repr(tensors), inner


def in_nothing(module, optimizer, made):
    groups = [{"params": [parameter]} for parameter in module.parameters()]
    module.configure_optimizers = lambda: made(torch.optim.SGD(groups, lr=0.05, momentum=0.9))


@pytest.mark.parametrize("keep", EVERYWHERE)
def test_its_losses_are_those_of_one_that_is_made_when_it_is_asked_for(keep):
    assert find(build(keep)).losses == find(build(in_nothing)).losses


@pytest.mark.parametrize(
    ("keep", "kind"),
    [
        *((keep, torch.optim.SGD) for keep in EVERYWHERE),
        *((keep, Wrapper) for keep in (in_a_closure, in_a_partial, in_an_attribute, in_an_object)),
    ],
)
def test_an_optimizer_that_was_made_before_is_tested_and_left_as_it_was(keep, kind):
    without = fit(build(keep, kind=kind, steps=2))
    run = build(keep, kind=kind, steps=2)
    optimizer = run[1]
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    before = look(optimizer)
    curve = find(run)
    assert curve.lrs[-1] == 1.0
    assert len(set(curve.losses)) == 10
    assert look(optimizer) == before
    assert not called
    assert fit(run) == without
    assert run[2].optimizers == [optimizer]
    assert called


@pytest.mark.parametrize("made", [warmed_up, one_cycled])
@pytest.mark.parametrize("keep", NEVER_SEEN)
def test_a_scheduler_that_is_built_on_it_writes_into_the_copy(keep, made):
    without = fit(build(keep, made=made))
    run = build(keep, made=made)
    before = look(run[1])
    assert len(find(run).lrs) == 10
    assert look(run[1]) == before
    assert fit(run) == without


@pytest.mark.parametrize("keep", [in_a_closure, in_a_partial, in_a_global])
def test_a_range_test_between_two_fits_leaves_the_second_as_it_was(keep):
    results = []
    for test in (False, True):
        run = build(keep, made=one_cycled)
        fit(run)
        run[2].fit_loop.max_epochs = 3
        if test:
            find(run)
        results.append(fit(run))
    assert results[0] == results[1]


def test_an_optimizer_that_is_made_once_and_kept_in_a_global_is_not_that_of_the_copy():
    global OPTIMIZER

    def configure_optimizers():
        global OPTIMIZER
        if OPTIMIZER is None:
            OPTIMIZER = torch.optim.SGD(run[0].parameters(), lr=0.05, momentum=0.9)
        return OPTIMIZER

    results = []
    for test in (False, True):
        OPTIMIZER = None
        run = build(lambda *_: None)
        run[0].configure_optimizers = configure_optimizers
        if test:
            assert len(find(run).lrs) == 10
            assert OPTIMIZER is None
        results.append(fit(run))
    assert results[0] == results[1]


def test_a_scheduler_that_was_made_before_is_left_as_it_was():
    global SCHEDULER
    run = build(lambda *_: None)
    SCHEDULER = LinearLR(run[1])
    run[0].configure_optimizers = lambda: ([SCHEDULER.optimizer], [SCHEDULER])
    before, state = look(run[1]), copy.deepcopy(SCHEDULER.state_dict())
    assert len(find(run).lrs) == 10
    assert look(run[1]) == before
    assert SCHEDULER.state_dict() == state
    assert SCHEDULER.optimizer is run[1]


@pytest.mark.parametrize("keep", [in_a_method_of_a_partial, in_a_global, in_an_object])
def test_a_finder_in_the_fit_trains_as_if_the_peak_had_been_given(keep):
    finder = LRFinder(num_training=40, min_lr=1e-4, method=lambda lrs, losses: 0.07)
    assert fit(build(keep, finder, OneCycle())) == fit(build(keep, OneCycle(max_lr=0.07)))
    assert finder.max_lr == 0.07


# ---- LightningCLI -------------------------------------------------------------------------------

QUIET = ["logger=false", "enable_checkpointing=false", "enable_progress_bar=false"]
QUIET += ["enable_model_summary=false", "max_epochs=2", "accelerator=cpu"]
SGD = ["--optimizer=SGD", "--optimizer.lr=0.05", "--optimizer.momentum=0.9"]
STEP = ["--lr_scheduler=LinearLR", "--lr_scheduler.total_iters=4"]


def command_line(*arguments):
    return LightningCLI(
        Bare,
        args=[*(f"--trainer.{option}" for option in QUIET), *SGD, *arguments],
        run=False,
        save_config_callback=None,
        seed_everything_default=1,
        trainer_defaults={"callbacks": [Losses()]},
    )


@pytest.mark.parametrize("scheduler", [[], STEP], ids=["optimizer", "optimizer and scheduler"])
def test_a_range_test_with_lightning_cli(scheduler):
    results = []
    for test in (False, True):
        cli = command_line(*scheduler)
        if test:
            curve = Tuner(cli.trainer).lr_find(cli.model, shuffled(), num_training=10, max_lr=1.0)
            assert len(set(curve.losses)) == len(curve.lrs) > 5
        cli.trainer.fit(cli.model, shuffled())
        results.append(cli.trainer.callbacks[0].losses)
    assert results[0] == results[1]


def test_a_finder_with_lightning_cli():
    cli = command_line(
        "--trainer.callbacks+=lightning_onecycle.LRFinder",
        "--trainer.callbacks.min_lr=1e-4",
        "--trainer.callbacks+=lightning_onecycle.OneCycle",
    )
    cli.trainer.fit(cli.model, DataLoader(TensorDataset(points(256)), batch_size=64, shuffle=True))
    found = next(c for c in cli.trainer.callbacks if isinstance(c, LRFinder))
    (optimizer,) = cli.trainer.optimizers
    assert found.max_lr == found.curve.suggestion()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(found.max_lr / 1000)


# ---- what is refused ----------------------------------------------------------------------------


def test_parameters_that_are_not_the_modules_are_refused_and_left_as_they_were():
    elsewhere = nn.Parameter(torch.ones(1))
    run = build(lambda *_: None)
    run[0].configure_optimizers = lambda: torch.optim.SGD([*run[0].parameters(), elsewhere], lr=0.1)
    with pytest.raises(MisconfigurationException, match=r"Bare\.configure_optimizers returned"):
        find(run)
    assert elsewhere.item() == 1
    assert elsewhere.grad is None


def test_a_tensor_that_the_module_holds_is_tested():
    run = build(lambda *_: None)
    module = run[0]
    module.scale = torch.ones(1, requires_grad=True)
    module.configure_optimizers = lambda: torch.optim.SGD([*module.parameters(), module.scale], 0.1)
    assert len(find(run).lrs) == 10
    assert module.scale.item() == 1


def test_an_optimizer_that_cannot_be_copied_is_named():
    run = build(in_a_closure, kind=Wrapper)
    run[1].file = open(__file__)  # noqa: SIM115
    with pytest.raises(MisconfigurationException, match="The Wrapper was made outside"):
        find(run)
    run[1].file.close()
