"""What a range test refuses is left as it was: optimizer, module, trainer and generators."""

import copy
import random
import signal
import threading

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from conftest import quiet_trainer
from lightning_onecycle import (
    GradientNoiseScale,
    LRCurve,
    LRFinder,
    OneCycle,
    ScheduleCallback,
    Tuner,
    one_cycle,
)
from test_captured_optimizers import look
from test_isolation import FEATURES, Holder, Net, everything, points, shuffled


class Kept(Net):
    """Has an optimizer from the start, with state, which a function has captured."""

    def __init__(self):
        super().__init__()
        groups = [{"params": [parameter]} for parameter in self.parameters()]
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
        self.net(torch.ones(2, FEATURES)).sum().backward()
        optimizer.step()
        self.optimizer = lambda: optimizer

    def configure_optimizers(self):
        return self.optimizer()


class ByHand(Kept):
    """Steps as often as it is told."""

    steps = 1

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        for _ in range(self.steps):
            optimizer.step()
        return loss


class Stream(IterableDataset):
    def __iter__(self):
        return iter(points())


class Nested(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        Tuner(trainer).lr_find(pl_module, shuffled())


class Sets(Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        optimizer.param_groups[0]["lr"] = 0.02


def returns(value):
    def change(module):
        module.training_step = lambda batch, batch_idx: value(module, batch)

    return change


def validates(*names):
    def change(module):
        def validation_step(batch, batch_idx):
            for name in names:
                module.log(name, 1.0)

        module.validation_step = validation_step

    return change


def steps(number):
    return lambda module: setattr(module, "steps", number)


def optimizes(make):
    def change(module):
        optimizer = module.optimizer()
        module.optimizer = lambda: make(module, optimizer)

    return change


def without_a_rate(module, optimizer):
    other = torch.optim.SGD(module.parameters(), lr=0.1)
    other.param_groups[0]["lr"] = torch.tensor(1)
    return other


class NoOptimizer:
    """Has what Lightning asks for, and steps by code of its own."""

    def __init__(self, params):
        self.param_groups, self.defaults, self.state = [{"params": params, "lr": 0.1}], {}, {}

    def step(self, closure=None):
        return closure()

    def zero_grad(self):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        pass


def without_hooks(module, optimizer):
    return NoOptimizer(list(module.parameters()))


def holds(make):
    return lambda module: setattr(module, "held", make(module))


def trains_itself(module):
    module.held = Holder(lambda x: module.net(x))
    module.training_step = lambda batch, batch_idx: module.held(batch[0]).sum()


def locks_its_optimizer(module):
    optimizer = Locked(module.parameters())
    module.configure_optimizers = lambda: optimizer


class Locked(torch.optim.SGD):
    def __getstate__(self):
        raise TypeError("it is locked")


ELSEWHERE = nn.Parameter(torch.ones(1))
VALIDATION = {"val_batches": 1, "val_dataloaders": shuffled()}
REFUSED = {
    # name: what is said, and what is changed of the module, given to lr_find, or to the trainer
    "an argument": ("num_training must be", {"find": {"num_training": 1}}),
    "no attribute": ("update_attr=True needs", {"find": {"update_attr": True}}),
    "an iterator": ("must be iterable more than once", {"data": lambda: iter(shuffled())}),
    "no samples": ("train_dataloaders has no batches", {"data": lambda: DataLoader([])}),
    "no batches": ("has no data", {"trainer": {"limit_train_batches": 0}}),
    "no optimizer": ("returned none", {"module": optimizes(lambda m, o: None)}),
    "two optimizers": (
        "returned 2: SGD, SGD",
        {"kind": ByHand, "module": optimizes(lambda m, o: [o, torch.optim.SGD(m.parameters(), 1)])},
    ),
    "no validation": ("needs a validation loader", {"find": {"val_batches": 2}}),
    "a schedule": (
        "Under manual optimization",
        {"kind": ByHand, "callbacks": [OneCycle()]},
    ),
    "a measurement": (
        "GradientNoiseScale needs",
        {"kind": ByHand, "callbacks": [GradientNoiseScale()]},
    ),
    "no length": (
        "cannot know how many optimizer steps",
        {"data": lambda: DataLoader(Stream(), 4), "callbacks": [OneCycle()]},
    ),
    "no time": ("needs Trainer(max_time=...)", {"callbacks": [OneCycle(budget="time")]}),
    "a test inside": ("lr_find was called inside a range test", {"callbacks": [Nested()]}),
    "no step hooks": (
        "must be a torch Optimizer, got NoOptimizer",
        {"module": optimizes(without_hooks)},
    ),
    "peaks": ("one value for each of the 4", {"callbacks": [OneCycle(max_lr=[0.1])]}),
    "a rate": ("lr must be a number", {"module": optimizes(without_a_rate)}),
    "no gradients": (
        "do not reach the copy",
        {"module": returns(lambda m, x: torch.ones((), requires_grad=True) * 2)},
    ),
    "the original is trained": ("do not reach the copy", {"module": trains_itself}),
    "other code": ("other code has set it to 0.02", {"callbacks": [Sets()]}),
    "two steps": ("at most one optimizer step", {"kind": ByHand, "module": steps(2)}),
    "no step": ("takes no step in a whole epoch", {"kind": ByHand, "module": steps(0)}),
    "no loss": ("training_step return the loss", {"module": returns(lambda m, x: None)}),
    "no validation loss": (
        "val_batches=1 needs a loss",
        {"module": validates("acc"), "find": VALIDATION},
    ),
    "two validation losses": (
        "Several losses are logged: a_loss, b_loss",
        {"module": validates("a_loss", "b_loss"), "find": VALIDATION},
    ),
    "a lock": ("its attribute held cannot be", {"module": holds(lambda m: threading.Lock())}),
    "parameters elsewhere": (
        "of parameters that the module does not have",
        {"module": optimizes(lambda m, o: torch.optim.SGD([*m.parameters(), ELSEWHERE], 0.1))},
    ),
    "an optimizer that cannot be copied": (
        "The Locked was made outside",
        {"module": locks_its_optimizer},
    ),
}


def generators():
    numpy = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), repr(numpy)


def weights_and_optimizer(module, optimizer):
    tensors = [(t.clone(), None if t.grad is None else t.grad.clone()) for t in module.parameters()]
    return repr(tensors), look(optimizer)


def everything_of(module, optimizer, trainer):
    assert not module.hparams  # a property that makes an attribute
    held = {name: id(value) for name, value in vars(module).items()}
    return held, weights_and_optimizer(module, optimizer), everything(trainer), generators()


def build(kind=Kept, module=lambda module: None, callbacks=(), trainer=None):
    torch.manual_seed(1)
    tested = kind()
    optimizer = tested.optimizer()
    module(tested)
    return tested, optimizer, quiet_trainer(*copy.copy(callbacks), max_epochs=2, **(trainer or {}))


@pytest.mark.parametrize(("said", "case"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore:Total length of", "ignore:.configure_optimizers. returned")
def test_a_refusal_leaves_no_trace(said, case):
    case = dict(case)
    find, data = case.pop("find", {}), case.pop("data", shuffled)()
    module, optimizer, trainer = build(**case)
    before = everything_of(module, optimizer, trainer)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises((MisconfigurationException, ValueError, AttributeError, TypeError)) as error:
        Tuner(trainer).lr_find(module, data, **{"num_training": 30, "max_lr": 1.0, **find})
    assert said in str(error.value)
    assert everything_of(module, optimizer, trainer) == before
    assert signal.getsignal(signal.SIGINT) is handler
    assert ELSEWHERE.item() == 1
    assert ELSEWHERE.grad is None


CURVE = LRCurve([10.0**k for k in range(-6, 0)], [1.0] * 6)
FINDERS = {
    "no schedule": ("there are 0", lambda: [LRFinder()]),
    "two schedules": (
        "there are 2",
        lambda: [LRFinder(), OneCycle(), ScheduleCallback(one_cycle())],
    ),
    "a schedule in front": ("it stands before", lambda: [OneCycle(), LRFinder()]),
    "no peak": ("shows no peak", lambda: [LRFinder(num_training=5), OneCycle()]),
    "no peak in a curve": ("shows no peak", lambda: [LRFinder(CURVE), OneCycle()]),
}


@pytest.mark.parametrize(("said", "callbacks"), FINDERS.values(), ids=FINDERS)
def test_a_refusal_of_a_finder_leaves_the_module_as_it_was(said, callbacks):
    module, optimizer, trainer = build(callbacks=callbacks())
    before = weights_and_optimizer(module, optimizer), generators()
    with pytest.raises(MisconfigurationException, match=said):
        trainer.fit(module, DataLoader(TensorDataset(points()), batch_size=4))
    assert (weights_and_optimizer(module, optimizer), generators()) == before
    assert all(c.max_lr is None for c in trainer.callbacks if isinstance(c, OneCycle))
