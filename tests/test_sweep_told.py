"""What a sweep says at its end of jobs that are not over."""

import json

import pytest

from lightning_onecycle.sweep.callback import _print_table


@pytest.mark.parametrize(
    ("statuses", "jobs", "says"),
    [
        (["completed", "diverged"], 2, []),
        (["completed", "interrupted"], 4, ["2 of 4 jobs have not begun", "continue"]),
        (["completed"], 4, ["3 of 4 jobs have not begun", "continue"]),
        (["completed", "failed"], 2, ["continue"]),
        (["completed", "interrupted"], 0, ["continue"]),  # of a search, whose length is not known
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
    continues = f"continue: the same command with hydra.sweep.dir={tmp_path}"
    expected = [continues if line == "continue" else line for line in says]
    assert [line for line in lines if "have not begun" in line or "continue:" in line] == expected
