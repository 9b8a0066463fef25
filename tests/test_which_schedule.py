"""The benchmark of schedules: how a peak is tuned, what is measured, and what the table says."""

import json
from itertools import islice

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from experiments.benchmarks.kinds.losses import squared_error
from experiments.benchmarks.kinds.problems import Problem
from experiments.benchmarks.which_schedule import __main__ as command
from experiments.benchmarks.which_schedule import table, trainings
from experiments.benchmarks.which_schedule.entries import (
    CONTROL,
    ENTRIES,
    REFERENCE,
    TRAININGS,
    Training,
    make_optimizer,
)
from experiments.benchmarks.which_schedule.picture import PANELS, draw
from experiments.benchmarks.which_schedule.table import (
    Cell,
    cells,
    chosen,
    noise_limit,
    over_tasks,
    summary,
)
from experiments.benchmarks.which_schedule.tasks import BUDGETS, TASKS, Task
from experiments.benchmarks.which_schedule.trainings import (
    FRESH,
    TUNING,
    Averages,
    batches,
    best_exponent,
    half,
    measure,
    train,
    tuned,
)
from lightning_onecycle import constant, one_cycle


def line(slope=2.0):
    """A line to be found."""
    x = torch.linspace(-1.0, 1.0, 40)[:, None]
    net = nn.Linear(1, 1)
    return Problem(net, squared_error, (x, slope * x), (x, slope * x), 50.0)


LINE = Task("line", line, "sgd", 20, 8, 0.0, 0)
ADAM_LINE = LINE._replace(name="adam", optimizer="adamw")


# ---- what is compared ---------------------------------------------------------------------------


def test_rows_of_the_table_refer_to_what_is_trained():
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert {entry.training for entry in ENTRIES} == set(TRAININGS)
    for entry in ENTRIES:
        assert entry.weights in ("last", *TRAININGS[entry.training].averages)
    drawn = [name for names in PANELS.values() for name in names]
    assert sorted([*drawn, REFERENCE.name, CONTROL.name]) == sorted(e.name for e in ENTRIES)


@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("onecycle", "1cycle"),
        ("onecycle_steady", "1cycle, momentum .85"),
        ("onecycle_torch", "1cycle, torch"),
        ("cosine", "cosine, warm-up 5 %"),
        ("trapezoid", "trapezoid"),
        ("step", "step decay"),
        ("constant", "constant"),
    ],
)
def test_schedules_are_those_of_the_command_line(name, training):
    schedule = instantiate(OmegaConf.load(f"conf/schedule/{name}.yaml"))
    assert TRAININGS[training].schedule.trace(100) == schedule.trace(100)


def test_halves_of_the_tasks_are_alike():
    assert len({task.name for task in TASKS}) == len(TASKS) >= 5
    for group in ([task for task in TASKS if task.half == part] for part in (0, 1)):
        assert {task.optimizer for task in group} == {"sgd", "adamw"}
        assert any(task.in_errors for task in group)


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    for training, package in (("schedule-free", "schedulefree"), ("Prodigy", "prodigyopt")):
        with pytest.raises(ModuleNotFoundError, match=f"pip install {package}"):
            make_optimizer(LINE, TRAININGS[training], [{"params": [], "lr": 1.0}], 20)


# ---- tuning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", range(-14, 5))
@pytest.mark.parametrize("ladder", [(-8, -6, -4, -2, 0), (-5, -4, -3)])
def test_the_best_exponent_is_found_where_there_is_one_minimum(best, ladder):
    tried = []

    def value(k):
        tried.append(k)
        return abs(k - best - 0.1)

    limit = trainings.MOST_EXTENSIONS * (ladder[1] - ladder[0])
    if ladder[0] - limit < best < ladder[-1] + limit:
        assert best_exponent(value, ladder) == best
        assert min(tried) < best < max(tried)  # never at an end of what was tried
    assert len(tried) == len(set(tried)) <= len(ladder) + trainings.MOST_EXTENSIONS + 2


def test_of_equal_peaks_the_lowest_counts():
    assert best_exponent(lambda k: max(abs(k), 2), (-3, -2, -1, 0, 1, 2, 3)) == -1


def test_a_peak_at_the_edge_of_divergence_is_not_chosen():
    values = {-4: 1.2, -3: 1.0, -2: 0.9, -1: 0.8, 0: 9.0}
    assert best_exponent(values.__getitem__, tuple(values)) == -2


def test_each_budget_is_tuned_around_the_one_before():
    tried = []

    def value(budget, k, seed):
        tried.append((budget, k, seed))
        return abs(k + 3 + {1: 0, 4: 1, 16: 4}[budget] - 0.1)

    assert tuned(value, "sgd", shift=10) == {1: -3, 4: -4, 16: -7}
    ladders = {b: sorted({k for budget, k, _ in tried if budget == b}) for b in BUDGETS}
    assert ladders == {
        1: [-8, -6, -4, -3, -2, -1, 0],
        4: [-5, -4, -3, -2],
        16: [-8, -7, -6, -5, -4, -3],
    }
    for budget, seeds in TUNING.items():
        assert {seed for b, _, seed in tried if b == budget} == {seed + 10 for seed in seeds}


def test_seeds_that_choose_never_measure():
    for shift in {entry.shift for entry in ENTRIES}:
        assert all(seed + shift < FRESH[0] for seeds in TUNING.values() for seed in seeds)
    assert set(TUNING) == set(BUDGETS)


# ---- trainings ----------------------------------------------------------------------------------


def test_an_epoch_has_each_example_once_in_the_order_of_the_seed():
    x = torch.arange(10)
    first = [batch[0].tolist() for batch in islice(batches([x], 5, seed=0), 4)]
    assert sorted(first[0] + first[1]) == sorted(first[2] + first[3]) == list(range(10))
    assert first[:2] != first[2:]
    assert first == [batch[0].tolist() for batch in islice(batches([x], 5, seed=0), 4)]
    assert first != [batch[0].tolist() for batch in islice(batches([x], 5, seed=1), 4)]
    assert all(len(batch[0]) == 4 for batch in islice(batches([x], 4, seed=0), 6))


def test_averages_are_over_their_part_of_the_run():
    net = nn.Linear(1, 1, bias=False)
    averages = Averages(net, ("ema", "swa", "tail"), steps=40)
    expected = 0.0
    for step in range(40):
        nn.init.constant_(net.weight, float(step))
        averages.update(step)
        expected = step if step == 0 else expected + (step - expected) / 2  # 5 % of 40 steps
    found = {name: model.module.weight.item() for name, model in averages.models.items()}
    assert found["ema"] == pytest.approx(expected)
    assert found["swa"] == pytest.approx((36 + 37 + 38 + 39) / 4)
    assert found["tail"] == pytest.approx(sum(range(30, 40)) / 10)


def test_seeds_that_choose_and_fresh_seeds_have_each_their_half():
    x = torch.arange(40.0)
    choosing, fresh = half([x], seed=0)[0], half([x], seed=FRESH[0])[0]
    assert sorted([*choosing.tolist(), *fresh.tolist()]) == x.tolist()
    assert set(choosing.tolist()) != set(x[::2].tolist())  # the order may be by classes
    assert choosing.tolist() == half([x], seed=12)[0].tolist()
    problem = line()
    assert measure(LINE, problem, problem.net, 0) != measure(LINE, problem, problem.net, FRESH[0])


def test_a_training_ends_at_the_line_and_is_the_same_again():
    training = Training(one_cycle(), averages=("ema", "swa"))
    first = train(LINE, training, 16, 0.2, seed=0)
    assert list(first) == ["last", "ema", "swa"]
    assert all(0 <= loss < 1e-3 for loss in first.values())
    assert first == train(LINE, training, 16, 0.2, seed=0)
    assert first != train(LINE, training, 4, 0.2, seed=0)


def test_a_training_that_diverges_has_what_a_trivial_predictor_has():
    assert train(LINE, Training(constant()), 16, 1e4, seed=0) == {"last": 50.0}


@pytest.mark.parametrize("task", [LINE, ADAM_LINE], ids=lambda task: task.optimizer)
def test_schedule_free_is_measured_at_its_average(task, monkeypatch):
    pytest.importorskip("schedulefree")
    modes = []

    def measured(task, problem, net, seed):
        modes.append(optimizers[-1].param_groups[0]["train_mode"])
        return 0.0

    optimizers = []

    def make(*arguments):
        optimizers.append(make_optimizer(*arguments))
        return optimizers[-1]

    monkeypatch.setattr(trainings, "make_optimizer", make)
    monkeypatch.setattr(trainings, "measure", measured)
    train(task, TRAININGS["schedule-free"], 1, 0.1, seed=0)
    assert modes == [False]
    assert optimizers[0].param_groups[0]["warmup_steps"] == 1
    assert optimizers[0].param_groups[0]["k"] == 20


def test_prodigy_needs_no_rate(capsys):
    pytest.importorskip("prodigyopt")
    loss = train(ADAM_LINE._replace(weight_decay=0.01), TRAININGS["Prodigy"], 4, 1.0, seed=0)
    assert loss["last"] < 50.0
    assert not capsys.readouterr().out


# ---- the table ----------------------------------------------------------------------------------


def value_of(entry, budget, k, seed):
    """Best at 2^-3; another seed is another value; torch's numbers are a hundredth worse."""
    return 1.0 / budget + abs(k + 3) + seed / 1000 + 0.01 * (entry.training == "1cycle, torch")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """What the command leaves on disk for two rows and one task, without training anything."""
    names = {REFERENCE.name, CONTROL.name, "1cycle, torch's numbers", "Prodigy, cosine, untuned"}
    some = tuple(entry for entry in ENTRIES if entry.name in names)
    trained = []

    def train(task, training, budget, lr, seed):
        entry = next(e for e in some if TRAININGS[e.training] is training)
        trained.append((entry.name, budget, seed))
        k = round(torch.tensor(lr).log2().item())
        value = value_of(entry, budget, k, seed)
        return dict.fromkeys(("last", *training.averages), value)

    monkeypatch.setattr(command, "train", train)
    monkeypatch.setattr(command, "ROWS", tmp_path / "rows.jsonl")
    for module in (command, table):
        monkeypatch.setattr(module, "ENTRIES", some)
        monkeypatch.setattr(module, "TASKS", (LINE,))
    command.measure(0, 1, None)
    return trained


def test_a_measurement_goes_on_where_it_was_left(measured, capsys):
    rows = [json.loads(text) for text in command.ROWS.read_text().splitlines()]
    count = len(measured)
    assert len(rows) == count == len({tuple(row[key] for key in command.KEYS) for row in rows})
    assert {row["exponent"] for row in rows if row["training"] == "Prodigy"} == {0}
    assert sum(row["training"] == "Prodigy" for row in rows) == len(FRESH) * len(BUDGETS)
    command.measure(0, 1, None)
    command.measure(1, 2, None)  # the other part has no task
    command.measure(0, 1, "another")
    assert len(measured) == count
    assert "2^-3" in capsys.readouterr().out


def test_cells_are_differences_of_the_same_seed(measured):
    found = cells(command.Measured(command.ROWS).rows, {"line": 10.0})
    assert len(found) == 4 * len(BUDGETS)
    torch_cell = next(c for c in found if c.entry.startswith("1cycle, torch") and c.budget == 4)
    assert torch_cell.peak == 2.0**-3
    assert torch_cell.better == pytest.approx([-0.01] * len(FRESH))
    assert torch_cell.gain == pytest.approx(10.0 - 0.25 - 0.102)
    assert torch_cell.mean == pytest.approx(-1 / torch_cell.gain)
    control = next(c for c in found if c.entry == CONTROL.name)
    assert control.better == pytest.approx([-0.01] * len(FRESH))  # seeds that are 10 higher


def test_what_is_not_complete_is_left_out(measured):
    rows = command.Measured(command.ROWS).rows
    some = {key: row for key, row in rows.items() if key[1] != "Prodigy" or key[-1] != FRESH[-1]}
    found = cells(some, {"line": 10.0})
    assert {c.entry for c in found} == {e.name for e in table.ENTRIES} - {
        "Prodigy, cosine, untuned"
    }
    assert cells({}, {"line": 10.0}) == []


def cell(entry, task, better, budget=1):
    return Cell(task, entry, budget, 0.1, [1.0] * len(better), better, gain=2.0)


def test_a_difference_counts_where_it_is_beyond_its_noise():
    clear = cell("a", "t", [0.1, 0.11, 0.1, 0.09, 0.1])
    assert (clear.mean, clear.sign) == (pytest.approx(5.0), 1)
    assert clear.error == pytest.approx(100 * 0.0070711 / 5**0.5 / 2, rel=1e-3)
    assert cell("a", "t", [-0.1, -0.11, -0.1, -0.09, -0.1]).sign == -1
    assert cell("a", "t", [0.1, -0.1, 0.2, 0.1, -0.05]).sign == 0
    same = cell("a", "t", [0.0] * 5)
    assert (same.mean, same.error, same.sign) == (0.0, 0.0, 0)


def test_the_mean_over_tasks_has_the_noise_of_all():
    mean, error = over_tasks([cell("a", "t", [0.1, 0.3]), cell("a", "u", [0.0, 0.0])])
    assert mean == pytest.approx(5.0)
    assert error == pytest.approx(2.5)


def test_summary_counts_tasks_and_budgets():
    name = ENTRIES[2].name
    of = [cell(name, "t", [0.1, 0.11, 0.1], b) for b in BUDGETS]
    of += [cell(name, "u", [-0.2, -0.21, -0.2], b) for b in BUDGETS]
    line_of, limits = summary(of)
    assert (line_of["tasks"], line_of["better"], line_of["worse"]) == (2, 3, 3)
    assert line_of["worst"] == pytest.approx(-10.167, abs=1e-3)
    assert line_of["budget 4"] == "-2.5 ± 0.1"
    assert limits["all"] == "inf"  # there is no control


def test_means_beyond_what_chance_makes_of_1cycle_are_marked():
    of = [cell(CONTROL.name, task, [x, x]) for task, x in (("t", 0.06), ("u", -0.08))]
    assert noise_limit(of) == pytest.approx(2 * 5 / 2**0.5 / 2**0.5)
    of += [cell(ENTRIES[2].name, task, [0.12, 0.12]) for task in ("t", "u")]
    of = [c._replace(budget=b) for c in of for b in BUDGETS]
    control, other, limits = summary(of)
    assert control["budget 1"] == "-0.5 ± 0.0"
    assert other["budget 1"] == "**+6.0 ± 0.0**"
    assert limits["budget 1"] == "5.0"


def test_a_candidate_is_judged_on_tasks_that_it_was_not_chosen_on():
    halves = [next(t.name for t in TASKS if t.half == part) for part in (0, 1)]
    candidates = [e.name for e in ENTRIES if e.is_candidate]
    better = {candidates[0]: (0.4, -0.2), candidates[1]: (0.1, 0.3), ENTRIES[-1].name: (1.0, 1.0)}
    of = [
        cell(name, task, [x, x + 0.02, x + 0.01])
        for name in [*candidates, ENTRIES[-1].name]
        for task, x in zip(halves, better.get(name, (-1.0, -1.0)), strict=True)
    ]
    first, second = chosen(of)
    assert (first["candidate"], first["there"], first["on the others"]) == (
        candidates[0], "+20.5 ± 0.3", "-9.5 ± 0.3"
    )  # fmt: skip
    assert (first["better"], first["worse"]) == (0, 1)
    assert (second["candidate"], second["on the others"]) == (candidates[1], "+5.5 ± 0.3")


def test_the_picture_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.benchmarks.which_schedule.picture.RESULTS", tmp_path)
    names = [e.name for e in ENTRIES]
    draw([cell(name, "t", [0.1, 0.2], b) for name in names for b in BUDGETS])
    assert (tmp_path / "which_schedule.png").stat().st_size > 10_000
