"""The cases of traps: what the table says of ours holds, and a case that crashes is an outcome."""

import csv
import os
import time
from importlib.metadata import version

import pytest

from experiments.benchmarks.results import RESULTS
from experiments.benchmarks.traps.__main__ import count
from experiments.benchmarks.traps.trap import Outcome, outcome, run, told
from experiments.benchmarks.traps.traps import TRAPS

CHEAP = [trap for trap in TRAPS if not trap.slow]


@pytest.fixture(scope="module")
def table():
    with (RESULTS / "traps.csv").open(newline="") as file:
        return {row["number"]: row for row in csv.DictReader(file)}


def test_every_trap_has_both_sides_and_a_row(table):
    numbers = [trap.number for trap in TRAPS]
    assert len({*numbers}) == len(numbers)
    assert {number for number in numbers if number.isdigit()} == {str(n) for n in range(1, 65)}
    assert all({*trap.sides} == {"them", "us"} for trap in TRAPS)
    assert [*table] == numbers


@pytest.mark.parametrize("trap", CHEAP, ids=lambda trap: trap.number)
def test_ours_is_as_the_table_says(trap, table):
    assert run(trap.sides["us"]).verdict == table[trap.number]["us"]


def test_theirs_fails_as_the_table_says(table):
    installed = f"torch {version('torch')}, lightning {version('lightning')}"
    some = {trap.number: trap for trap in TRAPS}
    for number in ("1", "24", "38", "40"):
        row = table[number]
        if row["versions"] == installed:
            result = run(some[number].sides["them"])
            assert (result.verdict, result.text) == ("no", row["theirs"])


# ---- how a case is run --------------------------------------------------------------------------


def test_claims_add_up():
    assert outcome((True, "a"), (True, "b")) == Outcome("yes", "a; b")
    assert outcome((True, "a"), (False, "b")) == Outcome("partly", "a; b")
    assert outcome((False, "a"), (False, "b")) == Outcome("no", "a; b")


def test_a_crash_a_death_and_a_hang_are_outcomes():
    def crashes():
        raise KeyError("initial_lr")

    assert run(crashes) == Outcome("no", "raises KeyError: 'initial_lr'")
    assert run(lambda: os._exit(3)) == Outcome("no", "the process dies: exit code 3")
    start = time.perf_counter()
    assert run(lambda: time.sleep(60), seconds=0.2) == Outcome("no", "still running after 0.2 s")
    assert time.perf_counter() - start < 10


def test_a_case_has_a_folder_and_warnings_of_its_own(recwarn, capfd):
    here = os.getcwd()

    def case():
        import warnings

        warnings.warn("a trap | here", stacklevel=1)
        print("loud")
        open("left", "x").close()
        return outcome((told("a trap") and os.getcwd() != here, "one | two"))

    for _ in range(2):  # the second finds no file of the first
        assert run(case) == Outcome("yes", "one \\| two")
    # From Python 3.12 on, forking warns if an earlier test has left a thread.
    assert not [w for w in recwarn if "a trap" in str(w.message)]
    assert capfd.readouterr().out == ""


def test_the_count_is_of_the_numbered_ones():
    rows = [
        {"number": "1", "us": "yes", "them": "no"},
        {"number": "2", "us": "partly", "them": "n/a"},
        {"number": "F1", "us": "yes", "them": "no"},
    ]
    assert count(rows) == "Handled: us 1 of 2 (1 partly); them 0 of 2 (1 no, 1 n/a)."
