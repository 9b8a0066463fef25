"""train.py on a real SLURM of two nodes, such as .ci/slurm starts; skipped where there is none."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pages import blocks

ROOT = Path(__file__).parents[1]
# About ten seconds of training, with a checkpoint after each epoch of nine steps.
OPTIONS = (
    "trainer.enable_progress_bar=false", "callbacks.batch_norm=null", "trainer.max_epochs=16",
    "+callbacks.slow={_target_: saboteurs.Slow}",
)  # fmt: skip
ON_THE_CPU = ("trainer.accelerator=cpu", "trainer.strategy=ddp")
TIMEOUT = 600


def answer(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def there_are_two_nodes():
    # Never on a cluster that somebody works with.
    if "SLURM_CONF" not in os.environ or shutil.which("sinfo") is None:
        return False
    counts = answer("sinfo", "--noheader", "--responding", "--format=%D").split()
    return bool(counts) and max(map(int, counts)) >= 2


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not there_are_two_nodes(), reason="there is no SLURM of two nodes"),
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Two ranks that Lightning starts by itself."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    subprocess.run(
        [sys.executable, "train.py", "trainer=ddp_cpu", *OPTIONS, f"hydra.run.dir={directory}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return directory


def state_of(job):
    """Return what squeue says of a job; nothing of one that has ended."""
    return answer("squeue", "--noheader", f"--jobs={job}", "--format=%T")


class Batch:
    """The batch script of the documentation, with these numbers of nodes and of tasks on each."""

    def __init__(self, folder, nodes=2, tasks=1, options=OPTIONS):
        (script,) = (
            b for b in blocks((ROOT / "docs/clusters.md").read_text(), "bash") if "#!" in b
        )
        lines = [line for line in script.splitlines() if "gpus-per-node" not in line]
        script = "\n".join(lines)
        for number, name in ((nodes, "nodes"), (tasks, "ntasks-per-node")):
            script = re.sub(rf"--{name}=\d+", f"--{name}={number}", script)
        for number, name in ((nodes, "num_nodes"), (tasks, "devices")):
            script = re.sub(rf"trainer\.{name}=\d+", f"trainer.{name}={number}", script)
        self.directory = folder / "run"
        script = script.replace("logs/runs/NAME", str(self.directory))
        script = script.replace("python train.py", f"{sys.executable} {ROOT / 'train.py'}")
        given = " ".join(f"'{option}'" for option in (*ON_THE_CPU, *options))
        self.script = folder / "job.sh"
        self.script.write_text(f"{script.rstrip()} {given}\n")
        self.log = folder / "log"

    def submit(self, *flags):
        """Submit it, and return the job's number."""
        return answer(
            "sbatch", "--parsable", f"--chdir={self.script.parent}", f"--output={self.log}",
            *flags, str(self.script),
        )  # fmt: skip

    @property
    def steps(self):
        path = self.directory / "checkpoints" / "last.ckpt"
        return torch.load(path, weights_only=True)["global_step"] if path.is_file() else 0

    @property
    def result(self):
        return json.loads((self.directory / "result.json").read_text())

    def wait_for_steps(self, steps=9):
        self.wait_until(lambda: self.steps >= steps)

    def wait_for_end(self, job):
        self.wait_until(lambda: not state_of(job))

    def wait_until(self, condition):
        end = time.monotonic() + TIMEOUT
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"it never came about:\n{self.log.read_text()}")
            time.sleep(0.5)

    def assert_ended_as(self, uninterrupted):
        log = self.log.read_text()
        assert "of them taken" in log, log  # it has gone on, and not begun anew
        assert_same_end(self.directory, uninterrupted)


def assert_same_end(directory, uninterrupted):
    ours, theirs = (json.loads((d / "result.json").read_text()) for d in (directory, uninterrupted))
    assert (ours["status"], ours["reason"]) == ("completed", None)
    assert ours["world_size"] == theirs["world_size"] == 2
    assert ours["metrics"] == theirs["metrics"]
    ours, theirs = (
        torch.load(d / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for d in (directory, uninterrupted)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("nodes", "tasks"), [(2, 1), (1, 2)])
def test_a_job_whose_time_is_nearly_up_goes_into_the_queue_and_on(
    tmp_path, uninterrupted, nodes, tasks
):
    # As Lightning's own requeue of another run would leave it.
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("of another run")
    batch = Batch(tmp_path, nodes, tasks)
    job = batch.submit()
    batch.wait_for_steps()
    answer("scancel", "--signal=USR1", job)
    batch.wait_until(lambda: f"SLURM job {job} is back in the queue" in batch.log.read_text())
    taken = batch.steps
    assert (batch.result["status"], batch.result["steps"]) == ("interrupted", taken)
    batch.wait_for_end(job)
    assert f"{taken} of them taken" in batch.log.read_text()
    batch.assert_ended_as(uninterrupted)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["hpc_ckpt_1.ckpt"]
    assert "Traceback" not in batch.log.read_text()


def ranks_that_keep_usr1(directory):
    """Return how many processes of a run have begun and block SIGUSR1."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            command = (process / "cmdline").read_text().split("\0")
            status = (process / "status").read_text()
            blocked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)
            is_rank = command[0] == sys.executable and f"hydra.run.dir={directory}" in command
            found += is_rank and bool(blocked & 1 << (signal.SIGUSR1 - 1))
    return found


def test_a_job_whose_time_is_up_before_it_has_begun_goes_into_the_queue(tmp_path, uninterrupted):
    batch = Batch(tmp_path)
    job = batch.submit()
    batch.wait_until(lambda: ranks_that_keep_usr1(batch.directory) == 2)
    answer("scancel", "--signal=USR1", job)
    batch.wait_for_end(job)
    log = batch.log.read_text()
    assert f"SLURM job {job} is back in the queue" in log
    assert "Traceback" not in log
    assert_same_end(batch.directory, uninterrupted)


def test_a_preempted_job_goes_on(tmp_path, uninterrupted):
    if "urgent" not in answer("sinfo", "--noheader", "--format=%R"):
        pytest.skip("no partition of this SLURM preempts another")
    batch = Batch(tmp_path)
    job = batch.submit()
    batch.wait_for_steps()
    answer("sbatch", "--partition=urgent", "--exclusive", "--nodes=2", "--output=/dev/null",
           "--wrap=sleep 1")  # fmt: skip
    batch.wait_for_end(job)
    assert "DUE TO PREEMPTION" in batch.log.read_text()
    batch.assert_ended_as(uninterrupted)


def processes_of(node):
    """Return the processes of a node: slurmd, what it has started for jobs, and the jobs."""
    pids = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().split(b"\0")
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        if command[:4] == [b"slurmd", b"-D", b"-N", node.encode()]:
            pids.add(int(process.name))
        if f"SLURMD_NODENAME={node}".encode() in environment:
            pids |= {int(process.name), parent}
    return pids - {1}


@contextlib.contextmanager
def set_down(node):
    answer("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        yield
    finally:
        answer("scontrol", "update", f"nodename={node}", "state=resume")


@contextlib.contextmanager
def freeze(node):
    """Its peers get no answer any more, and no word that it is gone."""
    pids = processes_of(node)
    assert len(pids) >= 3
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(("fail", "node"), [(set_down, "n1"), (set_down, "n2"), (freeze, "n2")])
def test_a_job_whose_node_fails_goes_on(tmp_path, uninterrupted, fail, node):
    batch = Batch(tmp_path)
    job = batch.submit()
    batch.wait_for_steps()
    with fail(node):
        batch.wait_until(lambda: state_of(job) == "PENDING")
        assert batch.result["status"] == "interrupted"
    batch.wait_for_end(job)
    batch.assert_ended_as(uninterrupted)


def test_a_job_that_is_cancelled_goes_on_when_it_is_submitted_again(tmp_path, uninterrupted):
    batch = Batch(tmp_path)
    job = batch.submit()
    batch.wait_for_steps()
    answer("scancel", job)
    batch.wait_for_end(job)
    assert (batch.result["status"], batch.result["steps"]) == ("interrupted", batch.steps)
    batch.wait_for_end(batch.submit())
    batch.assert_ended_as(uninterrupted)
    # And once more: there is nothing left to do.
    before = batch.result
    batch.wait_for_end(batch.submit())
    assert "completed before, not run again" in batch.log.read_text()
    assert batch.result == before


def test_a_job_whose_time_is_up_and_whose_rank_is_killed_goes_on(
    tmp_path, uninterrupted, monkeypatch
):
    kill = f"{{_target_: saboteurs.Kill, seed: 0, step: 100, rank: 1, once: {tmp_path / 'once'}}}"
    batch = Batch(tmp_path, options=(*OPTIONS, f"+callbacks.kill={kill}"))
    monkeypatch.setenv("SLOW", "0.5")  # SLURM looks at limits twice a minute
    job = batch.submit()
    batch.wait_for_steps()
    answer("scontrol", "update", f"JobId={job}", "TimeLimit=00:00:01")
    monkeypatch.delenv("SLOW")
    batch.wait_until(lambda: f"SLURM job {job} is back in the queue" in batch.log.read_text())
    answer("scontrol", "update", f"JobId={job}", "TimeLimit=00:10:00")
    batch.wait_for_end(job)
    assert (tmp_path / "once").exists()
    assert batch.result["status"] != "completed"
    batch.wait_for_end(batch.submit())
    batch.assert_ended_as(uninterrupted)


@pytest.mark.parametrize(
    ("srun", "options", "message"),
    [
        ("", ON_THE_CPU, "begin the command in the batch script with srun"),
        ("srun", ("trainer=cpu",), "got 1 and 1 for 2 processes of srun on 2 nodes"),
        ("srun", ("trainer=cpu", "-m", "seed=0,1"), "a sweep must be started as one process"),
    ],
)
def test_tasks_that_are_not_the_trainers_ranks_are_refused(tmp_path, srun, options, message):
    batch = Batch(tmp_path)
    command = [srun, sys.executable, str(ROOT / "train.py"), *options, "data.batch_size=5000"]
    flags = ("--nodes=2", "--ntasks-per-node=1")
    batch.script.write_text(f"#!/bin/bash\n{' '.join(command)}\n")
    batch.wait_for_end(batch.submit(*flags))
    assert message in batch.log.read_text()
    assert "Traceback" not in batch.log.read_text()
    assert "must be <= 1197" not in batch.log.read_text()


def test_a_sweep_whose_job_is_cancelled_and_whose_own_process_is_killed(
    tmp_path, uninterrupted, monkeypatch
):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    command = [
        sys.executable, "train.py", "-m", "hydra/launcher=slurm", "trainer=slurm", *ON_THE_CPU,
        "trainer.devices=1", "trainer.num_nodes=2", "hydra.launcher.gpus_per_node=null",
        "hydra.launcher.cpus_per_task=1", *OPTIONS, "seed=0,1", f"hydra.sweep.dir={tmp_path}",
    ]  # fmt: skip

    def start():
        return subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    jobs = [tmp_path / f"{seed}-seed={seed}" for seed in (0, 1)]

    def wait_for_checkpoints():
        end = time.monotonic() + TIMEOUT
        while not all((job / "checkpoints" / "last.ckpt").is_file() for job in jobs):
            assert time.monotonic() < end
            time.sleep(0.5)

    monkeypatch.setenv("SLOW", "0.25")  # SLURM gives a cancelled job 20 seconds
    sweep = start()
    monkeypatch.delenv("SLOW")
    wait_for_checkpoints()
    names = sorted(answer("squeue", "--noheader", "--array", "--format=%i").split())
    answer("scancel", names[1])
    output, _ = sweep.communicate(timeout=TIMEOUT)
    assert sweep.returncode == 1
    for seed, name in enumerate(names):
        assert f"job {name}: seed={seed}; log: {tmp_path}" in output
    assert f"job {names[1]} has left no result: it was cancelled" in output
    # The other was waited for, and what is told of the cancelled one is true.
    assert_same_end(jobs[0], uninterrupted)
    assert json.loads((jobs[1] / "result.json").read_text())["status"] == "interrupted"

    shutil.rmtree(jobs[0])  # of another command: both are to run now
    sweep = start()
    wait_for_checkpoints()
    sweep.send_signal(signal.SIGTERM)
    output, _ = sweep.communicate(timeout=TIMEOUT)
    assert sweep.returncode == 128 + signal.SIGTERM
    assert "left in the queue, where they continue" in output
    sweep = start()
    time.sleep(8)
    sweep.kill()
    sweep.communicate()
    sweep = start()
    output, _ = sweep.communicate(timeout=TIMEOUT)
    assert sweep.returncode == 0, output
    assert "2 jobs: 2 completed" in output
    assert_same_end(jobs[0], uninterrupted)
