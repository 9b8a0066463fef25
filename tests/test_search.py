"""A search for the peak: what it spends, what it finds, and that it leaves no trace."""

import math
from dataclasses import replace
from pathlib import Path

import lightning.pytorch.callbacks
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from conftest import quiet_trainer, two_processes
from lightning_onecycle import LRCurve, LRFinder, OneCycle, Search, Tuner, one_cycle, step_decay
from lightning_onecycle.range_test.conditions import Conditions
from lightning_onecycle.search import Probe
from lightning_onecycle.search.plan import anchor, next_peak, plan, rounds
from lightning_onecycle.search.probe import is_clearly_larger
from test_isolation import CASES, build, fit

RANGE = {"min_lr": 1e-3, "max_lr": 10.0}


def data(n, seed, shuffle=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    y = x.sin().sum(1, keepdim=True) + 0.1 * torch.randn(n, 1, generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=shuffle)


class Net(LightningModule):
    """A small regression; counts what it does in a list that all copies share."""

    def __init__(self, seen=None, groups=False, shift=0.0):
        super().__init__()
        self.save_hyperparameters("shift")
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 1))
        self.seen = Shared() if seen is None else seen
        self.groups = groups

    def loss(self, batch):
        x, y = batch
        return (self.net(x) - y).square().mean() - self.hparams.shift

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.seen.losses.append(loss.item())
        return loss

    def on_before_optimizer_step(self, optimizer):
        self.seen.lrs.append([group["lr"] for group in optimizer.param_groups])

    def configure_optimizers(self):
        parameters = self.parameters()
        if self.groups:
            first, last = self.net[0].parameters(), self.net[3].parameters()
            parameters = [{"params": first, "lr": 0.005}, {"params": last}]
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


class Shared:
    """What a copy of the module shares with the module."""

    def __init__(self):
        self.lrs, self.losses = [], []

    def __deepcopy__(self, memo):
        return self


class Validated(Net):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))


class Returns(Net):
    def validation_step(self, batch, batch_idx):
        return self.loss(batch)


def search(module=None, validation=True, cost=1.0, epochs=5, trainer=None, **arguments):
    """Search with 20 batches an epoch, and return the search and what the module has seen."""
    seed_everything(1, verbose=False)
    module = module or Validated()
    trainer = trainer or quiet_trainer(OneCycle(), max_epochs=epochs)
    found = Tuner(trainer).search(
        module,
        data(640, 0, shuffle=True),
        val_dataloaders=data(256, 1) if validation else None,
        cost=cost,
        **{**RANGE, **arguments},
    )
    return found, module.seen


# ---- the plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [8, 40, 57, 100, 333, 1000, 20_000])
@pytest.mark.parametrize("cost", [0.05, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0, 7.3])
def test_a_plan_stays_within_its_budget(total, cost):
    budget = int(cost * total)
    steps, planned = plan(total, budget)
    assert steps + sum(length * probes for length, probes in planned) <= budget
    assert 0 <= steps <= 300
    assert all(probes >= 2 for _, probes in planned)
    if planned:
        assert total / 8 <= planned[0].length <= max(0.22 * total, min(10, total // 2))
        assert [of.length for of in planned[1:]] == [total // 2, total][: len(planned) - 1]


def test_a_plan_has_longer_trainings_where_the_cost_allows_two_of_them():
    assert plan(1000, 1000) == (250, ((220, 3),))
    assert plan(400, 400) == (100, ((88, 3),))
    assert plan(400, 760) == (100, ((88, 7),))
    assert plan(400, 764) == (100, ((88, 3), (200, 2)))
    assert plan(400, 1600) == (100, ((88, 3), (200, 2), (400, 2)))
    assert plan(4000, 4000) == (300, ((880, 4),))


def test_rounds_keep_the_length_that_the_first_probes_had():
    assert rounds(1000, 1900, length=187) == ((187, 3), (500, 2))
    assert rounds(1000, 700, length=187) == ((187, 3),)


def made(lr, loss, noise=0.0, stopped="completed"):
    scores = tuple(loss + noise * (-1) ** i for i in range(8))
    return Probe(lr, loss, 50, stopped, scores=scores)


def rounded(probes, first=1.0):
    peak = next_peak(probes, first)
    return None if peak is None else round(peak, 3)


def test_peaks_go_down_by_half_decades_as_long_as_the_lowest_is_the_best():
    assert rounded([]) == 1.0
    assert rounded([made(1.0, 3.0)]) == 0.316
    assert rounded([made(1.0, 3.0), made(0.316, 2.0)]) == 0.1
    assert rounded([made(1.0, math.inf, stopped="loss not finite")]) == 0.316
    assert rounded([made(1.0, math.nan, stopped="loss not finite"), made(0.316, 2.0)]) == 0.1


def test_a_higher_peak_is_tried_only_where_the_highest_is_clearly_better():
    assert rounded([made(1.0, 1.0), made(0.316, 1.1)]) == 3.162
    assert rounded([made(1.0, 1.0, 0.5), made(0.316, 1.1, -0.5)]) == 0.562
    assert rounded([trained(1.0, 1.0, pairs=2), trained(0.316, 1.03, pairs=2)]) == 3.162
    assert rounded([trained(1.0, 1.0, pairs=2), trained(0.316, 1.01, pairs=2)]) == 0.562
    behind = made(0.316, 1.1, stopped="behind after half of the steps")
    assert rounded([made(1.0, 1.0), behind]) == 3.162


def test_the_gaps_around_the_best_are_halved():
    three = [made(1.0, 3.0), made(0.316, 1.0), made(0.1, 2.0)]
    assert rounded(three) == 0.178
    assert rounded([*three, made(0.178, 1.5)]) == 0.237
    assert rounded([*three, made(0.178, 1.5), made(0.237, 1.2)]) == 0.562
    done = [made(0.178, 1.5), made(0.237, 1.2), made(0.562, 1.5), made(0.422, 1.1)]
    assert rounded([*three, *done]) is None


# ---- the answer ----------------------------------------------------------------------------------


def answer(*probes, total=50, groups=()):
    """The suggestion of probes of 50 steps."""
    curve = LRCurve((0.01, 0.1, 1.0), (2.3, 0.8, 5.0), conditions=Conditions(groups=groups))
    return Search(curve, probes, total, 50).suggest()


@pytest.mark.parametrize(
    ("settings", "part"), [({"betas": [0.999]}, 4**-0.25), ({"momentum": 0.9}, 1.0)]
)
def test_the_peak_of_adam_falls_with_the_length_of_the_training(settings, part):
    probes = trained(3.0, 1.5), trained(1.0, 1.0), trained(0.3, 2.0)
    assert answer(*probes, groups=(settings,)).lr == 1.0
    found = answer(*probes, total=200, groups=(settings,))
    assert found.lr == pytest.approx(part)
    why = "0.71 times 1, because the training is longer;"
    assert found.reason.startswith(why) == (part < 1.0)


def test_the_peak_falls_further_where_the_training_over_fits():
    # The training loss falls by 1.0, from 2.0 to 1.0 in the last tenth of the steps.
    losses = (2.0,) * 4 + (1.5,) * 41 + (1.0,) * 5
    probes = [Probe(1.0, loss, 50, "completed", losses, scores=(loss,) * 8) for loss in (1.1, 1.3)]
    assert probes[0].over_fit == pytest.approx(0.1)
    assert answer(probes[0], total=200).lr == pytest.approx(4**-0.5)
    assert answer(probes[1], total=200).lr == pytest.approx(1 / 4)
    why = "0.5 times 1, because the training is longer and over-fits more;"
    assert answer(probes[0], total=200).reason.startswith(why)


@pytest.mark.parametrize("loss", [0.9, 2.1, math.inf])
def test_a_validation_loss_that_cannot_be_compared_shows_no_over_fitting(loss):
    losses = (2.0,) * 4 + (1.0,) * 46
    assert Probe(1.0, loss, 50, "completed", losses, scores=(loss,) * 8).over_fit == 0.0


def part_of(search):
    """What the peak of the training is, as a part of that of the search's short trainings."""
    power = min(5 * search.best.over_fit, 1.0)
    return (search.best.length / search.total_steps) ** power


def trained(lr, loss, noise=0.0, pairs=8):
    scores = tuple(loss + noise * (-1) ** i for i in range(pairs))
    return Probe(lr, loss, 50, "completed", losses=(2.0,) * 4 + (loss,), scores=scores)


def test_the_lowest_peak_that_is_as_good_as_the_best_is_taken():
    # The best has gained 1.0, of which 10 % are 0.1.
    within = answer(trained(1.0, 1.0, 0.2), trained(0.3, 1.05, -0.2), trained(0.1, 1.2, -0.2))
    assert within.lr == 0.3
    assert within.reason == (
        "the validation loss at 0.3, 1.05, is as good as the lowest, 1 at 1, of 3 trainings of 50"
        " steps"
    )
    assert answer(trained(1.0, 1.0, 0.2), trained(0.3, 1.15, -0.2)).lr == 1.0


def test_a_search_whose_trainings_hardly_differ_says_so():
    alike = answer(trained(1.0, 1.0, 0.2), trained(0.3, 1.05, -0.2), trained(0.1, 1.08, -0.2))
    assert alike.lr == 0.1
    assert alike.reason.startswith("the validation loss at 0.1, 1.08, is as good as the lowest")
    assert "of 3 trainings of 50 steps, which hardly differ" in alike.reason


def test_a_search_that_was_still_going_up_or_down_says_so():
    falling = [trained(1.0, 1.2, 0.2), trained(0.3, 1.0, 0.2)]
    assert answer(*falling).reason.endswith("; the cost left no room for a lower one, 0.0949")
    rising = [trained(0.3, 1.2, 0.2), trained(0.1, 1.3, 0.2), trained(1.0, 1.0, 0.2)]
    assert answer(*rising).reason.endswith("; the cost left no room for a higher one, 3.16")
    assert answer(*falling, trained(0.1, 1.1, 0.2)).reason.endswith("of 3 trainings of 50 steps")
    # The round before has come to a peak that is too high.
    longer = [replace(trained(lr, loss), length=90) for lr, loss in ((1.0, 0.8), (0.3, 1.4))]
    before = trained(1.0, 1.0), trained(0.3, 1.5), trained(3.0, 1.2)
    assert "no room" not in answer(*before, *longer).reason


def test_a_peak_that_is_clearly_worse_by_its_batches_is_not_as_good():
    assert answer(trained(1.0, 1.0, 0.2), trained(0.3, 1.01, 0.2)).lr == 1.0


def test_where_there_are_few_batches_two_per_cent_of_the_gain_decide():
    assert answer(trained(1.0, 1.0, pairs=2), trained(0.3, 1.01, pairs=2)).lr == 0.3
    assert answer(trained(1.0, 1.0, pairs=2), trained(0.3, 1.03, pairs=2)).lr == 1.0


def test_losses_are_compared_batch_by_batch():
    others = [1.0, 5.0, 2.0, 9.0]
    assert is_clearly_larger([score + 0.1 for score in others], others)
    assert not is_clearly_larger([score - 0.1 for score in others], others)
    assert not is_clearly_larger([9.1, 1.1, 2.1, 5.1], others)
    assert not is_clearly_larger([2.0], [1.0])
    assert not is_clearly_larger([math.nan, 5.0, 5.0, 5.0], [1.0, 2.0, 3.0, 4.0])


def test_a_curve_without_a_suggestion_begins_where_its_loss_is_lowest():
    assert anchor((0.1, 1.0, 10.0), (2.0, 1.0, math.nan)) == 1.0
    assert anchor((0.1, 1.0), (math.nan, math.nan)) is None


def test_a_curve_of_noise_that_diverges_begins_within_two_decades_of_that():
    # The lowest loss is one of those where nothing is learned yet.
    lrs, losses = (1e-6, 1e-4, 1e-2, 0.1, 1.0), (0.9, 1.0, 1.1, 1.0, math.inf)
    assert anchor(lrs, losses) == 1e-6
    assert anchor(lrs, losses, diverges=True) == 0.1


def test_a_search_after_a_range_test_of_noise_does_not_begin_where_nothing_is_learned(tmp_path):
    file = tmp_path / "search.json"
    first, _ = search(file=file)
    lrs = [1e-6 * 10 ** (i / 5) for i in range(32)]  # to 1.58
    start = first.curve.losses[0]
    losses = [start * (1.0 + 0.3 * (-1) ** i) for i in range(32)]
    losses[0], losses[1:4], losses[-1] = start, [0.3 * start] * 3, 30.0 * start
    curve = LRCurve(lrs, losses, conditions=first.curve.conditions, diverged=True)
    assert curve.suggestion() is None
    replace(first, curve=curve, probes=(), steps=32).save(file)
    found, _ = search(file=file, cost=2.0)
    assert 0.0158 <= found.probes[0].lr <= 1.58


# ---- what it does --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Validated, Returns])
def test_a_search_finds_a_peak_by_the_validation_loss_and_spends_no_more_than_its_cost(kind):
    found, seen = search(kind(), cost=1.25, num_training=50)
    assert found.judged_by == "validation loss"
    assert found.total_steps == 100
    assert found.steps == len(seen.lrs) <= 125
    assert [probe.steps for probe in found.probes if probe.is_complete][:2] == [22, 22]
    peaks = [probe.lr for probe in found.probes]
    assert peaks[:2] == pytest.approx([found.curve.suggestion(), peaks[0] / math.sqrt(10)])
    as_good = [probe for probe in found.probes if probe.is_as_good_as(found.best)]
    assert found.suggestion() == pytest.approx(part_of(found) * min(p.lr for p in as_good))
    assert len(found.best.scores) == 8


def test_a_module_that_logs_its_loss_is_judged_as_one_that_returns_it():
    assert search(Validated())[0].probes == search(Returns())[0].probes


@pytest.mark.parametrize(
    "returned",
    [
        lambda module, batch: module.net(batch[0]),
        lambda module, batch: (module.net(batch[0]) > 0).sum(),
        lambda module, batch: (module.net(batch[0]) > 0).float().mean(),
    ],
    ids=["predictions", "a count", "an accuracy"],
)
def test_a_step_that_returns_something_else_is_judged_by_the_loss_that_it_logs(returned):
    class ReturnsMore(Validated):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            return returned(self, batch)

    probes, of_more = (search(kind())[0].probes for kind in (Validated, ReturnsMore))
    assert [probe.scores for probe in of_more] == [probe.scores for probe in probes]


def test_averaged_weights_do_not_judge():
    averaging = getattr(lightning.pytorch.callbacks, "EMAWeightAveraging", None)
    if averaging is None:
        pytest.skip("this Lightning has no EMAWeightAveraging")
    trainer = quiet_trainer(OneCycle(), averaging(), max_epochs=5)
    assert search(trainer=trainer)[0].probes == search()[0].probes


@pytest.mark.parametrize("cost", [0.05, 0.3, 0.7, 2.5])
def test_a_search_spends_no_more_than_its_cost(cost):
    found, seen = search(cost=cost)
    assert found.steps == len(seen.lrs) <= cost * 100
    assert len(found.probes) >= (2 if cost > 0.5 else 0)


def test_a_search_with_more_to_spend_goes_on_with_longer_trainings_from_its_peak(tmp_path):
    file = tmp_path / "search.json"
    short, _ = search(file=file)
    found, seen = search(file=file, cost=4.0)
    assert found.probes[:3] == short.probes
    assert found.steps == short.steps + len(seen.lrs) <= 400
    assert [probe.length for probe in found.probes] == [22] * 3 + [50] * 2 + [100] * 2
    half, whole = found.probes[3:5], found.probes[5:]
    assert half[0].lr == pytest.approx(short.first.lr * 2 ** -min(5 * short.best.over_fit, 1))
    assert half[1].lr == pytest.approx(half[0].lr * math.sqrt(10))
    best = min(half, key=lambda probe: probe.loss)
    assert whole[0].lr == pytest.approx(best.lr * 2 ** -min(5 * best.over_fit, 1))
    assert found.last_round == whole
    assert found.suggestion() in [probe.lr for probe in whole]
    assert " after 22 steps: " in str(found)
    assert "; after 100 steps: " in str(found)
    at_once, _ = search(cost=4.0)
    assert [probe.length for probe in at_once.probes] == [22] * 3 + [50] * 2 + [100] * 2
    assert Search.load(file) == found


def test_a_search_does_not_go_on_with_other_validation_data(tmp_path):
    file = tmp_path / "search.json"
    first, _ = search(file=file, cost=0.6, validation=False)
    assert first.judged_by == "training loss"
    with pytest.raises(MisconfigurationException, match="training loss of 4 batches, and now"):
        search(file=file, cost=2.0)
    assert Search.load(file).probes == first.probes


class NeverEnds(Returns):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (
            math.nan if self.trainer.global_step > 12 else 1
        )


def test_where_no_training_comes_to_its_end_the_search_gives_up_at_a_hundredth_of_the_peak():
    found, _ = search(NeverEnds(), cost=4.0, num_training=60)
    assert found.best is None
    parts = [round(probe.lr / found.probes[0].lr, 4) for probe in found.probes]
    assert parts == [1, 0.3162, 0.1, 0.0316, 0.01]
    assert found.suggestion() is None
    assert found.suggest().reason.startswith(
        "no training of 22 steps came to its end with a finite loss,"
    )


def test_a_training_of_less_than_forty_steps_is_searched_too():
    assert plan(30, 30) == (7, ((10, 2),))
    assert plan(39, 160) == (9, ((10, 3), (19, 2), (39, 2)))
    assert rounds(20, 75) == ((10, 3), (20, 2))
    assert rounds(19, 100) == ()


def test_where_the_cost_is_too_small_the_peak_is_that_of_the_range_test_and_says_so():
    found, _ = search(cost=0.3)
    lr, reason = found.suggest()
    assert lr == found.curve.suggestion()
    assert not found.probes
    assert "no probes: the " in reason


def test_a_short_training_is_the_training_at_a_peak_over_fewer_steps():
    schedule = step_decay(warmup=0.2)
    trainer = quiet_trainer(OneCycle(), max_epochs=5)
    found, seen = search(trainer=trainer, schedule=schedule)
    (first, *_) = found.probes
    begin = len(found.curve.lrs)
    plan = [first.lr * point.lr for point in schedule.trace(22)]
    assert [lr for (lr,) in seen.lrs[begin : begin + 22]] == pytest.approx(plan)
    # And what it trains is what a training of its own has.
    seed_everything(1, verbose=False)
    module = Validated()
    cycle = OneCycle(max_lr=first.lr)
    cycle.schedule = schedule
    validated = {"num_sanity_val_steps": 0, "val_check_interval": 11}
    trainer = quiet_trainer(cycle, max_steps=22, **validated)
    trainer.fit(module, data(640, 0, shuffle=True), data(256, 1))
    assert module.seen.losses == list(first.losses)
    assert float(trainer.validate(module, data(256, 1), verbose=False)[0]["val_loss"]) == (
        pytest.approx(first.loss)
    )


def test_all_short_trainings_begin_with_the_same_weights_and_see_the_same_data():
    found, _ = search(Returns())
    firsts = {probe.losses[0] for probe in found.probes}
    assert len(firsts) == 1
    assert len({probe.losses[-1] for probe in found.probes}) == len(found.probes)


def test_without_validation_data_the_training_loss_at_the_end_of_the_cycle_judges():
    found, _ = search(Net(), validation=False)
    assert found.judged_by == "training loss"
    (first, *_) = found.probes
    assert first.scores == first.losses[-4:]
    assert first.loss == pytest.approx(sum(first.losses[-4:]) / 4)
    assert found.suggestion() / part_of(found) in [
        pytest.approx(probe.lr) for probe in found.probes
    ]


class LogsAccuracy(Net):
    def validation_step(self, batch, batch_idx):
        self.log("val_acc", self.loss(batch))


def test_a_validation_without_a_loss_does_not_judge():
    found, _ = search(LogsAccuracy())
    assert found.judged_by == "training loss"


def test_negative_losses_are_searched_like_others():
    plain, shifted = (search(Returns(shift=shift))[0] for shift in (0.0, 64.0))
    assert max(probe.loss for probe in shifted.probes) < 0
    assert shifted.suggestion() == pytest.approx(plain.suggestion(), rel=0.01)


def test_parameter_groups_keep_their_ratios():
    _, seen = search(Validated(groups=True))
    assert {round(low / high, 6) for low, high in seen.lrs} == {0.1}
    trainer = quiet_trainer(OneCycle(max_lr=[0.1, 0.4]), max_epochs=5)
    found, seen = search(Validated(groups=True), trainer=trainer)
    assert {round(low / high, 6) for low, high in seen.lrs} == {0.25}
    begin = len(found.curve.lrs)
    first = found.probes[0]
    highest = max(high for _, high in seen.lrs[begin : begin + first.steps])
    assert highest == pytest.approx(first.lr)


def test_accumulated_batches_are_one_step():
    trainer = quiet_trainer(OneCycle(), max_epochs=10, accumulate_grad_batches=2)
    found, seen = search(trainer=trainer)
    assert found.total_steps == 100
    assert found.steps == len(seen.lrs) <= 100
    assert len(seen.losses) == 2 * len(seen.lrs)


@pytest.mark.parametrize("scale", [2.0**19, 2.0**127])
def test_steps_that_a_gradient_scaler_skips_are_counted(scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    trainer = quiet_trainer(OneCycle(), max_epochs=5, plugins=precision)
    found, seen = search(trainer=trainer)
    assert found.steps == len(seen.lrs) <= 100
    if scale > 2.0**100:
        assert found.curve.stopped == "100 of 100 steps were skipped"
        assert found.suggestion() is None
        return
    begin = found.steps - sum(probe.steps for probe in found.probes)
    first = seen.lrs[begin : begin + found.probes[0].steps]
    assert first[0] == first[1]  # it was skipped
    # As in a training, the cycle is over when the steps are.
    assert first[-1][0] == pytest.approx(found.probes[0].lr / 1000)


class Breaks(Returns):
    """Its loss is NaN where the learning rate falls again after it was high."""

    highest = 0.0

    def training_step(self, batch, batch_idx):
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.highest = max(self.highest, lr)
        return super().training_step(batch, batch_idx) * (
            math.nan if lr < self.highest > 0.05 else 1
        )


def test_a_short_training_that_diverges_is_given_up_and_the_next_lies_lower():
    found, seen = search(Breaks(), cost=2.5, num_training=62)
    first, second, *_ = found.probes
    assert first.stopped.startswith("loss not finite at lr")
    assert not first.is_complete
    assert 10 < first.steps < 16
    assert second.lr == pytest.approx(first.lr / math.sqrt(10))
    assert found.suggestion() < 0.05
    assert found.steps >= len(seen.lrs)


class BreaksLater(Returns):
    """Its loss is NaN after the range test and one short training."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (
            math.nan if len(self.seen.lrs) >= 75 else 1
        )


def test_short_trainings_that_diverge_do_not_change_what_the_others_were_judged_by():
    found, _ = search(BreaksLater(), cost=1.25, num_training=50)
    assert [probe.is_complete for probe in found.probes][:2] == [True, False]
    assert not found.probes[-1].is_complete
    assert found.judged_by == "validation loss"
    assert "has the lowest validation loss" in found.suggest().reason


class Refuses(Returns):
    """A step raises an error where the weights are too large, as a distribution does."""

    step = "training"

    def loss(self, batch):
        if self.trainer.training == (self.step == "training") and self.net[3].weight.norm() > 1.5:
            raise ValueError("not a distribution")
        return super().loss(batch)


class RefusesToValidate(Refuses):
    step = "validation"


@pytest.mark.parametrize("kind", [Refuses, RefusesToValidate])
def test_a_step_that_large_weights_make_fail_is_a_divergence(kind):
    found, _ = search(kind(), cost=2.0, min_lr=0.3, max_lr=30.0)
    failed = [probe for probe in found.probes if "raised" in probe.stopped]
    assert failed
    for probe in failed:
        assert probe.stopped.startswith(f"{kind.step}_step raised ValueError at lr ")
        assert not probe.is_complete
        assert f"{kind.step}_step raised ValueError at {probe.lr:.3g}" in str(found)
    assert found.suggestion() < max(probe.lr for probe in failed)
    assert found.steps <= 200


def test_a_step_that_fails_with_any_weights_is_not_a_divergence():
    class Fails(Returns):
        def validation_step(self, batch, batch_idx):
            raise ValueError("no shape")

    with pytest.raises(ValueError, match="no shape"):
        search(Fails())


def test_a_short_training_that_cannot_win_ends_after_half_of_its_steps():
    found, seen = search(Returns(), cost=1.25, num_training=50, max_lr=0.03)
    behind = [probe for probe in found.probes if probe.stopped == "behind after half of the steps"]
    assert behind
    for probe in behind:
        assert probe.steps == 11
        assert probe.lr < max(other.lr for other in found.probes if other.is_complete)
        assert not probe.is_complete
    assert found.steps == len(seen.lrs) < 125


class Flat(Net):
    def loss(self, batch):
        return 0 * super().loss(batch) + 1


def test_where_nothing_is_learned_there_is_no_peak():
    lr, reason = search(Flat(), validation=False)[0].suggest()
    assert lr is None
    assert "the loss is 1 throughout" in reason


def test_a_range_test_without_an_answer_is_searched_from_where_its_loss_is_lowest():
    found, _ = search(Returns(), min_lr=0.3, max_lr=30.0)
    assert found.curve.suggestion() is None
    levels = found.curve.smoothed()
    lowest = min(loss for loss in levels if loss == loss)
    assert found.probes[0].lr == found.curve.lrs[levels.index(lowest)]
    assert found.suggestion() == pytest.approx(part_of(found) * found.best.lr)


def test_all_short_trainings_diverge_and_there_is_no_peak():
    curve = LRCurve((0.01, 0.1), (1.0, 0.5))
    found = Search(curve, (made(0.1, math.inf, stopped="loss not finite at lr 0.1"),))
    assert found.suggest() == (
        None,
        "no training of 50 steps came to its end with a finite loss, down to a peak of 0.1",
    )


# ---- no trace ------------------------------------------------------------------------------------


def state(trainer):
    return [vars(callback).copy() for callback in trainer.callbacks], trainer.fit_loop.state_dict()


def test_training_after_a_search_is_number_for_number_what_it_is_without_one():
    losses, metrics = [], []
    for searches in (False, True):
        seed_everything(1, verbose=False)
        module = Validated()
        trainer = quiet_trainer(OneCycle(max_lr=0.05), max_epochs=3, val_check_interval=7)
        given = (module, data(640, 0, shuffle=True), data(256, 1, shuffle=True))
        if searches:
            before, weights = state(trainer), module.net[0].weight.clone()
            found = Tuner(trainer).search(*given[:2], val_dataloaders=given[2], **RANGE)
            assert len(found.probes) >= 2
            assert state(trainer) == before
            assert torch.equal(module.net[0].weight, weights)
            assert module.log.__func__ is LightningModule.log
            module.seen.losses.clear()
        trainer.fit(*given)
        losses.append(module.seen.losses)
        metrics.append(trainer.callback_metrics)
    assert len(losses[0]) == 60
    assert losses[0] == losses[1]
    assert metrics[0] == metrics[1]


TRACES = ["own generator", "numpy, python and own generators", "workers with state", "data module"]
TRACES += ["order in place", "pictures", "TorchScript", "hydra and captured", "buffer", "metric"]
TRACES += ["callback", "accumulation", "scaler"]


@pytest.mark.parametrize("name", TRACES)
def test_training_is_the_same_after_a_search(name):
    case = {**CASES[name], "max_epochs": 30}
    without = fit(build(**case))
    run = build(**case)
    found = Tuner(run.trainer).search(run.module, run.data, min_lr=1e-3, max_lr=1.0)
    assert len(found.probes) >= 2
    assert not run.losses
    assert repr(fit(run)) == repr(without)  # NaN is not equal to NaN


# ---- files ---------------------------------------------------------------------------------------


class Interrupt(Callback):
    """Raises after so many validations of the search, as a kill would."""

    left = None

    def on_validation_end(self, trainer, pl_module):
        if Interrupt.left is not None:
            Interrupt.left -= 1
            if Interrupt.left == 0:
                raise KeyboardInterrupt


def test_an_interrupted_search_goes_on_and_ends_as_it_would_have_ended(tmp_path, said):
    file = tmp_path / "search.json"
    whole, _ = search(trainer=quiet_trainer(OneCycle(), Interrupt(), max_epochs=5))
    trainer = quiet_trainer(OneCycle(), Interrupt(), max_epochs=5)
    Interrupt.left = 3  # the first short training has two
    try:
        with pytest.raises(KeyboardInterrupt):
            search(trainer=trainer, file=file)
    finally:
        Interrupt.left = None
    partly = Search.load(file)
    assert len(partly.probes) == 1
    assert partly.suggestion() == pytest.approx(part_of(partly) * partly.probes[0].lr)
    found, seen = search(trainer=quiet_trainer(OneCycle(), Interrupt(), max_epochs=5), file=file)
    assert found == whole == Search.load(file)
    assert len(seen.lrs) == whole.steps - partly.steps
    assert any("continues after" in line and "1 short training" in line for line in said())
    again, seen = search(trainer=quiet_trainer(OneCycle(), Interrupt(), max_epochs=5), file=file)
    assert again == whole
    assert not seen.lrs


class OtherWeights(Validated):
    """What a module is without seed_everything."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        nn.init.xavier_normal_(self.net[0].weight)


class OtherData(Validated):
    """What a dataset of the same class and size is, with other targets."""

    def loss(self, batch):
        return super().loss((batch[0], -batch[1]))


OtherWeights.__name__ = OtherData.__name__ = "Validated"  # the conditions are the same


@pytest.mark.parametrize("other", [OtherWeights, OtherData])
def test_a_search_in_a_file_does_not_go_on_with_other_weights_or_data(other, tmp_path):
    file = tmp_path / "search.json"
    first, _ = search(file=file)
    with pytest.raises(MisconfigurationException, match="with other weights or data"):
        search(other(), file=file, cost=1.6)
    assert Search.load(file).probes == first.probes
    # Two fits that began with another loss each: so do all, which is no reason to refuse.
    differs = replace(first.curve, losses=(9.0, *first.curve.losses[1:]))
    replace(first, curve=differs).save(file)
    assert search(other(), file=file, cost=1.6)[0].steps > first.steps


def test_a_search_in_a_file_goes_on_with_more_to_spend(tmp_path):
    file = tmp_path / "search.json"
    first, _ = search(file=file)
    second, seen = search(file=file, cost=1.6)
    assert second.probes[: len(first.probes)] == first.probes
    assert second.steps == first.steps + len(seen.lrs) <= 160


def test_a_search_under_other_conditions_is_refused_with_what_differs(tmp_path):
    file = tmp_path / "search.json"
    search(file=file, cost=0.3)
    with pytest.raises(MisconfigurationException, match="total_steps: 100, now 200"):
        search(file=file, epochs=10)
    with pytest.raises(MisconfigurationException, match=r"hparams.shift: 0.0, now 1.0"):
        search(Validated(shift=1.0), file=file)
    with pytest.raises(MisconfigurationException, match=r"max_lr: .*, now 5.0"):
        search(file=file, max_lr=5.0)
    with pytest.raises(MisconfigurationException, match="num_training: None, now 30"):
        search(file=file, num_training=30)


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    LRCurve((0.01, 0.1), (1.0, 0.5)).save(tmp_path / "curve.json")
    with pytest.raises(ValueError, match="is not a search: there is no"):
        search(file=tmp_path / "curve.json")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place to which nobody writes")
def test_a_file_that_cannot_be_written_is_refused_before_a_step_is_taken():
    module = Validated()
    with pytest.raises(ValueError, match="file must be where a file can be written, got '/proc/a"):
        search(module, file="/proc/a/search.json")
    assert not module.seen.losses


def test_a_search_is_what_it_was_after_a_way_through_its_file(tmp_path):
    curve = LRCurve((0.01, 0.1, 1.0), (2.3, 0.8, math.inf), stopped="loss not finite at lr 1")
    probes = (
        Probe(0.3, math.inf, 3, "loss not finite at lr 0.3", (1.0, math.inf)),
        made(0.1, 0.25),
    )
    found = Search(curve, probes, 100, 25, 1.0, 31, "training loss")
    found.save(tmp_path / "a" / "search.json")
    assert Search.load(tmp_path / "a" / "search.json") == found
    assert "NaN" not in (tmp_path / "a" / "search.json").read_text()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["search.json"]


def test_a_search_prints_as_one_line():
    curve = LRCurve((0.01, 0.1, 1.0), (2.3, 0.8, 5.0))
    probes = (made(0.3, math.inf, stopped="loss not finite at lr 0.3"), made(0.1, 0.25))
    assert str(Search(curve, probes, 100, 50, 1.0, 1300)) == (
        "Search: peak 0.1 (validation losses after 50 steps: loss not finite at 0.3, 0.25 at"
        " 0.1), 1,300 steps for a training of 100"
    )


def test_a_picture_has_the_curve_what_each_short_training_came_to_and_the_peak():
    pytest.importorskip("matplotlib")
    curve = LRCurve((0.01, 0.1, 1.0), (2.3, 0.8, 5.0))
    probes = (
        made(3.0, math.inf, stopped="loss not finite at lr 3"),
        made(0.3, 0.5),
        made(0.1, 0.2),
    )
    (ax,) = Search(curve, probes, 200, 50).plot().axes
    lines = {line.get_label(): [list(xy) for xy in line.get_xydata()] for line in ax.get_lines()}
    assert lines["validation loss after 50 steps: 0.2, 0.5"] == [[0.1, 0.2], [0.3, 0.5]]
    assert [x for x, _ in lines["given up"]] == [3.0]
    assert "training loss, smoothed" in lines
    assert "peak 0.1" in [text.get_text() for text in ax.texts]
    assert ax.get_xlim()[1] > 3.0
    assert ax.get_ylim()[0] < 0.2


# ---- refusals, and what is said ------------------------------------------------------------------


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"cost": 0}, ValueError, "cost must be > 0, got 0"),
        ({"cost": 0.001}, ValueError, "cost must be enough for the 3 steps of a range test, got 0"),
        ({"num_training": 101}, ValueError, "cost must be enough for the 101 steps"),
        ({"weight": 1}, TypeError, "search has no argument weight"),
        ({"epochs": -1}, MisconfigurationException, "cannot know how many optimizer steps"),
        (
            {"trainer": quiet_trainer(max_epochs=-1)},
            MisconfigurationException,
            r"needs the number of the training's optimizer steps.* Give OneCycle\(total_steps",
        ),
        (
            {"module": Manual(), "trainer": quiet_trainer(max_epochs=1)},
            MisconfigurationException,
            r"Give OneCycle\(total_steps",
        ),
        (
            {"trainer": quiet_trainer(OneCycle(budget="time"), max_time={"hours": 1})},
            MisconfigurationException,
            "needs the number of the training's optimizer steps",
        ),
    ],
    ids=["no cost", "small", "long", "unknown", "no end", "no end, alone", "manual", "time"],
)
def test_what_cannot_be_searched_is_refused_before_a_step_is_taken(arguments, error, said):
    module = arguments.pop("module", None) or Validated()
    with pytest.raises(error, match=said):
        search(module, **arguments)
    assert not module.seen.lrs


def test_a_search_says_beforehand_what_it_costs_and_shows_a_progress_bar(said, capsys):
    trainer = quiet_trainer(OneCycle(), TQDMProgressBar(), max_epochs=5, enable_progress_bar=True)
    search(cost=0.8, trainer=trainer)
    (line,) = [line for line in said() if line.startswith("The search takes")]
    assert line == (
        "The search takes at most 80 steps, 0.8 times the training's 100: a range test of up to"
        " 20, then about 3 short trainings of 20."
    )
    assert "search" in capsys.readouterr().err


# ---- training at its peak ------------------------------------------------------------------------


def test_a_schedule_takes_the_peak_of_a_search():
    found, _ = search()
    assert OneCycle(max_lr=found).max_lr == found.suggestion()
    curve = LRCurve((0.01, 0.1), (1.0, 0.5))
    none = Search(curve, (made(0.1, math.inf, stopped="loss not finite"),))
    with pytest.raises(ValueError, match="must suggest a peak, got none: no training of 50"):
        OneCycle(max_lr=none)


def train(finder, module=None, epochs=5):
    seed_everything(1, verbose=False)
    module = module or Validated()
    trainer = quiet_trainer(finder, OneCycle(), max_epochs=epochs)
    trainer.fit(module, data(640, 0, shuffle=True), data(256, 1))
    return max(lr for (lr,) in module.seen.lrs[-20 * epochs :])


def test_a_finder_searches_at_the_start_of_a_fit_and_trains_at_what_it_found():
    finder = LRFinder(search=1.0, **RANGE)
    peak = train(finder)
    assert isinstance(finder.found, Search)
    assert peak == pytest.approx(finder.found.suggestion())
    assert finder.curve is finder.found.curve
    assert len(finder.found.probes) >= 2
    assert finder.found.steps <= 100


def test_a_finder_takes_a_search_or_its_file_and_refuses_other_conditions(tmp_path):
    found, _ = search()
    found.save(tmp_path / "search.json")
    for finder in (LRFinder(found), LRFinder(search=found), LRFinder(tmp_path / "search.json")):
        assert train(finder) == pytest.approx(found.suggestion())
    with pytest.raises(MisconfigurationException, match=r"hparams.shift: 0.0, now 1.0"):
        train(LRFinder(found), Validated(shift=1.0))


def test_a_finder_that_searches_trains_as_if_the_peak_had_been_given():
    finder, module = LRFinder(search=1.0, **RANGE), Validated()
    peak = train(finder, module)
    alone = Validated()
    seed_everything(1, verbose=False)
    trainer = quiet_trainer(OneCycle(max_lr=finder.max_lr), max_epochs=5)
    trainer.fit(alone, data(640, 0, shuffle=True), data(256, 1))
    assert peak == pytest.approx(finder.max_lr)
    assert module.seen.losses[-100:] == alone.seen.losses


def test_a_search_without_a_schedule_is_for_one_cycle(tmp_path):
    found, _ = search(trainer=quiet_trainer(max_epochs=5))
    assert found.schedule == one_cycle()
    assert found.conditions.momentum == one_cycle().peak_momentum
    assert found.probes == search()[0].probes
    trainer = quiet_trainer(LRFinder(found), OneCycle(), max_epochs=5)
    trainer.fit(Validated(), data(640, 0, shuffle=True), data(256, 1))


def test_a_search_for_a_training_of_another_length_is_told():
    found, _ = search()
    with pytest.warns(UserWarning, match="for a training of 100 steps, and this one has 60"):
        train(LRFinder(found), epochs=3)


def test_bad_arguments_of_a_finder_are_refused():
    curve = LRCurve((0.01, 0.1), (1.0, 0.5))
    with pytest.raises(ValueError, match="curve must be None with a search"):
        LRFinder(curve, search=1.0)
    with pytest.raises(ValueError, match="method must be 'max_lr' with a search, got 'steepest'"):
        LRFinder(search=1.0, method="steepest")
    with pytest.raises(ValueError, match="cost must be > 0, got -1"):
        LRFinder(search=-1)


def test_a_search_runs_in_a_trainer_of_the_other_lightning():
    pl = pytest.importorskip("pytorch_lightning")

    class Theirs(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return (self.net(x) - y).square().mean()

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.training_step(batch, batch_idx))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = pl.Trainer(max_epochs=5, accelerator="cpu", devices=1, **dict.fromkeys(quiet, False))
    found = Tuner(trainer).search(Theirs(), data(640, 0), val_dataloaders=data(256, 1), **RANGE)
    assert found.judged_by == "validation loss"
    assert len(found.probes) >= 2


# ---- two processes -------------------------------------------------------------------------------

SCRIPT = """
import json, os
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset
from lightning_onecycle import OneCycle, Tuner


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
        )
        self.losses = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = (self.net(x) - y).square().mean()
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", (self.net(x) - y).square().mean(), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def data(n, seed, shuffle):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x, x.sin().sum(1, keepdim=True)), 8, shuffle=shuffle)


def run(searches):
    seed_everything(1, verbose=False)
    module = Module()
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=5, logger=False,
                      enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, callbacks=OneCycle())
    train, val = data(320, 0, True), data(72, 1, False)
    if searches:
        search = Tuner(trainer).search(module, train, val_dataloaders=val, file="search.json",
                                       min_lr=1e-4, max_lr=10.0)
        found = [[p.lr, p.loss, p.steps, p.stopped, len(p.scores)] for p in search.probes]
        return [found, search.suggestion(), search.steps, search.total_steps]
    return module, trainer, train, val


if __name__ == "__main__":
    first, again = run(True), run(True)
    module, trainer, train, val = run(False)
    trainer.fit(module, train, val)
    with open(f"result.{os.environ['LOCAL_RANK']}", "w") as file:
        json.dump([first, again, module.losses], file)
"""


@pytest.mark.slow
def test_two_processes_agree_on_every_short_training_and_on_the_peak(tmp_path):
    first, second = two_processes(tmp_path, SCRIPT)
    probes, peak, steps, total = first[0]
    assert first[0] == second[0] == first[1] == second[1]
    assert total == 100
    assert steps <= 100
    assert len(probes) >= 2
    assert {scores for *_, stopped, scores in probes if stopped == "completed"} == {10}
    assert peak in [lr for lr, *_ in probes]  # SGD's does not fall with the length


@pytest.mark.slow
def test_a_search_runs_in_processes_that_the_strategy_spawns():
    trainer = quiet_trainer(OneCycle(), strategy="ddp_spawn", devices=2, max_epochs=5)
    found, _ = search(trainer=trainer, cost=0.2, schedule=step_decay())
    assert found.conditions.world_size == 2
    assert found.total_steps == 50
    assert found.schedule == step_decay()
    assert len(found.curve.lrs) > 3
