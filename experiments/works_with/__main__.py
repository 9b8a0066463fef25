"""Try the package with real projects built on Lightning, and write the table of docs/works-with.md.

    python -m experiments.works_with [NAME ...]

Each project is installed in a virtual environment of its own, with pip and from its index, beside
this checkout. Its own, unmodified class is trained for some dozens of optimizer steps, as
`experiments.works_with.measure` says. What fails is a row with its reason. A project takes about
five minutes and 2 GB of disk; its environment is deleted when it is done.
What was found is written to experiments/works_with/results/NAME.json, what was printed to
logs/works_with/NAME/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.works_with.page import RESULTS, ROOT, cells, write
from experiments.works_with.projects import REQUIREMENTS

ENVIRONMENTS = ROOT / "build" / "works_with"
LOGS = ROOT / "logs" / "works_with"
LIMIT = 3600
"""Seconds that an installation, or all phases, may take."""


def call(command: list[Any], log: Path, seconds: int, **options: Any) -> str | None:
    """Run a command; return why it failed, or None.

    Args:
        command: The command.
        log: Gets what it prints.
        seconds: It is ended after so many.
        **options: As of `subprocess.run`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        try:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=seconds, **options
            )
        except subprocess.TimeoutExpired:
            return f"it took more than {seconds} seconds"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"it was ended by signal {-done.returncode}"
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {done.returncode}"


def install(name: str) -> str | None:
    """Install a project and this checkout; return why that failed, or None."""
    environment, log = ENVIRONMENTS / name, LOGS / name / "install.log"
    failed = call([sys.executable, "-m", "venv", environment], log, LIMIT)
    if failed:
        return failed
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet"]
    return call([*pip, *REQUIREMENTS[name], "--editable", ROOT], log, LIMIT)


def measure(name: str) -> dict[str, Any]:
    """Measure a project in its environment; return what each phase found."""
    python = ENVIRONMENTS / name / "bin" / "python"
    settings = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        failed = call(
            [python, "-m", "experiments.works_with.measure", name, file],
            LOGS / name / "measure.log",
            LIMIT,
            cwd=folder,
            env=os.environ | settings,
        )
        return json.loads(file.read_text()) if file.exists() else {"error": failed}


def attempt(name: str) -> dict[str, Any]:
    """Install a project, measure it, and return what was found."""
    failed = install(name)
    found = {"error": f"not installed: {failed}"} if failed else measure(name)
    return {"requirements": REQUIREMENTS[name], **found}


def main() -> int:
    """Try what is asked for; return 1 if a project could not be installed or imported."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(REQUIREMENTS))
    parser.add_argument("--keep", action="store_true", help="the environments, in build/works_with")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in REQUIREMENTS]:
        parser.error(f"NAME must be one of {', '.join(REQUIREMENTS)}, got {', '.join(unknown)}")
    names = arguments.names or list(REQUIREMENTS)
    RESULTS.mkdir(exist_ok=True)
    failed = []
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {REQUIREMENTS[name][-1]}", flush=True)
        began = time.perf_counter()
        try:
            result = attempt(name)
        finally:
            if not arguments.keep:
                shutil.rmtree(ENVIRONMENTS / name, ignore_errors=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        row = " | ".join([*cells(result).values()][2:])
        print(f"  {row} ({time.perf_counter() - began:.0f} s)", flush=True)
        write()
        failed += [name] if "error" in result else []
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
