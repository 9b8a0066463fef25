"""Run every case, theirs and ours, and write the table.

    python -m experiments.benchmarks.traps [--peers-python PYTHON] [--only 1 31 ...]

``--peers-python`` names a Python in which the peers are installed that this one lacks.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from importlib.util import find_spec

from experiments.benchmarks.results import PEERS, RESULTS, run_module
from experiments.benchmarks.traps.trap import Trap, run
from experiments.benchmarks.traps.traps import TRAPS
from experiments.rows import Row, markdown

COMMAND = "python -m experiments.benchmarks.traps"


def versions(peer: str = "") -> str:
    """Return what a case runs under: torch and Lightning, or the peer that it is about."""
    if peer:
        return f"{PEERS[peer]} {version(PEERS[peer])} (with torch {version('torch')})"
    return f"torch {version('torch')}, lightning {version('lightning')}"


def them(trap: Trap) -> dict[str, str]:
    """Run their side, or say that it cannot be."""
    if trap.needs and find_spec(trap.needs) is None:
        return {"them": "not installed", "theirs": "", "versions": ""}
    verdict, text = run(trap.sides["them"])
    return {"them": verdict, "theirs": text, "versions": versions(trap.needs)}


def elsewhere(traps: Iterable[Trap], python: str) -> dict[str, dict[str, str]]:
    """Run their side in another Python."""
    numbers = (trap.number for trap in traps)
    options = ("--json", "--only", *numbers)
    done = run_module(__package__, *options, python=python, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def rows_of(traps: list[Trap], peers_python: str | None = None) -> list[Row]:
    """Run both sides of each trap."""
    missing = [trap for trap in traps if trap.needs and find_spec(trap.needs) is None]
    theirs = elsewhere(missing, peers_python) if missing and peers_python else {}
    rows = []
    for trap in traps:
        start = time.perf_counter()
        side = theirs.get(trap.number) or them(trap)
        side["theirs"] = "; ".join(filter(None, [side["theirs"], trap.note]))
        us = run(trap.sides["us"])
        row = {"number": trap.number, "section": trap.section, "trap": trap.what}
        rows.append({**row, **side, "us": us.verdict, "ours": us.text})
        seconds = time.perf_counter() - start
        print(f"{trap.number}, {seconds:.1f} s", side, us, sep="\n    ", file=sys.stderr)
    return rows


def page(rows: list[Row]) -> str:
    """Return the table, with the versions, and the count in its last line."""
    others = sorted({row["versions"] for row in rows} - {"", versions()})
    lines = [
        "Traps of torch's schedulers, of Lightning and of other LR finders, each as a case that is"
        " run, for them and for us. The word says whether the trap is avoided; behind it stands"
        " what happened.\n",
        f"Run under {', '.join([versions(), *others])}. Again:"
        f" `{COMMAND} --peers-python PYTHON`, with a Python that has the others installed.",
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
        print(json.dumps({trap.number: them(trap) for trap in traps}))
        return
    rows = rows_of(traps, arguments.peers_python)
    print(text := page(rows))
    if arguments.only:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "traps.md").write_text(text + "\n")
    with (RESULTS / "traps.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
