"""Runs that srun or torchrun starts: one directory for all ranks, and a rank for each device."""

from __future__ import annotations

import os
from datetime import datetime

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
)
from torch.distributed import TCPStore

from experiments.build import UsageError
from lightning_onecycle.sweep.ranks import Launch, is_of_slurm

_OF_SUBMITIT = "SUBMITIT_EXECUTOR"


def options_for_all_ranks(options: list[str]) -> list[str]:
    """Return what a launcher's ranks are given besides.

    All have one directory, Hydra's record in it is the first rank's, and a run that is started
    again goes on.
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
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False)
    if launch.rank == 0 and not store.check(["train.py"]):
        store.set("train.py", f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}")
    return store.get("train.py").decode()


def plugins_of_the_cluster() -> list[ClusterEnvironment]:
    """Return SLURM's environment without Lightning's requeue.

    That one saves ``hpc_ckpt_N.ckpt`` where every later run of the directory begins with it.
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
    environment = getattr(trainer.strategy, "cluster_environment", None)
    alone = environment is None or isinstance(environment, LightningEnvironment)
    if nodes > 1 and alone and not {"NODE_RANK", "MASTER_ADDR"} <= os.environ.keys():
        raise UsageError(
            f"trainer.num_nodes must be 1 without a launcher, got {nodes}: start the run with srun"
            " or torchrun, or give each node MASTER_ADDR, MASTER_PORT and NODE_RANK"
        )
