"""Hydra sweeps that work on several devices and continue after interruptions.

Decorate the function that ``hydra.main`` runs, and list `Sweep` under ``hydra.callbacks``::

    @hydra.main(version_base="1.3", config_path="conf", config_name="config")
    @sweep.job()
    def main(cfg): ...

In a single run nothing changes. In a sweep each job has a process of its own, so that one that is
killed, runs out of memory or leaves a process group behind costs no other. A job that is complete
is not run again, one that has left a checkpoint goes on from it, and the table of the sweep is
written as jobs end.
"""

from lightning_onecycle.sweep.callback import Sweep
from lightning_onecycle.sweep.command_line import swept
from lightning_onecycle.sweep.job import Job, job
from lightning_onecycle.sweep.job_files import JobFailed

__all__ = ["Job", "JobFailed", "Sweep", "job", "swept"]
