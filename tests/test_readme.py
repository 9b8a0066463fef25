"""The README's Python runs, its commands exist, and its map is true."""

import re

import pytest

from pages import ROOT, blocks, compose_all, run_python

README = (ROOT / "README.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_its_python_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(README, "README.md")
    assert (tmp_path / "schedule.png").is_file()


def test_its_commands_compose():
    assert compose_all(README) > 10


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"@[A-Z]+@|TODO|\?\?\?", README)


def test_the_first_block_runs_the_main_job_and_the_second_the_tests():
    first, second = blocks(README, "bash")[:2]
    for block in (first, second):
        assert block.startswith("python3 -m venv .venv && . .venv/bin/activate\n")
    assert first.endswith("\npython train.py\n")
    assert second.endswith("\npytest -n 2\n")


def test_every_file_of_its_map_and_its_links_is_there():
    (area,) = re.findall(r"^```\n(train\.py .*?)^```$", README, re.MULTILINE | re.DOTALL)
    folder = ROOT
    for line in area.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = ROOT / name if name.endswith("/") else ROOT
            assert (ROOT / name).exists(), name
        elif name[-1] == "/" or name.endswith(".py"):
            if line[2] != " ":
                parent = folder / name if name.endswith("/") else folder
            folder_of_name = folder if line[2] != " " else parent
            for file in [name, *re.findall(r"(\w+\.py):", line)]:
                assert any((f / file).exists() for f in (folder_of_name, folder_of_name / name)), (
                    file
                )
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


@pytest.mark.parametrize(
    "group", ["schedule", "data", "model", "optimizer", "trainer", "lr_find", "logger"]
)
def test_it_lists_every_option(group):
    (row,) = re.findall(rf"^\| `{group}` \|(.*)\|$", README, re.MULTILINE)
    listed = set(re.findall(r"`(\w+)`", row))
    there = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
    assert there == listed
