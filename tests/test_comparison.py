"""One command for all benchmarks: each runs, one that fails does not stop the rest; the table."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import pytest

from experiments.benchmarks import __main__ as command
from experiments.benchmarks import (
    comparison,
    finder_speed,
    results,
    scheduler_cost,
    train_speed,
    trainer_speed,
)
from experiments.figures import headline
from experiments.figures.headline import Curve
from experiments.rows import add

DIGITS = "digits-mlp_bn-sgd"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for module in (results, comparison, comparison.regret):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(headline, "curves", lambda: iter(()))
    return tmp_path


def call(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    return main()


def rows_of(text):
    """Return the cells of the lines of a markdown table, but for its head."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if "---" not in line]


# ---- each of them runs --------------------------------------------------------------------------


def test_scheduler_cost_runs(monkeypatch, folder):
    options = ("--groups", "1", "3", "--steps", "5", "--repeats", "2")
    call(monkeypatch, scheduler_cost.main, *options)
    rows = comparison.kept("scheduler_cost")["rows"]
    assert [row["groups"] for row in rows] == [1, 3]
    assert {*rows[0]} == {"groups", "bare step (us)", "ScheduleLR", "OneCycleLR", "CyclicLR"}
    table = scheduler_cost.table([{**rows[0], "ScheduleLR": 3.0, "OneCycleLR": 2.0, "CyclicLR": 6}])
    assert rows_of(table)[1][-2:] == ["1.50", "0.50"]
    questions = [row["question"] for row in comparison.of_scheduler_cost()]
    assert questions[1].endswith("3 parameter groups")


def test_trainer_speed_runs(monkeypatch, folder):
    options = ("--tasks", DIGITS, "--steps", "4", "--rounds", "1")
    call(monkeypatch, trainer_speed.main, *options)
    rows = comparison.kept("trainer_speed")["rows"]
    assert [row["loop"] for row in rows] == [*trainer_speed.LOOPS]
    assert all(row["steps/s"] > 0 for row in rows)
    assert rows[0]["/ bare"] == 1.0
    answers = list(comparison.of_trainer_speed())
    assert [answer["peers"].count(";") for answer in answers] == [len(rows) - 2] * 2  # without ours


def test_every_loop_takes_the_steps_with_its_schedule(monkeypatch):
    build, taken = trainer_speed.build, []

    def watched(*arguments, **options):
        module, data = build(*arguments, **options)
        make = module.configure_optimizers

        def made():
            optimizer = make()
            group = optimizer.param_groups[0]
            optimizer.register_step_pre_hook(
                lambda *_: taken.append((group["lr"] / trainer_speed.PEAK, group["momentum"]))
            )
            return optimizer

        module.configure_optimizers = made
        return module, data

    monkeypatch.setattr(trainer_speed, "build", watched)
    for name in trainer_speed.LOOPS:
        taken.clear()
        trainer_speed.train(name, DIGITS, steps=20, seed=0)
        rates, momenta = zip(*taken, strict=True)
        assert len(taken) == 20
        if name == trainer_speed.PLAIN:
            assert {*taken} == {(1.0, 0.9)}
        else:
            assert max(rates) == pytest.approx(1.0, rel=0.02)
            assert min(rates) < 0.01
            assert min(momenta) == pytest.approx(0.85, rel=0.01)
            assert max(momenta) == pytest.approx(0.95)


def test_medians_become_rates_and_what_is_above_the_bare_loop():
    Took = trainer_speed.Took
    took = {
        trainer_speed.BARE: [Took(1.0, 0.5), Took(2.0, 1.0), Took(9.0, 2.0)],
        trainer_speed.OURS: [Took(4.0, 3.0, 0.5), Took(4.0, 3.0, 0.1), Took(10.0, 3.0, 0.9)],
    }
    bare, ours = trainer_speed.rows_of(took, steps=100)
    # Round by round: 1/4, 2/4 and 9/10 of the bare loop's speed, and 2.5, 2 and 1 second more.
    assert (bare["steps/s"], ours["steps/s"], ours["/ bare"]) == (50.0, 25.0, 0.5)
    assert (bare["processor (ms a step)"], ours["more than bare (ms)"]) == (10.0, 20.0)
    assert ours["rest of the fit (s)"] == 0.5


def test_finder_speed_runs_and_tells_what_is_missing(monkeypatch, folder):
    def missing(run):
        raise ImportError

    names = (finder_speed.BARE, "trainer.fit", "ours", "lightning")
    finders = {name: finder_speed.FINDERS[name] for name in names}
    monkeypatch.setattr(finder_speed, "FINDERS", {**finders, "theirs": missing})
    call(monkeypatch, finder_speed.main, "--tasks", DIGITS, "--rounds", "1")
    rows = comparison.kept("finder_speed")["rows"]
    assert [row["clock (s)"] == "missing" for row in rows] == [False] * 4 + [True]
    (answer,) = comparison.of_finder_speed()
    assert "lightning" in answer["peers"]
    assert "theirs" not in answer["peers"]


@pytest.mark.slow
def test_train_py_runs_beside_a_bare_loop(monkeypatch, folder):
    monkeypatch.setattr(train_speed, "OPTIONS", ["trainer=cpu", "trainer.limit_val_batches=0"])
    assert train_speed.bare_loop(2) > 0
    assert train_speed.train_py(2, folder / "run") > 0
    theirs, ours = train_speed.rows_of([10.0, 30.0, 20.0], [19.0, 18.0, 40.0])
    assert (theirs["steps/s"], ours["steps/s"], ours["/ bare"]) == (20.0, 19.0, 0.95)
    assert (theirs["lowest"], ours["highest"]) == (10.0, 40.0)


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def toys(folder, monkeypatch):
    """Three benchmarks, of which the second fails; each says what it was given."""
    says = "import pathlib, sys; pathlib.Path(__file__).with_suffix('.txt').open('a').write("
    says += "' '.join([sys.executable, *sys.argv[1:]]) + '\\n')\n"
    package = folder / "toys"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, end in {"first": "", "scheduler_cost": "sys.exit(3)", "last": ""}.items():
        (package / f"{name}.py").write_text(says + end)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    toys = (
        command.Benchmark("first", 1, peers=((),), package="toys"),
        command.Benchmark("scheduler_cost", 2, (("run",), ("table",)), package="toys"),
        command.Benchmark("last", 3, (("train",), ("peers",)), (("peers",),), package="toys"),
    )
    monkeypatch.setattr(command, "QUICK", toys[:2])
    monkeypatch.setattr(command, "LONG", toys[2:])
    return package


def test_one_that_fails_is_told_and_the_rest_goes_on(monkeypatch, toys, folder, capsys):
    monkeypatch.setattr(command.os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    results.keep("scheduler_cost", [{"groups": 1}], "of an earlier run")
    assert call(monkeypatch, command.main, "--all", "--peers-python", sys.executable) == 1
    said = capsys.readouterr().out
    assert "3 benchmarks, about 6 minutes" in said
    assert "the machine is busy (load 3.0)" in said
    assert "[2/3] scheduler_cost, about 2 minutes" in said
    assert "scheduler_cost failed: exit code 3" in said
    assert said.endswith("failed: scheduler_cost\n")
    ran = {path.stem: path.read_text().splitlines() for path in toys.glob("*.txt")}
    python = sys.executable
    assert ran == {
        "first": [f"{python} --peers-python {python}"],
        "scheduler_cost": [f"{python} run"],
        "last": [f"{python} train", f"{python} peers --peers-python {python}"],
    }
    page = (folder / "comparison.md").read_text()
    lines = {row[0]: row[1] for row in rows_of(page)}
    assert lines["scheduler_cost"] == "failed"
    assert "Measured on" not in page


def test_a_python_that_is_not_there_is_refused_before_anything_runs(monkeypatch, toys, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, command.main, "--peers-python", "/no/such/python")
    assert "--peers-python must be a Python, got /no/such/python" in capsys.readouterr().err
    assert not list(toys.glob("*.txt"))


def test_an_interrupted_run_writes_what_there_is(monkeypatch, toys, folder):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupt)
    assert call(monkeypatch, command.main) == 130
    assert (folder / "comparison.md").exists()


def test_quick_ones_run_by_default_and_those_that_are_named(monkeypatch, toys):
    assert call(monkeypatch, command.main, "--only", "first") == 0
    assert [path.stem for path in toys.glob("*.txt")] == ["first"]
    assert call(monkeypatch, command.main) == 1
    assert {path.stem for path in toys.glob("*.txt")} == {"first", "scheduler_cost"}


def test_every_answer_has_a_benchmark_that_measures_it():
    names = {benchmark.name for benchmark in (*command.QUICK, *command.LONG)}
    assert {*comparison.ANSWERS} <= names
    assert sum(benchmark.minutes for benchmark in command.QUICK) <= 15


# ---- the table ----------------------------------------------------------------------------------


def test_line_has_each_ratio():
    row = comparison.line("steps", 3.0, {"a": 2.0, "b": 4.0}, digits=1)
    expected = {"question": "steps", "ours": "3.0", "peers": "a 2.0; b 4.0"}
    assert row == {**expected, "ours / peers": "1.50; 0.75"}


def test_page_is_made_of_the_files(folder, monkeypatch):
    add(
        folder / "traps.csv",
        [
            {"number": "1", "them": "no", "us": "yes"},
            {"number": "2", "them": "yes", "us": "partly"},
            {"number": "F1", "them": "no", "us": "yes"},
        ],
    )
    kinds = dict.fromkeys(comparison.finder_traces.TUNERS, "yes")
    traces = [{"item": "a", **kinds}, {"item": "b", **kinds, "Lightning's Tuner": "no"}]
    cost = {"groups": 4, "ScheduleLR": 5.0, "OneCycleLR": 4.0, "CyclicLR": 10.0}
    finders = {"bare steps": 1.0, "ours": 1.5, "ignite": 2.0, "fastai": "missing"}
    speeds = {trainer_speed.BARE: 200.0, trainer_speed.OURS: 100.0}
    for name, rows in {
        "finder_traces": traces,
        "scheduler_cost": [cost],
        "finder_speed": [
            {"task": "t", "finder": name, "processor (s)": took} for name, took in finders.items()
        ],
        "trainer_speed": [
            {"task": "t", "loop": name, "steps/s": speed, "processor (ms a step)": 800 / speed}
            for name, speed in speeds.items()
        ],
        "train_speed": [{"steps/s": 20.0}, {"steps/s": 19.0}],
        "import_time": [
            {"import": name, "processor (s)": took} for name, took in [("a", 4.0), ("b", 0.02)]
        ],
    }.items():
        results.keep(name, rows, name)
    apart = next(task.name for task in comparison.TASKS if not task.tuned)
    lost = {"max_lr (fine)": [0.5, 1.5], "ignite": [3.0, None], "edge (wide)": [9.0]}
    found = [
        {"method": method, "task": apart, "regret": value}
        for method, values in lost.items()
        for value in values
    ]
    monkeypatch.setattr(comparison.regret, "rows", lambda: found)
    ours = Curve([50, 100], [0.1, 0.1], [[0.8] * 3, [0.9] * 3])
    standard = Curve([50, 100], [0.1, 0.1], [[0.7] * 3, [0.8] * 3])
    monkeypatch.setattr(headline, "curves", lambda: iter([("s", ours, standard)]))

    page = comparison.write()

    assert (folder / "comparison.md").read_text() == page
    found = [row[1:4] for row in rows_of(page)[1:13]]
    assert found == [
        ["1 of 2", "torch, Lightning 1 of 2", ""],
        ["1 of 1", "the finder with the bug 0 of 1", ""],
        ["2 of 2", "Lightning's Tuner 1 of 2", ""],
        ["5.0", "OneCycleLR 4.0; CyclicLR 10.0", "1.25; 0.50"],
        ["1.50", "bare steps 1.00; ignite 2.00", "1.50; 0.75"],
        ["100.0", f"{trainer_speed.BARE} 200.0", "0.50"],
        ["8.00", f"{trainer_speed.BARE} 4.00", "2.00"],
        ["19.00", "bare loop 20.00", "0.95"],
        ["0.020", "a 4.000", "0.01"],
        ["1.00 (1.50)", "ignite 3.00 (3.00, no suggestion in 1 of 2)", ""],
        ["≤ 50", "step schedule, tuned 100 (and 70.0 % in 50)", "≤ 0.50"],
        ["machine", "versions"],
    ]
    assert f"torch {version('torch')}" in page
    assert results.machine() in page


def test_page_of_nothing(folder):
    answers = {row[0]: row[1] for row in rows_of(comparison.page())[1:]}
    assert answers == dict.fromkeys(comparison.ANSWERS, "not measured")


def test_what_is_kept_says_where_it_was_measured(folder, capsys):
    results.keep("b", [{"a": 1, "b": None}, {"a": 2.5, "b": "x"}], "for a reader\n")
    assert capsys.readouterr().out == "for a reader\n\n"
    assert (folder / "b.md").read_text() == "for a reader\n"
    kept = json.loads((folder / "b.json").read_text())
    assert kept["rows"] == [{"a": 1, "b": None}, {"a": 2.5, "b": "x"}]
    assert kept["machine"].endswith(" cores")
    assert kept["versions"]["torch"] == version("torch")
