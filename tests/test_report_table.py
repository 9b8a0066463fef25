"""A sweep's table: by hand, from files as runs and Hydra write them, whole and damaged."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch.utils.tensorboard import SummaryWriter

from lightning_onecycle.plots import PALETTE
from lightning_onecycle.report import read_table, write_results
from lightning_onecycle.report.__main__ import main
from lightning_onecycle.report.comparison_plot import plot_comparison
from lightning_onecycle.report.events import curve

CONFIG = {
    "seed": 0,
    "resume": None,
    "schedule": {"_target_": "lightning_onecycle.one_cycle", "pct_start": 0.45},
    "optimizer": {"lr": 0.2, "weight_decay": 0.0005},
    "model": {"hidden": [256, 128]},
    "callbacks": {"gap": {"_target_": "lightning_onecycle.GeneralizationGap"}},
}
CHOICES = {
    "schedule": "onecycle",
    "data": "digits",
    "trainer": "default",
    "hydra/launcher": "basic",
}
FACTS = {
    "batch_size": 64,
    "total_steps": 100,
    "steps": 100,
    "max_lr": 0.2,
    "world_size": 1,
    "effective_batch_size": 64,
    "steps_per_second": 50.0,
    "status": "completed",
    "reason": None,
}


def write_run(path: Path, overrides: dict[str, Any], result: Any = None) -> Path:
    """Write a run as Hydra and `RunRecord` do; ``result`` is a dictionary, or text, or nothing."""
    config, choices = json.loads(json.dumps(CONFIG)), dict(CHOICES)
    for key, value in overrides.items():
        *parents, name = key.split(".")
        if key in choices:
            choices[key] = value
        elif not key.startswith("hydra"):
            node = config
            for parent in parents:
                node = node[parent]
            node[name] = value
    (path / ".hydra").mkdir(parents=True)
    written = {
        "overrides": [f"{key}={value}" for key, value in overrides.items()],
        "config": config,
        "hydra": {"hydra": {"runtime": {"choices": choices}}},
    }
    for name, content in written.items():
        (path / ".hydra" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    if isinstance(result, dict):
        facts = {"schedule": choices["schedule"], "seed": config["seed"], **FACTS}
        result = json.dumps(facts | result)
    if result is not None:
        (path / "result.json").write_text(result)
    return path


def completed(accuracy: float, **facts: Any) -> dict[str, Any]:
    return {"metrics": {"val/acc": accuracy}, **facts}


def log(path: Path, **curves: dict[int, float]) -> None:
    with SummaryWriter(path) as writer:
        for tag, points in curves.items():
            for step, value in points.items():
                writer.add_scalar(tag.replace("_", "/"), value, step)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three schedules: all completed, one of two, none."""
    root = tmp_path / "sweep"

    def job(schedule: str, seed: int, result: Any) -> None:
        number = len(list(root.glob("*")))
        overrides = {"schedule": schedule, "seed": seed, "optimizer.lr": 0.2}
        write_run(root / f"{number}-schedule={schedule},seed={seed}", overrides, result)

    job("constant", 0, {"status": "diverged", "reason": "Diverged: nan |\n", "steps": 7})
    job("constant", 1, None)
    for seed, (val, test, loss, speed) in enumerate(
        [(0.90, 0.89, 0.3, 10), (0.92, 0.91, 0.4, 20), (0.94, 0.96, 0.5, 30)]
    ):
        metrics = {"val/acc": val, "test/acc": test, "val/loss": loss, "odd": None}
        job("onecycle", seed, {"metrics": metrics, "steps_per_second": speed})
    job("step", 0, {"metrics": {"val/acc": 0.95, "test/acc": 0.93, "val/loss": 0.25}})
    # What a run that did not complete has measured counts for nothing.
    job("step", 1, {"status": "interrupted", "steps": 50, "metrics": {"val/acc": 0.99}})
    return root


def column(directory: Path, name: str) -> list[str]:
    return [row[name] for row in rows(read_table(directory).to_csv())]


# --------------------------------------------------------------------------------------- by hand


BY_HAND = """\
7 jobs: 4 completed, 3 not (1 diverged, 1 failed, 1 interrupted).

The same in all: data=digits, optimizer.lr=0.2, peak LR 0.2, effective batch size 64, \
world size 1, steps 100.

| schedule | n | val/acc %    | test/acc %   | val/loss        | steps/s | not completed        \
|
|----------|---|--------------|--------------|-----------------|---------|----------------------\
|
| step     | 1 | 95.00        | 93.00        | 0.2500          | 50      | 1 interrupted        \
|
| onecycle | 3 | 92.00 ± 2.00 | 92.00 ± 3.61 | 0.4000 ± 0.1000 | 20      |                      \
|
| constant | 0 |              |              |                 |         | 1 diverged, 1 failed \
|

Means over the completed runs ± sample standard deviation; highest val/acc first.

Not completed:

- `0-schedule=constant,seed=0`: diverged after 7 of 100 steps: nan |
- `1-schedule=constant,seed=1`: failed: no result.json
- `6-schedule=step,seed=1`: interrupted after 50 of 100 steps

This table again: `python -m lightning_onecycle.report sweep`
"""


def test_the_table_is_the_one_worked_out_by_hand(sweep: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(sweep.parent)
    assert read_table("sweep").to_markdown() == BY_HAND


def test_the_csv_has_a_row_for_each_run(sweep: Path) -> None:
    text = read_table(sweep).to_csv()
    names = (
        "job,schedule,seed,batch_size,total_steps,steps,max_lr,world_size,effective_batch_size,"
        "steps_per_second,val/acc,test/acc,val/loss,odd,status,reason"
    )
    assert text.splitlines()[0] == names
    table = rows(text)
    assert [row["seed"] for row in table] == ["0", "1", "0", "1", "2", "0", "1"]
    assert [row["val/acc"] for row in table] == ["", "", "0.9", "0.92", "0.94", "0.95", "0.99"]
    assert [row["odd"] for row in table] == [""] * 7
    assert table[0]["reason"] == "Diverged: nan |\n"
    assert table[1] == dict.fromkeys(names.split(","), "") | {
        "job": "1-schedule=constant,seed=1",
        "schedule": "constant",
        "seed": "1",
        "status": "failed",
        "reason": "no result.json",
    }


def test_the_order_of_jobs_is_that_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 1, 0):
        write_run(tmp_path / f"{number}-a", {}, completed(0.5))
    assert column(tmp_path, "job") == ["0-a", "1-a", "9-a", "10-a"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({"metric": "val/loss"}, ["b", "a", "c", "d"]),
        ({"metric": "val/acc", "lowest": True}, ["b", "a", "c", "d"]),
        ({"metric": "time", "lowest": True}, ["c", "b", "a", "d"]),
    ],
)
def test_the_best_comes_first(tmp_path: Path, options: Any, expected: list[str]) -> None:
    metrics: dict[str, dict[str, float | None]] = {
        "d": {"val/acc": 0.99, "val/loss": 0.0, "time": 0},
        "c": {"val/acc": None, "time": 1},
        "b": {"val/acc": 0.7, "val/loss": 0.1, "time": 2},
        "a": {"val/acc": 0.8, "val/loss": 0.2, "time": 3},
    }
    for data, values in metrics.items():
        status = "failed" if data == "d" else "completed"
        write_run(tmp_path / data, {"data": data}, {"status": status, "metrics": values})
    table = read_table(tmp_path, **options)
    assert [group.options for group in table.groups] == [(name,) for name in expected]
    assert f"{options.get('metric', 'val/acc')} first." in table.to_markdown()


def test_a_metric_that_no_run_has_is_refused(sweep: Path) -> None:
    with pytest.raises(ValueError, match=r"metric must be one of 'val/acc', .*, got 'val/ac'"):
        read_table(sweep, metric="val/ac")


def test_without_the_usual_metric_it_says_what_there_is(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {}, {"metrics": {"val_f1": 0.5}})
    text = read_table(tmp_path).to_markdown()
    assert "No completed run has val/acc. The runs have val_f1: `python -m" in text
    assert "| 0.5000" in read_table(tmp_path, metric="val_f1").to_markdown()


# ----------------------------------------------------------------------------------- swept keys


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([{"seed": 1}, {"seed": 2}], {}),
        ([{"schedule": "step"}, {"schedule": "cosine"}], {"schedule": ["step", "cosine"]}),
        # The second job has the key's value from its configuration, or from the group's default.
        ([{"optimizer.lr": 0.4}, {}], {"optimizer.lr": [0.4, 0.2]}),
        ([{"schedule": "step"}, {}], {"schedule": ["step", "onecycle"]}),
        ([{"optimizer.lr": 0.2}, {}], {}),
        ([{"model.hidden": [8]}, {}], {"model.hidden": [[8], [256, 128]]}),
        ([{"callbacks.gap": None}, {}], {"callbacks.gap": [None, CONFIG["callbacks"]["gap"]]}),
        ([{"resume": "a"}, {"hydra.job.name": "b"}], {}),
        (
            [{"optimizer.lr": 0.1, "seed": 5}, {"optimizer.lr": 0.1, "data": "cifar10"}],
            {"data": ["digits", "cifar10"]},
        ),
        (
            [{"optimizer.lr": 0.31}, {"optimizer.lr": 0.32, "optimizer.weight_decay": 0.1}],
            {"optimizer.lr": [0.31, 0.32], "optimizer.weight_decay": [0.0005, 0.1]},
        ),
    ],
)
def test_it_finds_what_was_swept(
    tmp_path: Path, jobs: list[dict[str, Any]], expected: dict[str, list[Any]]
) -> None:
    for number, overrides in enumerate(jobs):
        write_run(tmp_path / f"{number}-job", overrides, completed(0.9 - 0.1 * number))
    table = read_table(tmp_path)
    assert table.swept == tuple(expected)
    found = [list(values) for values in zip(*(g.options for g in table.groups), strict=True)]
    assert found == list(expected.values())
    assert sum(len(group.runs) for group in table.groups) == len(jobs)


def test_prefixes_of_overrides(tmp_path: Path) -> None:
    for number, text in enumerate(["+optimizer.nesterov=true", "~callbacks.gap", "++seed=3"]):
        run = write_run(tmp_path / f"{number}", {}, completed(0.5))
        (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([text]))
    config = tmp_path / "1" / ".hydra" / "config.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "callbacks": {}}))
    assert read_table(tmp_path).swept == ("optimizer.nesterov", "callbacks.gap")
    assert column(tmp_path, "callbacks.gap") == ["GeneralizationGap", "", "GeneralizationGap"]
    assert column(tmp_path, "optimizer.nesterov") == ["true", "", ""]


def test_a_search_over_continuous_keys(tmp_path: Path) -> None:
    """Each job is a row; numbers have as few digits as tell them apart."""
    for number, lr in enumerate([0.123456789, 0.12345999, 0.0199999999999]):
        overrides = {"optimizer.lr": lr, "optimizer.weight_decay": 10.0**-number}
        write_run(tmp_path / f"{number}", overrides, completed(0.9 - number / 100))
    text = read_table(tmp_path).to_markdown()
    assert [line.split()[1:4] for line in text.splitlines() if line.startswith("| 0")] == [
        ["0.123457", "|", "1"],
        ["0.12346", "|", "0.1"],
        ["0.02", "|", "0.01"],
    ]
    assert column(tmp_path, "optimizer.lr")[0] == "0.123456789"


def test_runs_without_a_configuration_differ_by_their_facts(tmp_path: Path) -> None:
    for name, schedule, seed in [("a", "step", 0), ("b", "step", 1), ("c", "cosine", 0)]:
        (tmp_path / name).mkdir()
        result = {"schedule": schedule, "seed": seed, **FACTS, "fit_seconds": seed}
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    table = read_table(tmp_path)
    assert table.swept == ("schedule",)
    assert [len(group.runs) for group in table.groups] == [2, 1]
    for name in "abc":  # or by their command line, where they have written it
        path = tmp_path / name / "result.json"
        given = {"overrides": [f"seed={name}", f"width={name > 'a'}"]}
        path.write_text(json.dumps(json.loads(path.read_text()) | given))
    assert read_table(tmp_path).swept == ("width",)


def test_facts_that_differ_are_columns(tmp_path: Path) -> None:
    for number, devices in enumerate((1, 2, 2)):
        facts = {"world_size": devices, "effective_batch_size": 64 * devices, "steps": 9 - number}
        run = write_run(tmp_path / f"{number}", {"seed": number}, completed(0.5, **facts))
        (run / ".hydra" / "overrides.yaml").write_text(f"- trainer.devices={devices}\n")
    lines = read_table(tmp_path).to_markdown().splitlines()
    assert "world size" not in lines[2]
    heading, _, one, two = (line.split(" | ") for line in lines if line.startswith("|"))
    assert [cell.strip() for cell in heading[3:6]] == [
        "effective batch size",
        "world size",
        "steps",
    ]
    assert [cell.strip() for cell in one[3:6]] == ["64", "1", "9"]
    assert [cell.strip() for cell in two[3:6]] == ["128", "2", "7 to 8"]


@pytest.mark.parametrize(
    ("metric", "values", "cell"),
    [
        ("val/acc", [0.25, 0.5], "37.50 ± 17.68"),
        ("val_accuracy", [0.25], "25.00"),
        ("loss", [2.0, 4.0], "3.0000 ± 1.4142"),
        ("gap/loss", [-0.5, -0.5], "-0.5000 ± 0.0000"),
        ("loss", [0.0005, 0.0007], "6.00e-04 ± 1.41e-04"),
        ("loss", [0], "0.0000"),
        ("loss", [2e8, 4e8], "3.00e+08 ± 1.41e+08"),
    ],
)
def test_how_numbers_are_written(
    tmp_path: Path, metric: str, values: list[float], cell: str
) -> None:
    for seed, value in enumerate(values):
        write_run(tmp_path / f"{seed}", {"seed": seed}, {"metrics": {metric: value}})
    assert f"| {cell} " in read_table(tmp_path, metric=metric).to_markdown()


def test_a_cell_of_fewer_runs_than_its_row_says_of_how_many(tmp_path: Path) -> None:
    for seed, (loss, test) in enumerate([(0.3, 0.8), (None, 0.8), (0.5, None)]):
        metrics = {"val/acc": 0.9 + seed / 100, "val/loss": loss} | (
            {"test/acc": test} if test else {}
        )
        write_run(tmp_path / f"{seed}-seed={seed}", {"seed": seed}, {"metrics": metrics})
    text = read_table(tmp_path).to_markdown()
    assert "| 3 | 91.00 ± 1.00 | 80.00 ± 0.00 (n=2) | 0.4000 ± 0.1414 (n=2) |" in text
    assert "In no mean, because not finite or not known:\n\n- `1-seed=1`: val/loss\n" in text


def test_a_cycle_that_was_cut_short_is_said(tmp_path: Path) -> None:
    result = completed(0.9, steps=43, reason="cut short by max_time")
    write_run(tmp_path / "0-seed=0", {"seed": 0}, result)
    text = read_table(tmp_path).to_markdown()
    assert "1 job: 1 completed." in text
    assert "- `0-seed=0`: completed after 43 of 100 steps: cut short by max_time" in text


def test_a_seed_that_counts_twice_is_said(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / name, {"seed": 4}, completed(0.5))
    assert "share a seed" in read_table(tmp_path).to_markdown()
    (tmp_path / "b" / "result.json").unlink()
    assert "share a seed" not in read_table(tmp_path).to_markdown()


def test_a_pipe_in_a_value_does_not_break_the_table(tmp_path: Path) -> None:
    for data in ("a|b", "c"):
        write_run(tmp_path / data, {"data": data}, completed(0.5))
    table = [line for line in read_table(tmp_path).to_markdown().splitlines() if line[:1] == "|"]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert len(set(map(len, table))) == 1


# ------------------------------------------------------------------------- missing and damaged


@pytest.mark.parametrize(
    ("result", "status", "reason"),
    [
        ('{"status": "comple', "failed", "result.json cannot be read: "),
        ("", "failed", "result.json cannot be read: "),
        ("[1]", "failed", "result.json cannot be read: not a JSON object"),
        ("\udcff", "failed", "result.json cannot be read: "),
        ("[" * 100_000, "failed", "result.json cannot be read: "),
        ("{}", "failed", "result.json has no status"),
        ('{"status": 3, "metrics": {}}', "failed", "result.json has no status"),
        ('{"status": "completed", "metrics": [1]}', "completed", ""),
        (
            '{"status": "completed", "metrics": {"val/acc": NaN, "val/loss": "x", "a": 1e999}}',
            "completed",
            "",
        ),
        ('{"status": "completed", "metrics": null, "steps": "many"}', "completed", ""),
        ('{"status": "completed", "steps": [1], "world_size": {"a": 1}}', "completed", ""),
        (f'{{"status": "completed", "metrics": {{"val/acc": 1{"0" * 400}}}}}', "completed", ""),
        (r'{"status": "failed", "reason": "a \ud800"}', "failed", "a "),
        ('{"status": "killed", "reason": 9, "metrics": {"val/acc": true}}', "killed", "9"),
    ],
)
def test_a_damaged_result_is_a_row(tmp_path: Path, result: str, status: str, reason: str) -> None:
    run = write_run(tmp_path / "0-a", {"data": "cifar10"}, "")
    (run / "result.json").write_bytes(result.encode(errors="surrogateescape"))
    write_run(tmp_path / "1-b", {}, completed(0.5))
    table = write_results(tmp_path, plot=False)
    damaged = rows((tmp_path / "results.csv").read_text())[0]
    assert (damaged["status"], damaged["data"], damaged["val/acc"]) == (status, "cifar10", "")
    assert damaged["reason"].startswith(reason)
    assert bool(damaged["reason"]) == bool(reason)
    written = (tmp_path / "results.md").read_text()
    assert table.to_markdown().encode(errors="replace") == written.encode()


@pytest.mark.parametrize("content", ["", "a: [", "- 1", "\0", "{a: b}"])
@pytest.mark.parametrize("name", ["overrides", "config", "hydra"])
def test_a_damaged_configuration_is_a_row(tmp_path: Path, name: str, content: str) -> None:
    run = write_run(tmp_path / "0-a", {"schedule": "step"}, completed(0.5))
    write_run(tmp_path / "1-b", {"schedule": "cosine"}, completed(0.6))
    (run / ".hydra" / f"{name}.yaml").write_text(content)
    table = read_table(tmp_path)
    assert table.swept[0] == "schedule"
    assert column(tmp_path, "schedule") == ["step", "cosine"]
    assert column(tmp_path, "val/acc") == ["0.5", "0.6"]


def test_a_run_without_its_configuration_makes_no_column(tmp_path: Path) -> None:
    for number, schedule in enumerate(["step", "cosine"]):
        overrides = {"schedule": schedule, "optimizer.lr": 0.3}
        write_run(tmp_path / f"{number}", overrides, completed(0.5))
    shutil.rmtree(tmp_path / "1" / ".hydra")
    assert read_table(tmp_path).swept == ()
    write_run(tmp_path / "2", {"schedule": "constant", "optimizer.lr": 0.3}, completed(0.5))
    assert read_table(tmp_path).swept == ("schedule",)
    assert column(tmp_path, "schedule") == ["step", "cosine", "constant"]


def test_range_tests(tmp_path: Path) -> None:
    for number, peak in enumerate([0.25, None, 0.5]):
        result = {"status": "completed", "metrics": {"lr_find/max_lr": peak}, "overrides": ["a=1"]}
        run = write_run(tmp_path / f"{number}", {"optimizer.weight_decay": 0.1 * number}, "")
        (run / "result.json").write_text(json.dumps(result))
    text = read_table(tmp_path).to_markdown()
    assert [line.split() for line in text.splitlines() if line.startswith("| 0")] == [
        ["|", "0", "|", "1", "|", "0.2500", "|"],
        ["|", "0.1", "|", "1", "|", "|"],
        ["|", "0.2", "|", "1", "|", "0.5000", "|"],
    ]
    assert "standard deviation.\n" in text
    assert list(rows(read_table(tmp_path).to_csv())[0]) == [
        *("job", "optimizer.weight_decay", "seed", "lr_find/max_lr", "status", "reason")
    ]


def test_a_test_that_failed_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "0-a", {}, completed(0.5, reason="RuntimeError: no"))
    text = read_table(tmp_path).to_markdown()
    assert text.startswith("1 job: 1 completed.\n")
    assert "Completed, but:\n\n- `0-a`: completed after 100 of 100 steps: RuntimeError: no" in text


def test_any_directory_with_runs_below(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a" / "0-data.root=" / "tmp" / "x", {}, completed(0.5))
    write_run(tmp_path / "b" / "0", {}, completed(0.5))
    (tmp_path / "b" / "0" / "checkpoints").mkdir()
    (tmp_path / "c").mkdir()
    assert column(tmp_path, "job") == ["a/0-data.root=/tmp/x", "b/0"]
    assert column(one, "job") == ["x"]
    assert read_table(one).to_markdown().startswith("1 job: 1 completed.\n")


def test_a_job_that_was_moved_and_linked_to_is_a_row_and_other_links_are_not(
    tmp_path: Path,
) -> None:
    root, elsewhere = tmp_path / "sweep", tmp_path / "elsewhere"
    write_run(root / "0", {"seed": 0}, completed(0.9))
    write_run(elsewhere / "moved", {"seed": 1}, completed(0.8))
    write_run(elsewhere / "data" / "other", {"seed": 2}, completed(0.7))
    for link, target in {
        root / "1": elsewhere / "moved",
        root / "best": root / "0",
        root / "up": tmp_path,
        root / "data": elsewhere / "data",
        root / "dangling": tmp_path / "nothing",
        elsewhere / "moved" / "itself": elsewhere / "moved",
    }.items():
        link.symlink_to(target)
    assert [run.job for run in read_table(root).runs] == ["0", "1"]


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_a_directory_without_runs_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=rf"directory must .*, got '{tmp_path / name}'"):
        write_results(tmp_path / name)
    assert not list((tmp_path / "empty").iterdir())


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "0", {}, completed(0.5))
    assert column(tmp_path, "val/acc") == ["0.5"]
    text = (run / "result.json").read_text()
    (run / "new").write_text(text.replace("0.5", "0.7"))
    (run / "new").replace(run / "result.json")
    assert column(tmp_path, "val/acc") == ["0.7"]


# ------------------------------------------------------------------------------ several writers


def _write_often(root: Path, number: int) -> None:
    for index in range(25):
        write_run(root / f"{number}-{index}", {"seed": index}, completed(0.5))
        write_results(root, plot=False)


@pytest.mark.slow
def test_writers_take_turns_and_readers_see_whole_files(tmp_path: Path) -> None:
    write_run(tmp_path / "first", {}, completed(0.5))
    write_results(tmp_path, plot=False)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(tmp_path, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    seen = []
    while any(writer.is_alive() for writer in writers):
        seen.append(len(rows((tmp_path / "results.csv").read_text())))
        assert (tmp_path / "results.md").read_text().endswith(f"report {tmp_path}`\n")
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert len(rows((tmp_path / "results.csv").read_text())) == 76
    assert not list(tmp_path.glob(".*.tmp"))


# ------------------------------------------------------------------------------ real processes


def report(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightning_onecycle.report", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_prints_the_table_and_writes_the_files(sweep: Path) -> None:
    log(sweep / "5-schedule=step,seed=0", val_acc={0: 0.5, 9: 0.95})
    done = report(sweep.parent, "sweep")
    assert (done.returncode, done.stderr) == (0, "")
    table, _, last = done.stdout.rpartition("\n\n")
    assert f"{table}\n" == (sweep / "results.md").read_text() == BY_HAND
    assert last == "results: sweep/results.csv sweep/results.md sweep/results.png\n"


@pytest.mark.slow
def test_the_command_ends_without_a_traceback_where_nobody_reads_on(sweep: Path) -> None:
    command = [sys.executable, "-m", "lightning_onecycle.report", str(sweep)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # type: ignore[union-attr]
        assert process.stderr.read() == b""  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    done = report(tmp_path, "nowhere")
    message = "directory must be a directory with runs, got 'nowhere'"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"python -m lightning_onecycle.report: {message}\n"


def test_the_command_prints_the_table_where_it_cannot_write(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, content: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("lightning_onecycle.report.write.write_whole", refuse)
    main([str(sweep)])
    output = capsys.readouterr().out
    assert output.startswith("7 jobs: 4 completed")
    assert "results are not written: [Errno 13] Permission denied" in output


def test_the_command_takes_another_metric(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep), "--metric", "val/loss"])
    printed = capsys.readouterr().out
    assert f"report {sweep} --metric val/loss --lowest`" in printed
    with pytest.raises(SystemExit, match=r"metric must be one of 'val/acc', .*, got 'no'"):
        main([str(sweep), "--metric", "no"])
    assert (sweep / "results.md").read_text() in printed


APP = """
import json, hydra
from pathlib import Path
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    facts = {"status": "completed", "seed": cfg.seed, "metrics": {"val/acc": cfg.model.width / 10}}
    path = Path(HydraConfig.get().runtime.output_dir) / "result.json"
    path.write_text(json.dumps(facts))

main()
"""


def test_what_recipes_found_is_in_the_table(tmp_path: Path) -> None:
    for seed, (decay, momentum) in enumerate([(1e-4, [0.95, 0.85]), (1e-3, [0.9, 0.9])]):
        result = {"status": "completed", "weight_decay": decay, "momentum": momentum, "metrics": {}}
        write_run(tmp_path / f"{seed}", {"seed": seed}, result)
    text = read_table(tmp_path).to_markdown()
    assert "weight decay found 0.0001 to 0.001" in text
    assert "momentum found [0.9, 0.9] or [0.95, 0.85]" in text


def test_a_sweep_of_hydra_itself(tmp_path: Path) -> None:
    files = {
        "app.py": APP,
        "conf/config.yaml": "defaults: [{model: small}]\nseed: 0\nlr: ${seed}\n",
        "conf/model/small.yaml": "width: 2\nlayers: {first: 1}\n",
        "conf/model/large.yaml": "width: 8\nlayers: {first: 1}\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    jobs = ["-m", "model=small,large", "model.layers.first=1,3", "seed=1,2", "lr=1e-3"]
    command = [sys.executable, "app.py", *jobs, "hydra.sweep.dir=out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    table = read_table(tmp_path / "out")
    assert table.swept == ("model", "model.layers.first")
    assert {group.options: group.mean("val/acc") for group in table.groups} == {
        ("large", 1): 0.8,
        ("large", 3): 0.8,
        ("small", 1): 0.2,
        ("small", 3): 0.2,
    }
    assert [run.seed for run in table.runs] == [1, 2] * 4
    assert "The same in all: lr=0.001." in table.to_markdown()


# ------------------------------------------------------------------------------------ the picture


@pytest.fixture
def curves(tmp_path: Path) -> Path:
    """Two groups of two seeds; one run of the second stops early."""
    for number, (schedule, seed, values) in enumerate(
        [
            ("onecycle", 0, {0: 0.2, 50: 0.8, 99: 0.9}),
            ("onecycle", 1, {0: 0.4, 50: 0.6, 99: 0.8}),
            ("step", 0, {0: 0.3, 50: 0.5, 99: 0.6}),
            ("step", 1, {0: 0.3, 50: 0.4}),
        ]
    ):
        last = max(values)
        status = "completed" if last == 99 else "diverged"
        result = {"status": status, "metrics": {"val/acc": values[last]}}
        run = write_run(tmp_path / f"{number}", {"schedule": schedule, "seed": seed}, result)
        log(run, val_acc=values, lr={k: 0.1 + k / 100 for k in range(0, last + 1)})
    return tmp_path


def lines(figure: Figure, panel: int) -> list[tuple[str, str, list[Any], list[Any]]]:
    """Return colour, style and points of each line with more than one point, best group first."""
    drawn = [line for line in reversed(figure.axes[panel].lines) if len(line.get_xdata()) > 1]  # type: ignore[arg-type]
    return [
        (str(line.get_color()), str(line.get_linestyle()), *map(list, line.get_data()))
        for line in drawn
    ]


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_means_bands_and_what_stopped(curves: Path) -> None:
    figure = plot_comparison(read_table(curves))
    assert figure is not None
    best, stopped, second = lines(figure, 0)
    assert best[:3] == (PALETTE[0], "-", [0, 50, 99])
    assert best[3] == pytest.approx([30, 70, 85])
    assert stopped[:3] == (PALETTE[1], "--", [0, 50])
    assert second[:3] == (PALETTE[1], "-", [0, 50, 99])
    assert second[3] == pytest.approx([30, 50, 60])
    (band,) = figure.axes[0].collections  # of a group with one completed run there is none
    assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(20)  # type: ignore[union-attr, index]
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(90)  # type: ignore[union-attr, index]
    assert [line[:2] for line in lines(figure, 1)] == [best[:2], stopped[:2], second[:2]]
    assert [axes.get_ylabel() for axes in figure.axes] == ["val/acc %", "learning rate"]
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log"]
    assert figure.axes[1].get_xlabel().startswith("optimizer step (lines: means")
    assert labels(figure) == ["onecycle: 85.00 ± 7.07", "step: 60.00"]
    assert figure.legends[0].get_title().get_text() == "schedule"


def test_seeds_that_logged_at_other_steps_are_compared_where_both_are(tmp_path: Path) -> None:
    for seed, values in enumerate([{0: 0.0, 10: 0.5, 20: 1.0}, {5: 0.5, 15: 0.5}]):
        log(write_run(tmp_path / f"{seed}", {"seed": seed}, completed(0.5)), val_acc=values)
    figure = plot_comparison(read_table(tmp_path))
    assert figure is not None
    ((_, _, steps, means),) = lines(figure, 0)
    assert steps == [5, 10, 15]
    assert means == pytest.approx([37.5, 50, 62.5])
    assert labels(figure) == ["all runs: 50.00 ± 0.00"]


@pytest.mark.parametrize(("count", "named"), [(12, 12), (13, 10), (40, 10)])
def test_of_many_groups_the_best_are_named(tmp_path: Path, count: int, named: int) -> None:
    for number in range(count):
        accuracy = 0.9 - number / 100
        run = write_run(tmp_path / f"{number}", {"optimizer.lr": number}, completed(accuracy))
        log(run, val_acc={0: 0.1, 9: accuracy})
    figure = plot_comparison(read_table(tmp_path))
    assert figure is not None
    colors = [line[0] for line in lines(figure, 0)]
    assert len(set(colors[:named])) == named
    assert len(set(colors[named:])) == (count > named)
    rest = [f"{count - named} more"] if count > named else []
    assert labels(figure) == [f"{n}: {90 - n}.00" for n in range(named)] + rest


def test_the_picture_is_a_png_of_sane_size(curves: Path) -> None:
    write_results(curves)
    height, width, _ = imread(curves / "results.png").shape
    assert (width, 700 < height < 1100) == (1200, True)


def test_the_axis_is_for_what_comes_after_the_beginning(tmp_path: Path) -> None:
    values = {0: 0.1, 10: 0.6, 40: 0.90, 99: 0.94}
    log(write_run(tmp_path / "0", {}, completed(0.94)), val_acc=values)
    figure = plot_comparison(read_table(tmp_path))
    assert figure is not None
    low, high = figure.axes[0].get_ylim()
    assert 89 < low < 90
    assert 94 < high < 95


def test_a_resumed_run_is_one_curve(tmp_path: Path) -> None:
    run = write_run(tmp_path / "0", {}, completed(0.5))
    log(run, val_acc={0: 0.1, 5: 0.2, 10: 0.9})
    (first,) = run.glob("*tfevents*")
    first.rename(run / "events.out.tfevents.1.a")
    log(run, val_acc={10: 0.3, 15: 0.4, 20: float("nan")})
    (found,) = read_table(tmp_path).runs
    steps, values = zip(*curve(found, "val/acc"), strict=True)
    assert steps == (0, 5, 10, 15)
    assert values == pytest.approx((0.1, 0.2, 0.3, 0.4))


def test_events_are_read_as_far_as_they_are_whole(tmp_path: Path) -> None:
    run = write_run(tmp_path / "0", {}, completed(0.5))
    log(run, val_acc=dict.fromkeys(range(100), 0.5))
    (path,) = run.glob("*tfevents*")
    (found,) = read_table(tmp_path).runs
    assert len(curve(found, "val/acc")) == 100
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 40 < len(curve(found, "val/acc")) < 60
    path.write_bytes(b"no events")
    assert curve(found, "val/acc") == []
    path.unlink()
    assert curve(found, "val/acc") == []


def test_both_ways_to_write_a_scalar_are_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "0", {}, completed(0.5))
    with SummaryWriter(run) as writer:
        writer.add_scalar("val/acc", 0.5, 1)
        writer.add_scalar("val/acc", 0.75, 2, new_style=True)
        writer.add_text("val/acc", "no number", 3)
    (found,) = read_table(tmp_path).runs
    assert curve(found, "val/acc") == [(1, 0.5), (2, 0.75)]


@pytest.mark.parametrize(
    "content",
    [
        "hydra:\n  runtime:\n    cwd: /\n    choices:\n      schedule: step\n  verbose: false\n",
        "hydra: {runtime: {cwd: /, choices: {schedule: step}}}\n",
    ],
)
def test_the_options_of_the_groups_are_found_however_they_are_written(
    tmp_path: Path, content: str
) -> None:
    run = write_run(tmp_path, {}, completed(0.5))
    (run / ".hydra" / "hydra.yaml").write_text(content)
    (found,) = read_table(tmp_path).runs
    assert found.choices == {"schedule": "step"}


@pytest.mark.parametrize("missing", ["matplotlib", "tensorboard"])
def test_without_what_draws_there_is_a_table(
    curves: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    names = {name for name in sys.modules if name.split(".")[0] == missing} | {missing}
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.warns(UserWarning, match=r"results.png is not drawn: .* pip install"):
        write_results(curves)
    assert (curves / "results.md").is_file()
    assert (curves / "results.csv").is_file()
    assert not (curves / "results.png").exists()


def test_what_has_logged_nothing_has_no_picture(sweep: Path) -> None:
    write_results(sweep)
    assert (sweep / "results.md").is_file()
    assert not (sweep / "results.png").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel tells no memory")
def test_a_table_of_thousands_of_runs_takes_seconds_and_little_memory(tmp_path: Path) -> None:
    for number in range(2000):
        lr, seed = 0.01 * (number % 40 + 1), number // 40
        result = completed(0.9, max_lr=lr)
        write_run(tmp_path / str(number), {"optimizer.lr": lr, "seed": seed}, result)
    measured = """
        import runpy, time
        runpy.run_module("lightning_onecycle.report", run_name="__main__")
        status = dict(line.split(":") for line in open("/proc/self/status"))
        print(time.process_time(), int(status["VmHWM"].split()[0]) / 1024)
    """
    # -E: as a user has it, without what `sitecustomize` saves.
    command = [sys.executable, "-E", "-c", textwrap.dedent(measured), str(tmp_path)]
    *table, last = subprocess.check_output(command, text=True).splitlines()
    assert len(table) > 40
    seconds, megabytes = map(float, last.split())
    assert seconds < 5
    assert megabytes < 200
