"""train.py under torchrun: on this machine, and on two hosts that are network namespaces."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from forks import ROOT, run

pytestmark = pytest.mark.slow
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
QUIET = ("trainer=ddp_cpu", "trainer.enable_progress_bar=false", "callbacks.batch_norm=null")
HOSTS = ("10.213.0.1", "10.213.0.2")


@pytest.fixture(autouse=True)
def _directory_of_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def start_command(*command):
    return subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def torchrun(*options, restarts=0):
    """Return the exit code and what was printed, of two processes on this machine."""
    processes = ("--nproc-per-node=2", f"--max-restarts={restarts}")
    process = start_command(*TORCHRUN, *processes, ROOT / "train.py", *options)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def harm(kind, once, rank, step):
    """Return the option for a harm that is done to a rank once."""
    values = f"seed: 0, step: {step}, rank: {rank}, once: {once}"
    return f"+callbacks.{once.name}={{_target_: saboteurs.{kind}, {values}}}"


def kill_both(folder):
    """Return the options that kill first one rank, and then the other."""
    return harm("Kill", folder / "first", 0, 12), harm("Kill", folder / "second", 1, 21)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    options = (*QUIET, "trainer.max_epochs=3", f"hydra.run.dir={directory}")
    code, output = run(*options)
    assert code == 0, output
    return directory, output


def assert_same_end(directory, uninterrupted):
    uninterrupted, _ = uninterrupted
    ours, theirs = (json.loads((d / "result.json").read_text()) for d in (directory, uninterrupted))
    assert (ours["status"], ours["reason"], ours["world_size"]) == ("completed", None, 2)
    assert ours["metrics"] == theirs["metrics"]
    ours, theirs = (
        torch.load(d / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for d in (directory, uninterrupted)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def assert_both_were_killed(folder, output):
    assert (folder / "first").exists()
    assert (folder / "second").exists()
    assert "27 steps, 9 of them taken" in output
    assert "27 steps, 18 of them taken" in output


def test_two_ranks_that_lightning_starts(uninterrupted):
    directory, output = uninterrupted
    result = json.loads((directory / "result.json").read_text())
    assert result["world_size"] == 2
    assert result["effective_batch_size"] == 128
    # 1197 images are 598 for each device, and 9 full batches of 64.
    assert result["steps"] == result["total_steps"] == 27
    assert output.count("onecycle over 27 steps") == 1


def test_a_killed_rank_is_started_again_and_the_run_goes_on(tmp_path, uninterrupted):
    code, output = torchrun(*QUIET, "trainer.max_epochs=3", *kill_both(tmp_path), restarts=2)
    assert code == 0, output
    assert_both_were_killed(tmp_path, output)
    (directory,) = (tmp_path / "logs" / "runs").iterdir()  # of both ranks, before and after
    assert_same_end(directory, uninterrupted)


TOO_MANY = "data.batch_size=5000"  # more images than there are


def test_processes_that_are_not_the_trainers_ranks_are_refused():
    code, output = torchrun("trainer=cpu", TOO_MANY)
    assert code == 1
    assert "got 1 and 1 for 2 processes of torchrun on 1 nodes" in output
    assert "must be <= 1197" not in output


# What torchrun gives one of two processes, so far as it says how many there are.
RANK = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
    "GROUP_WORLD_SIZE": "1",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_RUN_ID": "none",
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("trainer=ddp_cpu", "trainer.num_nodes=2"),
            "got 2 and 2 for 2 processes of torchrun on 1 nodes",
        ),
        (("-m", "seed=0,1"), "a sweep must be started as one process, got 2 from torchrun"),
    ],
)
def test_a_rank_of_another_number_is_refused(tmp_path, options, message):
    code, output = run(*options, TOO_MANY, cwd=tmp_path, **RANK)
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
    command = (*within, *TORCHRUN, "--nnodes=2", "--max-restarts=2", *rendezvous)
    of_two = ("trainer.devices=1", "trainer.num_nodes=2", "trainer.max_epochs=3", "resume=auto")
    return start_command(*command, ROOT / "train.py", *QUIET, *of_two, *options)


def ends_of(processes):
    """Wait for both, and return their exit codes and what they have printed."""
    try:
        output = "".join(process.communicate(timeout=600)[0] for process in processes)
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], output


@pytest.mark.netns
def test_two_hosts_of_which_first_one_and_then_the_other_loses_its_rank(
    tmp_path, uninterrupted, hosts
):
    options = (*kill_both(tmp_path), f"hydra.run.dir={tmp_path / 'run'}")
    codes, output = ends_of([start_on(host, n, *options) for n, host in enumerate(hosts)])
    assert codes == [0, 0], output
    assert_both_were_killed(tmp_path, output)
    assert_same_end(tmp_path / "run", uninterrupted)


@pytest.mark.netns
def test_a_host_fails_and_torchrun_is_started_again_on_both(tmp_path, uninterrupted, hosts):
    options = (harm("Hang", tmp_path / "once", 1, 12), f"hydra.run.dir={tmp_path / 'run'}")
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
    code, output = run(*QUIET, "trainer.num_nodes=2", TOO_MANY, cwd=tmp_path)
    assert code == 1
    assert "trainer.num_nodes must be 1 without a launcher, got 2" in output
    assert "Traceback" not in output
