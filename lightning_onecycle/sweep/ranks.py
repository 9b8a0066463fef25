"""A job whose ranks a cluster's launcher has started, each in a process of its own."""

from __future__ import annotations

import os

from omegaconf import DictConfig


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
