"""What the size of the batch does, over the run and beside the learning rate.

    python -m experiments.figures.batch_size run      # what is there already is left out
    python -m experiments.figures.batch_size table

1. The order: small batches first and large ones then (Keskar et al., arXiv:1609.04836, section 4,
   "warm start"), large ones first, or always the same; at a constant rate and with 1cycle. The two
   orders have as many epochs and as many optimizer steps; so has, to 2 %, a constant batch of 115.
2. "Don't decay the learning rate, increase the batch size" (Smith, Kindermans and Le,
   arXiv:1711.00489): a quarter of the rate at half of the epochs and again at three quarters, or
   four times the batch there, as many epochs each.
3. The linear rule (Goyal et al., arXiv:1706.02677, section 2): k times the batch with k times the
   rate, with and without a gradual warm-up from the old rate over a quarter of the run, 5 epochs
   of 20; as many epochs.

All start from the same initial weights for the same seed. The learning rate for batches of 64 is
that with the lowest validation loss of seed 0 on a ladder of factors of 2, for regime 3, and no
other is tuned. The claims and the rules of their verdicts were written down before the runs.
Differences are in points of test accuracy, the seeds paired.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from experiments.figures.claims import Claim, spread, where
from experiments.figures.runs import RESULTS, configuration, jobs, train
from experiments.figures.style import BLUE, GREEN, GREY, ORANGE, new_figure, save
from experiments.rows import Row, add, markdown, quiet, read
from lightning_onecycle import BatchSizeSchedule, scale_lr

EXPERIMENT = "batch_size"
PATH = RESULTS / "batch_size_regimes.csv"
BASE, SMALL, LARGE, BETWEEN = 64, 64, 512, 115
CHANCE = 0.1  # the accuracy of what has diverged
SAME = 0.5  # points of test accuracy that are no difference


class Net(NamedTuple):
    """A net, its data, and the learning rate for batches of `BASE`."""

    overrides: tuple[str, ...]
    lr: float


NETS = {
    "MLP": Net((), 0.05),
    # Five times the images in half of the epochs: more steps for large batches. Not tuned again.
    "MLP, 50,000 images": Net(("data.train_size=50000", "trainer.max_epochs=10"), 0.05),
}


class Regime(NamedTuple):
    """A training.

    Attributes:
        overrides: Of the configuration.
        batch: The batch size, at first.
        scaled: Whether the rate is scaled with the batch.
        sizes: For `BatchSizeSchedule`; none: the batch stays.
    """

    overrides: tuple[str, ...]
    batch: int = BASE
    scaled: bool = False
    sizes: tuple[tuple[float, int], ...] = ()


def _orders(schedule: str) -> dict[str, Regime]:
    options = (f"schedule={schedule}",)
    name = "1cycle" if schedule == "onecycle" else "constant rate"
    up, down = ((0, SMALL), (0.5, LARGE)), ((0, LARGE), (0.5, SMALL))
    return {
        f"{name}: {SMALL}, then {LARGE}": Regime(options, SMALL, sizes=up),
        f"{name}: {LARGE}, then {SMALL}": Regime(options, LARGE, sizes=down),
        f"{name}: {BETWEEN}, as many steps": Regime(options, BETWEEN),
        f"{name}: {SMALL}": Regime(options, SMALL),
        f"{name}: {LARGE}": Regime(options, LARGE),
    }


def _goyal(k: int) -> dict[str, Regime]:
    options = ("schedule=warmup_step", "schedule.warmup=0.25", f"schedule.warmup_div_factor={k}")
    cold = ("schedule=warmup_step", "schedule.warmup=0")
    return {
        f"batch x {k}, rate x {k}, warm-up": Regime(options, k * BASE, True),
        f"batch x {k}, rate x {k}": Regime(cold, k * BASE, True),
        f"batch x {k}, same rate": Regime(cold, k * BASE),
    }


REFERENCE = f"batch {BASE}"
DECAY, GROW = f"{BASE}, rate / 4 twice", f"{BASE}, batch x 4 twice"
GROUPS: dict[str, dict[str, Regime]] = {
    "linear rule": {REFERENCE: Regime(("schedule=warmup_step", "schedule.warmup=0"))}
    | _goyal(4)
    | _goyal(16),
    "decay": {
        DECAY: Regime(("schedule=step", "schedule.gamma=0.25")),
        GROW: Regime(("schedule=constant",), sizes=((0, BASE), (0.5, 4 * BASE), (0.75, 16 * BASE))),
    },
    "order": _orders("constant") | _orders("onecycle"),
}


def run(nets: Sequence[str], groups: Sequence[str]) -> None:
    """Train what is not there yet."""
    regimes = {name: regime for group in groups for name, regime in GROUPS[group].items()}
    for net in nets:
        for (seed,) in jobs(EXPERIMENT):
            for name, regime in regimes.items():
                key = {"net": net, "regime": name, "seed": int(seed.partition("=")[2])}
                if not where(read(PATH), **key):
                    row = key | measure(NETS[net], regime, seed)
                    add(PATH, [row])
                    print(*row.values(), flush=True)


def measure(net: Net, regime: Regime, seed: str) -> Row:
    """Train once, and return what came of it."""
    lr = scale_lr(net.lr, regime.batch, BASE) if regime.scaled else net.lr
    cfg = configuration(
        f"experiment={EXPERIMENT}",
        *net.overrides,
        *regime.overrides,
        f"optimizer.lr={lr:g}",
        f"data.batch_size={regime.batch}",
        seed,
        "trainer.enable_progress_bar=false",
    )
    callbacks = [BatchSizeSchedule(regime.sizes)] if regime.sizes else []
    rows, diverged, seconds, tested = train(cfg, *callbacks)
    result: dict[str, Any] = {"lr": lr, "steps": "", "train/loss": "", "val/loss": ""}
    result |= {"test/acc": CHANCE, "diverged": diverged, "seconds": seconds}
    if not diverged:
        result |= {name: rows[-1][name] for name in ("steps", "train/loss", "val/loss")}
        result["test/acc"] = tested["test/acc"]
    return result


# ---- what came out ------------------------------------------------------------------------------


def accuracies(rows: Sequence[Row], net: str, regime: str) -> dict[int, float]:
    """Return test accuracies in per cent, by seed."""
    return {row["seed"]: 100 * row["test/acc"] for row in where(rows, net=net, regime=regime)}


def claims(rows: Sequence[Row], net: str) -> list[Claim]:
    """Return the claims about one net of which the trainings are there."""
    found: list[Claim] = []

    def more(text: str, one: str, other: str, holds: Callable[[float], bool], rule: str) -> None:
        above, below = (accuracies(rows, net, name) for name in (one, other))
        if above and above.keys() == below.keys():
            values = [above[seed] - below[seed] for seed in sorted(above)]
            found.append(Claim(net, f"{text} [{one}] less [{other}]: {rule}", values, holds))

    better = (lambda v: v > 0, "above 0")
    worse = (lambda v: v < 0, "below 0")
    for k in (4, 16):
        warm, cold = f"batch x {k}, rate x {k}, warm-up", f"batch x {k}, rate x {k}"
        held = (lambda v: v >= -SAME, f"at least -{SAME}")
        more("The linear rule with warm-up keeps the accuracy.", warm, REFERENCE, *held)
        more("Without warm-up it does not.", cold, warm, *worse)
        more("Nor does the rate as it was.", f"batch x {k}, same rate", warm, *worse)
    constant = f"constant rate: {BASE}"
    same = (lambda v: abs(v) <= SAME, f"between -{SAME} and {SAME}")
    more("A larger batch does what a smaller rate does.", GROW, DECAY, *same)
    more("And that is needed.", GROW, constant, *better)
    more("And that is needed.", DECAY, constant, *better)
    for name in ("constant rate", "1cycle"):
        up, down = f"{name}: {SMALL}, then {LARGE}", f"{name}: {LARGE}, then {SMALL}"
        more("Small to large beats large to small.", up, down, *better)
        more("Small to large beats large at equal epochs.", up, f"{name}: {LARGE}", *better)
        more(
            "Small to large beats one size at equal steps.",
            up,
            f"{name}: {BETWEEN}, as many steps",
            *better,
        )
    return found


def table(rows: Sequence[Row]) -> str:
    """Return the verdicts, and below them what each training came to."""
    verdicts = [claim.row() for net in NETS for claim in claims(rows, net)]
    lines = []
    for net in NETS:
        for regimes in GROUPS.values():
            for name in regimes:
                mine = where(rows, net=net, regime=name)
                if mine:
                    line: Row = {"net": net, "regime": name, "n": len(mine)}
                    line["learning rate"] = f"{mine[0]['lr']:g}"
                    line["steps"] = mine[0]["steps"]
                    losses = [row["train/loss"] for row in mine]
                    whole = "" not in losses
                    line["training loss"] = spread(losses, 3) if whole else "diverged"
                    line["test accuracy (%)"] = spread([100 * row["test/acc"] for row in mine])
                    lines.append(line)
    return "\n\n".join(markdown(part) for part in (verdicts, lines) if part) + "\n"


def draw(rows: Sequence[Row]) -> None:
    """Draw the test accuracy of each training: the mean as a dot, the seeds as ticks."""
    nets = [net for net in NETS if where(rows, net=net)]
    names = [name for regimes in GROUPS.values() for name in regimes]
    figure = new_figure(1, len(nets), width=4.0 + 3.2 * len(nets), height=5.6)
    colors = dict(zip(GROUPS, (ORANGE, GREEN, BLUE), strict=True))
    for ax, net in zip(figure.axes, nets, strict=True):
        place = 0
        reference = 0.0
        for group, regimes in GROUPS.items():
            for name in regimes:
                values = list(accuracies(rows, net, name).values())
                ax.axhline(place, color="0.95", linewidth=0.8, zorder=0)
                if values:
                    reference = reference or fmean(values)
                    ax.plot(values, [place] * len(values), "|", color=colors[group], markersize=10)
                    ax.plot(fmean(values), place, "o", color=colors[group], markersize=6)
                place -= 1
            place -= 0.6
        ax.axvline(reference, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.grid(visible=False)
        ax.set_title(net, loc="left", fontsize="medium")
        ax.set_xlabel("test accuracy (%)")
        ax.set_yticks([])
    places, place = [], 0.0
    for regimes in GROUPS.values():
        for _ in regimes:
            places.append(place)
            place -= 1
        place -= 0.6
    figure.axes[0].set_yticks(places, names)
    save(figure, f"{EXPERIMENT}.png")


def main() -> None:
    """Run, or print and write the tables and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["run", "table"])
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=list(NETS))
    parser.add_argument("--groups", nargs="*", default=list(GROUPS), choices=list(GROUPS))
    arguments = parser.parse_args()
    quiet()
    if arguments.step == "run":
        run(arguments.nets, arguments.groups)
        return
    rows = read(PATH)
    text = table(rows)
    print(text)
    (RESULTS / f"{EXPERIMENT}.md").write_text(text)
    draw(rows)


if __name__ == "__main__":
    main()
