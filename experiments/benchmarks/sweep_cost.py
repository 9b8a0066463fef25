"""What a sweep costs beyond its training, with each launcher.

    python -m experiments.benchmarks.sweep_cost --jobs 8 --epochs 60

Each launcher runs the same jobs, on the digits, in a directory of its own. Beside the clock stand
the time that the jobs themselves say they trained and validated, and one start of the interpreter,
with what ``train.py`` imports. What is left is the cost of the sweep; where jobs run side by side
it has no meaning, and the gain over one after the other is what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks.results import ROOT, keep
from experiments.rows import markdown

LAUNCHERS = {
    "Hydra's own: one after the other": [],
    "joblib, 2 at a time": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit, on this machine": ["hydra/launcher=submitit_local"],
}


def clock(*command: str) -> float:
    """Return the seconds that a command takes with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def measure(jobs: int, epochs: int) -> list[dict[str, Any]]:
    """Return a row for each launcher.

    Args:
        jobs: Jobs in a sweep, which differ by their seed.
        epochs: Their length.
    """
    clock(sys.executable, "-c", "import train")  # from the disk, once
    start = clock(sys.executable, "-c", "import train")
    rows = []
    for name, options in LAUNCHERS.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds = clock(
                sys.executable,
                "train.py",
                "-m",
                *options,
                f"seed=range({jobs})",
                f"trainer.max_epochs={epochs}",
                "trainer.enable_progress_bar=false",
                f"hydra.sweep.dir={folder}",
            )
            results = [json.loads(p.read_text()) for p in Path(folder).glob("*/result.json")]
        assert [result["status"] for result in results] == ["completed"] * jobs
        fit = sum(result["fit_seconds"] for result in results)
        row = {"launcher": name, "clock (s)": seconds, "of it one start (s)": start}
        row |= {"fits, added up (s)": fit}
        rows.append(row | {"beyond / fits": (seconds - start) / fit - 1.0})
    for row in rows:
        row["times as fast"] = rows[0]["clock (s)"] / row["clock (s)"]
    return rows


def main() -> None:
    """Measure and print the table, which is written to ``results/sweep_cost.md`` too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    rows = measure(arguments.jobs, arguments.epochs)
    said = f"{arguments.jobs} jobs of {arguments.epochs} epochs of the digits"
    keep("sweep_cost", rows, f"{said}:\n\n{markdown(rows)}\n")


if __name__ == "__main__":
    main()
