"""Runs that srun or torchrun starts: one directory for all ranks, and a rank for each device."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from datetime import datetime, timedelta

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
)
from torch.distributed import TCPStore, init_process_group

from experiments.build import UsageError
from lightning_onecycle.sweep.processes import end_with_parent
from lightning_onecycle.sweep.ranks import Launch, is_first, is_of_slurm

_FIRST_RANK = "ONECYCLE_FIRST_RANK"
_OF_SUBMITIT = "SUBMITIT_EXECUTOR"
_LONGEST_WAIT = timedelta(minutes=30)  # as Lightning's ranks wait for each other


def options_for_all_ranks(options: list[str]) -> list[str]:
    """Return the additional options of a launcher's ranks.

    All ranks have one directory, the first rank writes Hydra's record there, and a run that is
    started again continues.
    """
    launch = Launch.of_this_process()
    if launch is None or launch.by == "sbatch" or _OF_SUBMITIT in os.environ:
        return []
    given = {option.lstrip("+").partition("=")[0] for option in options}
    more = []
    if "hydra.run.dir" not in given and (name := _name_for_all_ranks(launch)):
        more.append(f"hydra.run.dir=logs/runs/{name}_${{hydra.runtime.choices.schedule}}")
    if "resume" not in given and launch.restarts:
        more.append("resume=auto")
    if launch.rank:
        more.append("hydra.output_subdir=null")
    return more


def _name_for_all_ranks(launch: Launch) -> str | None:
    """Return the same name on all ranks, and when they are started again."""
    if launch.by == "srun":
        return f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    store = _store_of_torchrun()
    if store is None:
        return None
    if launch.rank == 0 and not store.check(["train.py"]):
        store.set("train.py", f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}")
    return store.get("train.py").decode()


def _store_of_torchrun() -> TCPStore | None:
    """Return the store that torchrun keeps for all its ranks, and all their restarts."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)


def end_with_the_first_rank() -> None:
    """End this rank when the first rank ends, which has started it.

    A rank that Lightning has started waits in torch for the first one, where no other signal than
    SIGKILL ends it. It has nothing to save. The first rank leaves its number for those it starts.
    """
    first = os.environ.get(_FIRST_RANK)
    if sys.platform == "linux" and first and int(os.environ.get("LOCAL_RANK", 0)):
        end_with_parent(signal.SIGKILL)
        if os.getppid() != int(first):  # it has ended meanwhile
            sys.exit(1)
    os.environ[_FIRST_RANK] = str(os.getpid())


def join_ranks(trainer: Trainer) -> None:
    """Let torchrun's ranks meet in a store of the first of them.

    Left alone, they meet in torchrun's own store. That has the addresses of the ranks before a
    restart, for which the new ones would wait.
    """
    launch = Launch.of_this_process()
    if launch is None or launch.by != "torchrun" or launch.processes == 1:
        return
    known = _store_of_torchrun()
    if known is None:
        return
    if launch.rank == 0:
        with socket.create_connection((known.host, known.port)) as connection:
            address = connection.getsockname()[0]  # under which the others reach this host
        store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
        known.set("ranks", f"{address} {store.port}")
    else:
        store = _store_of_the_first_rank(known)
    backend = "nccl" if trainer.strategy.root_device.type == "cuda" else "gloo"
    init_process_group(backend, store=store, rank=launch.rank, world_size=launch.processes)


def _store_of_the_first_rank(known: TCPStore) -> TCPStore:
    end = time.monotonic() + _LONGEST_WAIT.total_seconds()
    while time.monotonic() < end:
        address, port = known.get("ranks").decode().split()
        with contextlib.suppress(OSError):  # it is that of the ranks before a restart
            socket.create_connection((address, port), timeout=2).close()
            return TCPStore(address, int(port), is_master=False)
        time.sleep(0.2)
    raise TimeoutError(f"the first rank has not started within {_LONGEST_WAIT}")


def plugins_of_the_cluster() -> list[ClusterEnvironment]:
    """Return SLURM's environment without Lightning's requeue.

    That requeue saves ``hpc_ckpt_N.ckpt``, and every later run in its directory begins with it.
    """
    launch = Launch.of_this_process()
    if launch is None or not is_of_slurm() or launch.by == "torchrun":
        return []
    if launch.by == "sbatch" and launch.processes > 1:
        raise UsageError(
            f"SLURM has {launch.processes} tasks for this job, and none of them is started: begin"
            " the command in the batch script with srun"
        )
    try:
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:
        raise UsageError(str(error)) from error


def check_processes(trainer: Trainer) -> None:
    """Refuse a trainer that is not made for the processes that there are.

    Each of them would train alone, or wait for ranks that never come.
    """
    launch = Launch.of_this_process()
    devices, nodes = trainer.num_devices, trainer.num_nodes
    if launch is not None:
        if (devices * nodes, nodes) != (launch.processes, launch.nodes):
            raise UsageError(
                "trainer.devices must be the processes on each node, and trainer.num_nodes the"
                f" nodes, got {devices} and {nodes} for {launch.processes} processes of"
                f" {launch.by} on {launch.nodes} nodes"
            )
        return
    several = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
    if trainer.world_size == 1 and (several or not is_first()):
        names = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")
        said = " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
        raise UsageError(
            "trainer.devices and trainer.num_nodes must be those of all processes, got 1 and 1 for"
            f" one of several, as the environment says: {said}"
        )
    environment = getattr(trainer.strategy, "cluster_environment", None)
    alone = environment is None or isinstance(environment, LightningEnvironment)
    if nodes > 1 and alone and not {"NODE_RANK", "MASTER_ADDR"} <= os.environ.keys():
        raise UsageError(
            f"trainer.num_nodes must be 1 without a launcher, got {nodes}: start the run with srun"
            " or torchrun, or give each node MASTER_ADDR, MASTER_PORT and NODE_RANK"
        )
    if environment is not None and alone and is_first() and "LOCAL_RANK" not in os.environ:
        _check_port()


def _check_port() -> None:
    """Refuse a port that is taken before further ranks are started, which would wait there."""
    port = os.environ.get("MASTER_PORT", "0")
    try:
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("", int(port)))
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"MASTER_PORT must be a free port, got {port}: {error}") from None
