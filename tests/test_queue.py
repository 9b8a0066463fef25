"""What a sweep makes of SLURM's answers; the programs of SLURM are scripts here."""

import os

import pytest

from lightning_onecycle.sweep.queue import watch_over_jobs

submitit = pytest.importorskip("submitit")


@pytest.mark.parametrize(
    ("parameters", "answer", "message"),
    [
        (
            {"gpus_per_node": 2},
            "Invalid generic resource (gres) specification",
            "hydra.launcher.gpus_per_node must be what the nodes have, got 2: on nodes without GPUs"
            " give hydra.launcher.gpus_per_node=null trainer.accelerator=cpu",
        ),
        (
            {"slurm_partition": "nowhere"},
            "invalid partition specified: nowhere",
            "hydra.launcher must be what SLURM accepts: sbatch: error: invalid partition",
        ),
    ],
)
def test_a_job_that_slurm_refuses_is_one_line(tmp_path, monkeypatch, parameters, answer, message):
    for name, lines in (("srun", ""), ("sbatch", f"echo 'sbatch: error: {answer}' >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    monkeypatch.setattr(submitit.AutoExecutor, "map_array", submitit.AutoExecutor.map_array)
    watch_over_jobs()
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="slurm")
    executor.update_parameters(**parameters)
    with pytest.raises(SystemExit) as ended:
        executor.map_array(print, [["seed=0"], ["seed=1"]])
    assert message in ended.value.code
    assert "\n" not in ended.value.code
