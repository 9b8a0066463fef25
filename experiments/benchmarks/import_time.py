"""What all names of ``lightning_onecycle`` cost beyond ``import lightning.pytorch``.

    python -m experiments.benchmarks.import_time

Both are timed one after the other in a fresh process, on the clock and on the processor, which a
busy machine disturbs less; a first process, which is not counted, brings the files from the disk.
``pytorch_lightning`` is hidden: where it is installed, the package imports it as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median
from typing import Any

from experiments.benchmarks.results import ROOT, keep
from experiments.rows import markdown

IMPORTS = ("import lightning.pytorch", "from lightning_onecycle import *")
CODE = """
import json, sys, time
sys.modules["pytorch_lightning"] = None
rows = []
for name in sys.argv[1:]:
    before, clock, processor = len(sys.modules), time.perf_counter(), time.process_time()
    exec(name)
    seconds = time.perf_counter() - clock, time.process_time() - processor
    rows.append((*seconds, len(sys.modules) - before))
print(json.dumps(rows))
"""


def once() -> list[tuple[float, float, int]]:
    """Return seconds on the clock, of the processor, and modules added, of each import in turn."""
    command = [sys.executable, "-c", CODE, *IMPORTS]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
    return json.loads(output.stdout.splitlines()[-1])


def measure(repeats: int) -> list[dict[str, Any]]:
    """Return a row for each import: the medians over fresh processes, and the share of the first.

    Args:
        repeats: Processes that are counted.
    """
    once()
    runs = [once() for _ in range(repeats)]
    rows = []
    for index, name in enumerate(IMPORTS):
        row: dict[str, Any] = {"import": name, "modules": runs[0][index][2]}
        for kind, unit in enumerate(("clock", "processor")):
            seconds = [run[index][kind] for run in runs]
            share = [run[index][kind] / run[0][kind] for run in runs]
            row |= {f"{unit} (s)": median(seconds), f"{unit} / Lightning's": median(share)}
        rows.append(row)
    return rows


def main() -> None:
    """Measure and print the table, which is written to ``results/import_time.md`` too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    rows = measure(arguments.repeats)
    said = (
        "One import after the other in a fresh process, without `pytorch_lightning`,"
        f" medians of {arguments.repeats}"
    )
    keep("import_time", rows, f"{said}:\n\n{markdown(rows, 3)}\n")


if __name__ == "__main__":
    main()
