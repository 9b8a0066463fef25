"""Every item of the comparison with Lightning's Tuner holds for ours."""

import pytest

from experiments.benchmarks.finder_traces import CONDITIONS, TRACES, outcome

ITEMS = {**TRACES, **CONDITIONS}


@pytest.mark.parametrize("name", ITEMS)
def test_item_holds(name):
    assert outcome(ITEMS[name], "lightning_onecycle") == "yes"


def test_an_experiment_that_raises_is_named():
    assert outcome(lambda kind: 1 / 0, "lightning_onecycle") == "raises ZeroDivisionError"
    assert outcome(lambda kind: False, "lightning_onecycle") == "no"
