"""One table of the questions that the benchmarks answer, from the files that they left behind.

python -m experiments.benchmarks.comparison     # again, from what is on disk
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from statistics import fmean
from typing import Any

from experiments.benchmarks import finder_speed, finder_traces, trainer_speed
from experiments.benchmarks import scheduler_cost as scheduler
from experiments.benchmarks.peers import PEERS
from experiments.benchmarks.regret import table as regret
from experiments.benchmarks.regret.tasks import TASKS
from experiments.benchmarks.results import RESULTS
from experiments.rows import Row, markdown, read

COMMAND = "python -m experiments.benchmarks"


def kept(name: str) -> dict[str, Any]:
    """Return what a benchmark left: its rows, the machine and the versions."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def line(question: str, ours: float, peers: Mapping[str, float], digits: int = 2) -> Row:
    """Return a row of the table, with the ratio of ours to each peer's.

    Args:
        question: What is asked, in which unit.
        ours: The answer for this project.
        peers: And for each peer.
        digits: Decimals of the answers.

    Example:
        >>> line("seconds", 1.5, {"a": 1.0, "b": 2.0}, digits=1)["ours / peers"]
        '1.50; 0.75'
    """
    return {
        "question": question,
        "ours": f"{ours:.{digits}f}",
        "peers": "; ".join(f"{name} {value:.{digits}f}" for name, value in peers.items()),
        "ours / peers": "; ".join(f"{ours / value:.2f}" for value in peers.values()),
    }


def of_traps() -> Iterator[Row]:
    """How many traps are avoided."""
    if not (path := RESULTS / "traps.csv").exists():
        return
    rows = read(path)
    numbered = [row for row in rows if str(row["number"]).isdigit()]
    other = [row for row in rows if row not in numbered]
    for question, theirs, group in (
        (
            "known traps of torch's schedulers and of Lightning, avoided",
            "torch, Lightning",
            numbered,
        ),
        ("known bugs of other LR finders, avoided", "the finder with the bug", other),
    ):
        counts = {side: Counter(row[side] for row in group) for side in ("us", "them")}
        ours, them = (f"{counts[side]['yes']} of {len(group)}" for side in ("us", "them"))
        yield {"question": question, "ours": ours, "peers": f"{theirs} {them}", "ours / peers": ""}


def of_finder_traces() -> Iterator[Row]:
    """How much of the state and of the conditions a range test keeps."""
    rows = kept("finder_traces")["rows"]
    ours, theirs = (
        f"{sum(row[name] == 'yes' for row in rows)} of {len(rows)}" for name in finder_traces.TUNERS
    )
    yield {
        "question": "state and conditions of the training that a range test keeps",
        "ours": ours,
        "peers": f"Lightning's Tuner {theirs}",
        "ours / peers": "",
    }


def of_scheduler_cost() -> Iterator[Row]:
    """What a scheduler adds to the optimizer's step."""
    for row in kept("scheduler_cost")["rows"]:
        groups = f"{row['groups']} parameter group{'s' if row['groups'] > 1 else ''}"
        question = f"schedule, microseconds of an optimizer step, {groups}"
        names = [n for n in scheduler.BUILDERS if n not in (scheduler.BARE, scheduler.OURS)]
        peers = {name: row[name] for name in names}
        yield line(question, row[scheduler.OURS], peers, digits=1)


def of_finder_speed() -> Iterator[Row]:
    """What a range test takes."""
    for task, rows in _by_task("finder_speed"):
        seconds = {row["finder"]: row["processor (s)"] for row in rows}
        ours = seconds.pop("ours")
        peers = {name: took for name, took in seconds.items() if took != "missing"}
        question = f"range test of {finder_speed.POINTS} points, processor's seconds, {task}"
        yield line(question, ours, peers)


def of_trainer_speed() -> Iterator[Row]:
    """How fast a training is."""
    for task, rows in _by_task("trainer_speed"):
        for column, question, digits in (
            ("steps/s", "steps per second in a Trainer", 1),
            ("processor (ms a step)", "processor's milliseconds of a step in a Trainer", 2),
        ):
            peers = {row["loop"]: row[column] for row in rows}
            ours = peers.pop(trainer_speed.OURS)
            yield line(f"{question}, {task}", ours, peers, digits)


def of_train_speed() -> Iterator[Row]:
    """How fast the command line is."""
    theirs, ours = kept("train_speed")["rows"]
    peers = {"bare loop": theirs["steps/s"]}
    yield line("steps per second of `train.py`, ResNet", ours["steps/s"], peers)


def of_import_time() -> Iterator[Row]:
    """What importing it adds to importing Lightning."""
    theirs, ours = kept("import_time")["rows"]
    question = (
        f"processor's seconds of `import {ours['import']}`, after `{theirs['import']}` and without"
        " `pytorch_lightning`"
    )
    yield line(question, ours["processor (s)"], {theirs["import"]: theirs["processor (s)"]}, 3)


def of_regret() -> Iterator[Row]:
    """What a suggestion costs."""
    rows = regret.rows()
    names = {"lightning": "Lightning's Tuner", "fastai valley": "fastai valley, its default"}
    others = {*PEERS, "no"}  # a peer, or no finder
    methods = [m for m in dict.fromkeys(row["method"] for row in rows) if m.split()[0] in others]
    apart = {task.name for task in TASKS if not task.tuned}
    for kind, group in (
        ("kept apart", [row for row in rows if row["task"] in apart]),
        ("on which our rule was chosen", [row for row in rows if row["task"] not in apart]),
    ):
        if group:
            lost = {name: _lost(group, name) for name in ("max_lr (fine)", *methods)}
            tasks = len({row["task"] for row in group})
            yield {
                "question": "points of accuracy lost with 1cycle at the suggested peak, mean"
                f" (worst), {tasks} tasks {kind}",
                "ours": lost.pop("max_lr (fine)"),
                "peers": "; ".join(f"{names.get(name, name)} {of}" for name, of in lost.items()),
                "ours / peers": "",
            }


def _lost(rows: list[Row], method: str) -> str:
    mine = [row["regret"] for row in rows if row["method"] == method]
    found = [value for value in mine if value is not None]
    none = f", no suggestion in {len(mine) - len(found)} of {len(mine)}" * (len(found) < len(mine))
    return f"{fmean(found):.2f} ({max(found):.2f}{none})"


def of_headline() -> Iterator[Row]:
    """How many optimizer steps an accuracy takes."""
    from experiments.figures import criteria, headline

    for setting, onecycle, standard in headline.curves():
        budget = standard.steps[-1]
        times, _ = headline.speed_up(onecycle, standard, budget)
        steps = budget / (times or 1)
        reached, shortened = (
            f"{100 * criteria.accuracy_at(standard.steps, standard.means, n):.1f} %"
            for n in (budget, steps)
        )
        question = f"optimizer steps to {reached} on the test set, Fashion-MNIST, {setting}"
        row = line(question, steps, {"step schedule, tuned": budget}, digits=0)
        if times is None:
            row |= {"ours": "not reached", "ours / peers": "> 1"}
        else:
            row["peers"] += f" (and {shortened} in {steps:.0f})"
            if times >= budget / onecycle.steps[0]:  # the shortest that was tried reaches it
                row |= {key: f"≤ {row[key]}" for key in ("ours", "ours / peers")}
        yield row


def _by_task(name: str) -> Iterator[tuple[str, list[Row]]]:
    rows = kept(name)["rows"]
    for task in dict.fromkeys(row["task"] for row in rows):
        yield task, [row for row in rows if row["task"] == task]


ANSWERS: dict[str, Callable[[], Iterator[Row]]] = {
    "traps": of_traps,
    "finder_traces": of_finder_traces,
    "scheduler_cost": of_scheduler_cost,
    "finder_speed": of_finder_speed,
    "trainer_speed": of_trainer_speed,
    "train_speed": of_train_speed,
    "import_time": of_import_time,
    "regret": of_regret,
    "headline": of_headline,
}


def page(failed: Collection[str] = ()) -> str:
    """Return the table, and where each benchmark was measured.

    Args:
        failed: Benchmarks whose files are not to be believed.
    """
    lines: list[Row] = []
    places: list[Row] = []
    for name, answers in ANSWERS.items():
        empty = {"question": name, "ours": "not measured", "peers": "", "ours / peers": ""}
        try:
            found = [empty | {"ours": "failed"}] if name in failed else list(answers())
        except FileNotFoundError:
            found = []
        command = f"`{COMMAND} --only {name}`"
        lines += [{**row, "command": command} for row in found or [empty]]
        if name not in failed and (RESULTS / f"{name}.json").exists():
            place = kept(name)
            versions = ", ".join(f"{n} {v}" for n, v in place["versions"].items())
            places.append({"benchmark": name, "machine": place["machine"], "versions": versions})
    parts = ["# The comparison\n", INTRODUCTION, markdown(lines), ""]
    if places:
        parts += ["Measured on:\n", markdown(places), ""]
    return "\n".join(parts)


INTRODUCTION = f"""\
Written by `{COMMAND} --peers-python PYTHON`, from the results
beside this file; each has a table of its own with more in it. Times are medians of rounds that take
turns in one run. The traps and bugs are known faults of the peers, collected as such: the counts
say whether ours has them, not how good a peer is. A ratio below 1 says that ours takes less; of
steps per second, that ours is slower.
"""


def write(failed: Collection[str] = ()) -> str:
    """Write the page to ``results/comparison.md``, and return it.

    Args:
        failed: Benchmarks whose files are not to be believed.
    """
    text = page(failed)
    (RESULTS / "comparison.md").write_text(text)
    return text


if __name__ == "__main__":
    print(write())
