"""The figures: their configurations train, their criteria are right, what is there is left out."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import pytest

from experiments.build import build
from experiments.figures import criteria, headline, losses, notes, runs, weight_decay
from experiments.figures.headline import Curve
from experiments.figures.losses import Run
from experiments.rows import add, markdown, read
from forks import run
from lightning_onecycle import one_cycle
from test_data import write_cifar10, write_fashion_mnist

ROOT = Path(__file__).parents[1]
FIGURES = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("fig*.yaml"))
LENET = [name for names in notes.LENET.values() for name in names]
EXPERIMENTS = [*FIGURES, "batch_norm", "momentum", *LENET]
BASELINES = ("lenet_step", "lenet_inv", "lenet_peaks")
DIGITS = ("data=digits", "data.train_size=200", "data.num_val=100", "data.batch_size=64")


# ---- the configurations -------------------------------------------------------------------------


def test_there_is_an_experiment_for_each_figure():
    assert {name.split("_")[0] for name in FIGURES} == {f"fig{n}" for n in range(1, 8)}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_asks_a_question(name):
    text = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
    first, *comment = text.splitlines()
    assert first == "# @package _global_"
    question = " ".join(line for line in comment if line.startswith("# "))
    # Those of the large settings and of a baseline refer to the experiment that asks.
    assert "?" in question or "cifar10" in name or name in BASELINES


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains(name, tmp_path):
    if "cifar10" in name:
        options = [f"data.root={write_cifar10(tmp_path)}", "data.num_val=10"]
    else:
        options = [f"data.root={write_fashion_mnist(tmp_path)}", "data.num_val=20"]
    options += ["data.train_size=null", "data.batch_size=10", "trainer.accelerator=cpu"]
    options += ["trainer.enable_progress_bar=false"]
    (*_, job) = runs.jobs(name)
    cfg = runs.configuration(f"experiment={name}", *job, *options)
    small = cfg.trainer.max_steps > 0
    cfg.trainer.max_epochs = -1 if small else 1
    cfg.trainer.max_steps = 4 if small else -1
    rows, diverged, _, tested = runs.train(cfg)
    assert [row["steps"] for row in rows] == [4]
    assert diverged or math.isfinite(tested["test/acc"])


def test_a_sweep_becomes_jobs_and_what_is_given_is_not_swept():
    assert runs.jobs("fig2_losses") == [("seed=0",), ("seed=1",), ("seed=2",)]
    assert runs.jobs("fig2_losses", "seed=7") == [("seed=7",)]
    assert runs.jobs("fig1_learning_rate") == [()]
    decays = {job[-1] for job in runs.jobs("fig7_weight_decay")}
    assert decays == {
        f"optimizer.weight_decay={value}" for value in ("0.01", "0.001", "0.0001", "0")
    }
    assert len(runs.jobs("fig5_steps")) == 2 * 5 * 8 * 3


@pytest.mark.parametrize(
    ("name", "epochs", "ends"),
    [
        ("fig2_losses", 95, [(0, 0.08), (41, 0.8), (82, 0.08), (95, 0.0008)]),
        ("fig3_high_rate", 50, [(0, 0.15), (22.5, 3.0), (45, 0.15), (50, 0.0015)]),
        ("fig4_overfitting", 95, [(0, 0.08), (23.75, 0.8), (47.5, 0.08), (95, 0.0008)]),
    ],
)
def test_the_cycles_of_the_figures(name, epochs, ends):
    cfg = runs.configuration(f"experiment={name}")
    assert cfg.trainer.max_epochs == epochs
    assert (cfg.optimizer.weight_decay, cfg.data.batch_size) == (1e-4, 512)
    trace = build(cfg, "schedule").trace(1000 * epochs)
    for epoch, lr in ends:
        point = trace[max(round(1000 * epoch) - 1, 0)]
        assert cfg.optimizer.lr * point.lr == pytest.approx(lr, rel=1e-3)
        assert point.momentum == pytest.approx(0.85 if lr == cfg.optimizer.lr else 0.95, abs=1e-4)


def test_the_schedule_is_guggers_to_the_last_digit():
    # fastai 0.7's use_clr_beta with 95 epochs of 98 steps, peak .8: 4018 steps up, as many down,
    # and a tail that would end one step behind the last.
    trace = one_cycle(pct_start=4019 / 9311, pct_final=1 - 2 * 4019 / 9311).trace(9311)
    golden = {
        0: (0.08, 0.95),
        2009: (0.44, 0.90),
        4018: (0.8, 0.85),
        6027: (0.44, 0.90),
        8036: (0.08, 0.95),
        8673: (0.0404, 0.95),
        9309: (0.000862166, 0.95),
    }
    for step, (lr, momentum) in golden.items():
        assert 0.8 * trace[step].lr == pytest.approx(lr, abs=1e-6)
        assert trace[step].momentum == pytest.approx(momentum, abs=1e-6)
    for point in trace[:8037]:  # momentum is the mirror image of the learning rate
        assert (0.95 - point.momentum) / 0.10 == pytest.approx((point.lr - 0.1) / 0.9, abs=1e-9)
    assert {point.momentum for point in trace[8036:]} == {0.95}


def test_the_peaks_of_fig5_are_rungs_of_the_ladder():
    grid = runs.configuration("experiment=fig5_steps").hydra.sweeper.params["optimizer.lr"]
    assert [float(lr) for lr in grid.split(",")] == [headline.peak(rung) for rung in range(-2, 6)]


# ---- the runner ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_trains_what_train_py_trains(tmp_path):
    options = [*DIGITS, "trainer=cpu", "trainer.max_epochs=2", "trainer.enable_progress_bar=false"]
    folder = tmp_path / "sweep"
    code, output = run("experiment=fig2_losses", *options, "seed=3", f"hydra.sweep.dir={folder}")
    assert code == 0, output
    (path,) = folder.glob("*/result.json")  # the experiment is a sweep by itself
    result = json.loads(path.read_text())
    cfg = runs.configuration("experiment=fig2_losses", *options, "seed=3")
    (_, row), _, _, tested = runs.train(cfg)
    assert row["steps"] == result["steps"] == 6
    for metric in runs.METRICS:
        assert row[metric] == pytest.approx(result["metrics"][metric], abs=1e-6)
    assert tested["test/acc"] == pytest.approx(result["metrics"]["test/acc"], abs=1e-6)


def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path)
    trained = []

    def train(cfg):
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(cfg.seed)
        rows = [{"epoch": n, "steps": n, "val/loss": 0.5} for n in (1, 2)]
        return rows, False, 1.0, {"test/acc": 0.5}

    monkeypatch.setattr(runs, "train", train)
    with pytest.raises(KeyboardInterrupt):
        runs.run("fig2_losses")
    assert [row["seed"] for row in read(tmp_path / "fig2_losses.csv")] == [0, 0]
    trained.extend([None])
    runs.run("fig2_losses")
    assert trained == [0, None, 1, 2]
    rows = read(tmp_path / "fig2_losses.csv")
    assert [(row["job"], row["epoch"], row["test/acc"]) for row in rows[2:4]] == [
        ("seed=1", 1, ""),
        ("seed=1", 2, 0.5),
    ]
    runs.run("fig2_losses")
    assert len(trained) == 4


def test_a_training_that_diverges_ends_and_says_so():
    options = (*DIGITS, "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
    cfg = runs.configuration("experiment=fig2_losses", *options, "optimizer.lr=1e30")
    rows, diverged, _, tested = runs.train(cfg)
    assert diverged
    assert tested == {}
    assert len(rows) <= 2


def test_rows_come_back_as_they_were(tmp_path):
    path = tmp_path / "new" / "rows.csv"
    assert read(path) == []
    add(path, [{"a": 1, "b": 0.25, "c": "x, y"}, {"a": -2, "b": 1e-05, "c": ""}])
    add(path, [{"c": "z", "b": math.inf, "a": 3}])
    assert read(path) == [
        {"a": 1, "b": 0.25, "c": "x, y"},
        {"a": -2, "b": 1e-05, "c": ""},
        {"a": 3, "b": math.inf, "c": "z"},
    ]
    assert markdown(read(path)[:1]) == "| a | b | c |\n| --- | --- | --- |\n| 1 | 0.25 | x, y |"


# ---- criteria -----------------------------------------------------------------------------------


def test_gap_roughness_and_slope():
    assert criteria.gap([1.0, 0.5], [1.5, 0.25]) == [0.5, -0.25]
    assert criteria.roughness([1.0, 0.5, 1.0, 0.0]) == pytest.approx(2 / 3)
    assert criteria.slope([1.0, 0.5, 0.0]) == pytest.approx(-0.5)
    assert criteria.slope([0.0, 2.0, 1.0]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        (0.70, 100.0),  # the shortest has it already
        (0.75, 100.0 * math.sqrt(2)),  # half way, over the logarithm
        (0.80, 200.0),
        (0.84, 800.0 / math.sqrt(2)),  # the dip before does not count
        (0.90, 800.0),
        (0.91, None),
    ],
)
def test_steps_to_accuracy(target, steps):
    lengths, accuracies = [100, 200, 400, 800], [0.7, 0.8, 0.78, 0.9]
    assert criteria.steps_to_accuracy(lengths, accuracies, target) == pytest.approx(steps)


def test_a_climb_passes_levels_no_neighbour_exceeds():
    scores = {-1: 0.5, 0: 0.6, 1: 0.7, 2: 0.7, 3: 0.9}
    asked = []

    def score(rung):
        asked.append(rung)
        return scores[rung]

    assert criteria.climb(score, start=0) == 1  # on level ground it stays
    assert set(asked) == {-1, 0, 1, 2}
    assert criteria.climb(scores.__getitem__, start=1) == 1


def test_the_blow_up_is_where_the_smoothed_loss_is_four_times_the_lowest():
    lrs = [0.1, 0.2, 0.4, 0.8]
    assert weight_decay.smoothed([2.0, 1.0, 1.0], beta=0.5) == pytest.approx([2, 4 / 3, 8 / 7])
    assert weight_decay.blow_up(lrs, [2.0, 0.5, 1.9, 2.1]) == 0.8
    assert weight_decay.blow_up(lrs, [2.0, 0.5, math.nan, 2.1]) == 0.4
    assert weight_decay.blow_up(lrs, [2.0, 0.5, 1.0, 2.0]) is None


# ---- Figs. 2 to 4 -------------------------------------------------------------------------------


def run_of(train, val, accuracy=0.9):
    return Run(train, val, [accuracy] * len(val), accuracy)


def zigzag(first, last, epochs, until, size):
    """A straight line of losses that jumps by ``size`` at each other epoch before ``until``."""
    line = [first + (last - first) * n / (epochs - 1) for n in range(epochs)]
    return [v + (size if n % 2 and n < until else 0.0) for n, v in enumerate(line)]


def test_verdicts_of_a_fig2_that_is_as_was_said_and_of_one_that_is_not():
    good = run_of(zigzag(1.0, 0.2, 95, 0, 0.0), zigzag(1.1, 0.3, 95, 70, 0.1))
    assert [verdict.holds for verdict in losses.judge_fig2([good] * 3)] == [True] * 4
    # It memorizes: the training loss falls, the validation loss turns at epoch 40.
    val = [1.0 - 0.01 * n if n < 40 else 0.6 + 0.005 * (n - 40) for n in range(95)]
    bad = run_of(zigzag(1.0, 0.0, 95, 0, 0.0), val)
    other = run_of(zigzag(1.0, 0.01, 95, 0, 0.0), val)
    verdicts = losses.judge_fig2([bad, other])
    assert [verdict.holds for verdict in verdicts] == [False] * 4
    assert {verdict.seeds for verdict in verdicts} == {"0 of 2"}


def test_verdicts_of_fig3():
    fig2 = [run_of([0.1] * 95, [0.3] * 95, accuracy) for accuracy in (0.93, 0.94)]
    val = [1.0 if n % 2 else 0.8 for n in range(40)] + [0.25] * 5 + [0.22] * 5
    train = [0.4] * 40 + [0.2] * 5 + [0.1] * 5
    runs_ = [run_of(train, val, accuracy) for accuracy in (0.92, 0.945)]
    a, b, c, loss, accuracy = losses.judge_fig3(runs_, fig2)
    assert [v.holds for v in (a, b, c, loss, accuracy)] == [True] * 5
    assert (c.measured, c.seeds) == ("0.120 ± 0.000; 0.050 ± 0.000", "2 of 2")
    assert (loss.seeds, accuracy.seeds) == ("2 of 2", "1 of 2")  # .92 < .93, but .945 > .94


def test_verdicts_of_fig4():
    fig2 = [run_of([0.1] * 95, [0.3] * 95, 0.93)] * 2
    val = [0.35] * 50 + [0.28] * 5 + [0.32] * 40
    over_fit = [run_of([0.05] * 95, val, 0.92)] * 2
    assert [v.holds for v in losses.judge_fig4(over_fit, fig2)] == [True] * 3
    better = [run_of([0.15] * 95, [0.35] * 60 + [0.3] * 35, 0.94)] * 2
    assert [v.holds for v in losses.judge_fig4(better, fig2)] == [False] * 3


def test_tables_and_picture_of_fig2(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.figures.style.HERE", tmp_path)
    path = tmp_path / "fig2_losses.csv"
    for seed, accuracy in ((0, 0.90), (1, 0.92)):
        rows = [
            {"seed": seed, "train/loss": 0.2, "val/loss": 0.3, "val/acc": accuracy, "test/acc": ""}
            for _ in range(95)
        ]
        rows[-1]["test/acc"] = accuracy - 0.01
        add(path, rows)
    found = losses.runs_of(read(path))
    text = losses.tables({"fig2_losses": found}, losses.judge(found, [], []))
    assert (
        "| fig2_losses | 2 | 0.200 ± 0.000 | 0.300 ± 0.000 | 0.100 ± 0.000 | 91.00 ± 1.41 |" in text
    )
    losses.draw("fig2_losses", found, one_cycle(), 0.8, "a title")
    assert (tmp_path / "fig2_losses.png").stat().st_size > 10_000


# ---- the headline -------------------------------------------------------------------------------


def test_speed_up_of_the_means_and_of_each_seed():
    onecycle = Curve(
        [100, 200, 400], [0.4] * 3, [[0.7, 0.8, 0.6], [0.8, 0.9, 0.7], [0.9, 1.0, 0.8]]
    )
    standard = Curve([100, 200, 400], [0.1] * 3, [[0.5] * 3, [0.6] * 3, [0.8, 0.7, 0.9]])
    mean, seeds = headline.speed_up(onecycle, standard, 400)
    assert mean == pytest.approx(2.0)  # both means are 0.8: after 200 steps, and after 400
    assert seeds == [pytest.approx(2.0), pytest.approx(4.0), None]


def test_a_regime_is_saturated_that_gains_no_more_than_its_seeds_differ():
    after = [0.7, 0.8, 0.9]  # standard deviation .1
    little = Curve([100, 200], [0.4] * 2, [[0.71] * 3, after])
    assert headline.gain(little) == pytest.approx(0.09)
    assert headline.is_saturated(little)
    assert not headline.is_saturated(Curve([100, 200], [0.4] * 2, [[0.69] * 3, after]))


def test_settings_differ_from_the_figure_by_what_they_say():
    for setting, (overrides, budgets) in headline.SETTINGS.items():
        assert all(b == pytest.approx(2 * a, abs=1) for a, b in itertools.pairwise(budgets))
        options = headline.overrides(setting, "step", 5, 0.2, seed=1)
        cfg = runs.configuration(*options)
        assert (cfg.trainer.max_steps, cfg.trainer.val_check_interval) == (5, 5)
        assert (cfg.optimizer.lr, cfg.seed) == (0.2, 1)
        assert (overrides == ()) == (setting == "10,000 images")


def fake_training(monkeypatch, path, best):
    """Let a training's accuracy fall by .1 for each rung from the best one of its regime."""
    monkeypatch.setattr(headline, "PATH", path)
    trained = []

    def train(cfg):
        regime = "step" if cfg.schedule._target_.endswith("step_decay") else "onecycle"
        rung = round(math.log2(cfg.optimizer.lr / 0.1))
        steps = cfg.trainer.max_steps
        accuracy = 0.9 - 0.1 * abs(rung - best[regime]) - 10 / steps - 0.001 * cfg.seed
        trained.append((regime, steps, rung, cfg.seed))
        row = {"train/loss": 0.5, "val/loss": 0.5, "val/acc": accuracy}
        return [row], False, 1.0, {"test/acc": accuracy - 0.1}

    monkeypatch.setattr(headline, "train", train)
    return trained


@pytest.mark.slow
def test_headline_tunes_on_validation_and_trains_all_seeds_at_the_best(tmp_path, monkeypatch):
    path = tmp_path / "headline.csv"
    trained = fake_training(monkeypatch, path, {"onecycle": 3, "step": 0})
    headline.run(["20,000 images"], longest=250)
    assert len(trained) == len(set(trained))
    tuning = [(regime, rung) for regime, steps, rung, seed in trained if steps == 125 and seed == 0]
    assert sorted(tuning) == [("onecycle", r) for r in range(5)] + [
        ("step", r) for r in (-1, 0, 1, 2)
    ]
    seeds = [seed for *_, seed in trained]
    assert seeds.count(0) == seeds.count(1) == seeds.count(2)
    headline.run(["20,000 images"], longest=250)  # everything is there
    assert len(trained) == len(set(trained))
    (name, onecycle, standard) = next(headline.curves())
    assert name == "20,000 images"
    assert (onecycle.peaks, standard.peaks) == ([0.8] * 2, [0.1] * 2)
    assert onecycle.means[0] == pytest.approx(0.9 - 0.1 - 10 / 125 - 0.001)
    assert (
        "| 20,000 images | 250 | 75.90 ± 0.10 | 75.90 ± 0.10 | 1.0 | 1.0, 1.0, 1.0 | +4.00 | yes |"
        in headline.table()
    )


@pytest.mark.slow
def test_headline_goes_on_from_a_higher_place_that_is_known(tmp_path, monkeypatch):
    path = tmp_path / "headline.csv"
    trained = fake_training(monkeypatch, path, {"onecycle": 1, "step": 1})
    place = {"setting": "20,000 images", "schedule": "step", "steps": 125, "lr": 0.0125}
    row = {"train/loss": 0.5, "val/loss": 0.5, "val/acc": 0.95, "test/acc": 0.7} | {
        "diverged": False,
        "seconds": 1.0,
    }
    add(path, [place | {"seed": seed} | row for seed in (0, 1, 2)])
    headline.run(["20,000 images"], longest=125)
    rungs = {rung for regime, _, rung, _ in trained if regime == "step"}
    assert rungs == {0, 1, 2, -4, -2}  # the top that it finds first, and beside the rung -3
    assert headline.curve(read(path), "20,000 images", "step").peaks == [0.0125]


@pytest.mark.slow
def test_headline_of_budgets_that_both_regimes_have(tmp_path, monkeypatch):
    path = tmp_path / "headline.csv"
    trained = fake_training(monkeypatch, path, {"onecycle": 1, "step": 1})
    headline.run(["20,000 images"], longest=250)
    assert {steps for _, steps, _, _ in trained} == {125, 250}
    headline.run(["20,000 images"], longest=500, regimes=["onecycle"])  # the other is not there
    ((_, onecycle, standard),) = headline.curves()
    assert onecycle.steps == standard.steps == [125, 250]
    rows = headline.factors(onecycle, standard)
    assert rows[0]["less the standard regime's with 1 times as many"] == "0.00 ± 0.00"
    assert rows[0]["less the standard regime's with 2 times as many"] == "-4.00 ± 0.00"
    assert rows[1]["less the standard regime's with 2 times as many"] == ""
    monkeypatch.setattr("experiments.figures.style.HERE", tmp_path)
    headline.draw()
    assert (tmp_path / "headline.png").exists()
    assert (tmp_path / "headline_curves.png").exists()


def rows_of_a_grid(regime, accuracies, peaks=(0.1, 0.2, 0.4), seeds=(0, 1, 2)):
    """Rows of one setting in which .2 validates best, and tests worst."""
    for steps in headline.SETTINGS["20,000 images"].budgets:
        for lr, seed in itertools.product(peaks, seeds):
            val = 0.95 if lr == 0.2 else 0.94
            yield {"setting": "20,000 images", "schedule": regime, "steps": steps, "lr": lr} | {
                "seed": seed,
                "val/acc": val,
                "test/acc": accuracies if lr == 0.2 else 0.96,
            }


def test_a_warm_up_is_the_control_where_it_was_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(headline, "PATH", tmp_path / "headline.csv")
    add(headline.PATH, [*rows_of_a_grid("onecycle", 0.8), *rows_of_a_grid("step", 0.7)])
    assert headline.warm_up() == []
    warm = [row for row in rows_of_a_grid("step_warmed_up", 0.9) if row["steps"] < 1000]
    add(headline.PATH, warm)
    assert headline.warm_up() == [
        {
            "setting": "20,000 images",
            "steps": 500,
            "standard (%)": "70.00 ± 0.00",
            "standard, warmed up (%)": "90.00 ± 0.00",
            "1cycle (%)": "80.00 ± 0.00",
            "times fewer steps than standard": "≥ 4.0 (≥ 4.0, ≥ 4.0, ≥ 4.0)",
            "times fewer steps than warmed up": "< 1 (< 1, < 1, < 1)",
        }
    ]


def test_headline_says_where_1cycle_is_not_good_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(headline, "PATH", tmp_path / "headline.csv")
    add(headline.PATH, [*rows_of_a_grid("onecycle", 0.8), *rows_of_a_grid("step", 0.9)])
    assert "| 90.00 ± 0.00 | 80.00 ± 0.00 | < 1 | < 1, < 1, < 1 | +0.00 | no |" in headline.table()


def test_a_peak_counts_when_its_neighbours_have_been_tried_with_all_seeds():
    whole = [*rows_of_a_grid("step", 0.9)]
    tuned = headline.curve(whole, "20,000 images", "step")
    assert tuned.peaks == [0.2] * 5
    assert tuned.means == [0.9] * 5
    assert headline.curve(whole, "20,000 images", "onecycle").steps == []
    edge = [*rows_of_a_grid("step", 0.9, peaks=(0.2, 0.4))]
    assert headline.curve(edge, "20,000 images", "step").steps == []
    few = [row for row in whole if (row["lr"], row["seed"]) != (0.4, 2)]
    assert headline.curve(few, "20,000 images", "step").steps == []


def test_a_diverged_training_has_chance_accuracy(tmp_path, monkeypatch):
    monkeypatch.setattr(headline, "PATH", tmp_path / "headline.csv")
    monkeypatch.setattr(headline, "train", lambda cfg: ([], True, 1.0, {}))
    assert headline.measure("10,000 images", "step", 125, 9, 0)["val/acc"] == 0.1
    with (tmp_path / "headline.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["diverged"], row["test/acc"], row["lr"]) == ("True", "0.1", "51.2")


# ---- Fig. 7 -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_range_tests_of_fig7(tmp_path, monkeypatch):
    path = tmp_path / "fig7.csv"
    monkeypatch.setattr(weight_decay, "PATH", path)
    monkeypatch.setattr("experiments.figures.style.HERE", tmp_path)
    options = (*DIGITS, "lr_find.num_training=12", "trainer.accelerator=cpu")
    cfg = runs.configuration

    monkeypatch.setattr(weight_decay, "configuration", lambda *given: cfg(*given, *options))
    weight_decay.run()
    rows = read(path)
    assert {(float(row["weight_decay"]), row["seed"]) for row in rows} == {
        (decay, seed) for decay in (0.01, 0.001, 0.0001, 0.0) for seed in (0, 1, 2)
    }
    count = len(rows)
    weight_decay.run()
    assert len(read(path)) == count
    assert weight_decay.table(rows).count("\n") == 6
    weight_decay.draw(rows)
    assert (tmp_path / "fig7_weight_decay.png").stat().st_size > 10_000


# ---- notes --------------------------------------------------------------------------------------


def final(job, seed, val, test, epoch=1):
    row = {"job": f"{job} seed={seed}", "seed": seed, "epoch": epoch, "steps": 10 * epoch}
    return row | {"val/acc": val, "test/acc": test}


def test_momentum_is_compared_at_the_peak_that_validates_best():
    rows = [
        final("momentum=[0.9,0.9] optimizer.lr=0.2", 0, 0.90, 0.80),
        final("momentum=[0.9,0.9] optimizer.lr=0.2", 1, 0.92, 0.82),
        final("momentum=[0.9,0.9] optimizer.lr=0.4", 0, 0.95, 0.70),
        final("momentum=[0.9,0.9] optimizer.lr=0.4", 1, 0.89, 0.72),
    ]
    (line,) = notes.momentum_table(rows)
    assert (line["best peak"], line["n"]) == ("0.4", "2")
    assert line["test accuracy (%)"] == "71.00 ± 1.41"


def test_batch_norm_table():
    anew = "callbacks.batch_norm={_target_:x,num_batches:20}"
    rows = [
        final(f"trainer.max_steps=62 {option}", seed, 0.5, accuracy + seed / 100)
        for option, accuracy in (("callbacks.batch_norm=null", 0.3), (anew, 0.6))
        for seed in (0, 1)
    ]
    assert notes.batch_norm_table(rows) == [
        {
            "optimizer steps": "62",
            "n": 2,
            "running averages (%)": "30.50 ± 0.71",
            "estimated anew (%)": "60.50 ± 0.71",
        }
    ]


def of_seeds(*accuracies, steps=20, val=None):
    """A run of each seed, with its test accuracy; it validates at ``val``, or as it tests."""
    return {
        seed: {"steps": steps, "test/acc": test, "val/acc": test if val is None else val}
        for seed, test in enumerate(accuracies)
    }


def test_lenet_regimes_are_compared_at_the_rate_that_validates_best():
    rates = {
        0.1: of_seeds(0.6, 0.6, 0.6, val=0.7),
        0.2: of_seeds(0.9, 0.9, 0.9, val=0.6),
        0.3: of_seeds(0.99),  # one seed is not enough
    }
    assert notes.lenet_table({"1cycle": {2: rates}, "step": {}}) == [
        {
            "regime": "1cycle",
            "epochs": 2,
            "steps": 20,
            "learning rate": "0.1",
            "of": "0.1, 0.2",
            "n": 3,
            "test accuracy (%)": "60.00 ± 0.00",
        }
    ]


def test_lenet_factors_are_steps_to_the_accuracy_of_1cycle():
    regimes = {
        "1cycle": {2: {0.1: of_seeds(0.7, 0.6, 0.8)}},
        "step": {
            2: {0.1: of_seeds(0.5, 0.6, 0.5)},
            8: {0.1: of_seeds(0.9, 0.9, 0.7, steps=80)},
        },
        "inv": {8: {0.1: of_seeds(0.9, 0.9, 0.9, steps=80)}},  # one length has no curve
    }
    assert notes.lenet_factors(regimes | {"1cycle": {}}) == []  # it is not there yet
    # Seed 0 is half-way in the logarithm; the means are 0.5333 and 0.8333 for a target of 0.7.
    assert notes.lenet_factors(regimes) == [
        {"regime": "step", "of the means": "2.2", "each seed": "2.0, 1.0, > 4.0"}
    ]


def test_what_was_trained_of_lenet_knows_its_rate_and_length(tmp_path, monkeypatch):
    monkeypatch.setattr(notes, "RESULTS", tmp_path)
    add(tmp_path / "lenet.csv", [final("a=b", 0, 0.5, 0.6)])
    add(tmp_path / "lenet_peaks.csv", [final("optimizer.lr=0.1", 1, 0.5, 0.6)])
    add(
        tmp_path / "lenet_long.csv", [final("optimizer.lr=0.02 trainer.max_epochs=24", 0, 0.5, 0.6)]
    )
    regimes = notes.lenet_runs()
    assert list(regimes["1cycle"]) == [12]
    assert {lr: sorted(seeds) for lr, seeds in regimes["1cycle"][12].items()} == {0.1: [0, 1]}
    assert list(regimes["step"]) == [24]
    assert list(regimes["step"][24]) == [0.02]


def test_a_job_is_known_in_any_order_of_its_overrides(tmp_path):
    path = tmp_path / "runs.csv"
    add(path, [{"job": "optimizer.lr=0.1 seed=0", "seed": 0}])
    wanted = [("seed=0", "optimizer.lr=0.1"), ("seed=1", "optimizer.lr=0.1")]
    assert list(runs.missing(path, wanted)) == [("seed=1", "optimizer.lr=0.1")]
