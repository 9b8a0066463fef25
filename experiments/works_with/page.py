"""The table of docs/works-with.md, from what was found in each project.

python -m experiments.works_with.page     # again, from what is on disk
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from experiments.rows import markdown

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "works-with.md"
BEGIN, END = "<!-- python -m experiments.works_with -->", "<!-- end -->"

COLUMNS = (
    "Lightning",
    "its module, scheduler",
    "`OneCycle`",
    "range test",
    "with `LRFinder`",
)

Found = dict[str, Any]


def kept() -> dict[str, Found]:
    """Return what was found in each project, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def cells(result: Found) -> dict[str, str]:
    """Return the row of a project.

    Args:
        result: What was found in it.
    """
    project, _, release = result["requirements"][-1].partition("==")
    name = re.sub(r"\[.*", "", project)
    row = {"project": f"{name} {release}"}
    if "error" in result:
        return row | dict.fromkeys(COLUMNS, "") | {COLUMNS[0]: failure(result)}
    found = (*module(result["own"]), steps(result["onecycle"]), range_test(result), finder(result))
    return row | dict(zip(COLUMNS, found, strict=True))


def module(found: Found) -> tuple[str, str]:
    """Return the Lightning that a project imports, and its module with the schedulers of that."""
    if "error" in found:
        return failure(found), ""
    *_, release = found["versions"].values()
    names = [found["module"], *(scheduler["name"] for scheduler in found["schedulers"])]
    classes = ", ".join(f"`{name}`" for name in names)
    return f"`{found['lightning']}` {release}", classes if names[1:] else f"{classes}, no scheduler"


def failure(found: Found) -> str:
    """Return why a phase has failed: the class of an exception, or a short reason."""
    exception = re.match(r"\w+(?:Error|Exception)(?=:)", found["error"])
    reason = exception[0] if exception else found["error"].replace("|", "\\|")
    return f"no: {reason if len(reason) <= 100 else reason[:97] + '...'}"


def steps(found: Found) -> str:
    """Say over how many steps the learning rate was right, or where it was wrong."""
    if "error" in found:
        return failure(found)
    if found["wrong"]:
        return f"no: {found['wrong']}"
    return f"exact, {' + '.join(map(str, found['steps']))} steps"


def range_test(result: Found) -> str:
    """Say what a range test gave, and what it left behind."""
    found, without = result["range_test"], result["onecycle"]
    if "points" not in found:
        return failure(found)
    suggestion = found["suggestion"]
    said = "no peak" if suggestion is None else f"peak {suggestion:.2g}"
    return f"{found['points']} points, {said}, {trace(found, without)}"


def trace(found: Found, without: Found) -> str:
    """Say what a range test has changed: at once, or in the training that followed."""
    if found.get("changed"):
        return f"changed: {', '.join(found['changed'])}"
    if "error" in found:
        return f"then {failure(found)}"
    return "no trace" if found["end"] == without["end"] else "another training"


def finder(result: Found) -> str:
    """Say what a fit that looks for its peak did, against one that was given it."""
    found = result["finder"]
    if "error" in found:
        return failure(found)
    return f"{steps(found)}, peak {found['max_lr']:.2g}, {trace(found, result['given'])}"


def table() -> str:
    """Return the table of all projects."""
    return markdown([cells(result) for result in kept().values()])


def write() -> None:
    """Write the table between its marks in the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}")


if __name__ == "__main__":
    write()
