"""A plugin of pytest that ends with a table of what was checked: -p tests.gpu_table."""

from collections import Counter

import torch

from experiments.rows import markdown

CHECKS = {}
RESULTS = {"passed": "passed", "failed": "FAILED", "skipped": "left out"}


class Check:
    """All that is reported of one function, with whatever arguments."""

    def __init__(self):
        self.seconds, self.results = 0.0, Counter()
        self.devices, self.found = {}, {}  # both as ordered sets

    def add(self, report, arguments):
        """Take in a report of setting up, calling or tearing down."""
        self.seconds += report.duration
        if report.when != "call" and report.passed:
            return
        self.results[RESULTS[report.outcome]] += 1
        if report.skipped:
            self.found[report.longrepr[2].removeprefix("Skipped: ")] = None
            return
        found = dict(report.user_properties)
        self.devices[found.pop("device", "GPU" if torch.cuda.is_available() else "CPU")] = None
        told = ["FAILED"] if report.failed else []
        told += [f"{name} {value}" for name, value in found.items()]
        if told:
            whose = f"{arguments}: " if arguments else ""
            self.found[whose + "; ".join(told)] = None

    def row(self, name):
        """Return its row of the table."""
        return {
            "check": name.removeprefix("test_").replace("_", " "),
            "device": ", ".join(self.devices) or "none",
            "result": ", ".join(f"{number} {result}" for result, number in self.results.items()),
            "seconds": self.seconds,
            "found": "; ".join(self.found),
        }


def pytest_runtest_logreport(report):
    """Keep what a check found, and how long it took."""
    name, _, arguments = report.nodeid.split("::")[-1].partition("[")
    CHECKS.setdefault(name, Check()).add(report, arguments.removesuffix("]"))


def pytest_terminal_summary(terminalreporter):
    """Print the machine and the table."""
    terminalreporter.section("what was checked")
    for line in machine():
        terminalreporter.write_line(line)
    if CHECKS:
        rows = [check.row(name) for name, check in CHECKS.items()]
        terminalreporter.write_line(f"\n{markdown(rows, decimals=1)}\n")


def machine():
    """Yield what a reader of the numbers has to know."""
    yield f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    if not torch.cuda.is_available():
        yield "A dry run: the CPU stands in for GPUs, and gloo for NCCL."
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        memory, capability = gpu.total_memory / 2**30, f"{gpu.major}.{gpu.minor}"
        yield f"GPU {index}: {gpu.name}, {memory:.0f} GiB, compute capability {capability}"
