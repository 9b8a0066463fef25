"""Run every case, theirs and ours, and write the table.

    python -m experiments.benchmarks.traps [--peers-python PYTHON] [--only 1 31 ...]

``--peers-python`` names a Python in which the peers are installed that this one lacks.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from experiments.benchmarks.regret import RESULTS
from experiments.benchmarks.traps.trap import Outcome, Trap, run
from experiments.benchmarks.traps.traps import TRAPS
from experiments.rows import Row, markdown

HANDLED = 64
"""The traps that are numbered, and counted; those of other peers have a letter."""
NOT_INSTALLED = Outcome("not installed", "")


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def theirs(traps: Iterable[Trap], peers_python: str | None) -> dict[str, Outcome]:
    """Return what happens to them, for what needs a Python in which they are installed."""
    missing = [trap.number for trap in traps if not trap.installed]
    if not missing or peers_python is None:
        return dict.fromkeys(missing, NOT_INSTALLED)
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [peers_python, "-m", "experiments.benchmarks.traps", "--json", "--only", *missing],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    outcomes = json.loads(done.stdout)
    return {number: Outcome(*outcomes[number]) for number in missing}


def rows_of(traps: Iterable[Trap], peers_python: str | None = None) -> list[Row]:
    """Run both sides of each trap."""
    rows = []
    outcomes = theirs(traps, peers_python)
    for trap in traps:
        start = time.perf_counter()
        them = outcomes.get(trap.number) or run(trap.sides["them"])
        us = run(trap.sides["us"])
        seconds = time.perf_counter() - start
        print(f"{trap.number:>3} {seconds:5.1f} s  {them}\n             {us}", file=sys.stderr)
        rows.append(
            {
                "number": trap.number,
                "section": trap.section,
                "trap": trap.what,
                "them": them.verdict,
                "theirs": "; ".join(filter(None, [them.text, trap.note])),
                "us": us.verdict,
                "ours": us.text,
            }
        )
    return rows


def page(rows: list[Row]) -> str:
    """Return the table, with the versions, and the count in its last line."""
    names = ("torch", "lightning", "lightning-onecycle")
    used = ", ".join(f"{name} {number}" for name, number in versions(names).items())
    lines = [
        "Each trap of torch's schedulers, of Lightning and of other LR finders as a case that is run,"
        " for them and for us. The word says whether it is avoided; then comes what happened.",
        f"\nPython {platform.python_version()}, {used}."
        " Again: `python -m experiments.benchmarks.traps`",
    ]
    for section in dict.fromkeys(row["section"] for row in rows):
        cells = [
            {
                "#": row["number"],
                "trap": row["trap"],
                "them": _cell(row["them"], row["theirs"]),
                "us": _cell(row["us"], row["ours"]),
            }
            for row in rows
            if row["section"] == section
        ]
        lines += [f"\n## {section}\n", markdown(cells)]
    return "\n".join([*lines, "", count(rows)])


def _cell(verdict: str, text: str) -> str:
    return f"**{verdict}**: {text}" if text else f"**{verdict}**"


def count(rows: list[Row]) -> str:
    """Return how many of the numbered traps are avoided, by us and by them."""
    numbered = [row for row in rows if row["number"].isdigit()]
    parts = []
    for side in ("us", "them"):
        verdicts = Counter(row[side] for row in numbered)
        rest = ", ".join(f"{verdicts[v]} {v}" for v in ("partly", "no", "n/a") if verdicts[v])
        parts.append(
            f"{side} {verdicts['yes']} of {len(numbered)}" + (f" ({rest})" if rest else "")
        )
    return f"Handled: {'; '.join(parts)}."


def main() -> None:
    """Run the cases that are asked for; all of them are written down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-python", help="a Python that has the peers installed")
    parser.add_argument("--only", nargs="+", metavar="NUMBER", help="these, and write nothing")
    parser.add_argument("--json", action="store_true", help="print only what happens to them")
    arguments = parser.parse_args()
    traps = [trap for trap in TRAPS if not arguments.only or trap.number in arguments.only]
    if arguments.json:
        happens = {
            trap.number: run(trap.sides["them"]) if trap.installed else NOT_INSTALLED
            for trap in traps
        }
        print(json.dumps(happens))
        return
    rows = rows_of(traps, arguments.peers_python)
    print(text := page(rows))
    if arguments.only:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "traps.md").write_text(text + "\n")
    with (RESULTS / "traps.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *(names := versions(("torch", "lightning")))])
        writer.writeheader()
        writer.writerows(row | names for row in rows)


if __name__ == "__main__":
    main()
