import copy
import gc
import pickle

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn
from torch.utils.data import DataLoader

from conftest import Used, loader, quiet_trainer
from lightning_onecycle import GradientNoiseScale, LRCurve, LRFinder, OneCycle

RANGE = {"min_lr": 1e-4, "max_lr": 10.0, "num_training": 60}


class Line(LightningModule):
    """Fits a line; its loss falls and then blows up as the learning rate rises."""

    def __init__(self, activation=nn.Tanh, scale=1.0, lr=0.05):
        super().__init__()
        self.save_hyperparameters("scale")
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 4), activation(), nn.Linear(4, 1))
        self.lr = lr

    def training_step(self, batch, batch_idx):
        generator = torch.Generator().manual_seed(batch_idx)
        x = torch.randn(64, 4, generator=generator)
        return (self.net(x) - x.sum(1, keepdim=True)).square().mean() * self.hparams.scale

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def fit(finder, module=None, cycle=None, data=20, ckpt_path=None, **arguments):
    """Train, and return the peak that was trained at."""
    used = Used()
    callbacks = [finder, cycle or OneCycle(), used, *arguments.pop("callbacks", [])]
    trainer = quiet_trainer(*callbacks, **{"max_epochs": 1, **arguments})
    data = loader(data) if isinstance(data, int) else data
    trainer.fit(module or Line(), data, ckpt_path=ckpt_path)
    return max(used.lrs)


class Flat(Line):
    """Its loss is the same whatever it learns: there is no peak."""

    def training_step(self, batch, batch_idx):
        return 0 * self.net(torch.ones(1, 4)).sum() + 1


# ---- one finder, several fits --------------------------------------------------------------------


def test_a_new_module_gets_a_new_test():
    finder = LRFinder(**RANGE)
    peaks = [fit(finder), fit(finder, Line(scale=5.0))]
    assert peaks == pytest.approx([fit(LRFinder(**RANGE)), fit(LRFinder(**RANGE), Line(scale=5.0))])
    assert peaks[1] < peaks[0] / 2
    assert finder.max_lr == finder.curve.suggestion() == peaks[1]


def test_a_module_that_is_gone_is_not_taken_for_a_new_one():
    finder, curves = LRFinder(**RANGE), []
    for _ in range(4):
        fit(finder, Line())  # may well be where the one before was
        curves.append(finder.curve)
        gc.collect()
    assert len({id(curve) for curve in curves}) == 4


def test_a_second_fit_of_the_same_module_keeps_its_peak_and_says_so(said):
    finder, module = LRFinder(**RANGE), Line()
    first, curve = fit(finder, module), finder.curve
    assert fit(finder, module, max_epochs=2) == first
    assert finder.curve is curve
    assert f"The peak is {first:.3g}: as it was found before." in said()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"data": DataLoader(torch.arange(20.0), 4)}, "batch_size: 1, now 4"),
        ({"data": 21}, "samples: [20], now [21]"),
        ({"accumulate_grad_batches": 2}, "accumulation: 1, now 2"),
        ({"cycle": OneCycle(base_momentum=0.9)}, "momentum: 0.85, now 0.9"),
    ],
    ids=["batch size", "data", "accumulation", "momentum"],
)
def test_the_same_module_under_other_conditions_is_refused(change, line):
    finder, module = LRFinder(**RANGE), Line()
    fit(finder, module)
    with pytest.raises(MisconfigurationException, match="a new LRFinder") as refusal:
        fit(finder, module, **change)
    assert f"\n  {line}\n" in str(refusal.value)
    finder.allow_differences = True
    with pytest.warns(UserWarning, match="The peak was found under other conditions"):
        fit(finder, module, **change)


def test_a_finder_that_found_no_peak_tests_again():
    finder = LRFinder(**RANGE)
    with pytest.raises(MisconfigurationException, match="shows no peak"):
        fit(finder, Flat())
    assert finder.max_lr is None
    assert fit(finder) == pytest.approx(fit(LRFinder(**RANGE)))


def test_a_peak_is_not_kept_over_the_test_of_another_module():
    finder, module = LRFinder(**RANGE, if_none="keep"), Line()
    fit(finder, module)
    with pytest.warns(UserWarning, match="shows no peak"):
        fit(finder, Flat())
    curve = finder.curve
    with pytest.warns(UserWarning, match="shows no peak"):  # it is trained already
        fit(finder, module)
    assert finder.curve is not curve


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_a_copy_of_a_finder_has_its_curve_and_tests_for_itself(duplicate):
    finder, module = LRFinder(**RANGE), Line()
    fit(finder, module)
    other = duplicate(finder)
    assert (other.curve, other.max_lr) == (finder.curve, finder.max_lr)
    fit(other, Line(scale=5.0))
    assert other.curve != finder.curve


def test_a_copied_trainer_goes_on_by_itself():
    finder, cycle = LRFinder(**RANGE), OneCycle()
    trainer = quiet_trainer(finder, cycle, max_epochs=1)
    module = Line()
    pair = copy.deepcopy((trainer, module))
    trainer.fit(module, loader(20))
    pair[0].fit(pair[1], loader(20))
    assert pair[0].callbacks[0].max_lr == finder.max_lr


def test_a_saved_curve_is_held_against_every_fit():
    finder = LRFinder(**RANGE)
    peak = fit(finder)
    given = LRFinder(finder.curve)
    assert fit(given) == fit(given, Line(lr=0.9)) == peak
    with pytest.raises(MisconfigurationException, match="accumulation: 1, now 2"):
        fit(given, accumulate_grad_batches=2)


# ---- the schedule that it is lent to -------------------------------------------------------------


@pytest.mark.parametrize(("own", "peak"), [(None, 0.05), (0.3, 0.3), ([0.1], 0.1)])
def test_the_schedule_has_its_own_peak_back_after_the_fit(own, peak):
    cycle = OneCycle(max_lr=own)
    found = fit(LRFinder(**RANGE), cycle=cycle)
    assert cycle.max_lr == own
    used = Used()
    quiet_trainer(cycle, used, max_epochs=1).fit(Line(), loader(20))
    assert max(used.lrs) == pytest.approx(
        {None: 0.05, 0.3: 0.3}.get(own if own != [0.1] else 0, 0.1)
    )
    assert found != max(used.lrs)


class Fails(Checkpoint):  # which takes no part in the test
    def on_train_batch_end(self, *args):
        raise RuntimeError("the cable was pulled")


def test_the_schedule_has_its_own_peak_back_after_a_fit_that_fails():
    cycle, module, finder = OneCycle(), Line(), LRFinder(**RANGE)
    with pytest.raises(RuntimeError, match="cable"):
        fit(finder, module, cycle, callbacks=[Fails()], enable_checkpointing=True)
    assert cycle.max_lr is None
    assert finder.max_lr == finder.curve.suggestion()


# ---- no peak -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "peak"), [(None, 0.05), (0.3, 0.3)])
def test_a_finder_may_keep_the_peak_where_there_is_none(own, peak):
    finder, cycle = LRFinder(**RANGE, if_none="keep"), OneCycle(max_lr=own)
    stays = "shows no peak: the loss is 1 throughout."
    with pytest.warns(UserWarning, match=stays):
        assert fit(finder, Flat(), cycle) == pytest.approx(peak)
    assert finder.max_lr is None
    assert fit(finder, cycle=cycle) == pytest.approx(finder.curve.suggestion())
    with pytest.warns(UserWarning, match=stays):
        assert fit(finder, Flat(), cycle) == pytest.approx(peak)


@pytest.mark.parametrize("arguments", [RANGE, {"search": 1.0}])
def test_a_run_that_only_tries_the_code_has_no_test(arguments):
    finder = LRFinder(**arguments)
    with pytest.warns(UserWarning, match="LRFinder runs no test with fast_dev_run"):
        assert fit(finder, fast_dev_run=True, max_epochs=None) <= 0.05
    assert finder.found is None
    given = LRFinder(LRCurve([10.0**k for k in range(-6, 0)], [1.0] * 6), if_none="keep")
    with pytest.warns(UserWarning, match="shows no peak"):
        fit(given, fast_dev_run=True, max_epochs=None)


def test_a_saved_curve_without_a_peak_may_be_kept():
    curve = LRCurve([10.0**k for k in range(-6, 0)], [1.0] * 6, stopped="range completed")
    with pytest.raises(MisconfigurationException, match="shows no peak"):
        fit(LRFinder(curve))
    with pytest.warns(UserWarning, match="shows no peak"):
        assert fit(LRFinder(curve, if_none="keep")) == pytest.approx(0.05)


def test_a_resumed_fit_keeps_the_peak_that_was_kept(tmp_path):
    checkpoints = ModelCheckpoint(tmp_path, save_last=True)
    with pytest.warns(UserWarning, match="shows no peak"):
        fit(LRFinder(**RANGE, if_none="keep"), Flat(), max_epochs=2, callbacks=[checkpoints])
    finder = LRFinder(**RANGE)
    with pytest.warns(UserWarning, match="LRFinder runs no test in a resumed fit"):
        fit(finder, Line(), max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
    assert finder.curve is None


def test_a_resumed_fit_takes_the_peak_of_its_checkpoint_and_no_other_does(tmp_path):
    checkpoints = ModelCheckpoint(tmp_path, save_last=True)
    first = fit(LRFinder(**RANGE), max_epochs=2, callbacks=[checkpoints])
    finder = LRFinder(**RANGE)
    assert fit(finder, Line(scale=5.0)) != pytest.approx(first)
    fit(finder, Line(), max_epochs=4, ckpt_path=tmp_path / "last.ckpt")
    assert finder.max_lr == first
    assert finder.curve is None
    assert fit(finder, Line(scale=5.0)) != pytest.approx(first)


def test_lightning_cli_sets_what_becomes_of_no_peak():
    cli = LightningCLI(
        BoringModel,
        args=[
            "--trainer.callbacks+=lightning_onecycle.LRFinder",
            "--trainer.callbacks.if_none=keep",
        ],
        run=False,
        save_config_callback=None,
    )
    assert [c.if_none for c in cli.trainer.callbacks if isinstance(c, LRFinder)] == ["keep"]


# ---- what the training would refuse is refused before the test -----------------------------------


class Manual(Line):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Measured(Manual):
    def configure_callbacks(self):
        return [OneCycle(total_steps=9), GradientNoiseScale()]


class NeverSteps(Line):
    def training_step(self, batch, batch_idx):
        raise AssertionError("the range test has begun")


def stream():
    return (x for x in loader(20))


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(torch.arange(20.0))


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        (Manual, {}, "Under manual optimization"),
        (NeverSteps, {"data": DataLoader(Endless())}, "cannot know how many optimizer steps"),
        (NeverSteps, {"max_epochs": -1}, "cannot know how many optimizer steps"),
        (NeverSteps, {"cycle": OneCycle(budget="time")}, r"needs Trainer\(max_time"),
        (NeverSteps, {"cycle": OneCycle(max_lr=[0.1, 0.2])}, "one value for each of the 1"),
        (
            Manual,
            {"cycle": OneCycle(total_steps=9), "callbacks": [GradientNoiseScale()]},
            "GradientN",
        ),
        (NeverSteps, {"data": stream()}, "train_dataloaders must be iterable"),
    ],
    ids=["manual", "stream", "no end", "no time", "groups", "measurement", "generator"],
)
def test_what_the_training_would_refuse_is_refused_before_the_test(module, arguments, said):
    with pytest.raises((MisconfigurationException, ValueError), match=said):
        fit(LRFinder(**RANGE), module(), **arguments)


def test_a_run_in_time_is_tested():
    assert fit(LRFinder(**RANGE), cycle=OneCycle(budget="time"), max_time={"minutes": 5}) > 0.05


@pytest.mark.parametrize(
    ("module", "arguments", "line"),
    [
        (Line(activation=nn.Identity), {}, "architecture: "),
        (Line(scale=2.0), {}, "hparams.scale: 1.0, now 2.0"),
        (Line(), {"limit_train_batches": 1}, "limit_train_batches: 1.0, now 1"),
    ],
    ids=["another activation", "another scale", "one batch, not all"],
)
def test_a_curve_of_another_task_is_refused(module, arguments, line):
    finder = LRFinder(**RANGE)
    fit(finder)
    fit(LRFinder(finder.curve))
    with pytest.raises(MisconfigurationException, match=line):
        fit(LRFinder(finder.curve), module, **arguments)


def test_bad_arguments_are_refused_where_they_are_given():
    with pytest.raises(ValueError, match=r"method must be one of 'max_lr', .*, got 'best'"):
        LRFinder(method="best")
    with pytest.raises(ValueError, match=r"if_none must be one of 'raise', 'keep', got 'warn'"):
        LRFinder(if_none="warn")
    with pytest.raises(TypeError, match="curve must be an LRCurve, a Search or a path, got int"):
        LRFinder(5)
