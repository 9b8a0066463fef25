"""Fig. 5 and the headline: how many times fewer optimizer steps does 1cycle need?

    python -m experiments.figures.headline run      # what is there already is left out
    python -m experiments.figures.headline run --regimes step_warmed_up     # the control
    python -m experiments.figures.headline table

In each setting 1cycle and the standard regime (a constant learning rate, a tenth of it from half of
the run on, a hundredth from three quarters on) are trained with several budgets of optimizer steps
at the same batch size. Each budget of each regime has its peak tuned in the same way, by the
VALIDATION accuracy, the mean of three seeds: up or down a ladder of factors of 2, which has no end,
until the best peak of all that were tried has both of its neighbours among them. The seeds are
paired: they decide the initial weights and the order of the images.

The regimes are compared by TEST accuracy, which has decided nothing before. The speed-up is the
standard regime's steps over the steps at which 1cycle reaches its accuracy, interpolated over their
logarithm.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from experiments.figures.criteria import climb, steps_to_accuracy
from experiments.figures.headline_plots import plot_all, plot_fig5, plot_speed_ups
from experiments.figures.runs import RESULTS, configuration, train
from experiments.figures.style import save
from experiments.rows import Row, add, markdown, quiet, read

EXPERIMENT = "fig5_steps"
PATH = RESULTS / "headline.csv"
REGIMES = {
    "onecycle": ("schedule=onecycle",),
    "step": ("schedule=step",),
    # The control: how much of 1cycle's gain is its climb alone?
    "step_warmed_up": ("schedule=step", "schedule.warmup=0.1"),
}
COMPARED = ("onecycle", "step")
SEEDS = (0, 1, 2)
FIG5 = "10,000 images"  # the setting that is drawn as Fig. 5
CHANCE = 0.1  # the accuracy of what has diverged
FIRST_RUNG = 1  # where each climb begins: a peak of 0.2, for both regimes


class Setting(NamedTuple):
    """A task on which the two regimes are compared.

    Attributes:
        overrides: What differs from ``conf/experiment/fig5_steps.yaml``.
        budgets: Optimizer steps, each twice the one before.
    """

    overrides: tuple[str, ...]
    budgets: tuple[int, ...]


SHORT, LONG = (125, 250, 500, 1000), (125, 250, 500, 1000, 2000)
PLAIN = ("optimizer.weight_decay=0", "data.augment=null")
SETTINGS = {
    "10,000 images": Setting((), LONG),
    "1,000 images": Setting(("data.train_size=1000",), LONG),
    "5,000 images": Setting(("data.train_size=5000",), LONG),
    "20,000 images": Setting(("data.train_size=20000",), LONG),
    "50,000 images": Setting(("data.train_size=50000",), LONG),
    "1,000 images, no weight decay, no augmentation": Setting(
        ("data.train_size=1000", *PLAIN), LONG
    ),
    "5,000 images, no weight decay, no augmentation": Setting(
        ("data.train_size=5000", *PLAIN), LONG
    ),
    "no weight decay": Setting(("optimizer.weight_decay=0",), LONG),
    "weight decay 5e-3": Setting(("optimizer.weight_decay=5e-3",), LONG),
    "batch 32": Setting(("data.batch_size=32",), (500, 1000, 2000, 4000, 8000)),
    "batch 512": Setting(("data.batch_size=512",), (31, 62, 125, 250, 500)),
    "20 layers": Setting(("model.blocks=[3,3,3]",), LONG),
}


def peak(rung: int) -> float:
    """Return the peak on a rung of the ladder.

    Example:
        >>> peak(0), peak(2), peak(-1)
        (0.1, 0.4, 0.05)
    """
    return round(0.1 * 2.0**rung, 8)


def overrides(setting: str, regime: str, steps: int, lr: float, seed: int) -> list[str]:
    """Return what to give ``train.py`` for one training."""
    return [
        f"experiment={EXPERIMENT}",
        *REGIMES[regime],
        *SETTINGS[setting].overrides,
        f"trainer.max_steps={steps}",
        f"optimizer.lr={lr:g}",
        f"seed={seed}",
    ]


def measure(setting: str, regime: str, steps: int, rung: int, seed: int) -> Row:
    """Train once, or return what is there already."""
    key = {"setting": setting, "schedule": regime, "steps": steps, "lr": peak(rung), "seed": seed}
    for row in read(PATH):
        if all(row[name] == value for name, value in key.items()):
            return row
    options = overrides(setting, regime, steps, peak(rung), seed)
    cfg = configuration(*options, "trainer.enable_progress_bar=false")
    rows, diverged, seconds, tested = train(cfg)
    last = {"train/loss": "", "val/loss": "", "val/acc": CHANCE, "test/acc": CHANCE}
    if not diverged:
        last = {name: {**rows[-1], **tested}[name] for name in last}
    row = {**key, **last, "diverged": diverged, "seconds": seconds}
    add(PATH, [row])
    print(*row.values(), flush=True)
    return row


def run(
    settings: Sequence[str], longest: int | None = None, regimes: Sequence[str] = COMPARED
) -> None:
    """Tune and train the regimes in each setting, from the shortest budget to the longest.

    Args:
        settings: Keys of `SETTINGS`.
        longest: Leave out the budgets above so many steps.
        regimes: Keys of `REGIMES`.
    """
    for setting in settings:
        for regime in regimes:
            rung = FIRST_RUNG
            for steps in SETTINGS[setting].budgets:
                if longest is not None and steps > longest:
                    continue

                def score(rung: int, place: Any = (setting, regime, steps)) -> float:
                    return fmean(measure(*place, rung, seed)["val/acc"] for seed in SEEDS)

                rung = climb(score, rung)
                # The ladder has dips as deep as its noise: go on from a higher place that is known.
                while (best := best_rung(setting, regime, steps)) != rung:
                    rung = climb(score, best)


def scores(rows: list[Row], setting: str, regime: str, steps: int) -> dict[float, float]:
    """Return the mean validation accuracy of each peak that all seeds were trained at."""
    place = {"setting": setting, "schedule": regime, "steps": steps}
    peaks: dict[float, list[float]] = {}
    for row in rows:
        if all(row[key] == value for key, value in place.items()):
            peaks.setdefault(row["lr"], []).append(row["val/acc"])
    return {lr: fmean(found) for lr, found in peaks.items() if len(found) == len(SEEDS)}


def best_rung(setting: str, regime: str, steps: int) -> int:
    """Return the rung that validates best so far."""
    found = scores(read(PATH), setting, regime, steps)
    return round(math.log2(max(found, key=found.__getitem__) / peak(0)))


# ---- what came out ------------------------------------------------------------------------------


class Curve(NamedTuple):
    """A tuned regime in one setting: for each budget, its peak and each seed's test accuracy."""

    steps: list[int]
    peaks: list[float]
    accuracies: list[list[float]]

    @property
    def means(self) -> list[float]:
        """The mean over seeds for each budget."""
        return [fmean(row) for row in self.accuracies]


def gain(standard: Curve) -> float:
    """Return what the last doubling of its steps has brought a regime, in accuracy."""
    return standard.means[-1] - standard.means[-2]


def is_saturated(standard: Curve) -> bool:
    """Return whether that is no more than the seeds differ by.

    Then a factor says that the training was too long, and hardly a thing about its schedule.
    """
    return gain(standard) <= stdev(standard.accuracies[-1])


def curve(rows: list[Row], setting: str, regime: str) -> Curve:
    """Return each budget that has been tuned, at its best peak by the mean validation accuracy."""
    found = Curve([], [], [])
    for steps in SETTINGS[setting].budgets:
        of_peaks = scores(rows, setting, regime, steps)
        best = max(of_peaks, key=of_peaks.__getitem__, default=math.nan)
        if {round(best / 2, 8), round(best * 2, 8)} <= set(of_peaks):  # it is tuned
            place = {"setting": setting, "schedule": regime, "steps": steps, "lr": best}
            mine = [row for row in rows if all(row[key] == place[key] for key in place)]
            accuracies = {row["seed"]: row["test/acc"] for row in mine}
            found.steps.append(steps)
            found.peaks.append(best)
            found.accuracies.append([accuracies[seed] for seed in SEEDS])
    return found


def speed_up(onecycle: Curve, standard: Curve, budget: int) -> tuple[float | None, list[Any]]:
    """Return the standard regime's steps over 1cycle's, of the means and of each seed.

    Args:
        onecycle: The tuned regime that is asked about.
        standard: The one whose accuracy at ``budget`` is to be reached.
        budget: Optimizer steps of the standard regime.

    Returns:
        Of the means over seeds, and of each seed; None: 1cycle does not reach it with any budget.
    """
    at = standard.steps.index(budget)

    def ratio(accuracies: list[float], target: float) -> float | None:
        steps = steps_to_accuracy(onecycle.steps, accuracies, target)
        return None if steps is None else budget / steps

    of_seeds = [
        ratio([row[seed] for row in onecycle.accuracies], standard.accuracies[at][seed])
        for seed in range(len(SEEDS))
    ]
    return ratio(onecycle.means, standard.means[at]), of_seeds


def curves() -> Iterator[tuple[str, Curve, Curve]]:
    """Yield of each setting its name, 1cycle and the standard regime, with the budgets of both."""
    rows = read(PATH)
    for setting in SETTINGS:
        onecycle, standard = (curve(rows, setting, regime) for regime in COMPARED)
        both = min(len(onecycle.steps), len(standard.steps))
        if both > 1:
            yield setting, *(Curve(*(part[:both] for part in c)) for c in (onecycle, standard))


def _ratio(value: float | None, most: float) -> str:
    if value is None:
        return "< 1"
    return f"≥ {value:.1f}" if value >= most else f"{value:.1f}"


def _spread(accuracies: list[float]) -> str:
    return f"{100 * fmean(accuracies):.2f} ± {100 * stdev(accuracies):.2f}"


def table() -> str:
    """Return the speed-up of each setting, and below it each budget."""
    lines, budgets = [], []
    for setting, onecycle, standard in curves():
        longest = standard.steps[-1]
        line: Row = {"setting": setting, "steps": longest}
        line["standard, tuned (%)"] = _spread(standard.accuracies[-1])
        line["1cycle, as many steps (%)"] = _spread(onecycle.accuracies[-1])
        mean, of_seeds = speed_up(onecycle, standard, longest)
        most = longest / onecycle.steps[0]
        line["times fewer steps"] = _ratio(mean, most)
        line["each seed"] = ", ".join(_ratio(value, most) for value in of_seeds)
        line["standard, by the last doubling (points)"] = f"{100 * gain(standard):+.2f}"
        line["still gaining"] = "no" if is_saturated(standard) else "yes"
        lines.append(line)
        for i, steps in enumerate(standard.steps):
            row: Row = {"setting": setting, "steps": steps, "standard's peak": standard.peaks[i]}
            row["standard (%)"] = _spread(standard.accuracies[i])
            row["1cycle's peak"] = onecycle.peaks[i]
            row["1cycle (%)"] = _spread(onecycle.accuracies[i])
            row["times fewer steps"] = _ratio(
                speed_up(onecycle, standard, steps)[0], steps / onecycle.steps[0]
            )
            budgets.append({key: str(value) for key, value in row.items()})
    return f"{markdown(lines)}\n\n{markdown(budgets)}\n" if lines else "nothing is finished yet\n"


def warm_up() -> list[Row]:
    """Hold 1cycle against the standard regime with a warm-up, where that has been trained.

    Returns:
        A row for each setting, of the longest budget that all three regimes have been tuned for.
    """
    rows, lines = read(PATH), []
    for setting in SETTINGS:
        onecycle, standard, warm = (curve(rows, setting, regime) for regime in REGIMES)
        budgets = set(onecycle.steps) & set(standard.steps) & set(warm.steps)
        if not budgets:
            continue
        budget = max(budgets)
        line: Row = {"setting": setting, "steps": budget}
        for name, regime in (
            ("standard", standard),
            ("standard, warmed up", warm),
            ("1cycle", onecycle),
        ):
            line[f"{name} (%)"] = _spread(regime.accuracies[regime.steps.index(budget)])
        most = budget / onecycle.steps[0]
        for name, regime in (("standard", standard), ("warmed up", warm)):
            mean, of_seeds = speed_up(onecycle, regime, budget)
            each = ", ".join(_ratio(value, most) for value in of_seeds)
            line[f"times fewer steps than {name}"] = f"{_ratio(mean, most)} ({each})"
        lines.append(line)
    return lines


def factors(onecycle: Curve, standard: Curve) -> list[Row]:
    """Hold 1cycle with each budget against the standard regime with 1, 2, 4 and 8 times as much.

    Returns:
        Rows of the paired differences in points of test accuracy; reproduced for a factor if the
        mean difference is not negative.
    """
    rows = []
    for i, steps in enumerate(onecycle.steps):
        row: Row = {"1cycle's steps": steps, "1cycle (%)": _spread(onecycle.accuracies[i])}
        for power, factor in enumerate((1, 2, 4, 8)):
            difference = ""
            if i + power < len(standard.steps):
                pairs = zip(onecycle.accuracies[i], standard.accuracies[i + power], strict=True)
                difference = _spread([a - b for a, b in pairs])
            row[f"less the standard regime's with {factor} times as many"] = difference
        rows.append(row)
    return rows


def draw() -> None:
    """Draw what is there."""
    found = list(curves())
    if not found:
        return
    points = [(name, *((c.steps, c.accuracies) for c in pair)) for name, *pair in found]
    save(plot_all(points), "headline_curves.png")
    speed_ups = [
        (f"{name}, {std.steps[-1]:,} steps", *speed_up(one, std, std.steps[-1]), is_saturated(std))
        for name, one, std in found
    ]
    save(plot_speed_ups(speed_ups), "headline.png")
    name, onecycle, standard = found[0]
    if name == FIG5:
        reached = steps_to_accuracy(onecycle.steps, onecycle.means, standard.means[-1])
        save(plot_fig5(*points[0][1:], reached), f"{EXPERIMENT}.png")


def main() -> None:
    """Run, or print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["run", "table"])
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--regimes", nargs="*", default=list(COMPARED), choices=list(REGIMES))
    parser.add_argument("--longest", type=int, help="leave out budgets above so many steps")
    arguments = parser.parse_args()
    quiet()
    if arguments.step == "run":
        run(arguments.settings, arguments.longest, arguments.regimes)
    else:
        text = table()
        for name, onecycle, standard in curves():
            if name == FIG5:
                text = f"{text}\n{markdown(factors(onecycle, standard))}\n"
        if lines := warm_up():
            text = f"{text}\n{markdown(lines)}\n"
        print(text)
        draw()
        (RESULTS / "headline.md").write_text(text)


if __name__ == "__main__":
    main()
