"""What is built: what is in the wheel and in the sdist, and what works with nothing else."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import lightning_onecycle

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
TOP = "lightning_onecycle"
APP = """
import hydra
from hydra.utils import instantiate

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    schedule = instantiate(cfg.schedule)
    print("momentum", schedule.at(39, 100).momentum, "peak at", schedule.at(39, 100).lr)

main()
"""


def build(source, folder, *options):
    # Not isolated: what pyproject.toml asks for is installed, and `build` makes sure of it.
    result = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", folder, source],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Return a copy of the sources: building leaves folders beside them."""
    copy = tmp_path_factory.mktemp("source") / "copy"
    if subprocess.run(["git", "clone", "--quiet", ROOT, copy], check=False).returncode:
        shutil.copytree(ROOT, copy)  # an unpacked sdist
    return copy


@pytest.fixture(scope="session")
def dist(source, tmp_path_factory):
    """Return a folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build(source, folder)
    return folder


@pytest.fixture(scope="session")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def sdist(dist):
    (path,) = dist.glob("*.tar.gz")
    return path


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def contents(wheel):
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_the_plugin_alone_is_in_the_wheel(wheel):
    names = set(contents(wheel))
    tops = {name.split("/")[0].partition("-")[0] for name in names}
    assert tops == {"lightning_onecycle", "hydra_plugins"}
    assert "lightning_onecycle/py.typed" in names
    assert "hydra_plugins/__init__.py" not in names  # a namespace that others are in, too
    configs = {name for name in names if "/conf/" in name}
    offered = [*(ROOT / "conf" / "schedule").iterdir(), ROOT / "conf/hydra/callbacks/sweep.yaml"]
    assert configs == {f"lightning_onecycle/{path.relative_to(ROOT)}" for path in offered}
    assert {Path(name).suffix for name in names - configs if ".dist-info/" not in name} == {
        ".py",
        ".typed",
    }


def test_every_module_is_in_the_wheel(source, wheel):
    modules = {
        str(path.relative_to(source)).replace("lightning_onecycle/_hydra", "hydra_plugins/" + TOP)
        for path in (source / TOP).rglob("*.py")
    }
    assert {name for name in contents(wheel) if name.endswith(".py")} == modules


def test_the_wheel_is_the_same_from_the_tree(source, wheel, tmp_path):
    build(source, tmp_path, "--wheel")
    (from_tree,) = tmp_path.glob("*.whl")
    assert from_tree.name == wheel.name
    assert contents(from_tree) == contents(wheel)


def test_the_sdist_has_what_the_tests_need(source, sdist):
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames() if not name.endswith("/")}
    listed = subprocess.run(
        ["git", "-C", source, "ls-files"], capture_output=True, text=True, check=False
    )
    assert set(listed.stdout.split("\n")) - {""} <= names
    assert {"LICENSE", "train.py", "conf/config.yaml", "tests/conftest.py"} <= names
    assert sdist.stat().st_size < 4e6


def test_metadata(sdist, wheel):
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", sdist, wheel],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
    (metadata,) = (text for name, text in contents(wheel).items() if name.endswith("/METADATA"))
    lines = metadata.decode().splitlines()
    assert f"Version: {lightning_onecycle.__version__}" in lines
    assert "License-Expression: Apache-2.0" in lines
    assert not [
        line for line in lines if line.startswith("Requires-Dist: hydra") if "extra" not in line
    ]


def test_a_foreign_app_has_the_group(installed, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text(
        "defaults:\n  - schedule: onecycle\n  - _self_\n"
    )
    result = subprocess.run(
        [sys.executable, "app.py", "schedule.pct_start=0.4"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{installed}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "momentum 0.85 peak at 1.0\n"
    result = subprocess.run(
        [sys.executable, "app.py", "schedule=step", "--cfg", "job"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{installed}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert "lightning_onecycle.step_decay" in result.stdout, result.stderr
