"""Processes that a launcher has started: srun, torchrun, or submitit for a job of a sweep."""

from __future__ import annotations

import os
import warnings
from typing import NamedTuple

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from omegaconf import DictConfig


class Launch(NamedTuple):
    """How a launcher has started this process.

    Attributes:
        by: The launcher: ``"srun"``, ``"torchrun"``, or ``"sbatch"`` for a batch script that runs
            the program without srun.
        processes: How many it has started, or is said to start.
        nodes: On how many nodes.
        rank: Which of them this is.
        restarts: How often it has started them before.
    """

    by: str
    processes: int
    nodes: int
    rank: int
    restarts: int

    @classmethod
    def of_this_process(cls) -> Launch | None:
        """Return how it was started; None where that was no launcher."""
        env = os.environ
        if TorchElasticEnvironment.detect():
            names = ("WORLD_SIZE", "GROUP_WORLD_SIZE", "RANK", "TORCHELASTIC_RESTART_COUNT")
            return cls("torchrun", *(int(env[name]) for name in names))
        if is_of_slurm():
            by = "srun" if "SLURM_STEP_ID" in env else "sbatch"
            nodes = env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", 1))
            rank, restarts = env.get("SLURM_PROCID", 0), env.get("SLURM_RESTART_COUNT", 0)
            return cls(by, int(env["SLURM_NTASKS"]), int(nodes), int(rank), int(restarts))
        return None


def is_of_slurm() -> bool:
    """Return whether Lightning takes its ranks from SLURM here, without its hint where not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        return SLURMEnvironment.detect()


def is_first() -> bool:
    """Return whether this process is the first rank, as far as its environment says."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    rank = next((os.environ[name] for name in names if name in os.environ), "0")
    return int(rank) == 0 and int(os.environ.get("NODE_RANK", 0)) == 0


def rank_of_many(cfg: DictConfig) -> int | None:
    """Return this process's rank if submitit has started several for the job, and None if not.

    Args:
        cfg: The job's configuration, for ``trainer.devices`` and ``trainer.num_nodes``.

    Raises:
        ValueError: If there are not as many as the trainer is to have devices.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    import submitit

    environment = submitit.JobEnvironment()
    if environment.num_tasks == 1:
        return None
    trainer = cfg.get("trainer") or {}
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    if isinstance(devices, int) and environment.num_tasks != devices * nodes:
        raise ValueError(
            "hydra.launcher.tasks_per_node must be trainer.devices, and hydra.launcher.nodes"
            f" trainer.num_nodes, got {environment.num_tasks} tasks for {nodes} x {devices}."
            " A sweep has one allocation for all its jobs: one sweep for each number of devices."
        )
    return int(environment.global_rank)


def take_rank() -> None:
    """Tell Lightning of the rank where submitit runs without SLURM, which it knows by itself."""
    import submitit

    environment = submitit.JobEnvironment()
    if "SLURM_NTASKS" in os.environ:
        return
    # All ranks need the same port, and jobs that run at the same time different ones.
    port = 20_000 + int("".join(filter(str.isdigit, environment.job_id)) or 0) % 20_000
    os.environ |= {
        "LOCAL_RANK": str(environment.local_rank),
        "NODE_RANK": str(environment.node),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
