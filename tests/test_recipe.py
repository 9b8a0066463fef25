"""Smith's recipe: what it tries and chooses, what it spends, and that it leaves no trace."""

import json
import math
import signal
import time
from functools import partial

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar

from conftest import quiet_trainer, two_processes
from forks import run, start
from lightning_onecycle import LRCurve, LRFinder, OneCycle, Search, Tuner, one_cycle, step_decay
from lightning_onecycle.search import Probe
from lightning_onecycle.search.recipe import MOMENTUM, WEIGHT_DECAY, DecayTest, Recipe, Stage
from lightning_onecycle.search.recipe_plan import FIRST_ROUND, LAST_ROUND, round_of, shares
from lightning_onecycle.search.recipe_settings import checked_grid, checked_momenta
from test_search import RANGE, SCRIPT, Shared, Validated, data, search, state

GRID, MOMENTA = (0, 1e-4, 1e-3), ((0.95, 0.85), 0.9)
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-4)
ADAMW = partial(torch.optim.AdamW, lr=0.01, weight_decay=1e-4)


class Tried(Validated):
    """Records the weight decays and the momentum of each optimizer step."""

    def __init__(self, optimizer=SGD, seen=None, groups=False):
        super().__init__(seen)
        self.make, self.has_groups = optimizer, groups
        self.seen.settings = []

    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        groups = optimizer.param_groups
        momentum = groups[0]["betas"][0] if "betas" in groups[0] else groups[0].get("momentum")
        self.seen.settings.append(([group["weight_decay"] for group in groups], momentum))

    def configure_optimizers(self):
        if not self.has_groups:
            return self.make(self.parameters())
        weights = [p for p in self.parameters() if p.ndim > 1]
        biases = [p for p in self.parameters() if p.ndim <= 1]
        return self.make([{"params": weights}, {"params": biases, "weight_decay": 0.0}])


def recipe(module=None, cost=3.0, epochs=5, **arguments):
    arguments = {"weight_decays": GRID, "momenta": MOMENTA, **arguments}
    return search(module or Tried(), cost=cost, epochs=epochs, **arguments)


@pytest.fixture(scope="module")
def whole():
    """A recipe with all its stages."""
    return recipe(epochs=10, cost=4.0)


# ---- what it tries -------------------------------------------------------------------------------


def test_the_stages_follow_each_other_within_the_cost(whole):
    found, seen = whole
    assert found.steps == len(seen.lrs) <= 4.0 * found.total_steps == 800
    assert [test.weight_decay for test in found.recipe.tests] == [0, 1e-4, 1e-3]
    names = [stage.name for stage in found.recipe.stages]
    assert names[:3] == [WEIGHT_DECAY, MOMENTUM, FIRST_ROUND]
    start = found.recipe.start.weight_decay
    assert {probe.weight_decay for probe in found.probes} == {start}
    assert found.curve == found.recipe.start.curve
    tried = [probe.weight_decay for probe in found.recipe.stage(WEIGHT_DECAY).probes]
    assert sorted([start, *tried]) == [0, 1e-4, 1e-3]
    assert {p.lr for p in found.recipe.stage(WEIGHT_DECAY).probes} == {found.first.lr}
    longer = found.recipe.stage(FIRST_ROUND).probes
    assert len(longer) >= 2
    assert {probe.steps for probe in longer} == {100}


@pytest.mark.parametrize("cost", [0.2, 0.6, 1.0, 2.0, 6.0])
def test_a_recipe_spends_no_more_than_its_cost(cost):
    found, seen = recipe(cost=cost)
    assert found.steps == len(seen.lrs) <= cost * 100
    assert found.cost == cost
    is_short = any("left out" in note and "clearly" not in note for note in found.recipe.notes)
    assert is_short == (cost < 2)


def test_where_range_tests_would_be_too_short_there_is_one_and_short_trainings_decide(said):
    found, _ = recipe(cost=3.0)
    (only,) = found.recipe.tests
    assert only.weight_decay == 1e-4  # the optimizer's own
    assert len(found.curve.lrs) > 50
    assert found.recipe.candidates == [0, 1e-4, 1e-3]
    tried = {probe.weight_decay for probe in found.recipe.stage(WEIGHT_DECAY).probes}
    assert tried == {0, 1e-3}
    assert any(line.startswith("Recipe: range tests: one alone") for line in said())
    assert "range tests: one alone" in found.report()
    for decay in found.recipe.candidates:
        (group,) = found.recipe.conditions_with(decay, (0.9, 0.9)).groups
        assert group["weight_decay"] == decay


class GetsWorse(Tried):
    """Its loss is larger in the later steps of a longer training."""

    def loss(self, batch):
        return super().loss(batch) + (5 if self.trainer.global_step > 30 else 0)


def test_longer_trainings_that_end_higher_than_the_short_ones_are_told(said):
    found, _ = recipe(GetsWorse(), num_training=20)
    told = f"{FIRST_ROUND}: the best one ended at a higher loss, {found.chosen.loss:.4g}, than"
    assert any(note.startswith(told) for note in found.recipe.notes)
    assert told in found.report()
    assert told in "".join(said())


@pytest.mark.parametrize("total", [40, 57, 100, 1000, 20_000])
@pytest.mark.parametrize("left", [0.1, 0.5, 0.8, 2.4, 5.0])
@pytest.mark.parametrize("others", [0, 2, 5])
def test_shares_stay_within_what_is_left(total, left, others):
    left = int(left * total)
    length, peaks = shares(total, left, others)
    assert peaks <= left
    assert length == 0 or total / 8 <= length <= max(total / 4, 10)
    steps, count = round_of(FIRST_ROUND, total, left, max(length, 1))
    assert steps * count <= left
    assert steps <= total / 2
    assert round_of(LAST_ROUND, total, left, length)[0] in (0, total)


def test_a_probe_trains_with_its_weight_decay_and_its_momentum(whole):
    found, seen = whole
    begin = found.steps
    for stage in reversed(found.recipe.stages):
        for probe in reversed(stage.probes):
            begin -= probe.steps
            settings = seen.settings[begin : begin + probe.steps]
            assert {tuple(decays) for decays, _ in settings} == {(probe.weight_decay,)}
            ends, peak = probe.momentum or (0.95, 0.85)
            momenta = [momentum for _, momentum in settings]
            assert (momenta[0], min(momenta)) == (ends, peak)
            assert max(lr for (lr,) in seen.lrs[begin : begin + probe.steps]) == probe.lr


def test_another_momentum_is_tried_at_the_peak_of_the_same_effective_rate(whole):
    found, _ = whole
    before = found.recipe.winner(found.first, before=MOMENTUM)
    first, *others = found.recipe.stage(MOMENTUM).probes
    assert first.momentum == (0.9, 0.9)
    assert first.lr == pytest.approx(before.lr * (1 - 0.9) / (1 - 0.85))
    assert [probe.lr for probe in others] in ([], [before.lr])


def test_with_adam_the_effective_rate_does_not_depend_on_beta():
    found, seen = recipe(Tried(ADAMW), momenta=(0.8,))
    (probe,) = found.recipe.stage(MOMENTUM).probes
    assert probe.lr == found.recipe.winner(found.first, before=MOMENTUM).lr
    assert probe.momentum == (0.8, 0.8)
    assert 0.8 in {momentum for _, momentum in seen.settings}


def test_groups_without_weight_decay_stay_without():
    _, seen = recipe(Tried(groups=True), cost=1.0)
    decays = {tuple(decays) for decays, _ in seen.settings}
    assert decays == {(0, 0), (1e-4, 0), (1e-3, 0)}


def test_where_no_group_has_a_weight_decay_all_get_it():
    _, seen = recipe(Tried(partial(SGD, weight_decay=0), groups=True), cost=2.0)
    assert {tuple(decays) for decays, _ in seen.settings} == {(0, 0), (1e-4, 1e-4), (1e-3, 1e-3)}


def test_momenta_alone_leave_the_weight_decay_to_the_optimizer():
    found, seen = recipe(weight_decays=None)
    assert found.weight_decay is None
    assert {tuple(decays) for decays, _ in seen.settings} == {(1e-4,)}
    assert len(found.recipe.tests) == 1
    assert found.recipe.stage(MOMENTUM).probes


def test_weight_decays_alone_leave_the_momentum_to_the_schedule():
    found, _ = recipe(momenta=None)
    assert found.momentum is None
    assert not found.recipe.stage(MOMENTUM).probes


class Diverges(Tried):
    def loss(self, batch):
        trains_shortly = len(self.trainer.train_dataloader) and self.trainer.global_step > 12
        return super().loss(batch) * (math.nan if trains_shortly else 1)


def test_where_no_short_training_comes_to_its_end_the_curves_choose_the_weight_decay():
    found, _ = recipe(Diverges(), cost=1.0)
    assert found.suggestion() is None
    assert found.chosen is None
    assert found.weight_decay in GRID
    assert found.recipe.notes[-1] == (
        "the stages after the peaks are left out: no short training came to its end"
    )
    assert "no peak" in found.report()


class LikesDecay(Tried):
    """Validates the better, the larger the weight decay is."""

    def validation_step(self, batch, batch_idx):
        (group,) = self.optimizers().param_groups
        self.log("val_loss", self.loss(batch) * (1 - 500 * group["weight_decay"]))


def test_a_weight_decay_that_wins_is_held_against_a_smaller_one_for_longer():
    found, _ = recipe(LikesDecay(), epochs=10, cost=4.0, momenta=None)
    start = found.recipe.start.weight_decay
    assert start != 1e-3
    assert found.recipe.winner(found.first, FIRST_ROUND).weight_decay == 1e-3
    longer = found.recipe.stage(FIRST_ROUND).probes
    assert [probe.weight_decay for probe in longer] == [1e-3, start]
    assert found.weight_decay == 1e-3


# ---- what it chooses -----------------------------------------------------------------------------


def curve(lowest=0.8, edge=9, noise=0.0):
    """Return a curve that falls to a loss and rises again from a point on."""
    falls = [2.3, 2.3, 2.3, 2.2, 1.8] + [lowest + 0.1] + [lowest] * 20
    losses = [*falls[:edge], *[4.0] * (26 - min(edge, 26))]
    lrs = [10 ** (k / 10 - 3) for k in range(26)]
    noisy = [loss + noise * (-1) ** k for k, loss in enumerate(losses)]
    return LRCurve(lrs, noisy)


def made_tests(**curves):
    return tuple(DecayTest(float(name[1:]) / 1e4, c, 26) for name, c in curves.items())


def test_a_curve_that_is_clearly_higher_is_thrown_away():
    found = Recipe((0, 1e-4, 1e-3), tests=made_tests(d0=curve(0.8), d1=curve(0.81), d10=curve(1.2)))
    assert list(found.thrown_away()) == [1e-3]
    assert found.thrown_away()[1e-3].startswith("its lowest loss, 1.2")
    assert [test.weight_decay for test in found.kept] == [0, 1e-4]


def test_a_curve_without_a_suggestion_is_thrown_away_unless_none_has_one():
    flat = LRCurve([10 ** (k / 10 - 3) for k in range(26)], [2.3] * 26)
    found = Recipe((0, 1e-4), tests=made_tests(d0=curve(), d1=flat))
    assert found.thrown_away() == {1e-4: "no suggestion: the loss is 2.3 throughout"}
    assert Recipe((0, 1e-4), tests=made_tests(d0=flat, d1=flat)).thrown_away() == {}


def test_the_start_is_stable_up_to_the_largest_rate_then_the_own_then_the_middle():
    same = made_tests(d0=curve(), d1=curve(), d10=curve())
    assert Recipe((0, 1e-4, 1e-3), tests=same).start.weight_decay == 1e-4
    assert Recipe((0, 1e-4, 1e-3), own_weight_decay=1e-3, tests=same).start.weight_decay == 1e-3
    stable = made_tests(d0=curve(edge=18), d1=curve(edge=10), d10=curve(edge=10))
    assert Recipe((0, 1e-4, 1e-3), own_weight_decay=1e-3, tests=stable).start.weight_decay == 0


def made(loss, noise=0.0, lr=0.1, decay=1e-4, momentum=None, steps=50):
    scores = tuple(loss + noise * (-1) ** i for i in range(8))
    start = (2.0,) * 4
    probe = Probe(lr, loss, steps, "completed", losses=start, scores=scores)
    return Probe(**{**vars(probe), "weight_decay": decay, "momentum": momentum})


def chosen(*probes, name=WEIGHT_DECAY):
    found = Recipe((1e-4, 1e-3), tests=made_tests(d1=curve(), d10=curve()), own_weight_decay=1e-4)
    return found.chosen(Stage(name, probes), made(1.0))


def test_what_stands_stays_unless_another_is_better_by_more_than_the_noise():
    better = made(0.9, decay=1e-3)
    assert chosen(better) == better
    assert chosen(made(0.99, noise=0.2, decay=1e-3)) == made(1.0)
    assert chosen(made(0.999, decay=1e-3)) == made(1.0)  # clear, and no difference
    assert chosen(made(1.1, decay=1e-3)) == made(1.0)
    assert chosen(Probe(0.1, math.nan, 20, "loss not finite at lr 0.1")) == made(1.0)


def test_of_longer_trainings_that_are_equal_the_defaults_win_and_then_the_lower_peak():
    other = made(0.5, decay=1e-3, steps=100)
    cyclic = made(0.5, momentum=(0.9, 0.9), steps=100)
    own, lower = made(0.501, steps=100), made(0.501, lr=0.05, steps=100)
    assert chosen(other, cyclic, own, lower, name=FIRST_ROUND) == lower
    assert chosen(other, cyclic, name=FIRST_ROUND) == other
    assert chosen(made(0.4, decay=1e-3, steps=100), own, name=FIRST_ROUND).weight_decay == 1e-3


def test_a_weight_decay_at_the_end_of_the_grid_is_told():
    found = Recipe((1e-4, 1e-3, 1e-2), notes=("one",))
    assert found.remarks(1e-3) == ["one"]
    end = "weight decay {} lies at the end of the grid: try {} ones"
    assert found.remarks(1e-2)[1] == end.format(0.01, "larger")
    assert found.remarks(1e-4)[1] == end.format(0.0001, "smaller")
    assert Recipe((0, 1e-4)).remarks(0) == []


def test_longer_trainings_that_all_fail_are_told():
    failed = Probe(0.1, math.inf, 30, "loss not finite at lr 0.08", length=100)
    found = Recipe(stages=(Stage(FIRST_ROUND, (failed,)), Stage(LAST_ROUND, (made(0.4),))))
    assert found.remarks(None) == [
        "longer trainings: none came to its end; the peak is that of shorter ones, and may be too"
        " high"
    ]


# ---- how it is used ------------------------------------------------------------------------------


def as_found(stages=(), own=(0.95, 0.85)):
    """Return a search over 400 steps whose first peak is 0.1."""
    tests = made_tests(d1=curve(), d10=curve())
    found = Recipe((1e-4, 1e-3), ((0.95, 0.85), (0.9, 0.9)), 1e-4, own, None, tests, stages)
    probes = (made(2.0, lr=0.3), made(1.0))
    return Search(curve(), probes, 400, 50, 3.0, 900, schedule=one_cycle(), recipe=found)


WINS = (
    Stage(WEIGHT_DECAY, (made(0.8, decay=1e-3),)),
    Stage(MOMENTUM, (made(0.6, lr=0.08, decay=1e-3, momentum=(0.9, 0.9)),)),
)


def test_the_winner_of_the_last_stage_is_what_is_suggested():
    found = as_found(WINS)
    assert (found.weight_decay, found.momentum) == (1e-3, (0.9, 0.9))
    assert found.suggestion() == 0.08
    assert found.suggest().reason == "the validation loss is 0.6 after 50 steps"
    longer = (made(0.5, lr=0.07, decay=1e-3, steps=200), made(0.6, lr=0.06, steps=200))
    found = as_found((*WINS, Stage(FIRST_ROUND, longer)))
    assert (found.weight_decay, found.momentum) == (1e-3, None)
    assert found.suggestion() == 0.07
    assert str(found) == "Recipe: peak 0.07, weight decay 0.001, 900 steps for a training of 400"


def test_a_callback_trains_at_what_was_found():
    found = as_found(WINS)
    callback = found.callback()
    assert callback.schedule == one_cycle(base_momentum=0.9, max_momentum=0.9)
    module = Tried(partial(SGD, weight_decay=found.weight_decay))
    trainer = quiet_trainer(callback, max_epochs=1)
    trainer.fit(module, data(640, 0))
    assert max(lr for (lr,) in module.seen.lrs) == pytest.approx(found.suggestion())
    assert {momentum for _, momentum in module.seen.settings} == {0.9}


def test_a_search_without_a_recipe_has_a_callback_with_its_schedule():
    schedule = step_decay(warmup=0.2)
    found, _ = search(schedule=schedule)
    assert found.callback().schedule == schedule
    assert found.callback().max_lr == found.suggestion()
    assert (found.weight_decay, found.momentum) == (None, None)
    with pytest.raises(ValueError, match="search must have a recipe"):
        found.report()


@pytest.mark.parametrize(
    ("callback", "decay", "said"),
    [
        (lambda s: s.callback(), 1e-4, "weight_decay: 0.001, now 0.0001. Give the optimizer"),
        (lambda s: OneCycle(s), 1e-3, r"momentum: \(0.9, 0.9\), now \(0.95, 0.85\)"),
    ],
)
def test_a_training_with_other_settings_than_the_search_chose_is_refused(callback, decay, said):
    module = Tried(partial(SGD, weight_decay=decay))
    trainer = quiet_trainer(callback(as_found(WINS)), max_epochs=1)
    with pytest.raises(MisconfigurationException, match=said):
        trainer.fit(module, data(640, 0))
    assert not module.seen.lrs


def test_a_finder_takes_a_recipe_for_a_training_with_its_weight_decay_alone(whole):
    found, _ = whole

    def train(weight_decay):
        seed_everything(1, verbose=False)
        module = Tried(partial(SGD, weight_decay=weight_decay))
        callback = OneCycle()
        if found.momentum is not None:
            callback.schedule = found.callback().schedule
        trainer = quiet_trainer(LRFinder(found), callback, max_epochs=10)
        trainer.fit(module, data(640, 0, shuffle=True), data(256, 1))
        return max(lr for (lr,) in module.seen.lrs)

    assert train(found.weight_decay) == pytest.approx(found.suggestion())
    with pytest.raises(MisconfigurationException, match=r"weight_decay: .*, now 0.05"):
        train(0.05)


class Saves(Tried):
    """Has its weight decay in its hparams, under a name of its own."""

    def __init__(self, decay, width=1.0):
        super().__init__(partial(SGD, weight_decay=decay))
        self.save_hyperparameters("decay", "width")


def test_a_finder_takes_a_recipe_for_a_module_with_its_weight_decay_in_its_hparams():
    found, _ = recipe(Saves(5e-4), weight_decays=(1e-4, 1e-3), momenta=None)

    def train(module):
        seed_everything(1, verbose=False)
        trainer = quiet_trainer(LRFinder(found), OneCycle(), max_epochs=5)
        trainer.fit(module, data(640, 0, shuffle=True), data(256, 1))
        return max(lr for (lr,) in module.seen.lrs)

    assert train(Saves(found.weight_decay)) == pytest.approx(found.suggestion())
    with pytest.raises(MisconfigurationException, match=r"hparams.width: 1.0, now 2.0"):
        train(Saves(found.weight_decay, width=2.0))


# ---- no trace, and files -------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["SGD", "AdamW"])
def test_training_after_a_recipe_is_number_for_number_what_it_is_without_one(optimizer):
    losses = []
    for searches in (False, True):
        seed_everything(1, verbose=False)
        module = Tried(optimizer)
        trainer = quiet_trainer(OneCycle(max_lr=0.05), max_epochs=3)
        given = (module, data(640, 0, shuffle=True), data(256, 1))
        if searches:
            before = state(trainer)
            arguments = {**RANGE, "weight_decays": GRID, "momenta": MOMENTA, "cost": 2.0}
            found = Tuner(trainer).search(*given[:2], val_dataloaders=given[2], **arguments)
            assert found.recipe.stages
            assert state(trainer) == before
            module.seen.losses.clear()
            module.seen.settings.clear()
        trainer.fit(*given)
        losses.append(module.seen.losses)
        assert {tuple(decays) for decays, _ in module.seen.settings} == {(1e-4,)}
    assert len(losses[0]) == 60
    assert losses[0] == losses[1]


class Interrupted(Tried):
    """Raises at a step of the whole, as a kill would."""

    def training_step(self, batch, batch_idx):
        if len(self.seen.losses) == self.seen.last:
            raise KeyboardInterrupt
        return super().training_step(batch, batch_idx)


Interrupted.__name__ = "Tried"  # it is one of the conditions


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.95])
def test_an_interrupted_recipe_goes_on_and_ends_as_it_would_have_ended(part, tmp_path, said, whole):
    file = tmp_path / "recipe.json"
    arguments = {"epochs": 10, "cost": 4.0, "file": file}
    module = Interrupted(seen=Shared())
    module.seen.last = int(part * whole[0].steps)
    with pytest.raises(KeyboardInterrupt):
        recipe(module, **arguments)
    partly = Search.load(file)
    found, seen = recipe(**arguments)
    assert len(seen.lrs) == whole[0].steps - partly.steps
    assert found == whole[0] == Search.load(file)
    assert any(f"continues after {partly.steps:,} of 800 steps" in line for line in said())
    assert not recipe(**arguments)[1].lrs


@pytest.mark.parametrize("cost", [0.9, 8.0])
def test_a_recipe_that_goes_on_at_another_cost_keeps_the_range_tests_it_began_with(cost, tmp_path):
    file = tmp_path / "recipe.json"
    first, _ = recipe(cost=3.0, file=file)
    assert [test.weight_decay for test in first.recipe.tests] == [1e-4]
    found, seen = recipe(cost=cost, file=file)
    assert found.recipe.tests == first.recipe.tests
    assert found.recipe.tested == (1e-4,)
    assert found.steps == first.steps + len(seen.lrs)
    many, _ = recipe(cost=8.0)
    assert [test.weight_decay for test in many.recipe.tests] == [0, 1e-4, 1e-3]


def test_an_own_weight_decay_that_is_not_tried_is_told():
    found, _ = recipe(weight_decays=(0, 1e-3), cost=2.0)
    assert "the optimizer's own weight decay, 0.0001, was not tried" in found.report()


def test_a_file_with_another_grid_or_without_a_recipe_is_refused(tmp_path):
    file = tmp_path / "recipe.json"
    recipe(cost=0.3, file=file)
    with pytest.raises(MisconfigurationException, match=r"weight_decays: .* now \(0.0, 0.1\)"):
        recipe(cost=0.3, file=file, weight_decays=(0, 0.1))
    with pytest.raises(MisconfigurationException, match=r"momenta: .*, now none"):
        search(Tried(), cost=0.3, file=file)
    search(Tried(), cost=0.3, file=tmp_path / "search.json")
    with pytest.raises(MisconfigurationException, match=r"weight_decays: none, now"):
        recipe(cost=0.3, file=tmp_path / "search.json")


def test_a_recipe_is_what_it_was_after_a_way_through_its_file(tmp_path, whole):
    found, _ = whole
    found.save(tmp_path / "recipe.json")
    assert Search.load(tmp_path / "recipe.json") == found
    content = json.loads((tmp_path / "recipe.json").read_text())
    # As a search was saved before there were recipes.
    del content["recipe"], content["schedule"]
    for probe in content["probes"]:
        del probe["weight_decay"], probe["momentum"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    old = Search.load(tmp_path / "old.json")
    assert old.callback().schedule == one_cycle()
    assert old.suggestion() is not None


# ---- table and picture ---------------------------------------------------------------------------


def test_a_report_says_what_was_tried_kept_and_thrown_away(whole):
    found, _ = whole
    text = found.report()
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    tried = len(found.recipe.tests) + len(found.probes)
    tried += sum(len(stage.probes) for stage in found.recipe.stages)
    assert len(lines) == tried + 2  # what stands before the weight decays and the momenta
    assert text.startswith(f"# peak {found.suggestion():.3g}, weight decay ")
    tests = sum(test.steps for test in found.recipe.tests)
    assert lines[0].startswith(f"| range tests: {tests} steps | weight decay 0 |")
    assert sum("**kept" in line for line in lines) == 1 + 1 + len(found.recipe.stages)
    assert all("kept" in line or "thrown away" in line for line in lines)


def test_a_picture_has_all_curves_and_a_point_for_each_training(whole):
    pytest.importorskip("matplotlib")
    found, _ = whole
    curves, trainings = found.plot().axes
    legend = [text.get_text() for text in curves.get_legend().get_texts()]
    assert legend == ["0", "0.0001", "0.001"]
    labels = [label.get_text() for label in trainings.get_yticklabels()]
    assert len(labels) == len([line for line in trainings.get_lines() if len(line.get_xdata())])
    assert "momentum 0.9" in " ".join(labels)
    assert trainings.get_xlabel() == "validation loss"


def test_a_recipe_of_range_tests_alone_has_a_picture():
    pytest.importorskip("matplotlib")
    found, _ = recipe(cost=0.2)
    assert not found.probes
    (axes,) = found.plot().axes
    assert axes.get_xlabel() == "learning rate"


# ---- refusals, and what is said ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "given", "said"),
    [
        (checked_grid, [], r"weight_decays must be a list of one number >= 0 or more, got \[\]"),
        (checked_grid, 0.1, "weight_decays must be a list of one number >= 0 or more, got 0.1"),
        (checked_grid, [0, -1], "weight_decays must be >= 0, each, got -1"),
        (
            checked_momenta,
            [],
            r"momenta must be a list of numbers and pairs \(ends, peak\), got \[\]",
        ),
        (checked_momenta, [1.0], r"momenta must be in \(0, 1\), each, got 1.0"),
        (
            checked_momenta,
            [0.9, (0.9,)],
            r"momenta must be numbers or pairs \(ends, peak\), got \(0.9,",
        ),
        (
            checked_momenta,
            [(0.8, 0.9)],
            "momenta must be > 0 at the peak, and at most 0.8 as at the ends, got 0.9",
        ),
        (checked_momenta, [0.9, (0.9, 0.9)], "momenta must differ from each other"),
    ],
)
def test_a_bad_grid_is_refused(check, given, said):
    with pytest.raises(ValueError, match=said):
        check(given)


@pytest.mark.parametrize(
    ("optimizer", "arguments", "said"),
    [
        (
            partial(torch.optim.Rprop, lr=0.01),
            {"momenta": None},
            r"weight_decays must be None with Rprop, which has no weight_decay, got \(0.0, 0.0001",
        ),
        (
            partial(torch.optim.SGD, lr=0.1),
            {},
            "momenta must be None with SGD, which has no momentum or betas, or a momentum of 0",
        ),
        (SGD, {"cost": 0.02}, "cost must be enough for 1 range test of 3 steps, got 2 of the"),
        (
            SGD,
            {"cost": 1.0, "num_training": 40},
            "cost must be enough for 3 range tests of 40 steps, got 100 of the",
        ),
    ],
)
def test_what_the_recipe_cannot_change_is_refused_before_a_step_is_taken(
    optimizer, arguments, said
):
    module = Tried(optimizer)
    with pytest.raises(ValueError, match=said):
        recipe(module, **arguments)
    assert not module.seen.lrs


def test_a_recipe_says_beforehand_what_it_costs_and_shows_a_progress_bar(said, capsys):
    trainer = quiet_trainer(OneCycle(), TQDMProgressBar(), max_epochs=5, enable_progress_bar=True)
    recipe(trainer=trainer)
    (line,) = [line for line in said() if line.startswith("The recipe takes")]
    assert line == (
        "The recipe takes at most 300 steps, 3 times the training's 100. 1 range test of up to 75,"
        " then short trainings of 20: 3 for peaks, 2 for weight decays, 1 for momenta; then longer"
        " ones of the best."
    )
    assert "recipe" in capsys.readouterr().err


# ---- processes -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_agree_on_the_recipe(tmp_path):
    options = 'weight_decays=(0, 1e-3), momenta=(0.9,), cost=2.5, file="search.json"'
    script = SCRIPT.replace('file="search.json"', options)
    assert script != SCRIPT
    first, second = two_processes(tmp_path, script)
    assert first[0] == second[0] == first[1] == second[1]
    found = Search.load(tmp_path / "search.json")
    assert found.recipe.stage(WEIGHT_DECAY).probes
    assert found.steps == first[0][2] <= 250


@pytest.mark.slow
def test_a_recipe_and_then_the_training_with_what_it_found(tmp_path):
    options = ("trainer=cpu", "trainer.max_epochs=5", "trainer.enable_progress_bar=false")
    first = tmp_path / "first"
    own = "optimizer.weight_decay=0.5"
    code, output = run(*options, own, "lr_find=recipe", f"hydra.run.dir={first}")
    assert code == 0, output
    found, result = (
        Search.load(first / "recipe.json"),
        json.loads((first / "result.json").read_text()),
    )
    assert found.weight_decay != 0.5
    assert result["max_lr"] == pytest.approx(found.suggestion())
    assert result["weight_decay"] == found.weight_decay
    assert tuple(result["momentum"]) == (found.momentum or (0.95, 0.85))
    assert result["search_steps"] == found.steps <= 3 * result["total_steps"]
    assert (first / "recipe.png").read_bytes()[:4] == b"\x89PNG"
    text = (first / "recipe.md").read_text()
    assert found.report() in text
    (command,) = [line for line in text.splitlines() if line.startswith("python train.py")]
    assert command in output
    # The command trains to the same end, without the recipe.
    code, output = run(*command.split()[2:], f"hydra.run.dir={tmp_path / 'second'}")
    assert code == 0, output
    again = json.loads((tmp_path / "second" / "result.json").read_text())
    assert again["metrics"]["val/loss"] == pytest.approx(result["metrics"]["val/loss"], rel=0.05)
    # It goes on more than once, at what was found, and with another schedule.
    for more in (["trainer.max_epochs=6"], ["trainer.max_epochs=7", "schedule=cosine"]):
        code, output = run(f"resume={first}", *more)
        assert code == 0, output
    result = json.loads((first / "result.json").read_text())
    assert (result["schedule"], result["max_lr"]) == ("cosine", pytest.approx(found.suggestion()))
    checkpoint = torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)
    (group,) = checkpoint["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == found.weight_decay
    assert group["lr"] < 1e-9  # where a cosine ends, and a cycle does not
    bad = ("lr_find=recipe", "lr_find.weight_decays=[-1]", f"hydra.run.dir={tmp_path / 'bad'}")
    code, output = run(*options, *bad)
    assert code == 1
    assert "lr_find.weight_decays must be >= 0, each, got -1" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_recipe_that_ctrl_c_ends_goes_on_with_the_same_command(tmp_path):
    options = ["trainer=cpu", "trainer.max_epochs=20", "trainer.enable_progress_bar=false"]
    options += ["lr_find=recipe", f"hydra.run.dir={tmp_path}", "resume=auto"]
    process = start(*options)
    file = tmp_path / "recipe.json"
    while process.poll() is None and not (file.is_file() and Search.load(file).probes):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    partly = Search.load(file)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "interrupted"
    assert "continue: the same command again, with hydra.run.dir=" in output
    code, output = run(f"resume={tmp_path}")
    assert code == 1
    assert f"Give the same command again, with hydra.run.dir={tmp_path} resume=auto" in output
    code, output = run(*options)
    assert code == 0, output
    found = Search.load(file)
    assert f"continues after {partly.steps:,} of 1,080 steps" in output
    assert found.probes[: len(partly.probes)] == partly.probes
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "completed"
    assert result["search_steps"] == found.steps <= 1080
    # The file stands for the peak in a training with the same settings, and with no others.
    other = (*options[:3], "optimizer.weight_decay=0.3", f"lr_find.curve={file}")
    code, output_of_other = run(*other, f"hydra.run.dir={tmp_path / 'other'}")
    assert code == 1
    assert f"give also optimizer.weight_decay={found.weight_decay:g}" in output_of_other
    assert "Traceback" not in output_of_other
    command = output.split("the same without the recipe: python train.py ")[1].splitlines()[0]
    saved = (*command.split(), f"lr_find.curve={file}", f"hydra.run.dir={tmp_path / 'saved'}")
    code, output = run(*saved)
    assert code == 0, output
    again = json.loads((tmp_path / "saved" / "result.json").read_text())
    assert again["metrics"]["val/loss"] == result["metrics"]["val/loss"]
