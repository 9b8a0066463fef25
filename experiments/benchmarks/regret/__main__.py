"""What an LR finder costs: the accuracy lost by training 1cycle at its suggestion.

    python -m experiments.benchmarks.regret train     # the truth: 1cycle over a grid of peaks
    python -m experiments.benchmarks.regret find      # our range tests
    python -m experiments.benchmarks.regret search    # range tests and short trainings, at cost 1
    python -m experiments.benchmarks.regret peers --peers-python PYTHON
    python -m experiments.benchmarks.regret table     # the regret of each method

The regret of a suggestion is the validation accuracy at the best peak of the grid, the mean over
seeds, less the accuracy at the suggestion with the seed that it was made with. Between two peaks of
the grid the accuracy of a seed is interpolated linearly over log10 of the peak; below the grid it
is that of the lowest peak, and above it chance. A training that diverges has chance accuracy.

Each step adds JSON lines to ``experiments/benchmarks/results/`` and leaves out what is there
already, so that it may be interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from experiments.benchmarks.regret.measure import run_find, run_peers, run_searches, run_truth
from experiments.benchmarks.regret.table import run_table
from experiments.benchmarks.results import run_module
from experiments.rows import quiet


def main() -> None:
    """Run one of the steps."""
    steps: dict[str, Callable[[], None]]
    steps = {
        "train": run_truth,
        "find": run_find,
        "search": run_searches,
        "peers": run_peers,
        "table": run_table,
    }
    parser = argparse.ArgumentParser(
        prog=f"python -m {__spec__.parent}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", choices=list(steps))
    parser.add_argument(
        "--peers-python", default=sys.executable, help="the Python that has the peers installed"
    )
    arguments = parser.parse_args()
    if arguments.step == "peers" and arguments.peers_python != sys.executable:
        run_module(__spec__.parent, "peers", python=arguments.peers_python, check=True)
        return
    quiet()
    steps[arguments.step]()


if __name__ == "__main__":
    main()
