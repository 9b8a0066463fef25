"""The README's Python runs, its commands exist, and its links lead somewhere on every page."""

import re
import subprocess

import pytest

from pages import LINK, ROOT, blocks, compose_all, run_python

README = (ROOT / "README.md").read_text()
LAYOUT = (ROOT / "docs" / "layout.md").read_text()
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_its_python_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(README, "README.md")
    assert (tmp_path / "lr_find.png").is_file()


def test_its_commands_compose():
    assert compose_all(README) > 10


def test_it_is_short():
    assert README.count("\n") <= 150


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"@[A-Z]+@|TODO|\?\?\?", README)


def test_the_first_block_runs_the_main_job_and_the_second_the_tests():
    first, second = blocks(README, "bash")[:2]
    for block in (first, second):
        assert block.startswith("python3 -m venv .venv && . .venv/bin/activate\n")
    assert first.endswith("\npython train.py\n")
    assert second.endswith("\npytest -n 2\n")


def test_every_link_leads_to_a_file():
    for link in LINK.findall(README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_on_an_index_page_the_same_links_are_absolute():
    address, tag = "https://example.org/owner/name", "v1.2.3"
    command = [ROOT / ".ci" / "index-page", address, tag]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(LINK.findall(page)) == len(LINK.findall(README)) > 20
    for link, absolute in zip(LINK.findall(README), LINK.findall(page), strict=True):
        kind = "raw" if link.endswith(".png") else "blob"
        assert absolute == (link if ":" in link else f"{address}/{kind}/{tag}/{link}")
    assert LINK.sub("](", page) == LINK.sub("](", README)  # nothing else is changed


def test_the_map_has_every_module_and_nothing_that_is_not_there():
    (area,) = blocks(LAYOUT, "text")
    folders, listed = [ROOT], set()
    for line in area.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        place = folders[depth] / name
        assert place.exists(), name
        folders[depth + 1 :] = [place if name.endswith("/") else folders[depth]]
        listed.add(place)
    modules = {
        path for path in (ROOT / "lightning_onecycle").rglob("*.py") if "__" not in path.name
    }
    assert modules <= listed, modules - listed


@pytest.mark.parametrize(
    "group", ["schedule", "data", "model", "optimizer", "trainer", "lr_find", "logger"]
)
def test_the_page_on_the_command_line_lists_every_option(group):
    (row,) = re.findall(rf"^\| `{group}` \|(.*)\|$", COMMAND_LINE, re.MULTILINE)
    listed = set(re.findall(r"`(\w+)`", row))
    there = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
    assert there == listed
