"""Hydra sweeps that work on several devices and continue after interruptions.

Decorate the function that ``hydra.main`` runs, and list `Sweep` under ``hydra.callbacks``::

    @hydra.main(version_base="1.3", config_path="conf", config_name="config")
    @sweep.job()
    def main(cfg): ...

In a single run nothing changes. In a sweep each job has its own process: a job that is killed or
runs out of memory does not affect the others. Complete jobs are not run again, interrupted jobs
continue from their checkpoints, and the table of the sweep is written whenever a job ends.
"""

from lightning_onecycle.sweep.callback import Sweep
from lightning_onecycle.sweep.command_line import swept
from lightning_onecycle.sweep.job import Job, job
from lightning_onecycle.sweep.job_files import JobFailed

__all__ = ["Job", "JobFailed", "Sweep", "job", "swept"]
