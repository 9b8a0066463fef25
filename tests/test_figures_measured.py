"""Sharpness, noise, batch size, over-fitting: they train, go on, and their rules are right."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch

from experiments.figures import batch_size, noise, noise_runs, overfitting, runs, sharpness
from experiments.figures.claims import Claim
from experiments.figures.overfitting import Losses, Training
from experiments.rows import read

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ("sharpness", "noise", "batch_size", "overfitting")


def tiny(*more):
    """Return a `configuration` of a few images and steps."""
    options = ("data=digits", "data.train_size=40", "data.num_val=20", "trainer.accelerator=cpu")
    return lambda *overrides: runs.configuration(*overrides, *options, *more)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_asks_a_question(name):
    first, *comment = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    assert "?" in " ".join(line for line in comment if line.startswith("# "))


# ---- sharpness ----------------------------------------------------------------------------------


def test_sharpness_is_measured_along_a_training_and_not_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(sharpness, "PATH", tmp_path / "rows.csv")
    few = ("data.batch_size=10", "trainer.max_steps=4", "callbacks.sharpness.every_n_steps=2")
    monkeypatch.setattr(sharpness, "configuration", tiny(*few))
    monkeypatch.setattr(sharpness, "jobs", lambda name: runs.jobs(name)[:1])
    sharpness.run(["MLP"])
    rows = read(tmp_path / "rows.csv")
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert rows[0]["lr"] == pytest.approx(0.01)  # a tenth of the peak
    assert all(row["sharpness"] > 0 and math.isfinite(row["eigenvalue"]) for row in rows)
    assert len({row["eigenvalue"] for row in rows}) == 3
    sharpness.run(["MLP"])
    assert len(read(tmp_path / "rows.csv")) == 3


def along(schedule, seed, eigenvalues):
    lrs = [0.0, 0.5, 1.0, 0.5, 0.0] if schedule == "onecycle" else [1.0] * 5
    return [
        {"setting": "MLP", "schedule": schedule, "seed": seed, "step": step}
        | {"lr": lr, "eigenvalue": value, "sharpness": 2 * value, "test/acc": 0.5, "loss": 1.0}
        for step, (lr, value) in enumerate(zip(lrs, eigenvalues, strict=True))
    ]


def test_the_rules_of_sharpness():
    rows = [
        row
        for seed in (0, 1, 2)
        for row in (
            *along("onecycle", seed, [9.0, 4.0, 2.0, 4.0, 8.0]),
            *along("constant", seed, [9.0, 2.0, 2.0, 2.0, 2.0]),
            *along("step", seed, [9.0, 2.0, 2.0, 6.0, 16.0]),
        )
    ]
    found = {claim.text: claim for claim in sharpness.claims(rows, "MLP")}
    values = {text.split(":")[0]: claim.values[0] for text, claim in found.items()}
    assert values["1cycle, largest eigenvalue"] == pytest.approx(-1.0)
    ratio = found["1cycle, largest eigenvalue: end over middle, more than 1"]
    assert ratio.values == pytest.approx([4.0] * 3)
    assert values["it is the learning rate, not time, largest eigenvalue"] == pytest.approx(4.0)
    assert values["step, largest eigenvalue"] == pytest.approx(3.0)
    flatter = next(claim for text, claim in found.items() if "flatter" in text)
    assert flatter.values == pytest.approx([0.5] * 3)
    assert {claim.verdict for claim in found.values()} == {"reproduced"}


# ---- noise --------------------------------------------------------------------------------------


def test_the_variance_of_copies_is_that_of_sgd(monkeypatch):
    """On a linear loss the weights of copies are a random walk, whose variance is known."""

    class Scores(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images):
            return images * self.weight

    monkeypatch.setattr(noise_runs, "cross_entropy", lambda scores, labels: scores.mean())
    images = torch.tensor([-1.0, 1.0])  # the gradient of one has variance 1
    walk = partial(noise_runs.drift, Scores(), images, torch.zeros(2), 0.1)
    for momentum, batch, steps in ((0.0, 1, 4), (0.0, 4, 16), (0.5, 2, 3)):
        ends = [walk(momentum, batch, steps, torch.Generator().manual_seed(n)) for n in range(600)]
        # A gradient moves the weights by lr (1 + m + m^2 + ...), as long as there are steps.
        moved = [(1 - momentum**k) / (1 - momentum) for k in range(1, steps + 1)]
        expected = 0.1**2 / batch * sum(m**2 for m in moved)
        assert noise_runs.total_variance(ends) == pytest.approx(expected, rel=0.15)


def drifted(power):
    return [
        {"seed": seed, "lr": lr, "momentum": momentum, "batch": batch, "trace": 5.0}
        | {"noise_factor": lr / batch / (1 - momentum), "step_variance": lr**2 * 5.0 / batch}
        | {"weight_variance": 20.0 * (lr / batch / (1 - momentum)) ** power}
        for seed in (0, 1, 2)
        for lr, momentum in noise_runs.HYPER
        for batch in noise_runs.BATCHES
    ]


def test_the_rules_of_noise():
    claims = noise.drift_claims(drifted(power=1))
    assert {claim.verdict for claim in claims} == {"reproduced"}
    slopes = [claim.values for claim in claims if "exponent" in claim.text]
    assert slopes == [pytest.approx([1.0] * 3)] * 3
    wrong = {c.text: c.verdict for c in noise.drift_claims(drifted(power=2))}
    assert {v for text, v in wrong.items() if "exponent" in text} == {"not reproduced"}
    assert noise.drift_claims(drifted(1)[:-1]) == []  # not finished


def test_noise_is_measured_and_not_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(noise_runs, "CYCLE", tmp_path / "cycle.csv")
    monkeypatch.setattr(noise_runs, "DRIFT", tmp_path / "drift.csv")
    few = ("trainer.max_steps=4", "callbacks.noise_scale.every_n_steps=2", "data.batch_size=16")
    monkeypatch.setattr(noise_runs, "configuration", tiny(*few))
    monkeypatch.setattr(noise_runs, "jobs", lambda name: runs.jobs(name)[:1])
    for name, value in (("SEEDS", (0,)), ("HYPER", ((0.1, 0.0),)), ("WARM_UP", 2), ("DRAWN", 4)):
        monkeypatch.setattr(noise_runs, name, value)
    monkeypatch.setattr(noise_runs, "TIME", 0.2)
    monkeypatch.setattr(noise_runs, "_two_norms", partial(noise_runs._two_norms, small=10))
    for _ in range(2):
        noise_runs.run_drift()
        noise_runs.run_cycles()
    drift = read(tmp_path / "drift.csv")
    assert [(row["batch"], row["steps"]) for row in drift] == [(32, 2), (128, 2), (512, 2)]
    assert all(row["step_variance"] > 0 for row in drift)
    cycle = read(tmp_path / "cycle.csv")
    assert [row["step"] for row in cycle] == [0, 2]
    assert cycle[1]["noise_factor"] == pytest.approx(cycle[1]["lr"] / 16, rel=1e-4)


# ---- batch size ---------------------------------------------------------------------------------


def test_regimes_have_the_steps_that_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_size, "PATH", tmp_path / "rows.csv")
    monkeypatch.setattr(batch_size, "NETS", {"MLP": batch_size.Net((), 0.01)})
    few = ("trainer.max_epochs=4", "trainer.enable_progress_bar=false")
    monkeypatch.setattr(batch_size, "configuration", tiny(*few))
    monkeypatch.setattr(batch_size, "jobs", lambda name: runs.jobs(name)[:1])
    small = batch_size.Regime(("schedule=step",), 5, sizes=((0, 5), (0.5, 20)))
    large = batch_size.Regime(("schedule=onecycle",), 20, sizes=((0, 20), (0.5, 5)))
    scaled = batch_size.Regime(("schedule=warmup_step",), 10, True)
    regimes = {"up": small, "down": large, "scaled": scaled}
    monkeypatch.setattr(batch_size, "GROUPS", {"all": regimes})
    batch_size.run(["MLP"], ["all"])
    rows = read(tmp_path / "rows.csv")
    assert [row["regime"] for row in rows] == ["up", "down", "scaled"]
    assert [row["steps"] for row in rows] == [2 * 8 + 2 * 2, 2 * 2 + 2 * 8, 4 * 4]
    assert rows[2]["lr"] == pytest.approx(0.01 * 10 / 64, rel=1e-5)
    batch_size.run(["MLP"], ["all"])
    assert read(tmp_path / "rows.csv") == rows


def test_every_regime_is_a_training_that_can_be_composed():
    regimes = {n: r for group in batch_size.GROUPS.values() for n, r in group.items()}
    assert len(regimes) == 7 + 2 + 10
    for regime in regimes.values():
        assert runs.configuration("experiment=batch_size", *regime.overrides).data.train_size
    # "as many steps": 10,000 images, 20 epochs, without the last batch where it is not full
    up = 10 * (10_000 // batch_size.SMALL) + 10 * (10_000 // batch_size.LARGE)
    assert abs(20 * (10_000 // batch_size.BETWEEN) - up) <= 0.02 * up


def test_the_rules_of_batch_size():
    accuracies = {batch_size.REFERENCE: 0.85, "batch x 4, rate x 4, warm-up": 0.846}
    accuracies |= {"batch x 4, rate x 4": 0.80, batch_size.DECAY: 0.85, batch_size.GROW: 0.84}
    rows = [
        {"net": "MLP", "regime": name, "seed": seed, "test/acc": value + seed / 100}
        for name, value in accuracies.items()
        for seed in (0, 1, 2)
    ]
    found = [(c.values[0], c.verdict) for c in batch_size.claims(rows, "MLP")]
    assert found == [
        (pytest.approx(-0.4), "reproduced"),
        (pytest.approx(-4.6), "reproduced"),
        (pytest.approx(-1.0), "not reproduced"),
    ]


# ---- over-fitting -------------------------------------------------------------------------------


def test_the_rules_of_over_fitting():
    cycle = Training("overfitting", "onecycle", "1cycle")
    constant = Training("overfitting", "constant", "constant")
    late = Losses([4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 3.0])  # from behind epoch 3 of 4
    early = Losses([4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 4.0, 5.0])
    assert (late.start, early.start) == (3, 2)
    assert overfitting.cycle_end(cycle, 40) == pytest.approx(36.0)
    annihilated, later = overfitting.claims({cycle: [late], constant: [early]})
    assert annihilated.values == pytest.approx([3 - 3.6])
    assert annihilated.verdict == "not reproduced"
    assert (later.values, later.verdict) == ([1.0], "reproduced")


def test_a_claim_needs_each_seed():
    verdicts = [Claim("", "", v, lambda v: v > 0).verdict for v in ([1, 1], [3, -1], [1, -1])]
    assert verdicts == ["reproduced", "in the mean alone", "not reproduced"]
