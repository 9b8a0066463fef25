"""What follows a range test is, number for number, what follows none."""

import io
import itertools
import random
import signal
from collections import Counter, OrderedDict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, seed_everything
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import CombinedLoader
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset, random_split
from torchmetrics import MeanMetric

from conftest import quiet_trainer
from lightning_onecycle import LRFinder, OneCycle, Tuner
from lightning_onecycle.isolation import isolated

FEATURES = 4


class Losses(Callback):
    """The losses of the training; a copy has a list of its own."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


class Net(LightningModule):
    """A small network; subclasses add the state in question."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        x = batch
        while not torch.is_tensor(x):
            x = x["a"] if isinstance(x, dict) else x[0]
        return (self.net(x).squeeze(1) - x.sum(1)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def points(n=24):
    return torch.randn(n, FEATURES, generator=torch.Generator().manual_seed(7))


def shuffled(**arguments):
    return DataLoader(TensorDataset(points()), batch_size=4, shuffle=True, **arguments)


def combined(mode):
    return CombinedLoader({"a": shuffled(), "b": [shuffled()]}, mode)


# ---- modules, data and trainers that hold one kind of state each -------------------------------


class Dropout(Net):
    def __init__(self):
        super().__init__()
        self.net.append(nn.Dropout(0.3))


class BatchNorm(Net):
    def __init__(self):
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(8))


class BufferNotSaved(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def training_step(self, batch, batch_idx):
        self.calls += 1
        return super().training_step(batch, batch_idx) * (1 + self.calls / 10)


class Attributes(Net):
    def __init__(self):
        super().__init__()
        self.calls, self.seen = 0, {"calls": []}

    def training_step(self, batch, batch_idx):
        self.calls += 1
        self.seen["calls"].append(self.calls)
        return super().training_step(batch, batch_idx) * (1 + len(self.seen["calls"]) / 10)


class Metric(Net):
    def __init__(self):
        super().__init__()
        self.mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.mean.update(loss.detach())
        return loss * self.mean.compute()


class EstimatedSteps(Net):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class ReadsSteps(Net):
    """Makes Lightning set up the loaders before the fit starts."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == 12
        return super().configure_optimizers()


class Hydra(Net):
    """What Hydra users hold in a module, and functions that have captured it."""

    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"cfg": OmegaConf.create({"lr": 0.05, "net": {"width": 8}})})
        self.make_optimizer = partial(torch.optim.SGD, lr=0.05)
        self.scale = lambda x: 2 * self.net(x)
        self.outputs = []
        self.net.register_forward_hook(lambda module, x, y: self.outputs.append(y.sum().item()))

    def training_step(self, batch, batch_idx):
        (x,) = batch
        return (self.scale(x).squeeze(1) - x.sum(1)).square().mean() + len(self.outputs) / 100

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())


class MarkedParameters(Net):
    """Marks and hooks on parameters, which deepcopy leaves out."""

    def __init__(self):
        super().__init__()
        self.net[0].weight.slow = True
        self.net[0].weight.register_hook(lambda grad: grad * self.brake)
        self.brake = 0.5

    def configure_optimizers(self):
        slow = [p for p in self.parameters() if getattr(p, "slow", False)]
        rest = [p for p in self.parameters() if not getattr(p, "slow", False)]
        return torch.optim.SGD([{"params": slow, "lr": 0.01}, {"params": rest}], lr=0.05)


class Bound(Net):
    """Holds a function that has captured it, in the way that ``bind`` makes it."""

    def __init__(self, bind):
        super().__init__()
        bind(self)

    def by(self, factor, x):
        return self.net(x) * factor

    def output(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        (x,) = batch
        return (self.get()(x).squeeze(1) - x.sum(1)).square().mean()

    def get(self):
        held = vars(self).get("held", self.output)
        while not callable(held):
            held = held["a"] if isinstance(held, dict) else held[0]
        return held


class Holder:
    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        return self.function(x)


def hold(make):
    return lambda module: setattr(module, "held", make(module))


def compile_step(module):
    module.training_step = torch.compile(module.training_step, backend="eager")


def through(function):
    return lambda x: function(x)


BOUND = {
    "compiled method": hold(lambda m: torch.compile(m.output, backend="eager")),
    "compiled function": hold(lambda m: torch.compile(lambda x: m.net(x), backend="eager")),
    "compiled step": compile_step,
    "partial": hold(lambda m: partial(lambda k, x: m.net(x) * k, 1.0)),
    "partial method": hold(lambda m: partial(m.by, 1.0)),
    "containers": hold(lambda m: [({"a": lambda x: m.net(x)},)]),
    "default": hold(lambda m: lambda x, m=m: m.net(x)),
    "keyword default": hold(lambda m: lambda x, *, net=m.net: net(x)),
    "captured method": hold(lambda m: through(m.output)),
    "captured function": hold(lambda m: through(through(lambda x: m.net(x)))),
}


class OldWeightNorm(Net):
    """Its ``weight`` is a result with a graph, which deepcopy refuses."""

    def __init__(self):
        super().__init__()
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(self.net[0])


class Scripted(Net):
    """Holds a network of TorchScript, which makes its copies by itself."""

    def __init__(self):
        super().__init__()
        self.net = torch.jit.script(self.net)


class NotBuiltYet(Net):
    """Its first layer learns from the first batch what it takes."""

    def __init__(self):
        super().__init__()
        self.net[0] = nn.LazyLinear(8)


class SavesItself(Net):
    """Saves a checkpoint in a hook of its own."""

    path = None

    def on_train_epoch_end(self):
        self.trainer.save_checkpoint(self.path)


class LogsByHand(Net):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.loggers[1].log_metrics({"loss": loss.item()})
        return loss


class KeepsGraphs(Net):
    """Keeps what the last step has computed, with its graph."""

    def __init__(self):
        super().__init__()
        self.outputs, self.hidden = [], None
        self.register_buffer("level", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.outputs.append({"loss": loss})
        self.hidden = SimpleNamespace(state=(loss, loss * 2))
        self.level = 0.9 * self.level.detach() + 0.1 * loss
        return loss


class OwnLoader(Net):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.data = TensorDataset(points())

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=4, shuffle=True, generator=self.generator)


class LoaderOfNobody(Net):
    """Its loader draws from a generator that neither module nor data module hold."""

    def train_dataloader(self):
        return shuffled(generator=ELSEWHERE[0])


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


ELSEWHERE = [torch.Generator()]


class Noisy(TensorDataset):
    """Draws from every global generator, and from two of its own."""

    def __init__(self):
        super().__init__(points())
        self.rng, self.python = np.random.default_rng(5), random.Random(5)
        self.served, self.log = 0, []

    def __getitem__(self, index):
        (x,) = super().__getitem__(index)
        self.served += 1
        self.log.append(index)
        globally = np.random.rand()  # noqa: NPY002
        drawn = globally + random.random() + self.rng.random() + self.python.random()
        return (x + 0.1 * drawn + 0.01 * self.served + 0.01 * len(self.log),)


class Counts:
    """A collate function or transform that is no more than an object with a counter."""

    def __init__(self):
        self.calls, self.log = 0, []

    def __call__(self, samples):
        self.calls += 1
        self.log.append(self.calls)
        return (torch.stack([x for (x,) in samples]) + 0.01 * (self.calls + len(self.log)),)


class Transformed(TensorDataset):
    def __init__(self):
        super().__init__(points())
        self.transforms = {"x": [Counts()]}

    def __getitem__(self, index):
        (x,) = self.transforms["x"][0]([super().__getitem__(index)])
        return (x[0],)


class Normalizes(nn.Module):
    """A transform that is a module, and goes on with what it has seen."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("total", torch.zeros(FEATURES))

    def forward(self, samples):
        x = torch.stack([x for (x,) in samples])
        self.calls += 1
        self.total += x.sum(0)
        self.mean = self.total / self.calls
        return (x - 0.01 * self.mean,)


class OfTheSystem(TensorDataset):
    """Draws from a generator that has no state."""

    def __init__(self):
        super().__init__(points())
        self.rng = random.SystemRandom()


class ShufflesInPlace(Sampler):
    """Goes on with the order that it has, and keeps books in containers of containers."""

    def __init__(self):
        self.rng, self.order = np.random.default_rng(4), np.arange(24)
        self.books = {"epochs": [], "counts": Counter(), "order": OrderedDict()}

    def __iter__(self):
        self.rng.shuffle(self.order)
        self.books["epochs"].append(1)
        self.books["counts"]["epochs"] += 1
        self.books["order"][len(self.books["order"])] = None
        return iter(np.roll(self.order, sum(map(len, self.books.values()))).tolist())

    def __len__(self):
        return 24


class Pictures(TensorDataset):
    """Holds pictures, which are read from their files when they are first used."""

    def __init__(self):
        super().__init__(points())
        self.pictures = []
        for _ in range(24):
            file = io.BytesIO()
            Image.new("L", (1, 1), 3).save(file, "png")
            self.pictures.append(Image.open(file))

    def __getitem__(self, index):
        (x,) = super().__getitem__(index)
        return (x + self.pictures[index].getpixel((0, 0)) / 100,)


class CountingSampler(Sampler):
    def __init__(self, n):
        self.n, self.epoch = n, 0

    def __iter__(self):
        self.epoch += 1
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(self.epoch))
        return iter(order.tolist())

    def __len__(self):
        return self.n


class Endless(IterableDataset):
    def __init__(self):
        self.state = 0

    def __iter__(self):
        while True:
            self.state += 1
            yield torch.full((FEATURES,), (self.state % 13) / 10)


class Restarts:
    """An iterator that begins anew with each ``iter``, with other batches."""

    def __init__(self):
        self.generator, self.left = torch.Generator().manual_seed(4), 0

    def __iter__(self):
        self.left = 6
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        self.left -= 1
        return torch.randn(4, FEATURES, generator=self.generator)


class Data(LightningDataModule):
    """Splits at random in setup, and keeps books in place."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(9)
        self.calls = []

    def setup(self, stage):
        self.calls.append(stage)
        self.part, _ = random_split(TensorDataset(points()), [16, 8])

    def train_dataloader(self):
        assert self.calls == ["fit"]
        return DataLoader(self.part, batch_size=4, shuffle=True, generator=self.generator)


class Weights(Callback):
    """A callback whose state bears on the training."""

    def __init__(self):
        self.calls = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.calls += 1
        with torch.no_grad():
            pl_module.net[0].bias += self.calls / 1000


def scaled():
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", growth_interval=2))


CASES = {
    "shuffled": {},
    "own generator": {"data": lambda: shuffled(generator=torch.Generator().manual_seed(1))},
    "numpy, python and own generators": {"data": lambda: DataLoader(Noisy(), 4, shuffle=True)},
    "sampler": {
        "data": lambda: DataLoader(TensorDataset(points()), 4, sampler=CountingSampler(24))
    },
    "order in place": {
        "data": lambda: DataLoader(TensorDataset(points()), 4, sampler=ShufflesInPlace())
    },
    "pictures": {"data": lambda: DataLoader(Pictures(), 4)},
    "collate": {"data": lambda: shuffled(collate_fn=Counts())},
    "transform": {"data": lambda: DataLoader(Transformed(), 4)},
    "transform that is a module": {"data": lambda: shuffled(collate_fn=Normalizes())},
    "two loaders": {"data": lambda: [shuffled(), shuffled()]},
    **{
        f"combined, {mode}": {"data": partial(combined, mode)}
        for mode in ("min_size", "max_size", "max_size_cycle")
    },
    "restarting iterator": {"data": Restarts},
    "restarting iterator among others": {"data": lambda: [shuffled(), Restarts()]},
    "iterable": {"data": lambda: DataLoader(Endless(), 4), "limit_train_batches": 6},
    "workers": {"data": lambda: shuffled(num_workers=1, persistent_workers=True)},
    "workers with state": {
        "data": lambda: DataLoader(Noisy(), 4, num_workers=1, persistent_workers=True)
    },
    "data module": {"data": Data},
    "module's own loader": {"module": OwnLoader, "data": lambda: None},
    "nobody's generator": {"module": LoaderOfNobody, "data": lambda: None},
    "dropout": {"module": Dropout},
    "batch norm": {"module": BatchNorm},
    "buffer": {"module": BufferNotSaved},
    "attributes": {"module": Attributes},
    "metric": {"module": Metric},
    "estimated steps": {"module": EstimatedSteps},
    "workers that run already": {
        "module": ReadsSteps,
        "data": lambda: shuffled(num_workers=1, persistent_workers=True),
    },
    "hydra and captured": {"module": Hydra},
    "parameters": {"module": MarkedParameters},
    **{f"bound, {name}": {"module": partial(Bound, bind)} for name, bind in BOUND.items()},
    "weight norm": {"module": OldWeightNorm},
    "TorchScript": {"module": Scripted},
    "generator of the system": {"data": lambda: DataLoader(OfTheSystem(), 4)},
    "manual": {"module": Manual},
    "callback": {"callbacks": lambda: [Weights()]},
    "one cycle": {"callbacks": lambda: [OneCycle()]},
    "accumulation": {"callbacks": lambda: [GradientAccumulationScheduler({0: 2, 1: 3})]},
    "scaler": {"plugins": scaled},
    "max_steps": {"max_steps": 7, "max_epochs": -1},
}


def build(module=Net, data=shuffled, callbacks=list, plugins=None, **trainer_arguments):
    """Return a module, its data, a trainer that has not run, and the record of its losses."""
    seed_everything(1, verbose=False)
    ELSEWHERE[0].manual_seed(2)
    losses = Losses()
    arguments = {"max_epochs": 2, **trainer_arguments}
    if plugins is not None:
        arguments["plugins"] = plugins()
    trainer = quiet_trainer(losses, *callbacks(), **arguments)
    return SimpleNamespace(module=module(), data=data(), trainer=trainer, losses=losses.losses)


def fit(run, **arguments):
    run.trainer.fit(run.module, run.data, **arguments)
    return run.losses


def lr_find(run, **arguments):
    arguments = {"num_training": 10, "max_lr": 1.0, "early_stop_threshold": None, **arguments}
    return Tuner(run.trainer).lr_find(run.module, run.data, **arguments)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_training_is_the_same_after_a_range_test(case):
    without = fit(build(**case))
    run = build(**case)
    before = {k: v.clone() for k, v in run.module.state_dict().items()}
    curve = lr_find(run)
    assert len(curve.lrs) == 10
    assert curve.losses[0] > 0
    assert not run.losses
    assert all(torch.equal(v, before[k]) for k, v in run.module.state_dict().items())
    assert all(parameter.grad is None for parameter in run.module.parameters())
    assert fit(run) == without
    assert run.trainer.global_step > 3


def test_training_is_the_same_after_a_range_test_of_a_layer_that_is_not_built_yet():
    without = fit(build(module=NotBuiltYet))
    run = build(module=NotBuiltYet)
    assert len(lr_find(run).lrs) == 10
    assert nn.parameter.is_lazy(run.module.net[0].weight)
    assert fit(run) == without


@pytest.mark.parametrize(
    "name", ["own generator", "workers with state", "callback", "one cycle", "scaler"]
)
def test_a_second_fit_is_the_same_after_a_range_test_between_the_two(name):
    results = []
    for test in (False, True):
        run = build(**CASES[name])
        fit(run)
        run.trainer.fit_loop.max_epochs = 3
        if test:
            lr_find(run)
        results.append(fit(run))
    assert results[0] == results[1]


class Moment(Callback):
    """Raises at one hook, once; the copy in the test shares the switch."""

    armed = False

    def __init__(self, hook, error):
        def fail(*args, **kwargs):
            if Moment.armed:
                raise error

        setattr(self, hook, fail)


ERRORS = [RuntimeError("x"), KeyboardInterrupt(), torch.OutOfMemoryError("x"), SystemExit(3)]


@pytest.mark.parametrize("error", ERRORS, ids=[type(error).__name__ for error in ERRORS])
@pytest.mark.parametrize("hook", ["setup", "on_train_batch_end", "teardown", "on_validation_end"])
def test_training_is_the_same_after_a_range_test_that_fails(hook, error):
    case = {
        "module": Attributes,
        "callbacks": lambda: [Moment(hook, error), Weights()],
        "data": lambda: DataLoader(Noisy(), 4, shuffle=True),
    }
    without = fit(build(**case))
    run = build(**case)
    run.module.validation_step = run.module.training_step
    Moment.armed = True
    try:
        handler = signal.getsignal(signal.SIGINT)
        with pytest.raises(type(error)):
            lr_find(run, val_batches=1, val_dataloaders=DataLoader(TensorDataset(points()), 4))
    finally:
        Moment.armed = False
    assert signal.getsignal(signal.SIGINT) is handler
    del run.module.validation_step
    assert fit(run) == without


def test_resuming_after_a_range_test_goes_on_where_the_checkpoint_is(tmp_path):
    case = {"callbacks": lambda: [OneCycle(), ModelCheckpoint(tmp_path, save_last=True)]}
    fit(build(**case, max_epochs=3))
    checkpoint = sorted(tmp_path.glob("epoch*"))[0]
    results = []
    for test in (False, True):
        run = build(**case, max_epochs=5)
        if test:
            lr_find(run)
        results.append(fit(run, ckpt_path=checkpoint))
        assert run.trainer.global_step == 30
    assert results[0] == results[1]


def test_a_checkpoint_that_the_trainer_was_told_of_is_left_to_the_training(tmp_path):
    case = {"callbacks": lambda: [OneCycle(), ModelCheckpoint(tmp_path, save_last=True)]}
    fit(build(**case, max_epochs=3))
    run = build(**case, max_epochs=5)
    run.trainer.ckpt_path = tmp_path / "last.ckpt"
    curve = lr_find(run)
    assert curve.losses == lr_find(build(**case)).losses
    fit(run)
    assert len(run.losses) == 12
    assert run.trainer.global_step == 30


class Slice:
    """Each pass goes on in one stream."""

    def __init__(self, stream, n):
        self.stream, self.n = stream, n

    def __iter__(self):
        return itertools.islice(self.stream, self.n)


def test_a_stream_that_all_passes_share_is_told(said):
    stream = (torch.randn(4, FEATURES) for _ in itertools.count())
    told = "The data hold a running iterator, a generator: the training does not see"
    lr_find(build())
    assert told not in "".join(said())
    lr_find(build(data=lambda: Slice(stream, 6)))
    assert told in "".join(said())


def test_a_stream_is_told_once_in_a_search_of_several_short_fits(said):
    stream = (torch.randn(4, FEATURES) for _ in itertools.count())
    run = build(data=lambda: Slice(stream, 6), limit_train_batches=6, max_epochs=10)
    found = Tuner(run.trainer).search(run.module, run.data)
    assert len(found.probes) > 1
    assert sum("a running iterator" in line for line in said()) == 1


def test_data_that_a_module_holds_are_not_copied():
    run = build(module=OwnLoader)
    with isolated(run.trainer, run.module) as copied:
        assert copied.data is run.module.data
        assert copied.net is not run.module.net


def everything(trainer):
    """Return what can be told of a trainer without running it."""
    owners = [trainer, trainer.state, trainer.strategy, trainer.strategy.precision_plugin]
    owners += [value for name, value in vars(trainer).items() if name.endswith("_connector")]
    owners += [trainer.fit_loop, trainer.fit_loop.epoch_loop, trainer.validate_loop]
    shown = [{k: (id(v), repr(v)) for k, v in vars(owner).items()} for owner in owners]
    return shown, trainer.fit_loop.state_dict(), [vars(c).copy() for c in trainer.callbacks]


def test_trainer_and_directory_are_as_before(tmp_path):
    run = build(
        callbacks=lambda: [ModelCheckpoint(tmp_path / "checkpoints"), Weights()],
        logger=CSVLogger(tmp_path),
        default_root_dir=tmp_path,
        min_epochs=2,
        val_check_interval=2,
    )
    before = everything(run.trainer)
    attributes = dict(vars(run.module))
    lr_find(run)
    assert everything(run.trainer) == before
    assert dict(vars(run.module)) == attributes
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_copied_is_named():
    run = build()
    run.module.net.file = open(__file__)  # noqa: SIM115
    with pytest.raises(Exception, match=r"its attribute net\.file cannot be"):
        lr_find(run)
    run.module.net.file.close()


@pytest.mark.parametrize("name", BOUND)
def test_what_a_bound_function_trains_is_the_copy(name):
    assert lr_find(build(module=partial(Bound, BOUND[name]))).losses == lr_find(build()).losses


@pytest.mark.parametrize("had", [False, True])
def test_a_function_that_goes_on_training_the_original_is_refused(had):
    run = build(module=partial(Bound, hold(lambda m: Holder(lambda x: m.net(x)))))
    grads = []
    for parameter in run.module.parameters():
        parameter.grad = torch.ones_like(parameter) if had else None
        grads.append(parameter.grad)
    with pytest.raises(MisconfigurationException, match="Bound holds a function that is bound"):
        lr_find(run)
    assert all(p.grad is g for p, g in zip(run.module.parameters(), grads, strict=True))
    assert all((g == 1).all() for g in grads if g is not None)


class Detached(Net):
    def training_step(self, batch, batch_idx):
        return torch.ones((), requires_grad=True) * 2


def test_gradients_that_do_not_reach_the_copy_are_refused():
    with pytest.raises(MisconfigurationException, match="do not reach the copy"):
        lr_find(build(module=Detached))


class Writes(Net):
    """Writes where the trainer and the logger say, and makes a directory that must be new."""

    def on_train_start(self):
        (Path(self.trainer.default_root_dir) / "new").mkdir()

    def training_step(self, batch, batch_idx):
        trainer, logger = self.trainer, self.logger
        places = trainer.log_dir, logger.log_dir, logger.save_dir, trainer.default_root_dir
        for directory in places:
            WRITTEN.append(Path(directory) / "deeper" / "file")
            WRITTEN[-1].parent.mkdir(exist_ok=True)
            WRITTEN[-1].write_text("x")
        return super().training_step(batch, batch_idx)


WRITTEN = []


def test_what_a_module_writes_beside_its_logs_is_gone(tmp_path):
    WRITTEN.clear()
    run = build(module=Writes, logger=CSVLogger(tmp_path), default_root_dir=tmp_path)
    lr_find(run)
    assert len(WRITTEN) == 40
    assert not any(path.parents[1].exists() for path in WRITTEN)
    assert not list(tmp_path.iterdir())
    assert run.trainer.default_root_dir == str(tmp_path)


def test_a_checkpoint_that_a_module_saves_itself_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(SavesItself, "path", tmp_path / "best.ckpt")
    run = build(module=SavesItself)
    lr_find(run)
    assert not list(tmp_path.iterdir())
    fit(run)
    assert SavesItself.path.exists()


def test_each_logger_has_one_that_does_nothing(tmp_path):
    loggers = [CSVLogger(tmp_path, name) for name in "ab"]
    run = build(module=LogsByHand, logger=loggers)
    assert lr_find(run).losses
    assert run.trainer.loggers == loggers
    assert not list(tmp_path.iterdir())


def test_what_a_module_keeps_of_its_last_step_is_copied_without_its_graph():
    run = build(module=KeepsGraphs)
    fit(run)
    with isolated(run.trainer, run.module) as copied:
        kept = copied.hidden.state[0]
        assert not kept.requires_grad
        assert kept is copied.outputs[-1]["loss"]
        assert torch.equal(kept, run.module.hidden.state[0])
    assert run.module.level.requires_grad
    assert lr_find(build(module=lambda: run.module)).losses


def test_a_callback_that_cannot_be_copied_is_left_out_and_told():
    run = build(callbacks=lambda: [Weights()])
    run.trainer.callbacks[1].file = open(__file__)  # noqa: SIM115
    with pytest.warns(UserWarning, match="The callback Weights cannot be copied"):
        lr_find(run)
    run.trainer.callbacks[1].file.close()


def test_global_switches_are_put_back():
    run = build()
    with torch.no_grad():
        with isolated(run.trainer, run.module) as copied:
            run.trainer.fit(copied, run.data)
            assert run.trainer.global_step == 12
        assert not torch.is_grad_enabled()


def test_compiled_module_is_left_compiled():
    run = build()
    compiled = torch.compile(run.module, backend="eager")
    lr_find(SimpleNamespace(trainer=run.trainer, module=compiled, data=run.data))
    assert run.module._compiler_ctx is None
    fit(SimpleNamespace(trainer=run.trainer, module=compiled, data=run.data, losses=[]))
    assert run.module._compiler_ctx is not None
    with isolated(run.trainer, run.module) as copied:
        before, own = copied.net[0].weight.clone(), run.module.net[0].weight.clone()
        run.trainer.fit(copied, run.data)
        assert not torch.equal(copied.net[0].weight.cpu(), before)
    assert run.module._compiler_ctx is not None
    assert torch.equal(run.module.net[0].weight, own)


def test_marks_and_hooks_of_parameters_are_those_of_the_copy():
    run = build(module=MarkedParameters)
    with isolated(run.trainer, run.module) as copied:
        assert copied.net[0].weight.slow
        copied.brake = 0.0
        copied.net(torch.ones(2, FEATURES)).sum().backward()
        assert copied.net[0].weight.grad.abs().sum() == 0
        assert copied.net[0].bias.grad.abs().sum() > 0
    assert len(lr_find(run).conditions.groups) == 2
    assert run.module.brake == 0.5


# ---- the callback ------------------------------------------------------------------------------


def finder(**arguments):
    arguments = {
        "num_training": 40,
        "min_lr": 1e-4,
        "method": lambda lrs, losses: 0.07,
        **arguments,
    }
    return LRFinder(**arguments)


CALLBACK_CASES = [
    "shuffled",
    "own generator",
    "workers that run already",
    "data module",
    "hydra and captured",
]
CALLBACK_CASES += ["numpy, python and own generators", "callback", "accumulation", "scaler"]


@pytest.mark.parametrize("name", CALLBACK_CASES)
def test_callback_trains_as_if_the_peak_had_been_given(name):
    case = dict(CASES[name])
    others = case.pop("callbacks", list)
    without = fit(build(**case, callbacks=lambda: [OneCycle(max_lr=0.07), *others()]))
    run = build(**case, callbacks=lambda: [finder(), OneCycle(), *others()])
    assert fit(run) == without
    assert run.trainer.callbacks[1].max_lr == 0.07


def test_callback_resumes_with_the_peak_it_had_found(tmp_path):
    checkpoints = ModelCheckpoint(tmp_path, save_last=True)
    run = build(callbacks=lambda: [finder(), OneCycle(), checkpoints], max_epochs=2)
    fit(run)
    resumed = build(callbacks=lambda: [finder(), OneCycle()], max_epochs=3)
    fit(resumed, ckpt_path=tmp_path / "last.ckpt")
    (optimizer,) = resumed.trainer.optimizers
    assert resumed.trainer.callbacks[1].curve is None
    assert resumed.trainer.callbacks[1].max_lr == 0.07
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.07 / 1000)
    assert resumed.trainer.global_step == 18
