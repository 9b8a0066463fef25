"""What a sweep says at its end of jobs that are not over."""

import json

import pytest

from lightning_onecycle.sweep.callback import _print_table


@pytest.mark.parametrize(
    ("statuses", "jobs", "says"),
    [
        (["completed", "diverged"], 2, []),
        (["completed", "interrupted"], 4, ["2 of 4 jobs have not begun", "go on"]),
        (["completed"], 4, ["3 of 4 jobs have not begun", "go on"]),
        (["completed", "failed"], 2, ["go on"]),
        (["completed", "interrupted"], 0, ["go on"]),  # of a search, whose length is not known
    ],
)
def test_jobs_that_are_not_over_are_told_with_how_to_go_on(
    statuses, jobs, says, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    for index, status in enumerate(statuses):
        directory = tmp_path / f"{index}-seed={index}"
        directory.mkdir()
        (directory / "result.json").write_text(json.dumps({"status": status}))
    _print_table(tmp_path, jobs)
    lines = capsys.readouterr().out.splitlines()
    goes_on = f"go on: the same command with hydra.sweep.dir={tmp_path}"
    expected = [goes_on if line == "go on" else line for line in says]
    assert [line for line in lines if "have not begun" in line or "go on:" in line] == expected
