"""The wheel, in a foreign project: what is in it, and what works with nothing else."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APP = """
import hydra
from hydra.utils import instantiate

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    schedule = instantiate(cfg.schedule)
    print("momentum", schedule.at(39, 100).momentum, "peak at", schedule.at(39, 100).lr)

main()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: building leaves folders beside the sources.
    copy = folder / "source"
    subprocess.run(["git", "clone", "--quiet", ROOT, copy], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, copy],
        check=True,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel):
    folder = wheel.parent / "installed"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def test_the_plugin_alone_is_in_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0].partition("-")[0] for name in names}
    assert tops == {"lightning_onecycle", "hydra_plugins"}
    assert "lightning_onecycle/py.typed" in names
    assert "hydra_plugins/__init__.py" not in names  # a namespace that others are in, too
    options = {Path(n).stem for n in names if n.startswith("lightning_onecycle/conf/schedule/")}
    assert options == {path.stem for path in (ROOT / "conf" / "schedule").glob("*.yaml")}


def test_a_foreign_app_has_the_group(installed, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text(
        "defaults:\n  - schedule: onecycle\n  - _self_\n"
    )
    result = subprocess.run(
        [sys.executable, "app.py", "schedule.pct_start=0.4"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "momentum 0.85 peak at 1.0\n"
    result = subprocess.run(
        [sys.executable, "app.py", "schedule=step", "--cfg", "job"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert "lightning_onecycle.step_decay" in result.stdout, result.stderr
