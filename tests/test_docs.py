"""The documentation builds without a warning, has every public name, and its code runs."""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import math
import pkgutil
import re
import subprocess
import sys
import zlib
from functools import cache
from itertools import pairwise

import pytest

import lightning_onecycle
from lightning_onecycle import (
    measure,
    one_cycle,
    plots,
    range_test,
    report,
    schedules,
    search,
    sweep,
)
from pages import LINK, ROOT, blocks, compose_all, run_python

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as CI builds it."""
    for needed in ("furo", "myst_nb"):
        pytest.importorskip(needed, reason='the site needs pip install -e ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    result = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return folder / "html"


@pytest.mark.slow
def test_it_builds_without_a_warning_and_needs_nothing_from_the_internet(site):
    built = list(site.rglob("*.html"))
    for page in [*PAGES, DOCS / "schedules.rst"]:
        assert site / f"{page.stem}.html" in built
    for page in built:
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text()):
            assert not re.search(r"(?:src|href)=\"(?:https?:)?//", tag), (page.name, tag)


@pytest.mark.slow
def test_every_public_name_has_an_entry(site):
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    entries = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    for module in (lightning_onecycle, measure, range_test, report, search, sweep):
        for name in module.__all__:
            names = {f"lightning_onecycle.{name}", f"{module.__name__}.{name}"}
            assert names & entries, name
    assert f"{plots.__name__}.plot_schedule" in entries


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page.read_text(), "python")], ids=lambda p: p.stem
)
def test_its_python_runs_page_by_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(page.read_text(), page.name)


def test_the_examples_beside_the_pictures_run():
    result = doctest.testfile(str(DOCS / "schedules.rst"), module_relative=False)
    assert result.attempted > 5
    assert not result.failed


def names_used(code: str) -> set[str]:
    """The names that Python code takes from elsewhere."""
    tree = list(ast.walk(ast.parse(code)))
    names = [node for node in tree if isinstance(node, ast.Name)]
    known = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    known |= {node.arg for node in tree if isinstance(node, ast.arg)}
    known |= {node.name for node in tree if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    imports = [node for node in tree if isinstance(node, (ast.Import, ast.ImportFrom))]
    known |= {alias.asname or alias.name for node in imports for alias in node.names}
    return {node.id for node in names} - known - set(vars(builtins))


def test_an_example_imports_what_it_uses_beside_its_own_name():
    missing = {}
    for info in pkgutil.walk_packages(lightning_onecycle.__path__, "lightning_onecycle."):
        module = importlib.import_module(info.name)
        for example in doctest.DocTestFinder(exclude_empty=True).find(module):
            own = example.name.removeprefix(f"{module.__name__}.").split(".")[0]
            unknown = names_used("".join(part.source for part in example.examples)) - {own}
            if unknown:
                missing[example.name] = unknown
    assert not missing


@pytest.mark.slow
def test_there_is_a_picture_of_every_schedule(site):
    page = (DOCS / "schedules.rst").read_text()
    for name in schedules.__all__:
        if name.islower():
            assert f"{name}(" in page, name
    drawn = {path.read_bytes() for path in (site / "_images").glob("schedules-*.svg")}
    assert len(drawn) == page.count(".. plot::")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "python train.py " in page.read_text()], ids=lambda p: p.stem
)
def test_its_commands_compose(page):
    assert compose_all(page.read_text())


def test_its_other_commands_are_known():
    for page in PAGES:
        for block in blocks(page.read_text(), "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                known = (
                    r"#|python (?:train\.py|main\.py|-m lightning_onecycle\.report)(?: |$)"
                    r"|cp -r logs/|srun --kill-on-bad-exit=1 python train\.py |torchrun "
                )
                assert re.match(rf"(?:{known}|pip install |tensorboard --logdir )", line), line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_its_links_lead_to_files_of_a_clone(page):
    for link in LINK.findall(page.read_text()):
        path = (page.parent / link).resolve()
        assert link.startswith("http") or path.exists(), link
        assert not path.is_relative_to(DOCS / "experiments"), link  # the site's copy


@cache
def messages():
    """Return every string in the code; where it has a value put in, there is a NUL."""
    texts = []
    for path in [*ROOT.glob("lightning_onecycle/**/*.py"), *ROOT.glob("experiments/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (getattr(part, "value", "\0") for part in node.values)
                texts.append("".join(p if isinstance(p, str) else "\0" for p in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_the_messages_that_it_explains_are_the_ones_that_are_written():
    explained = re.findall(r"^\*\*`(.*)`\*\*$", (DOCS / "faq.md").read_text(), re.MULTILINE)
    assert len(explained) > 10
    for message in explained:
        if message == "pct_start must be in (0, 1), got 1.5":
            with pytest.raises(ValueError, match=re.escape(message)):
                one_cycle(pct_start=1.5)
            continue
        pattern = re.escape(message).replace(r"\.\.\.", ".*").replace("OneCycle\\ found", ".*found")
        assert any(re.search(pattern, text, re.DOTALL) for text in messages()), message


def combined_cos(position, pct, start, middle, end):
    """Evaluate fastai's ``combined_cos``, from its definition, at ``position`` in [0, 1)."""
    if position < pct:
        a, b, progress = start, middle, position / pct
    else:
        a, b, progress = middle, end, (position - pct) / (1 - pct)
    return a + (1 + math.cos(math.pi * (1 - progress))) * (b - a) / 2


@pytest.mark.parametrize(("steps", "difference"), [(100, 0.036), (1000, 0.0035)])
def test_how_far_fastais_points_are_from_ours(steps, difference):
    """As the page on migrating says, and as fastai 2.8.12 itself gave them."""
    ours = one_cycle(0.25, 0, div_factor=25, final_div_factor=1e5 / 25, anneal="cos").trace(steps)
    theirs = [combined_cos(k / steps, 0.25, 1 / 25, 1, 1e-5) for k in range(steps)]
    apart = max(abs(a.lr - b) for a, b in zip(ours, theirs, strict=True))
    assert apart == pytest.approx(difference, rel=0.02)


def test_torch_and_ours_differ_by_less_than_a_step_where_phases_end_between_steps():
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1, total_steps=999)
    theirs = []
    for _ in range(999):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    ours = [p.lr for p in one_cycle(0.3, 0, 25, 1e4, anneal="cos").trace(999)]
    steepest = max(abs(a - b) for a, b in pairwise(ours))
    assert 1e-4 < max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < steepest
    assert max(theirs) < 1 == max(ours)
