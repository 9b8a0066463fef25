"""``lightning.pytorch`` and ``pytorch_lightning``: the same runs, number for number, in either."""

import csv
import json
import os
import threading
from abc import ABC, abstractmethod
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import cache
from multiprocessing import get_context
from typing import Generic, TypeVar

import lightning.pytorch
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, TensorDataset

from conftest import expected, python, snapshot
from lightning_onecycle import (
    BatchNormRecalibration,
    BatchSizeSchedule,
    GeneralizationGap,
    GradientNoiseScale,
    LRFinder,
    OneCycle,
    RunRecord,
    ScheduleCallback,
    Sharpness,
    StopOnDivergence,
    Tuner,
    constant,
    one_cycle,
)
from lightning_onecycle.isolation import isolated

pytorch_lightning = pytest.importorskip("pytorch_lightning")
ours, theirs = lightning.pytorch, pytorch_lightning
either = pytest.mark.parametrize("tree", [ours, theirs], ids=lambda tree: tree.__name__)
PAIRS = [(theirs, theirs), (theirs, ours), (ours, theirs)]

BATCHES = 6
# What happened in copies is seen here, where it is not copied.
SEEN = []


@cache
def kinds(tree):
    """Return a module, a data module and a recording callback, of one of the two."""

    class Net(tree.LightningModule):
        def __init__(self, weight_decay=0.0):
            super().__init__()
            self.weight_decay = weight_decay
            norm = torch.nn.BatchNorm1d(8)
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), norm, torch.nn.Linear(8, 1))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            # What stands in for them in a range test or a measurement is of the same tree.
            assert isinstance(self.trainer.profiler, tree.profilers.Profiler)
            assert all(isinstance(logger, tree.loggers.Logger) for logger in self.trainer.loggers)
            loss = (self(batch[0]).squeeze(1) - batch[1]).square().mean()
            self.log("train/loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch, batch_idx):
            loss = (self(batch[0]).squeeze(1) - batch[1]).square().mean()
            self.log("val/loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(
                self.parameters(), lr=0.02, momentum=0.9, weight_decay=self.weight_decay
            )

    class Data(tree.LightningDataModule):
        batch_size = 8
        setups = 0

        def setup(self, stage):
            self.setups += 1

        def train_dataloader(self):
            return loader(self.batch_size)

    class Recorder(tree.Callback):
        def __init__(self):
            self.used, self.losses = [], []

        def on_train_start(self, trainer, pl_module):
            SEEN.append([type(callback).__name__ for callback in trainer.callbacks])

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            ((lr, momentum, _),) = snapshot(optimizer)
            self.used.append({"lr": lr, "momentum": momentum})

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.losses.append(outputs["loss"].item())

    return Net, Data, Recorder


def loader(batch_size=8, shuffle=True):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8 * BATCHES, 4, generator=generator)
    y = 0.5 * x.sum(dim=1) + 0.1 * torch.randn(len(x), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size, shuffle=shuffle)


def make_net(tree, **arguments):
    torch.manual_seed(0)
    return kinds(tree)[0](**arguments)


def make_trainer(tree, *callbacks, **arguments):
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": any(
            isinstance(callback, tree.callbacks.ModelCheckpoint) for callback in callbacks
        ),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return tree.Trainer(callbacks=list(callbacks), **{**defaults, **arguments})


def fit(tree, *callbacks, net=None, data=None, val=None, ckpt_path=None, **arguments):
    """Train, and return the recorder and the trainer."""
    recorder = kinds(tree)[2]()
    trainer = make_trainer(tree, *callbacks, recorder, **arguments)
    net = net or make_net(tree)
    torch.manual_seed(2)
    trainer.fit(net, data or loader(), val, ckpt_path=ckpt_path)
    return recorder, trainer


def cycle(total, peak, start=0):
    """Return what 1cycle has at each step from ``start`` on."""
    steps = expected(one_cycle(), total, peak)[start:]
    return [pytest.approx({"lr": lr, "momentum": momentum}) for lr, momentum in steps]


# ---- the schedule ---------------------------------------------------------------------------


@either
@pytest.mark.parametrize(
    ("accumulation", "total"), [(None, 12), (4, 4), ({0: 1, 1: 4}, 6 + 2)], ids=str
)
def test_one_cycle_is_laid_over_the_steps_that_are_taken(tree, accumulation, total):
    callbacks, arguments = [OneCycle(max_lr=0.4)], {}
    if isinstance(accumulation, dict):
        callbacks.append(tree.callbacks.GradientAccumulationScheduler(accumulation))
    elif accumulation is not None:
        arguments["accumulate_grad_batches"] = accumulation
    recorder, _ = fit(tree, *callbacks, **arguments)
    assert len(recorder.used) == total
    assert recorder.used == cycle(total, 0.4)


@either
def test_one_cycle_ends_with_the_time(tree):
    class Clock(tree.callbacks.Timer):
        """A tenth of a second for each step."""

        def time_elapsed(self, stage="train"):
            return 0.1 * len(recorder.used)

    recorder = kinds(tree)[2]()
    clock = Clock(timedelta(seconds=1))
    trainer = make_trainer(tree, recorder, OneCycle(budget="time"), clock, max_epochs=-1)
    trainer.fit(make_net(tree), loader())
    assert recorder.used == cycle(10, 0.02)


@either
def test_max_time_is_a_time_limit(tree):
    recorder, _ = fit(tree, OneCycle(budget="time"), max_time={"hours": 1}, max_steps=3)
    assert len(recorder.used) == 3


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_resumed_run_goes_on_with_its_cycle(tmp_path, before, after):
    _, trainer = fit(before, OneCycle(max_lr=0.4, total_steps=12), max_steps=BATCHES)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    recorder, _ = fit(after, OneCycle(max_lr=0.4), ckpt_path=tmp_path / "half.ckpt")
    assert recorder.used == cycle(12, 0.4, start=BATCHES)


@either
def test_what_is_logged(tree, tmp_path):
    fit(tree, OneCycle(max_lr=0.4), logger=tree.loggers.CSVLogger(tmp_path))
    (path,) = tmp_path.rglob("metrics.csv")
    rates = [row["lr"] for row in csv.DictReader(path.open()) if row["lr"]]
    assert [float(rate) for rate in rates] == pytest.approx(
        [lr for lr, _ in expected(one_cycle(), 12, 0.4)]
    )


@either
def test_the_plan_is_drawn(tree, tmp_path):
    pytest.importorskip("tensorboard")
    pytest.importorskip("matplotlib")
    logger = tree.loggers.TensorBoardLogger(tmp_path)
    figures = []
    logger.experiment.add_figure = lambda tag, figure, step: figures.append(tag)
    fit(tree, OneCycle(), logger=logger, max_steps=1)
    assert figures == ["schedule"]


# ---- the range test -------------------------------------------------------------------------


def bystanders(tree, folder):
    """Return what would end, litter or time a range test, and what takes part in it."""
    callbacks = tree.callbacks
    return [
        callbacks.ModelCheckpoint(folder / "checkpoints", every_n_train_steps=1, save_top_k=-1),
        callbacks.EarlyStopping(
            "train/loss", stopping_threshold=1e9, check_on_train_epoch_end=True
        ),
        callbacks.Timer(timedelta(hours=1)),
        callbacks.LearningRateMonitor(),
        callbacks.DeviceStatsMonitor(),
        callbacks.ModelSummary(),
        callbacks.TQDMProgressBar(),
        callbacks.StochasticWeightAveraging(swa_lrs=0.1),
        callbacks.GradientAccumulationScheduler({0: 2}),
    ]


@either
def test_only_those_take_part_that_are_conditions_of_the_training(tree, tmp_path):
    recorder = kinds(tree)[2]()
    trainer = make_trainer(
        tree,
        recorder,
        OneCycle(),
        *bystanders(tree, tmp_path),
        enable_progress_bar=True,
        enable_model_summary=True,
        logger=tree.loggers.CSVLogger(tmp_path),
    )
    SEEN.clear()
    curve = Tuner(trainer).lr_find(make_net(tree), loader(), num_training=5, max_lr=0.1)
    assert SEEN == [["Recorder", "GradientAccumulationScheduler", "RangeTest"]]
    assert len(curve.losses) == 5
    assert curve.conditions.accumulation == 2
    assert curve.conditions.versions["lightning"] == tree.__version__
    assert list(tmp_path.iterdir()) == []


@either
def test_a_range_test_leaves_no_trace(tree, tmp_path):
    def losses(folder, *, search):
        recorder = kinds(tree)[2]()
        callbacks = tree.callbacks
        trainer = make_trainer(
            tree,
            recorder,
            OneCycle(max_lr=0.02),
            callbacks.ModelCheckpoint(folder, monitor="val/loss"),
            callbacks.EarlyStopping("val/loss", patience=1),
            callbacks.LearningRateMonitor(),
            callbacks.Timer(timedelta(hours=1)),
            logger=tree.loggers.CSVLogger(folder),
        )
        net, data, val = make_net(tree), loader(), loader(shuffle=False)
        torch.manual_seed(2)
        if search:
            curve = Tuner(trainer).lr_find(net, data, val_dataloaders=val, num_training=20)
            assert len(curve.losses) > 10
            assert not folder.exists()
        trainer.fit(net, data, val)
        assert list(folder.rglob("*.ckpt"))
        return recorder.losses

    with_it = losses(tmp_path / "with", search=True)
    assert len(with_it) == 2 * BATCHES
    assert with_it == losses(tmp_path / "without", search=False)


def lr_find(tree, **arguments):
    torch.manual_seed(3)
    trainer = make_trainer(tree, OneCycle(), accumulate_grad_batches=2)
    return Tuner(trainer).lr_find(make_net(tree), loader(), num_training=40, **arguments)


def test_a_curve_is_the_same_in_both():
    arguments = {"val_dataloaders": loader(shuffle=False), "val_batches": 2}
    curve, other = (lr_find(tree, **arguments) for tree in (ours, theirs))
    assert len(curve.losses) > 20
    assert len(curve.val_losses) > 5
    versions = curve.conditions.versions  # may be others
    other = replace(other, conditions=replace(other.conditions, versions=versions))
    assert curve == other


@either
def test_a_data_module_is_left_as_it_was(tree):
    data = kinds(tree)[1]()
    for arguments in ({"datamodule": data}, {"train_dataloaders": data}):
        torch.manual_seed(3)
        curve = Tuner(make_trainer(tree)).lr_find(make_net(tree), num_training=6, **arguments)
        assert curve.conditions.data == "Data"
        assert len(curve.losses) == 6
        assert data.setups == 0


@either
def test_data_that_the_module_holds_are_shared(tree):
    net, data = make_net(tree), kinds(tree)[1]()
    data.lock = threading.Lock()  # a copy of the module cannot have one of its own
    net.data = data
    net.train_dataloader = data.train_dataloader
    assert len(Tuner(make_trainer(tree)).lr_find(net, num_training=6).losses) == 6


@either
def test_training_in_isolation(tree):
    trainer, net = make_trainer(tree), make_net(tree)
    before = net.net[0].weight.clone()
    with isolated(trainer, net) as copied:
        trainer.fit(copied, loader())
        assert trainer.global_step == 12
        assert not torch.equal(copied.net[0].weight, before)
    assert trainer.global_step == 0
    assert torch.equal(net.net[0].weight, before)


@either
@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing to fork with")
def test_a_range_test_in_a_process_that_lightning_starts(tree):
    trainer = make_trainer(tree, strategy="ddp_fork")
    curve = Tuner(trainer).lr_find(make_net(tree), loader(), num_training=6)
    assert len(curve.losses) == 6


@either
def test_a_finder_hands_its_peak_over(tree):
    finder = LRFinder(num_training=12, max_lr=1.0, method=lambda lrs, losses: lrs[-1])
    recorder, _ = fit(tree, finder, OneCycle())
    assert finder.max_lr == pytest.approx(1.0)
    assert recorder.used == cycle(12, 1.0)


@pytest.mark.parametrize(
    ("measured", "trained"), [(theirs, theirs), (theirs, ours), (ours, theirs)]
)
@pytest.mark.filterwarnings("ignore:The peak was found under other conditions. library version")
def test_a_curve_is_good_for_its_conditions_in_either(measured, trained):
    torch.manual_seed(3)
    trainer = make_trainer(measured, OneCycle())
    curve = Tuner(trainer).lr_find(make_net(measured), loader(), num_training=12)
    callbacks = [LRFinder(curve, method=lambda lrs, losses: 0.3), OneCycle()]
    recorder, _ = fit(trained, *callbacks)
    assert recorder.used == cycle(12, 0.3)

    callbacks = [LRFinder(curve, method=lambda lrs, losses: 0.3), OneCycle()]
    with pytest.raises(MisconfigurationException, match=r"weight_decay: 0.*, now 0\.01"):
        fit(trained, *callbacks, net=make_net(trained, weight_decay=0.01))


@pytest.mark.parametrize(("tree", "other"), [(ours, theirs), (theirs, ours)])
def test_a_mixture_is_refused(tree, other):
    tuner = Tuner(make_trainer(tree))
    name, of_other = tree.__name__, kinds(other)
    with pytest.raises(TypeError, match=f"model must be a LightningModule of {name},.* got Net,"):
        tuner.lr_find(of_other[0](), loader())
    for arguments in ({"datamodule": of_other[1]()}, {"train_dataloaders": of_other[1]()}):
        with pytest.raises(
            TypeError, match=f"must be a LightningDataModule of {name},.* got Data,"
        ):
            tuner.lr_find(make_net(tree), **arguments)


# ---- the other callbacks --------------------------------------------------------------------


def test_measurements_are_the_same_in_both(tmp_path):
    def measured(tree):
        noise, sharp = GradientNoiseScale(every_n_steps=5), Sharpness(every_n_steps=6)
        logger = tree.loggers.CSVLogger(tmp_path / tree.__name__)
        recorder, _ = fit(tree, OneCycle(max_lr=0.02), noise, sharp, logger=logger)
        return recorder.losses, noise.latest, sharp.latest

    losses, noise, sharp = measured(theirs)
    assert noise.keys() >= {"measure/noise_scale", "measure/sgd_noise"}
    assert sharp.keys() == {"measure/sharpness", "measure/hessian_eigenvalue"}
    assert (losses, noise, sharp) == measured(ours)
    assert losses == fit(theirs, OneCycle(max_lr=0.02))[0].losses


def test_batch_norm_statistics_and_the_gap_are_the_same_in_both():
    def trained(tree, *callbacks):
        _, trainer = fit(tree, *callbacks, GeneralizationGap(), val=loader(shuffle=False))
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        return trainer.lightning_module.net[1].running_mean.tolist(), metrics

    means, metrics = trained(theirs, BatchNormRecalibration())
    assert (means, metrics) == trained(ours, BatchNormRecalibration())
    assert means != trained(theirs)[0]
    assert metrics["gap/loss"] == pytest.approx(metrics["val/loss"] - metrics["train/loss"])


@either
@pytest.mark.parametrize("from_data_module", [False, True], ids=["loader", "data module"])
def test_steps_are_counted_where_the_batch_grows(tree, from_data_module):
    data = kinds(tree)[1]() if from_data_module else loader()
    recorder, _ = fit(tree, OneCycle(max_lr=0.4), BatchSizeSchedule([(0, 8), (0.5, 24)]), data=data)
    assert recorder.used == cycle(6 + 2, 0.4)
    assert data.batch_size == 8


@either
@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", "completed"),
        ("KeyboardInterrupt", "interrupted"),
        ("SIGTERMException", "interrupted"),
        ("ZeroDivisionError", "failed"),
        ("nan", "diverged"),
    ],
)
def test_a_record_says_how_the_run_ended(tree, end, status, tmp_path):
    net_class = kinds(tree)[0]

    class Ends(net_class):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if self.trainer.global_step == 4:
                if end == "nan":
                    return loss * float("nan")
                if end == "SIGTERMException":
                    raise tree.utilities.exceptions.SIGTERMException
                if end:
                    raise {"KeyboardInterrupt": KeyboardInterrupt}.get(end, ZeroDivisionError)
            return loss

    record = RunRecord(tmp_path / "result.json", seed=7)
    callbacks = [ScheduleCallback(constant()), record, StopOnDivergence()]
    try:
        fit(tree, *callbacks, net=Ends())
    except BaseException:
        assert end
    else:
        assert not end
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["seed"], result["total_steps"]) == (status, 7, 12)
    assert result["steps"] == {"": 12, "nan": 5}.get(end, 4)


# ---- classes of the user's ------------------------------------------------------------------


def their_callback_first():
    class Mine(theirs.Callback, OneCycle):
        pass

    return Mine


def our_callback_first():
    class Mine(ours.Callback, OneCycle):
        pass

    return Mine


def both_callbacks_last():
    class Mine(OneCycle, theirs.Callback, ours.Callback):
        pass

    return Mine


def a_mixin():
    class Mixin(theirs.Callback):
        def on_fit_start(self, trainer, pl_module):
            super().on_fit_start(trainer, pl_module)

    class Mine(Mixin, OneCycle):
        pass

    return Mine


def an_abstract_class():
    class Base(theirs.Callback, ABC):
        @abstractmethod
        def on_exception(self, trainer, pl_module, exception):
            pass

    class Mine(Base, OneCycle):
        def on_exception(self, trainer, pl_module, exception):
            pass

    return Mine


def an_abstract_class_of_ours():
    class Base(OneCycle, ABC):
        @abstractmethod
        def on_exception(self, trainer, pl_module, exception):
            pass

    class Mine(Base):
        on_exception = OneCycle.on_exception

    return Mine


def a_generic_class():
    class Mine(OneCycle, Generic[TypeVar("T")]):
        pass

    return Mine[int]


def a_class_that_its_subclasses_give_an_argument():
    class Base(theirs.Callback):
        def __init_subclass__(cls, *, tag, **arguments):
            super().__init_subclass__(**arguments)
            cls.tag = tag

    class Mine(Base, OneCycle, tag="mine"):
        pass

    assert Mine.tag == "mine"
    return Mine


def slots():
    class Mine(OneCycle):
        __slots__ = ("more",)

    return Mine


def a_metaclass():
    class Meta(type(OneCycle)):
        def __call__(cls, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    class Mine(OneCycle, metaclass=Meta):
        pass

    return Mine


def trains_in_both(form):
    mine = form()
    for tree in (ours, theirs):
        assert isinstance(OneCycle(), tree.Callback)
        recorder, trainer = fit(tree, mine(max_lr=0.4))
        assert recorder.used == cycle(12, 0.4)
        assert isinstance(trainer.callbacks[0], tree.Callback)


def in_a_process_of_its_own(function, *arguments):
    """Call a function where the classes that it defines, and what they do, end with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        pool.submit(function, *arguments).result()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing to fork with")
@pytest.mark.parametrize(
    "form",
    [
        their_callback_first,
        our_callback_first,
        both_callbacks_last,
        a_mixin,
        an_abstract_class,
        an_abstract_class_of_ours,
        a_generic_class,
        a_class_that_its_subclasses_give_an_argument,
        slots,
        a_metaclass,
    ],
)
def test_a_subclass_trains_in_both_and_leaves_ours_callbacks_of_both(form):
    in_a_process_of_its_own(trains_in_both, form)


def is_refused_by_python():
    class Meta(type):
        pass

    with pytest.raises(TypeError, match="metaclass conflict"):

        class Mine(OneCycle, metaclass=Meta):
            pass

    for tree in (ours, theirs):
        assert isinstance(OneCycle(), tree.Callback)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing to fork with")
def test_a_metaclass_has_to_derive_from_that_of_the_callbacks():
    in_a_process_of_its_own(is_refused_by_python)


# ---- in processes of their own --------------------------------------------------------------


SCRIPT = """
    import copy
    import pickle

    {imports}
    import torch

    early = OneCycle()

    class Model(BoringModel):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

        def on_train_start(self):
            (cycle,) = (c for c in self.trainer.callbacks if isinstance(c, OneCycle))
            print("SAYS", cycle.schedulers[0].max_lrs, cycle.schedulers[0].total_steps)

    LightningCLI(Model, BoringDataModule)

    import lightning.pytorch
    import lightning_onecycle
    import lightning_utilities.core.rank_zero as rank_zero
    import pytorch_lightning

    arguments = {{
        "BatchSizeSchedule": [[(0, 8)]],
        "RunRecord": ["result.json"],
        "ScheduleCallback": [lightning_onecycle.constant()],
    }}
    for tree in (lightning.pytorch, pytorch_lightning):
        for callback in (early, copy.deepcopy(early), pickle.loads(pickle.dumps(early))):
            assert isinstance(callback, tree.Callback)
            trainer = tree.Trainer(callbacks=callback, logger=False, accelerator="cpu")
            assert callback in trainer.callbacks

        kinds = [
            item
            for item in (getattr(lightning_onecycle, name) for name in lightning_onecycle.__all__)
            if isinstance(item, type) and issubclass(item, tree.Callback)
        ]
        for kind in kinds:
            assert isinstance(kind(*arguments.get(kind.__name__, ())), tree.Callback)
        print("SAYS", *(kind.__name__ for kind in kinds))
    print("SAYS", rank_zero.log.name)
"""
CALLBACKS = [
    *("BatchNormRecalibration", "BatchSizeSchedule", "GeneralizationGap", "GradientNoiseScale"),
    *("LRFinder", "OneCycle", "RunRecord", "ScheduleCallback", "Sharpness", "StopOnDivergence"),
]
YAML = """
trainer:
  max_epochs: 1
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  enable_checkpointing: false
  callbacks:
    - class_path: lightning_onecycle.OneCycle
      init_args: {max_lr: 0.4}
    - class_path: lightning_onecycle.RunRecord
      init_args: {path: result.json}
    - class_path: lightning_onecycle.GradientNoiseScale
    - class_path: lightning_onecycle.Sharpness
    - class_path: lightning_onecycle.BatchNormRecalibration
    - class_path: lightning_onecycle.GeneralizationGap
    - class_path: lightning_onecycle.StopOnDivergence
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_first", [True, False], ids=["ours first", "ours last"])
@either
def test_callbacks_are_of_both_and_its_command_line_takes_them(tmp_path, tree, is_first):
    """And who sets the level of the Lightning that is imported first silences its messages."""
    pytest.importorskip("jsonargparse")
    imports = [
        f"from {tree.__name__}.cli import LightningCLI",
        f"from {tree.__name__}.demos.boring_classes import BoringDataModule, BoringModel",
    ]
    imports.insert(0 if is_first else 2, "from lightning_onecycle import OneCycle")
    (tmp_path / "onecycle.yaml").write_text(YAML)
    script = SCRIPT.format(imports="; ".join(imports))
    said = python(tmp_path, script, "fit", "--config=onecycle.yaml", anew=True)
    names = f"SAYS {' '.join(CALLBACKS)}"
    logs = "pytorch_lightning" if is_first else tree.__name__
    assert said == ["SAYS [0.4] 64", names, names, f"SAYS {logs}.utilities.rank_zero"]
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "completed"


SPAWN = """
    import torch
    from lightning_onecycle import OneCycle
    from pytorch_lightning import Callback, Trainer
    from pytorch_lightning.demos.boring_classes import BoringModel

    class Model(BoringModel):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

        def on_train_end(self):
            (one_cycle,) = (c for c in self.trainer.callbacks if isinstance(c, OneCycle))
            lr = self.trainer.optimizers[0].param_groups[0]["lr"]
            print("SAYS", isinstance(one_cycle, Callback), self.trainer.global_step, lr)

    if __name__ == "__main__":
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        options = dict.fromkeys(quiet, False) | {"accelerator": "cpu", "max_epochs": 1}
        Trainer(callbacks=OneCycle(), strategy="ddp_spawn", devices=1, **options).fit(Model())
"""


@pytest.mark.slow
def test_a_process_that_is_started_anew(tmp_path):
    assert python(tmp_path, SPAWN) == ["SAYS True 64 0.0001"]
