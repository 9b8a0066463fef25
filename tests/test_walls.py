"""What may know what: the package stays light to import, and separate from what uses it."""

import ast
import inspect
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lightning_onecycle
from conftest import python

PACKAGE = Path(lightning_onecycle.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Where it is installed, `_lightning.py` imports it, by its name.
OTHER_LIGHTNING = {"pytorch_lightning", "lightning_fabric"}
# In a process that runs this first, only `lightning` is installed.
ONLY_LIGHTNING = f"""
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: (
    None if name.partition(".")[0] in {OTHER_LIGHTNING} else find_spec(name, *args)
)
"""
MAY_KNOW_HYDRA = {"sweep", "_hydra"}
# Reads what Hydra has written beside a run, and does without Hydra.
READS_ITS_FILES = PACKAGE / "report" / "runs.py"
# Pure Python, by their own imports.
PURE = [
    "phases.py",
    "schedules.py",
    "_checks.py",
    "range_test/curve.py",
    "range_test/conditions.py",
    "range_test/suggest.py",
    "range_test/stopping.py",
    "range_test/json_file.py",
    "search/probe.py",
    "search/plan.py",
    "search/result.py",
    "search/recipe.py",
    "search/recipe_plan.py",
    "search/recipe_report.py",
    "search/recipe_settings.py",
    "_files.py",
]


def run(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(result.stdout.split())


def imports(path, *, everywhere=True):
    """Return the top-level names that a file imports, inside functions as well or not."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.slow
def test_importing_adds_nothing_but_the_package_to_what_lightning_brings():
    added = run(
        f"{ONLY_LIGHTNING}\n"
        "import sys, lightning.pytorch; before = set(sys.modules)\n"
        "from lightning_onecycle import *;"
        " print(*sorted(set(sys.modules) - before))"
    )
    ours = {name for name in added if name.partition(".")[0] == "lightning_onecycle"}
    others = {name.partition(".")[0] for name in added - ours}
    assert others <= {"filelock"}  # small; anything else belongs into the function that needs it
    assert "lightning_onecycle.callback" in ours
    assert not {"lightning_onecycle.sweep", "lightning_onecycle._hydra"} & ours


def test_the_table_of_a_sweep_needs_neither_torch_nor_lightning():
    brought = run(
        "import sys, lightning_onecycle, lightning_onecycle.report.__main__; print(*sys.modules)"
    )
    assert not brought & {"torch", "lightning", "lightning_onecycle._lightning"}


@pytest.mark.parametrize(
    "package",
    [
        lightning_onecycle,
        lightning_onecycle.measure,
        lightning_onecycle.range_test,
        lightning_onecycle.report,
        lightning_onecycle.search,
    ],
    ids=lambda package: package.__name__,
)
def test_names_that_are_imported_at_their_first_use_are_listed_for_type_checkers_too(package):
    (guarded,) = (
        node.body
        for node in ast.parse(Path(package.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    homes = {
        node.module.removeprefix(f"{package.__name__}."): tuple(a.name for a in node.names)
        for node in guarded
    }
    assert homes == package._HOMES
    assert package.__all__ == sorted(name for names in homes.values() for name in names)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'x'"):
        getattr(package, "x")  # noqa: B009


@pytest.mark.slow
def test_a_pytorch_lightning_that_cannot_be_imported_is_told_once_and_left_out(tmp_path):
    (tmp_path / "pytorch_lightning").mkdir()
    (tmp_path / "pytorch_lightning" / "__init__.py").write_text("import torch.no_such_module")
    (line,) = python(
        tmp_path,
        """
        import warnings

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            from lightning_onecycle import OneCycle
        from lightning.pytorch import Trainer

        one_cycle = OneCycle()
        trainer = Trainer(callbacks=one_cycle, logger=False, accelerator="cpu")
        assert one_cycle in trainer.callbacks
        messages = [str(warning.message) for warning in told]
        print("SAYS", *(text for text in messages if "pytorch_lightning" in text))
        """,
        anew=True,
    )
    assert line == (
        "SAYS pytorch_lightning cannot be imported (ModuleNotFoundError: No module named"
        " 'torch.no_such_module'). lightning_onecycle works with lightning.pytorch alone."
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_who_imports_what(path):
    names = imports(path)
    assert not names & {"experiments", "train", "sklearn", *OTHER_LIGHTNING}
    if path.relative_to(PACKAGE).parts[0] not in MAY_KNOW_HYDRA:
        assert not names & {"hydra", "omegaconf"}
        assert path == READS_ITS_FILES or "hydra" not in path.read_text().lower()
    assert "matplotlib" not in imports(path, everywhere=False)


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def runtime_nodes(tree):
    """Yield a file's nodes, functions included, without what only type checkers import."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from runtime_nodes(node)


def imported_modules(path, modules):
    """Return which modules of the package a file imports, with the packages that they are in."""
    names, own = set(), module_name(path)
    for node in runtime_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            of_package = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            names |= of_package or {node.module}
    names |= {name.rpartition(".")[0] for name in names if name.startswith("lightning_onecycle.")}
    return {name for name in names & modules if not f"{own}.".startswith(f"{name}.")}


def test_no_imports_go_in_circles():
    modules = {module_name(path) for path in FILES}
    graph = {module_name(path): imported_modules(path, modules) for path in FILES}
    # Raises CycleError, which names the circle.
    assert set(TopologicalSorter(graph).static_order()) == modules


@pytest.mark.parametrize("name", [name for name in PURE if (PACKAGE / name).exists()])
def test_pure_modules_import_neither_torch_nor_lightning(name):
    assert not imports(PACKAGE / name) & {"torch", "lightning"}


def public():
    return [getattr(lightning_onecycle, name) for name in lightning_onecycle.__all__]


@pytest.mark.parametrize(
    "item",
    # A named tuple is its fields, and an exception its name.
    [
        item
        for item in public()
        if not (inspect.isclass(item) and issubclass(item, (tuple, Exception)))
    ],
    ids=lambda item: item.__name__,
)
def test_every_public_name_has_an_example(item):
    assert ">>> " in inspect.getdoc(item)


def test_all_is_sorted_and_complete():
    names = lightning_onecycle.__all__
    assert names == sorted(names)
    assert all(item.__doc__ for item in public())
