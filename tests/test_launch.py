"""What a task of srun is given; SLURM's variables are set here."""

import pytest

from conftest import quiet_trainer
from experiments.build import UsageError
from experiments.launch import check_processes, options_for_all_ranks, plugins_of_the_cluster

OF_A_TASK = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "0",
}


@pytest.fixture
def task(monkeypatch):
    """Return a function that makes this process a task of srun."""
    for name in ("RANK", "LOCAL_RANK", "SUBMITIT_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)

    def be(**variables):
        for name, value in (OF_A_TASK | variables).items():
            monkeypatch.setenv(name, value)

    return be


def test_all_tasks_have_one_directory_and_a_requeued_run_goes_on(task):
    ours = "hydra.run.dir=logs/runs/slurm-17.0_${hydra.runtime.choices.schedule}"
    task()
    assert options_for_all_ranks([]) == [ours]
    task(SLURM_PROCID="1")
    assert options_for_all_ranks([]) == [ours, "hydra.output_subdir=null"]
    task(SLURM_RESTART_COUNT="1")
    assert options_for_all_ranks([]) == [ours, "resume=auto"]
    assert options_for_all_ranks(["hydra.run.dir=a", "resume=b"]) == []


def test_lightnings_requeue_which_would_lead_into_other_runs_is_off(task):
    task()
    (environment,) = plugins_of_the_cluster()
    assert not environment.auto_requeue


@pytest.mark.parametrize("said", [{"RANK": "1"}, {"LOCAL_RANK": "1"}, {"WORLD_SIZE": "2"}])
def test_one_process_of_several_does_not_train_alone(said, monkeypatch):
    trainer = quiet_trainer()
    check_processes(trainer)
    ((name, value),) = said.items()
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"got 1 and 1 for one of several, .*: {name}={value}$"):
        check_processes(trainer)
