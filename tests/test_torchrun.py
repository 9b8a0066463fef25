"""train.py under torchrun: on this machine, and on two hosts that are network namespaces."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--max-restarts=1")
QUIET = ("trainer=ddp_cpu", "trainer.enable_progress_bar=false", "callbacks.batch_norm=null")
HOSTS = ("10.213.0.1", "10.213.0.2")


@pytest.fixture(autouse=True)
def _directory_of_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def start(*command):
    return subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(*command):
    """Return the exit code and what was printed."""
    process = start(*command)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def kill_once(folder, rank, kind="Kill"):
    kill = f"_target_: saboteurs.{kind}, seed: 0, step: 12, rank: {rank}, once: {folder / 'once'}"
    return f"+callbacks.kill={{{kill}}}"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    options = (*QUIET, "trainer.max_epochs=3", f"hydra.run.dir={directory}")
    code, output = run(sys.executable, ROOT / "train.py", *options)
    assert code == 0, output
    return directory


def assert_same_end(directory, uninterrupted):
    ours, theirs = (json.loads((d / "result.json").read_text()) for d in (directory, uninterrupted))
    assert (ours["status"], ours["reason"], ours["world_size"]) == ("completed", None, 2)
    assert ours["metrics"] == theirs["metrics"]
    ours, theirs = (
        torch.load(d / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for d in (directory, uninterrupted)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_started_again_and_the_run_goes_on(tmp_path, uninterrupted, rank):
    command = (*TORCHRUN, "--nproc-per-node=2", ROOT / "train.py", *QUIET, "trainer.max_epochs=3")
    code, output = run(*command, kill_once(tmp_path, rank))
    assert code == 0, output
    assert (tmp_path / "once").exists()
    assert "27 steps, 9 of them taken" in output
    (directory,) = (tmp_path / "logs" / "runs").iterdir()  # of both ranks, before and after
    assert_same_end(directory, uninterrupted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("trainer=cpu",), "got 1 and 1 for 2 processes of torchrun on 1 nodes"),
        (
            ("trainer=ddp_cpu", "trainer.num_nodes=2"),
            "got 2 and 2 for 2 processes of torchrun on 1 nodes",
        ),
        (("-m", "seed=0,1"), "a sweep must be started as one process, got 2 from torchrun"),
    ],
)
def test_processes_that_are_not_the_trainers_ranks_are_refused(options, message):
    command = (*TORCHRUN[:-1], "--nproc-per-node=2", ROOT / "train.py", *options)
    code, output = run(*command, "data.batch_size=5000")  # more than there are
    assert code == 1
    assert message in output
    assert "must be <= 1197" not in output


@contextlib.contextmanager
def two_hosts():
    """Two network namespaces, joined by a cable: the name of each, and of its end."""
    names = [f"onecycle-{os.getpid()}-{n}" for n in (0, 1)]
    ends = [f"oc{os.getpid() % 10**8}{n}" for n in "ab"]

    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end, address in zip(names, ends, HOSTS, strict=True):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            for device in (end, "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield list(zip(names, ends, strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.fixture
def hosts():
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root, and ip")
    with contextlib.ExitStack() as stack:
        try:
            joined = stack.enter_context(two_hosts())
        except subprocess.CalledProcessError as error:
            pytest.skip(f"there are no network namespaces here: {error.stderr.decode()}")
        yield joined


def start_on(host, number, *options):
    """Start torchrun on one of two hosts."""
    name, end = host
    # Both hosts have the name of this machine, whose address is no use between them.
    within = ("ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={end}")
    rendezvous = (
        "--rdzv-backend=c10d", f"--rdzv-endpoint={HOSTS[0]}:29500", "--rdzv-id=run",
        f"--rdzv-conf=is_host={int(number == 0)}", f"--local-addr={HOSTS[number]}",
    )  # fmt: skip
    torchrun = (*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", *rendezvous)
    of_two = ("trainer.devices=1", "trainer.num_nodes=2", "trainer.max_epochs=3", "resume=auto")
    return start(*within, *torchrun, ROOT / "train.py", *QUIET, *of_two, *options)


def ends_of(processes):
    """Wait for both, and return their exit codes and what they have printed."""
    try:
        output = "".join(process.communicate(timeout=600)[0] for process in processes)
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], output


@pytest.mark.netns
@pytest.mark.parametrize("rank", [0, 1])
def test_two_hosts_of_which_one_loses_its_rank(tmp_path, uninterrupted, hosts, rank):
    options = (kill_once(tmp_path, rank), f"hydra.run.dir={tmp_path / 'run'}")
    codes, output = ends_of([start_on(host, n, *options) for n, host in enumerate(hosts)])
    assert codes == [0, 0], output
    assert "27 steps, 9 of them taken" in output
    assert_same_end(tmp_path / "run", uninterrupted)


@pytest.mark.netns
def test_a_host_fails_and_torchrun_is_started_again_on_both(tmp_path, uninterrupted, hosts):
    options = (kill_once(tmp_path, 1, "Hang"), f"hydra.run.dir={tmp_path / 'run'}")
    processes = [start_on(host, n, *options) for n, host in enumerate(hosts)]
    end = time.monotonic() + 600
    while not (tmp_path / "once").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    for pid in subprocess.check_output(["ip", "netns", "pids", hosts[1][0]], text=True).split():
        os.kill(int(pid), signal.SIGKILL)
    processes[0].terminate()
    for process in processes:
        process.communicate(timeout=600)
    codes, output = ends_of([start_on(host, n, *options) for n, host in enumerate(hosts)])
    assert codes == [0, 0], output
    assert "27 steps, 9 of them taken" in output
    assert_same_end(tmp_path / "run", uninterrupted)


def test_nodes_that_nobody_starts_are_refused(tmp_path):
    options = (*QUIET, "trainer.num_nodes=2", "data.batch_size=5000")
    code, output = run(sys.executable, ROOT / "train.py", *options)
    assert code == 1
    assert "trainer.num_nodes must be 1 without a launcher, got 2" in output
    assert "Traceback" not in output
