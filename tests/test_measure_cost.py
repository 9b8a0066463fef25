"""The arithmetic of the benchmark; no training here."""

import pytest

from experiments.benchmarks.measure_cost import INTERVALS, MEASUREMENTS, STEPS, row_of
from lightning_onecycle import GradientNoiseScale


def test_what_one_costs_and_adds_by_default():
    """A second more for ten of them, where a step takes 50 ms: two steps each."""
    row = row_of("task", "noise scale", bare=0.05 * STEPS, spent=0.05 * STEPS + 1.0, count=10)
    assert row["one costs (steps)"] == pytest.approx(2.0)
    every = GradientNoiseScale().every_n_steps
    assert row["by default every"] == every
    assert row["which adds (%)"] == pytest.approx(100 * 2.0 / every)
    assert row["with / without"] == pytest.approx(1.1)


def test_every_measurement_has_an_interval():
    assert set(INTERVALS) == set(MEASUREMENTS)
    assert all(STEPS % every == 0 for every in INTERVALS.values())
