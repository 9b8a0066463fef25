"""The pictures of the README: the schedule, what a run with it looks like, and a range test.

Run ``python train.py experiment=fashion_resnet hydra.run.dir=logs/readme`` and
``python train.py lr_find=only hydra.run.dir=logs/range_test``, and then
``python -m experiments.figures.readme logs/readme logs/range_test``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.axes import Axes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.figures.style import save
from lightning_onecycle import LRCurve, one_cycle
from lightning_onecycle.plots import new_axes, plot_schedule

TRAINING, VALIDATION, RATE = "#0072B2", "#D55E00", "0.6"


def plot_run(directory: Path) -> Axes:
    """Draw training and validation loss of a run over its learning rate."""
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()

    def curve(tag: str) -> tuple[list[int], list[float]]:
        points = events.Scalars(tag)
        return [point.step for point in points], [point.value for point in points]

    result = json.loads((directory / "result.json").read_text())
    ax = new_axes()
    rate = ax.twinx()
    rate.fill_between(*curve("lr"), color="0.93", zorder=0)
    rate.set_ylabel("learning rate", color=RATE)
    rate.tick_params(axis="y", colors=RATE)
    rate.set_ylim(bottom=0)
    ax.set_zorder(rate.get_zorder() + 1)
    ax.patch.set_visible(False)
    ax.plot(*curve("train/loss_step"), color=TRAINING, alpha=0.25, linewidth=0.8)
    ax.plot(*curve("train/loss"), "o-", color=TRAINING, label="training loss, mean of the epoch")
    ax.plot(*curve("val/loss"), "s--", color=VALIDATION, label="validation loss")
    ax.set_ylim(0, 1)
    ax.set_xlabel("optimizer step")
    ax.set_ylabel("loss")
    ax.legend(frameon=False)
    for axes in (ax, rate):
        axes.spines[["top", "right"]].set_visible(False)
    accuracy = result["metrics"]["test/acc"]
    ax.set_title(f"test accuracy {accuracy:.2%} after {result['steps']:,} steps", loc="left")
    return ax


def main() -> None:
    """Write ``schedule.png``, ``run.png`` and ``lr_find.png`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="of a finished run")
    parser.add_argument("range_test", type=Path, help="of a range test")
    arguments = parser.parse_args()
    directory = arguments.directory
    result = json.loads((directory / "result.json").read_text())
    schedule = plot_schedule(one_cycle(), result["total_steps"], max_lr=result["max_lr"])
    save(schedule.figure, "schedule.png")
    save(plot_run(directory).figure, "run.png")
    curve = LRCurve.load(arguments.range_test / "lr_find.json")
    save(curve.plot(suggest=True), "lr_find.png")


if __name__ == "__main__":
    main()
