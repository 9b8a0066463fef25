"""The pure parts of the benchmarks: interpolation, regret, tables. No training here."""

from __future__ import annotations

import itertools
import json

import pytest

from experiments.benchmarks import finder_speed
from experiments.benchmarks.regret import measure, table
from experiments.benchmarks.regret.measure import GRIDS
from experiments.benchmarks.regret.table import accuracy_at, best_peak, regrets, summary
from experiments.benchmarks.regret.tasks import CHANCE, NETS, SEEDS, TASKS
from experiments.rows import add_line, markdown

TRUTH = {
    ("a", 0): {0.01: 0.6, 0.1: 0.9, 1.0: 0.8},
    ("a", 1): {0.01: 0.6, 0.1: 0.8, 1.0: 0.7, 10.0: 0.1},
    ("b", 0): {0.1: 0.5, 1.0: 0.7},
}


# ---- the tasks ----------------------------------------------------------------------------------


def test_tasks_kept_apart_are_as_diverse_as_the_others():
    assert len({task.name for task in TASKS}) == len(TASKS) >= 10
    for tuned in (True, False):
        group = [task for task in TASKS if task.tuned == tuned]
        assert {task.data for task in group} == {"digits", "fashion"}
        assert {task.optimizer for task in group} == {"sgd", "adamw"}
        assert {task.net for task in group} == set(NETS)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_grid_rises_by_quarters_of_a_decade(optimizer):
    _, *grid = GRIDS[optimizer]
    assert all(b / a == pytest.approx(10**0.25) for a, b in itertools.pairwise(grid))


# ---- regret -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lr", "accuracy"),
    [
        (0.01, 0.6),
        (0.1, 0.9),
        (1.0, 0.8),
        (10**-1.5, 0.75),  # half way, on the log axis
        (10**-0.25, 0.825),
        (1e-6, 0.6),  # below the grid: its lowest peak
        (1.001, CHANCE),  # above it: chance
    ],
)
def test_accuracy_is_linear_over_log_lr(lr, accuracy):
    assert accuracy_at(TRUTH["a", 0], lr) == pytest.approx(accuracy)


def test_best_peak_is_best_in_the_mean_over_seeds():
    assert best_peak(TRUTH, "a") == (0.1, pytest.approx(0.85))
    assert best_peak(TRUTH, "b") == (1.0, pytest.approx(0.7))


def test_regret_is_in_points_and_of_the_seed():
    rows = regrets(TRUTH, [("m", "a", 0, 0.1), ("m", "a", 1, 1.0), ("m", "b", 0, None)])
    assert [row["regret"] for row in rows] == [pytest.approx(-5), pytest.approx(15), None]
    assert [row["best_lr"] for row in rows] == [0.1, 0.1, 1.0]


def test_summary_keeps_tuned_and_apart_tasks_apart():
    def row(method, task, value):
        return {"method": method, "task": task, "regret": value}

    rows = [row("m", "a", 1.0), row("m", "a", 3.0), row("m", "c", 0.0), row("m", "c", 0.5)]
    rows += [row("m", "b", None), row("m", "b", 4.0), row("k", "b", None)]
    lines = summary(rows, {"a": True, "b": False, "c": True})
    expected = [
        ("tuned", "m", 4, 0, 1.125, 2.0, 3.0),
        ("apart", "m", 1, 1, 4.0, 4.0, 4.0),
        ("apart", "k", 0, 1, None, None, None),
    ]
    assert [tuple(line.values()) for line in lines] == expected
    assert list(lines[0]) == ["tasks", "method", "n", "none", "mean", "worst_task", "worst"]


def test_markdown():
    assert markdown([{"a": "x", "b": 1.236}, {"a": 3, "b": None}]) == (
        "| a | b |\n| --- | --- |\n| x | 1.24 |\n| 3 | None |"
    )


# ---- files --------------------------------------------------------------------------------------


def test_table_of_what_is_on_disk(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    task = next(task for task in TASKS if task.optimizer == "sgd" and task.tuned)
    unfinished = next(task for task in TASKS if not task.tuned)
    lrs = [round(lr, 8) for lr in GRIDS["sgd"]]
    for seed in SEEDS:
        for lr in lrs:
            accuracy = 0.9 if lr == 0.1 else 0.5
            row = {"task": task.name, "seed": seed, "lr": lr, "acc": accuracy}
            add_line(tmp_path / "regret_truth.jsonl", row)
        row = {"task": unfinished.name, "seed": seed, "lr": 0.001, "acc": 0.5}
        add_line(tmp_path / "regret_truth.jsonl", row)
        row = {"peer": "p", "task": task.name, "seed": seed, "suggestions": {"good": 0.1, "bad": 1}}
        add_line(tmp_path / "regret_peers.jsonl", row)

    assert set(table.read_truth()) == {(task.name, seed) for seed in SEEDS}
    table.run_table()

    text = (tmp_path / "regret.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert "| tuned | good | 3 | 0 | 0.00 | 0.00 | 0.00 |" in text
    assert "| tuned | bad | 3 | 0 | 40.00 | 40.00 | 40.00 |" in text
    assert "| tuned | best of the grid | 3 | 0 | 0.00 | 0.00 | 0.00 |" in text
    regret_of = {row["method"]: row["regret"] for row in table.rows()}
    no_finder = [regret_of.pop(method) for method in table.NO_FINDER]  # SGD at 0.03, 0.05, 0.1
    assert no_finder == [40, 40, 0]
    assert regret_of == {"good": 0, "bad": 40, "best of the grid": 0}


def test_truth_ends_where_all_seeds_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    task = TASKS[0]
    for seed in SEEDS:
        for lr, accuracy in ((0.1, 0.9), (1.0, 0.1)):
            row = {"task": task.name, "seed": seed, "lr": lr, "acc": accuracy}
            add_line(tmp_path / "regret_truth.jsonl", row)
    assert set(table.read_truth()) == {(task.name, seed) for seed in SEEDS}


def test_a_step_goes_on_where_it_was_left(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(measure, "TASKS", TASKS[:1])
    monkeypatch.setattr(measure, "SEEDS", (0, 1))
    trained = []

    def train(task, seed, lr):
        trained.append((lr, seed))
        return {"acc": 0.5 if lr < 0.1 else 0.1}

    monkeypatch.setattr(measure, "train", train)
    measure.run_truth()
    lrs = [round(lr, 8) for lr in GRIDS["sgd"] if lr < 0.11]
    assert trained == [(lr, seed) for lr in lrs for seed in (0, 1)]  # up to where all fail
    rows = (tmp_path / "regret_truth.jsonl").read_text().splitlines()
    assert json.loads(rows[-1]) == {"task": TASKS[0].name, "lr": 0.1, "seed": 1, "acc": 0.1}
    measure.run_truth()
    assert len(trained) == 2 * len(lrs)


def test_speed_table_marks_what_is_missing():
    times = {finder_speed.BARE: (1.0, 0.5), "ours": (1.5, 1.0), "theirs": None}
    rows = finder_speed.rows_of(times)
    assert rows[1] == {
        "finder": "ours",
        "clock (s)": 1.5,
        "clock / bare": 1.5,
        "processor (s)": 1.0,
        "processor / bare": 2.0,
    }
    assert set(rows[2].values()) == {"theirs", "missing"}
