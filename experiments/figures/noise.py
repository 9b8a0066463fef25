"""Does SGD's noise follow learning rate x covariance / batch size, and what is it over a cycle?

    python -m experiments.figures.noise run      # what is there already is left out
    python -m experiments.figures.noise table

Over the cycle: the gradient noise scale, the noise factors lr / batch and
lr / (batch (1 - momentum)), and lr x tr(covariance) / batch, of 1cycle with three batch sizes, in
as many steps.

In the weights: from the same weights, several copies are trained with SGD that differ in nothing
but the images that they draw. How far they drift apart, the variance of the weights over copies,
is the noise that has entered. For the same learning time, steps x lr / (1 - momentum), it should be
in proportion to lr / (batch (1 - momentum)) alone (Jastrzebski et al., arXiv:1711.04623, section 2;
Smith and Le, arXiv:1710.06451, section 5, for momentum).

The claims and the rules of their verdicts were written down before the runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from statistics import fmean

from matplotlib.ticker import LogFormatter
from scipy.stats import linregress

from experiments.figures.claims import Claim, spread, where
from experiments.figures.noise_runs import (
    BATCHES,
    CYCLE,
    DRIFT,
    EXPERIMENT,
    HYPER,
    PARTS,
    SEEDS,
    TIME,
    noise_scale,
    run_cycles,
    run_drift,
)
from experiments.figures.runs import RESULTS
from experiments.figures.style import DASHES, band, legend, new_figure, save
from experiments.rows import Row, markdown, quiet, read


def cycle_claims(rows: Sequence[Row]) -> list[Claim]:
    """Return the claims about the course over the cycle."""
    found = []
    for batch in BATCHES:
        runs = [where(rows, batch=batch, seed=seed) for seed in SEEDS]
        if not all(runs):
            continue
        name = f"1cycle, batch {batch}"

        found += [
            Claim(
                name,
                "the noise scale grows in training: last fifth over second fifth, more than 1",
                [
                    noise_scale(part(run, 0.8, 1.0)) / noise_scale(part(run, 0.2, 0.4))
                    for run in runs
                ],
                lambda v: v > 1,
            ),
            Claim(
                name,
                "lr x covariance / batch is largest where the rate is: the rate at its maximum,"
                " over the peak, at least a half",
                [
                    max(run, key=lambda row: row["sgd_noise"])["lr"] / max(row["lr"] for row in run)
                    for run in runs
                ],
                lambda v: v >= 0.5,
            ),
            Claim(
                name,
                "and little before and after: mean of the middle fifth over that of the first and"
                " of the last tenth, the smaller ratio, at least 2",
                [
                    noise_in(part(run, 0.4, 0.6))
                    / max(noise_in(part(run, 0.0, 0.1)), noise_in(part(run, 0.9, 1.0)))
                    for run in runs
                ],
                lambda v: v >= 2,
            ),
        ]
    if len(found) == 3 * len(BATCHES):
        of_batch = {
            batch: [noise_scale(where(rows, batch=batch, seed=seed)) for seed in SEEDS]
            for batch in BATCHES
        }
        found += [
            Claim(
                f"1cycle, batches 512 and {batch}",
                "the noise scale is the net's, not the batch's: over the whole cycle, ratio between"
                " 1/2 and 2",
                [a / b for a, b in zip(of_batch[512], of_batch[batch], strict=True)],
                lambda v: 0.5 <= v <= 2,
            )
            for batch in (32, 128)
        ]
    return found


def part(run: Sequence[Row], low: float, high: float) -> list[Row]:
    """Return the rows of a part of the run."""
    total = run[-1]["step"]
    return [row for row in run if low * total <= row["step"] <= high * total]


def noise_in(rows: Sequence[Row]) -> float:
    """Return the mean of learning rate x covariance / batch."""
    return fmean(row["sgd_noise"] for row in rows)


def drift_claims(rows: Sequence[Row]) -> list[Claim]:
    """Return the claims about copies that drift apart."""
    if not all(len(where(rows, seed=seed)) == len(HYPER) * len(BATCHES) for seed in SEEDS):
        return []
    slopes = {"all": list(rows)}
    slopes |= {
        "without momentum": where(rows, momentum=0.0),
        "with momentum 0.8": where(rows, momentum=0.8),
    }
    found = [
        Claim(
            "one step",
            f"its variance, over lr² x tr(covariance) / batch, batch {batch}: between 0.8 and 1.25",
            [
                fmean(
                    r["step_variance"] * batch / (r["lr"] ** 2 * r["trace"])
                    for r in where(rows, seed=seed, batch=batch)
                )
                for seed in SEEDS
            ],
            lambda v: 0.8 <= v <= 1.25,
        )
        for batch in BATCHES
    ]
    found += [
        Claim(
            "copies",
            f"variance of the weights against lr / (batch (1 - momentum)), {name}: exponent between"
            " 0.9 and 1.1",
            [_exponent(where(part, seed=seed)) for seed in SEEDS],
            lambda v: 0.9 <= v <= 1.1,
        )
        for name, part in slopes.items()
    ]
    found.append(
        Claim(
            "copies",
            "twice the rate, half of the steps: variance at lr 0.04 over that at 0.02, without"
            " momentum, between 1.6 and 2.5",
            [_ratio(rows, seed, (0.04, 0.0), (0.02, 0.0)) for seed in SEEDS],
            lambda v: 1.6 <= v <= 2.5,
        )
    )
    found.append(
        Claim(
            "copies",
            "momentum counts as 1 / (1 - momentum): variance with momentum 0.8 over that without,"
            " at the same lr / (1 - momentum), between 0.8 and 1.25",
            [
                math.sqrt(
                    _ratio(rows, seed, (0.004, 0.8), (0.02, 0.0))
                    * _ratio(rows, seed, (0.008, 0.8), (0.04, 0.0))
                )
                for seed in SEEDS
            ],
            lambda v: 0.8 <= v <= 1.25,
        )
    )
    return found


def _exponent(rows: Sequence[Row]) -> float:
    logs = [(math.log(r["noise_factor"]), math.log(r["weight_variance"])) for r in rows]
    return float(linregress(*zip(*logs, strict=True)).slope)


def _ratio(
    rows: Sequence[Row], seed: int, above: tuple[float, float], below: tuple[float, float]
) -> float:
    """Return the ratio of variances of two pairs of rate and momentum, a mean over batches."""

    def variances(lr: float, momentum: float) -> Iterator[float]:
        for batch in BATCHES:
            (row,) = where(rows, seed=seed, lr=lr, momentum=momentum, batch=batch)
            yield row["weight_variance"]

    pairs = zip(variances(*above), variances(*below), strict=True)
    return math.exp(fmean(math.log(a / b) for a, b in pairs))


def table(cycle: Sequence[Row], drifted: Sequence[Row]) -> str:
    """Return the verdicts, and below them the noise along the cycle."""
    verdicts = [claim.row() for claim in (*drift_claims(drifted), *cycle_claims(cycle))]
    course = []
    for batch in BATCHES:
        for low, high in PARTS:
            parts = [part(run, low, high) for run in _runs(cycle, batch)]
            if parts:
                line = {"batch": batch, "part of the run": f"{low:g} to {high:g}", "n": len(parts)}
                for title, name in (
                    ("learning rate", "lr"),
                    ("lr / batch", "noise_factor"),
                    ("lr / (batch (1 - momentum))", "noise_factor_momentum"),
                ):
                    line[title] = f"{fmean(row[name] for row in parts[0]):.2e}"
                line["tr covariance"] = spread(
                    [fmean(row["grad_variance"] for row in rows) for rows in parts], 0
                )
                line["noise scale (images)"] = ", ".join(f"{noise_scale(r):.0f}" for r in parts)
                line["lr x covariance / batch"] = spread([noise_in(rows) for rows in parts], 4)
                course.append(line)
    return "\n\n".join(markdown(lines) for lines in (verdicts, course) if lines) + "\n"


def _runs(cycle: Sequence[Row], batch: int) -> list[list[Row]]:
    runs = [where(cycle, batch=batch, seed=seed) for seed in SEEDS]
    return [run for run in runs if run]


def draw(cycle: Sequence[Row], drifted: Sequence[Row]) -> None:
    """Draw the noise scale and the noise over the cycle, and how far copies drift."""
    figure = new_figure(1, 3, width=12.0, height=3.7)
    scale, noise, apart = figure.axes
    for batch, color in BATCHES.items():
        runs = _runs(cycle, batch)
        if runs:
            seeds = [[noise_in(part(run, *p)) for p in PARTS] for run in runs]
            steps = [1200 * (low + high) / 2 for low, high in PARTS]
            band(noise, steps, seeds, color, f"batch {batch}", marker="o", markersize=3)
            scales = [noise_scale([row for run in runs for row in part(run, *p)]) for p in PARTS]
            scale.plot(
                steps, scales, color=color, linestyle=DASHES[color], marker="o", markersize=3
            )
        for momentum, marker in ((0.0, "o"), (0.8, "^")):
            mine = where(drifted, batch=batch, momentum=momentum)
            apart.plot(
                [row["noise_factor"] for row in mine],
                [row["weight_variance"] / row["trace"] / TIME for row in mine],
                marker,
                color=color,
                markersize=5,
                markerfacecolor="none" if momentum else color,
                label=f"batch {batch}, momentum {momentum:g}",
            )
    for ax in (scale, noise):
        ax.set_yscale("log")
        ax.set_xlabel("optimizer step of 1cycle")
    legend(noise, columns=3, columnspacing=1.0, fontsize="small")
    scale.yaxis.set_major_formatter("{x:g}")
    scale.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    scale.set_ylabel("gradient noise scale (images)")
    noise.set_ylabel("learning rate x tr covariance / batch")
    factors = [row["noise_factor"] for row in drifted]
    ends = [min(factors) / 1.3, max(factors) * 1.3]
    apart.plot(ends, ends, color="0.6", linewidth=1.0, zorder=0, label="one to one")
    apart.set_xscale("log")
    apart.set_yscale("log")
    apart.set_xlabel("lr / (batch (1 - momentum))")
    apart.set_ylabel("variance of the weights\n/ (time x tr covariance)")
    apart.legend(frameon=False, fontsize="x-small", loc="lower right")
    for ax, title in (
        (scale, "Noise scale over 1cycle, all seeds"),
        (noise, "Noise over 1cycle"),
        (apart, "Copies that drift apart"),
    ):
        ax.set_title(title, loc="left", fontsize="medium", pad=22)
    save(figure, f"{EXPERIMENT}.png")


def main() -> None:
    """Run, or print and write the tables and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["run", "table"])
    quiet()
    if parser.parse_args().step == "run":
        run_drift()
        run_cycles()
        return
    cycle, drifted = read(CYCLE), read(DRIFT)
    text = table(cycle, drifted)
    print(text)
    (RESULTS / f"{EXPERIMENT}.md").write_text(text)
    draw(cycle, drifted)


if __name__ == "__main__":
    main()
