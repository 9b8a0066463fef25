"""Every item of the comparison with Lightning's Tuner holds for ours, but for one."""

import pytest

from experiments.benchmarks.finder_traces import CONDITIONS, TRACES, outcome

ITEMS = {**TRACES, **CONDITIONS}
TOO_NOISY = [name for name in ITEMS if "batches of 8" in name]


@pytest.mark.parametrize("name", [name for name in ITEMS if name not in TOO_NOISY])
def test_item_holds(name):
    assert outcome(ITEMS[name], "lightning_onecycle") == "yes"


@pytest.mark.xfail(reason="with losses that noisy, 100 points show no peak, and it says so")
@pytest.mark.parametrize("name", TOO_NOISY)
def test_item_that_does_not_hold(name):
    assert outcome(ITEMS[name], "lightning_onecycle") == "yes"


def test_an_experiment_that_raises_is_named():
    assert outcome(lambda kind: 1 / 0, "lightning_onecycle") == "raises ZeroDivisionError"
    assert outcome(lambda kind: False, "lightning_onecycle") == "no"
