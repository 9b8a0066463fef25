"""What the benchmarks leave behind: a table to read, and its rows with where they were measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from experiments.rows import Row

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
PEERS = {"fastai": "fastai", "ignite": "pytorch-ignite", "torch_lr_finder": "torch-lr-finder"}
"""Modules that only the benchmarks know, and their distributions."""


def machine() -> str:
    """Return the name of the processor, and the number of its cores that may be used."""
    name = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def versions(names: Iterable[str] = ("torch", "lightning", *PEERS.values())) -> dict[str, str]:
    """Return the versions of those distributions that are installed.

    Example:
        >>> list(versions(["torch", "no-such-distribution"]))
        ['torch']
    """
    installed = {distribution.name for distribution in distributions()}
    return {name: version(name) for name in names if name in installed}


def keep(name: str, rows: list[Row], text: str) -> None:
    """Print a benchmark's text and write it to ``NAME.md``, and its rows to ``NAME.json``.

    Args:
        name: The benchmark's.
        rows: What it measured.
        text: The same for a reader.
    """
    print(text, flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text.rstrip("\n") + "\n")
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    head = f' "machine": {json.dumps(machine())},\n "versions": {json.dumps(versions())},'
    (RESULTS / f"{name}.json").write_text(f'{{\n{head}\n "rows": [\n{lines}\n ]\n}}\n')


def run_module(
    module: str, *arguments: str, python: str = sys.executable, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a module of this repository in a process of its own.

    Args:
        module: Its name.
        *arguments: What it is given.
        python: The Python that runs it; it need not have this project installed.
        **options: As of `subprocess.run`.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [python, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        **options,
    )
