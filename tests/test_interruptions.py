"""kill -9, SIGTERM and Ctrl-C at random moments of each phase of train.py.

Two moments are taken, or with MOMENTS=20 twenty of each phase.
"""

import json
import os
import random
import signal
import time

import pytest
import torch

from forks import start

RUN = (
    "trainer=cpu", "trainer.max_epochs=3", "trainer.enable_progress_bar=false",
    "callbacks.batch_norm=null", "data._target_=phases.SlowDigits",
    "+callbacks.phases._target_=phases.Phases",
)  # fmt: skip
SINGLE = (*RUN, "lr_find=then_fit", "lr_find.num_training=50", "resume=auto")
SWEEP = (*RUN, "-m", "seed=0,1")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Where each phase begins and ends: the name of a mark, and which of that name.
PHASES = {
    "start": (("launch", 0), ("data", 0)),
    "data": (("data", 0), ("train", 0)),
    "range test": (("train", 0), ("train", 1)),
    "fit": (("train", 1), ("test", 0)),
    "validation": (("validation", 1), ("validated", 1)),
    "test": (("test", 0), ("exit", 0)),
    "end of a sweep": (("test", 1), ("exit", 0)),
}
MOMENTS = int(os.environ.get("MOMENTS", 0))
if MOMENTS:
    CASES = [(phase, SIGNALS[n % 3], n) for phase in PHASES for n in range(MOMENTS)]
else:
    CASES = [("start", signal.SIGINT, 0), ("test", signal.SIGTERM, 0)]


class Run:
    """A run in a directory of its own, and when each phase of it has begun."""

    def __init__(self, directory, *options, anew=False):
        self.directory = directory
        self.phases = directory.parent / "phases"
        self.phases.write_text(f"launch {time.time()}\n")
        key = "hydra.sweep.dir" if "-m" in options else "hydra.run.dir"
        place = f"{key}={directory}"
        self.process = start(*options, place, anew=anew, PHASES=str(self.phases))

    def __enter__(self):
        return self

    def __exit__(self, *args):
        if self.when("exit", 0) is None:  # the test has failed
            self.process.kill()
            self.process.wait()

    def end(self):
        """Wait for its end, and return its exit code and what it has printed."""
        output, _ = self.process.communicate(timeout=600)
        with self.phases.open("a") as file:
            file.write(f"exit {time.time()}\n")
        return self.process.returncode, output

    def when(self, name, number):
        """Return when a phase began, or None."""
        lines = (line.split() for line in self.phases.read_text().splitlines())
        times = [float(words[1]) for words in lines if words[:1] == [name] and words[1:]]
        return times[number] if len(times) > number else None

    def wait_for(self, name, number):
        end = time.monotonic() + 600
        while (begun := self.when(name, number)) is None:
            assert time.monotonic() < end, f"{name} {number} does not begin"
            time.sleep(0.005)
        return begun

    @property
    def result(self):
        path = self.directory / "result.json"
        return json.loads(path.read_text()) if path.is_file() else {}


def jobs_of(directory):
    return sorted(path.parent for path in directory.glob("[01]-*/result.json")) or [directory]


def end_of(job):
    result = json.loads((job / "result.json").read_text())
    checkpoint = torch.load(job / "checkpoints" / "last.ckpt", weights_only=True)
    weights = {name: value.tolist() for name, value in checkpoint["state_dict"].items()}
    return result["status"], result["reason"], result["steps"], result["metrics"], weights


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return a function that returns the single run, or the sweep, without an interruption."""
    runs = {}

    def run(options):
        if options not in runs:
            directory = tmp_path_factory.mktemp("uninterrupted") / "run"
            with Run(directory, *options, anew=True) as whole:
                code, output = whole.end()
            assert code == 0, output
            runs[options] = whole
        return runs[options]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "signum", "number"), CASES)
def test_a_run_that_is_interrupted_says_so_and_loses_nothing(
    tmp_path, uninterrupted, phase, signum, number
):
    options = SWEEP if phase == "end of a sweep" else SINGLE
    whole = uninterrupted(options)
    begin, end = PHASES[phase]
    length = whole.when(*end) - whole.when(*begin)
    seconds = random.Random(f"{phase} {number}").uniform(0, length)

    with Run(tmp_path / "run", *options, anew=phase == "start") as run:
        begun = run.wait_for(*begin)
        time.sleep(max(0.0, begun + seconds - time.time()))
        run.process.send_signal(signum)
        code, output = run.end()
    first = run.result
    with Run(tmp_path / "run", *options) as again:
        code_again, output_again = again.end()

    row = (
        f"{phase:15} {signal.Signals(signum).name:8} {seconds:5.2f} s  exit {code:4}"
        f"  {first.get('status')}: {first.get('reason')}"
    )
    print(row)
    if "TABLE" in os.environ:
        with open(os.environ["TABLE"], "a") as file:
            file.write(f"{row}\n")
    told = f"{row}\n--- the first time:\n{output}\n--- again:\n{output_again}"
    assert code_again == 0, told
    jobs = zip(jobs_of(again.directory), jobs_of(whole.directory), strict=True)
    assert all(end_of(ours) == end_of(theirs) for ours, theirs in jobs), told
    if signum == signal.SIGKILL:
        assert code in (-signum, 0), told
    else:
        assert code in (130, 128 + signum, -signum, 0), told
        assert "Traceback" not in output, told
    if code == 0 or phase == "end of a sweep":
        return
    if first:  # on a busy machine the run may be in a later phase
        has_trained = first.get("steps") is not None and first["steps"] == first["total_steps"]
        assert first["status"] == "interrupted" or has_trained, told
        assert phase != "test" or first["status"] == "completed", told
    assert first or phase in ("start", "data", "range test"), told
    if phase == "fit" and signum != signal.SIGKILL and first["steps"] < first["total_steps"]:
        assert f"{first['steps']} of them taken" in output_again, told
