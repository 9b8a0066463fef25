"""Sweeps as a user runs them: processes, kills, launchers."""

import csv
import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.plugins.environments import SLURMEnvironment
from omegaconf import OmegaConf

from forks import run, start
from lightning_onecycle.sweep import Job, JobFailed
from lightning_onecycle.sweep.callback import _print_table, _say_what_comes, file_name
from lightning_onecycle.sweep.job_files import LOCK, parsed, remember, take_over
from lightning_onecycle.sweep.lock import alone
from lightning_onecycle.sweep.processes import is_on_one_device
from lightning_onecycle.sweep.queue import in_the_queue
from lightning_onecycle.sweep.ranks import rank_of_many, take_rank

ROOT = Path(__file__).parents[1]
QUIET = ("trainer.enable_progress_bar=false", "callbacks.batch_norm=null", "callbacks.gap=null")
NOT_OF_SBATCH = ("_target_", "submitit_folder", "max_num_timeout")
EPOCH = 18  # steps, of the digits in batches of 64


def results_of(root):
    """Return the result of each job, by the part of its name behind the number."""
    paths = sorted(root.glob("*/result.json"))
    return {p.parent.name.partition("-")[2]: json.loads(p.read_text()) for p in paths}


def rows_of(root):
    with (root / "results.csv").open() as file:
        return {row["job"]: row for row in csv.DictReader(file)}


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"it never came about:\n{process.communicate()[0]}")
        time.sleep(0.02)


def processes_that_name(text):
    """Return the command lines of living processes that have the text in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(text) in line:
            found.append(line)
    return found


# ---- devices ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_over_devices_in_both_orders(tmp_path):
    code, output = run(
        *QUIET, "-m", "trainer=ddp_cpu", "trainer.devices=1,2,1", "trainer.max_epochs=2",
        f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    assert code == 0, output
    assert f"look: tensorboard --logdir {tmp_path}" in output
    directories = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    expected = [f"{n}-trainer.devices={count}" for n, count in enumerate((1, 2, 1))]
    assert [path.name for path in directories] == expected
    for directory in directories:
        count = int(directory.name[-1])
        result = json.loads((directory / "result.json").read_text())
        assert result["status"] == "completed"
        assert result["world_size"] == count
        assert result["effective_batch_size"] == 64 * count
        assert result["steps"] == result["total_steps"] == 2 * EPOCH // count
    # Only the first rank writes, and there is one sweep.
    for directory in directories:
        assert {path.name for path in directory.glob("*.log")} == {"train.log"}
    assert [path.parent for path in tmp_path.rglob("multirun.yaml")] == [tmp_path]
    assert rows_of(tmp_path).keys() == {path.name for path in directories}


@pytest.mark.slow
def test_a_killed_rank_costs_one_job_which_goes_on(tmp_path):
    # First one rank is killed, then the other, when the last epoch is over.
    kill, end = tmp_path / "kill", tmp_path / "end"
    root = tmp_path / "sweep"
    sweep = (
        *QUIET, "-m", "trainer=ddp_cpu", "seed=1,2", "trainer.max_epochs=3",
        f"+callbacks.kill={{_target_: saboteurs.Kill, seed: 1, step: 15, rank: 1, once: {kill}}}",
        f"+callbacks.end={{_target_: saboteurs.KillAtTheEnd, seed: 1, once: {end}}}",
        f"hydra.sweep.dir={root}",
    )  # fmt: skip
    code, output = run(*sweep)
    assert code == 1, output
    results = results_of(root)
    assert {name: r["status"] for name, r in results.items()} == {
        "seed=1": "failed",
        "seed=2": "completed",
    }
    # As the other rank sees it, in the words of old and new releases, or as Lightning ends it.
    reason = results["seed=1"]["reason"]
    assert any(words in reason for words in ("by peer", "remote worker", "by SIGKILL")), reason
    assert "1 failed" in (root / "results.md").read_text()
    assert not processes_that_name(tmp_path)

    code, output = run(*sweep)
    assert code == 1, output
    assert "continues from its checkpoint" in output
    assert end.exists()
    code, output = run(*sweep)
    assert code == 0, output
    assert results_of(root)["seed=2"] == results["seed=2"]
    result = results_of(root)["seed=1"]
    assert (result["status"], result["reason"], result["steps"]) == ("completed", None, 27)
    assert result["metrics"]["test/acc"] > 0.5


@pytest.mark.slow
def test_two_processes_with_half_the_batch_take_the_steps_of_one(tmp_path):
    # Without batch norm, whose statistics are each process's own.
    common = (*QUIET, "model.batch_norm=false", "trainer=ddp_cpu", "trainer.max_epochs=2")
    weights, losses = [], []
    for devices, size in ((1, 64), (2, 32)):
        directory = tmp_path / str(devices)
        options = (f"trainer.devices={devices}", f"data.batch_size={size}")
        code, output = run(*common, *options, f"hydra.run.dir={directory}")
        assert code == 0, output
        saved = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)
        weights.append({k: v for k, v in saved["state_dict"].items() if k.startswith("net.")})
        result = json.loads((directory / "result.json").read_text())
        assert result["effective_batch_size"] == 64
        assert result["steps"] == 2 * EPOCH
        losses.append([result["metrics"][name] for name in ("train/loss", "val/loss")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_the_peak_is_scaled_to_the_effective_batch_size(tmp_path):
    # Four times the 64 that 0.2 is for.
    for rule, devices, batches, peak in (("linear", 2, 2, 0.8), ("sqrt", 1, 4, 0.4)):
        code, output = run(
            *QUIET, "trainer=ddp_cpu", "trainer.max_epochs=1", f"trainer.devices={devices}",
            f"trainer.accumulate_grad_batches={batches}", f"lr_scaling.rule={rule}",
            f"hydra.run.dir={tmp_path / rule}",
        )  # fmt: skip
        assert code == 0, output
        assert json.loads((tmp_path / rule / "result.json").read_text())["max_lr"] == peak
        line = f"{rule} scaling: peak {peak} for an effective batch size of 256, from optimizer.lr"
        assert output.count(f"{line}=0.2 for 64") == 1


# ---- nothing is lost, nothing is run twice ------------------------------------------------------


@pytest.mark.slow
def test_twelve_jobs_some_of_which_fail_and_the_same_command_again(tmp_path):
    markers = tmp_path / "markers"
    markers.mkdir()
    kill = f"{{_target_: saboteurs.Kill, seed: 1, step: 30, once: {markers / 'kill'}}}"
    fail = f"{{_target_: saboteurs.Raise, seed: 2, step: 5, once: {markers / 'raise'}}}"
    root = tmp_path / "sweep"
    sweep = (
        *QUIET, "-m", "schedule=onecycle,step", "optimizer.lr=0.1,1e9", "seed=0,1,2",
        "trainer.max_epochs=3", f"+callbacks.kill={kill}", f"+callbacks.fail={fail}",
        f"hydra.sweep.dir={root}",
    )  # fmt: skip
    code, output = run(*sweep)
    assert code == 1, output
    first = results_of(root)
    assert len(first) == 12
    by_status = {name: r["status"] for name, r in first.items()}
    failed = {n: first[n]["reason"] for n, status in by_status.items() if status == "failed"}
    # The two that are meant, once each; 1e9 diverges before a step 30.
    assert set(failed.values()) == {"killed by SIGKILL", "RuntimeError: the cable was pulled"}
    assert sorted(by_status.values()).count("completed") == 4
    assert sorted(by_status.values()).count("diverged") == 6
    table = (root / "results.md").read_text()
    assert "12 jobs" in table
    assert "the cable was pulled" in table
    events = {path: path.stat().st_size for path in root.glob("*/events*")}

    code, output = run(*sweep)
    assert code == 0, output
    second = results_of(root)
    assert second.keys() == first.keys()
    for name, result in second.items():
        if name in failed:
            assert result["status"] == "completed"
            assert result["steps"] == result["total_steps"] == 3 * EPOCH
        else:
            assert result == first[name]
    assert output.count("not run again") == 10
    assert output.count("continues from its checkpoint") == 1  # the other had not come to one
    touched = {
        path for path, size in events.items() if path.exists() and size != path.stat().st_size
    }
    assert not {path.parent.name.partition("-")[2] for path in touched} - set(failed)
    rows = rows_of(root)
    assert len(rows) == 12
    assert {row["status"] for row in rows.values()} == {"completed", "diverged"}
    # What goes on ends where an uninterrupted run does.
    alone = tmp_path / "alone"
    (killed,) = (name for name, reason in failed.items() if "SIGKILL" in reason)
    options = killed.split(",")
    code, output = run(*QUIET, *options, "trainer.max_epochs=3", f"hydra.run.dir={alone}")
    assert code == 0, output
    (directory,) = root.glob(f"*-{killed}")
    ends = [
        torch.load(d / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for d in (directory, alone)
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


SLOW = (
    *QUIET,
    "-m",
    "seed=0,1,2",
    "trainer.max_epochs=4",
    "+callbacks.slow={_target_: saboteurs.Slow, seconds: 0.03}",
)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_leaves_a_table_and_goes_on(tmp_path, signum):
    sweep = (*SLOW, f"hydra.sweep.dir={tmp_path}")
    process = start(*sweep)
    second = tmp_path / "1-seed=1"
    wait_for((second / "checkpoints" / "last.ckpt").is_file, process)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, output
    assert "Traceback" not in output
    statuses = {job: row["status"] for job, row in rows_of(tmp_path).items()}
    assert statuses == {"0-seed=0": "completed", "1-seed=1": "interrupted"}
    assert "interrupted" in output.rpartition("2 jobs")[2]  # the table is printed
    taken = json.loads((second / "result.json").read_text())["steps"]
    assert 0 < taken < 4 * EPOCH
    code, output = run(*sweep, SLOW="0")
    assert code == 0, output
    assert "1-seed=1: continues from its checkpoint" in output
    assert {r["status"] for r in results_of(tmp_path).values()} == {"completed"}
    assert {r["steps"] for r in results_of(tmp_path).values()} == {4 * EPOCH}


@pytest.mark.slow
def test_a_sweep_that_is_killed_leaves_no_process_and_goes_on(tmp_path):
    sweep = (*SLOW, f"hydra.sweep.dir={tmp_path}")
    process = start(*sweep, anew=True)
    wait_for((tmp_path / "1-seed=1" / "checkpoints" / "last.ckpt").is_file, process)
    process.kill()
    process.communicate(timeout=60)
    end = time.monotonic() + 30
    while processes_that_name(tmp_path) and time.monotonic() < end:
        time.sleep(0.1)
    assert not processes_that_name(tmp_path)
    code, output = run(*sweep, SLOW="0")
    assert code == 0, output
    assert "0-seed=0: completed before, not run again" in output
    assert {r["steps"] for r in results_of(tmp_path).values()} == {4 * EPOCH}


@pytest.mark.slow
def test_more_seeds_later(tmp_path):
    short = (*QUIET, "-m", "schedule=onecycle,step", "trainer.max_epochs=1")
    code, output = run(*short, "seed=0", f"hydra.sweep.dir={tmp_path}")
    assert code == 0, output
    before = results_of(tmp_path)
    code, output = run(*short, "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    assert code == 0, output
    assert output.count("not run again") == 2
    assert sorted(path.name for path in tmp_path.glob("*-*")) == [
        "0-schedule=onecycle,seed=0",
        "1-schedule=onecycle,seed=1",
        "2-schedule=step,seed=0",
        "3-schedule=step,seed=1",
    ]
    after = results_of(tmp_path)
    # Jobs are named by what differs, and one seed did not.
    assert after["schedule=step,seed=0"]["fit_seconds"] == before["schedule=step"]["fit_seconds"]


@pytest.mark.slow
def test_a_directory_that_is_given_by_a_way_around(tmp_path):
    around = os.path.relpath(tmp_path, ROOT)
    assert ".." in around
    sweep = (*QUIET, "-m", "seed=1,1", "trainer.max_epochs=1", f"hydra.sweep.dir={around}")
    code, output = run(*sweep)
    assert code == 0, output
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("mine")
    before = {path: path.stat().st_mtime for path in tmp_path.glob("*/events*")}
    assert len(before) == 6  # training, validation and test, and hparams, of the two jobs
    code, output = run(*sweep)
    assert code == 0, output
    assert output.count("not run again") == 2
    assert {path: path.stat().st_mtime for path in tmp_path.glob("*/events*")} == before
    assert (tmp_path / "own" / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_single_run_in_the_same_place_is_left_alone(tmp_path):
    short = (*QUIET, "trainer.max_epochs=1")
    code, output = run(*short, "seed=1", f"hydra.run.dir={tmp_path / 'best'}")
    assert code == 0, output
    before = sorted(tmp_path.rglob("*"))
    code, output = run(*short, "-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}")
    assert code == 0, output
    assert "not run again" not in output
    assert set(before) <= set(tmp_path.rglob("*"))


@pytest.mark.slow
def test_sigterm_on_one_rank_ends_all_at_the_same_batch(tmp_path):
    term = "+callbacks.term={_target_: saboteurs.TermAtEpochEnd}"
    process = start(
        *QUIET, "trainer=ddp_cpu", "trainer.max_epochs=9", term, f"hydra.run.dir={tmp_path}"
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["steps"]) == ("interrupted", 9)  # the first epoch
    end = time.monotonic() + 60  # the other rank may end a little later
    while processes_that_name(tmp_path) and time.monotonic() < end:
        time.sleep(0.1)
    assert not processes_that_name(tmp_path)


@pytest.mark.slow
def test_other_options_in_the_same_directory_are_refused(tmp_path):
    short = (*QUIET, "-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    code, output = run(*short, "trainer.max_epochs=1")
    assert code == 0, output
    code, output = run(*short, "trainer.max_epochs=2")
    assert code == 1
    assert "hydra.sweep.dir must be a new directory" in output
    assert "0-seed=0 had trainer.max_epochs=1 and not trainer.max_epochs=2" in output
    assert {r["steps"] for r in results_of(tmp_path).values()} == {EPOCH}
    # The records are still those of what was run.
    for directory in tmp_path.glob("*-seed=*"):
        assert "trainer.max_epochs=1" in OmegaConf.load(directory / ".hydra" / "overrides.yaml")
        assert OmegaConf.load(directory / ".hydra" / "config.yaml").trainer.max_epochs == 1
    assert "trainer.max_epochs=2" not in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_a_job_that_went_on_with_other_options_is_not_taken_for_the_sweeps(tmp_path):
    sweep = (*QUIET, "-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}", "trainer.max_epochs=1")
    code, output = run(*sweep)
    assert code == 0, output
    code, output = run(f"resume={tmp_path / '0-seed=0'}", "trainer.max_epochs=2")
    assert code == 0, output
    code, output = run(*sweep)
    assert code == 1
    assert "0-seed=0 had trainer.max_epochs=2 and not trainer.max_epochs=1" in output
    assert results_of(tmp_path)["seed=0"]["steps"] == 2 * EPOCH


APP = """
import hydra
from hydra.core.hydra_config import HydraConfig
from pathlib import Path

from lightning_onecycle import sweep
from lightning_onecycle.report.record import write_result


@hydra.main(version_base="1.3", config_path=None, config_name="config")
@sweep.job()
def main(cfg):
    if cfg.lr < 0:
        raise ValueError(f"lr must be >= 0, got {cfg.lr}")
    directory = Path(HydraConfig.get().runtime.output_dir)
    write_result(directory / "result.json", {"status": "completed", "metrics": {"val/acc": cfg.lr}})


main()
"""


@pytest.fixture
def app(tmp_path):
    """Run a sweep of an app of one's own in ``s``; return the exit code and what was printed."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "config.yaml").write_text(
        "lr: 0.1\nseed: 0\ntrainer: {devices: 1}\n"
        "hydra: {callbacks: {sweep: {_target_: lightning_onecycle.sweep.Sweep}}}\n"
    )

    def run_app(*options):
        options = (f"--config-dir={tmp_path}", "-m", *options, "hydra.sweep.dir=s")
        return run(*options, program=tmp_path / "app.py", cwd=tmp_path)

    return run_app


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])  # in a fork, and as a command
def test_a_job_of_an_app_of_ones_own_leaves_why_it_failed(tmp_path, app, devices):
    code, output = app("lr=-0.1", f"trainer.devices={devices}")
    assert code == 1, output
    (path,) = (tmp_path / "s").glob("*/result.json")
    result = json.loads(path.read_text())
    assert (result["status"], result["reason"]) == (
        "failed",
        "ValueError: lr must be >= 0, got -0.1",
    )
    assert "look: tensorboard" not in output  # it has logged nothing
    assert set(result["overrides"]) == {"lr=-0.1", f"trainer.devices={devices}"}


@pytest.mark.slow
def test_an_app_that_keeps_no_options_never_gets_the_result_of_others(tmp_path, app):
    code, output = app("lr=0.1,0.2")
    assert code == 0, output
    code, output = app("lr=0.3,0.4")
    assert code == 1, output
    assert "must be a new directory" in output
    assert "0 had lr=0.1 and not lr=0.3" in output
    code, output = app("lr=0.1,0.2")
    assert code == 0, output
    assert output.count("not run again") == 2
    assert [row["val/acc"] for row in rows_of(tmp_path / "s").values()] == ["0.1", "0.2"]
    (tmp_path / "s" / "1" / ".job.json").unlink()  # of a version that did not write it
    code, output = app("lr=0.1,0.2")
    assert code == 1, output
    assert "1 has run, and nothing there says with what options" in output


@pytest.mark.slow
def test_results_of_another_configuration_are_told(tmp_path, app):
    code, output = app("seed=0,1")
    assert code == 0, output
    code, output = app("seed=0,1")
    assert "another configuration" not in output
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("lr: 0.1", "lr: 0.2"))
    code, output = app("seed=0,1,2")
    assert code == 0, output
    for job in (0, 1):
        assert f"{job} began with another configuration: lr 0.1, now 0.2" in output
    assert "2 began with" not in output
    assert [row["val/acc"] for row in rows_of(tmp_path / "s").values()] == ["0.1", "0.1", "0.2"]


@pytest.mark.slow
def test_two_sweeps_in_one_directory(tmp_path):
    options = (
        *QUIET, "-m", "seed=0,1", "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path / 'sweep'}",
        f"+callbacks.wait={{_target_: saboteurs.WaitFor, path: {tmp_path / 'go'}}}",
    )  # fmt: skip
    first = start(*options)
    wait_for((tmp_path / "sweep" / "0-seed=0" / "result.json").is_file, first)
    code, output = run(*options)
    assert code == 1
    assert "another sweep is at work in it" in output
    assert "Traceback" not in output
    (tmp_path / "go").touch()
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0, output


@pytest.mark.parametrize("key", ["run", "sweep"])
def test_a_directory_that_cannot_be_written_to(tmp_path, key):
    (tmp_path / "file").touch()
    options = ("-m", "seed=0,1") if key == "sweep" else ()
    code, output = run(*options, f"hydra.{key}.dir={tmp_path / 'file' / 'below'}")
    assert code == 1
    assert f"hydra.{key}.dir must be a directory that can be written to, got" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_usage_error_in_one_job(tmp_path):
    short = (*QUIET, "-m", "trainer.max_epochs=1")
    code, _ = run(*short, "data.batch_size=64,5000", f"hydra.sweep.dir={tmp_path}")
    assert code == 1
    results = results_of(tmp_path)
    assert results["data.batch_size=64"]["status"] == "completed"
    assert results["data.batch_size=5000"]["status"] == "failed"
    assert "data.batch_size must be <= 1197" in results["data.batch_size=5000"]["reason"]
    assert "data.batch_size must be <= 1197" in (tmp_path / "results.md").read_text()


# ---- launchers ---------------------------------------------------------------------------------


def run_elsewhere(folder, *sweep):
    """Run a sweep in ``folder / "sweep"`` from where the program finds itself alone."""
    options = (*QUIET, "-m", *sweep, "trainer.max_epochs=2", "hydra.sweep.dir=sweep")
    return run(*options, cwd=folder, anew=True, PYTHONPATH=str(ROOT / "tests"))


@pytest.mark.slow
def test_joblib_from_any_directory(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    kill = "+callbacks.kill={_target_: saboteurs.Kill, seed: 1, step: 5}"
    code, output = run_elsewhere(
        tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1,2,3", kill
    )
    assert code == 1, output
    statuses = {name: r["status"] for name, r in results_of(tmp_path / "sweep").items()}
    assert statuses == {f"seed={n}": "failed" if n == 1 else "completed" for n in range(4)}
    rows = rows_of(tmp_path / "sweep")
    assert len(rows) == 4
    (wrong,) = (row for row in rows.values() if row["status"] == "failed")
    assert wrong["reason"] == "killed by SIGKILL"


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "seeds"), [(1, "0"), (2, "0,1")])
def test_submitit_on_this_machine_from_any_directory(tmp_path, tasks, seeds):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    code, output = run_elsewhere(
        tmp_path, "hydra/launcher=submitit_local", f"hydra.launcher.tasks_per_node={tasks}",
        "trainer=ddp_cpu", "trainer.devices=2", f"seed={seeds}",
    )  # fmt: skip
    assert code == 0, output
    results = results_of(tmp_path / "sweep")
    assert sorted(r["seed"] for r in results.values()) == [int(n) for n in seeds.split(",")]
    assert {r["status"] for r in results.values()} == {"completed"}
    assert {(r["world_size"], r["steps"]) for r in results.values()} == {(2, EPOCH)}
    assert len(rows_of(tmp_path / "sweep")) == len(results)


@pytest.mark.slow
def test_a_preempted_job_goes_back_in_line_and_on_from_its_checkpoint(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    slow = "+callbacks.slow={_target_: saboteurs.Slow}"
    process = start(
        *QUIET, "-m", "hydra/launcher=submitit_local", "trainer.max_epochs=4", "seed=0", slow,
        f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=job",
    )  # fmt: skip
    wait_for((tmp_path / "job" / "checkpoints" / "last.ckpt").is_file, process)
    task = f"_submit {tmp_path / '.submitit'}"
    pids = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if task in path.read_bytes().replace(b"\0", b" ").decode()
    ]
    os.kill(max(pids), signal.SIGUSR2)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    (result,) = results_of(tmp_path).values()
    assert (result["status"], result["steps"]) == ("completed", 4 * EPOCH)
    assert "continues from its checkpoint" in (tmp_path / "job" / "train.log").read_text()


def test_slurm_gets_a_task_for_each_device(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

    options = ["hydra/launcher=slurm", "trainer=slurm", "trainer.devices=4", "trainer.num_nodes=2"]
    options += ["hydra.launcher.partition=gpus", f"hydra.sweep.dir={tmp_path}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=options, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        launcher = OmegaConf.to_container(cfg.hydra.launcher, resolve=False)
        launcher = {key: cfg.hydra.launcher[key] for key in launcher if key not in NOT_OF_SBATCH}
        launcher["setup"] = list(launcher["setup"])
    names = SlurmExecutor._equivalence_dict()
    launcher = {names.get(key, key): value for key, value in launcher.items()}
    script = _make_sbatch_string(command="python", folder=tmp_path, **launcher)
    for line in ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "partition=gpus"):
        assert f"#SBATCH --{line}" in script
    assert "#SBATCH --signal=USR2@120" in script
    assert "\nexport SLURM_KILL_BAD_EXIT=1\n" in script


def test_lightning_takes_its_ranks_from_slurm(monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    environment = {
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "8",
        "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    trainer = {"devices": 4, "num_nodes": 2, "strategy": "ddp"}
    assert rank_of_many(OmegaConf.create({"trainer": trainer})) == 5
    take_rank()
    assert "LOCAL_RANK" not in os.environ  # it would make Lightning look elsewhere
    assert SLURMEnvironment.detect()
    assert (SLURMEnvironment().world_size(), SLURMEnvironment().global_rank()) == (8, 5)
    with pytest.raises(ValueError, match="got 8 tasks for 1 x 4"):
        rank_of_many(OmegaConf.create({"trainer": trainer | {"num_nodes": 1}}))


@pytest.mark.slow
def test_tasks_that_are_not_the_devices_are_refused(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    code, output = run(
        *QUIET, "-m", "hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2",
        "trainer.devices=1", "seed=0", f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    assert code == 1
    assert ": hydra.launcher.tasks_per_node must be trainer.devices, and" in output
    assert "Traceback" not in output
    (result,) = (json.loads(path.read_text()) for path in tmp_path.glob("0-*/result.json"))
    assert (result["status"], "seed=0" in result["overrides"]) == ("failed", True)
    assert "got 2 tasks for 1 x 1" in result["reason"]


@pytest.mark.slow
def test_optuna(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    import optuna

    storage = f"sqlite:///{tmp_path}/study.db"
    search = (
        *QUIET, "experiment=tune_onecycle", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1",
        "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path}", f"hydra.sweeper.storage={storage}",
    )  # fmt: skip
    code, output = run(*search)
    assert code == 0, output
    assert len(results_of(tmp_path)) == 3
    best = OmegaConf.load(tmp_path / "optimization_results.yaml")
    values = [r["metrics"]["val/acc"] for r in results_of(tmp_path).values()]
    assert math.isclose(best.best_value, max(values))
    # Its sampler is seeded: the same search again has nothing to do.
    code, output = run(*search)
    assert code == 0, output
    assert output.count("not run again") == 3
    study = optuna.load_study(study_name="tune_onecycle", storage=storage)  # of both searches
    assert [trial.value for trial in study.trials] == pytest.approx(values * 2)


@pytest.mark.slow
def test_a_search_goes_on_behind_trials_that_diverge_or_fail(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    fail = "{_target_: saboteurs.Raise, seed: 0, step: 3, once: " + str(tmp_path / "once") + "}"
    _, output = run(
        *QUIET, "experiment=tune_onecycle", "hydra.sweeper.n_trials=3", "trainer.max_epochs=1",
        "optimizer.lr=tag(log, interval(1e8, 1e9))", f"+callbacks.fail={fail}",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )  # fmt: skip
    statuses = sorted(r["status"] for r in results_of(tmp_path / "sweep").values())
    assert len(statuses) == 3, output
    assert set(statuses) <= {"diverged", "failed"}
    assert "3 jobs" in output


# ---- small pieces ------------------------------------------------------------------------------


def test_names_of_directories():
    assert file_name("schedule=step,optimizer.lr=0.1") == "schedule=step,optimizer.lr=0.1"
    assert file_name("data.root=/data,note='a b'") == "data.root=_data,note=_a b_"
    long, other = (file_name("+note=" + letter * 300) for letter in "xy")
    assert len(long.encode()) < 255
    assert long != other
    assert len(file_name("é" * 300).encode()) < 255


def test_the_first_rank_holds_the_lock_and_one_that_is_started_again_waits_for_it(
    tmp_path, monkeypatch
):
    path = tmp_path / "lock"
    held = FileLock(path, thread_local=False)
    held.acquire()
    monkeypatch.setenv("SLURM_PROCID", "1")
    with alone(path):
        pass
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(Timeout), alone(path):
        pass
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    threading.Timer(0.5, held.release).start()
    with alone(path):
        assert not held.is_locked


def test_a_job_of_several_ranks_is_locked_as_one_of_one_process_is(tmp_path, monkeypatch):
    job = Job(tmp_path / "0-seed=0", tmp_path, ("seed=0",))
    job.directory.mkdir()
    module = sys.modules[Job.__module__]
    monkeypatch.setattr(module, "rank_of_many", lambda cfg: 0)
    monkeypatch.setattr(module, "take_rank", lambda: None)
    with (
        FileLock(job.directory / ".job.lock"),
        pytest.raises(JobFailed, match="0-seed=0: another process is at work on it"),
    ):
        job.run(pytest.fail, OmegaConf.create())


@pytest.mark.parametrize(
    ("squeue", "expected"),
    [
        ("echo 7_0; echo 8", {"7_0", "8"}),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", set()),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", {"7_0", "7_1", "8"}),
    ],
)
def test_which_jobs_are_in_the_queue(tmp_path, monkeypatch, squeue, expected):
    (tmp_path / "squeue").write_text(f"#!/bin/sh\n{squeue}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert in_the_queue(["7_0", "7_1", "8"]) == expected


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"devices": 1, "strategy": "auto", "num_nodes": 1}, True),
        ({"devices": "1", "strategy": "auto"}, True),
        ({"devices": [3], "strategy": "auto"}, True),
        ({"devices": 2, "strategy": "auto"}, False),
        ({"devices": [0, 1], "strategy": "auto"}, False),
        ({"devices": "auto", "strategy": "auto"}, False),
        ({"devices": 1, "strategy": "ddp"}, False),
        ({"devices": 1, "strategy": "auto", "num_nodes": 2}, False),
    ],
)
def test_which_jobs_are_on_one_device(trainer, expected):
    assert is_on_one_device(OmegaConf.create({"trainer": trainer})) is expected


@pytest.mark.parametrize("linked", [False, True])
def test_a_link_to_a_job_is_left_alone(tmp_path, linked):
    root, elsewhere = tmp_path / "sweep", tmp_path / "elsewhere"
    earlier_job = root / "1-seed=1"
    there = elsewhere if linked else earlier_job
    root.mkdir()
    (there / ".hydra").mkdir(parents=True)
    if linked:
        earlier_job.symlink_to(elsewhere)
    hydra = {"mode": "MULTIRUN", "runtime": {"output_dir": str(earlier_job)}}
    OmegaConf.save({"hydra": hydra}, there / ".hydra" / "hydra.yaml")
    remember(earlier_job, ["seed=1"], OmegaConf.create())
    (there / "result.json").write_text("{}")
    os.utime(there, (0, 0))
    (root / LOCK).touch()
    now = root / "0-seed=1"
    now.mkdir()
    take_over(now, root, ["seed=1"])
    assert (now / "result.json").exists() is not linked
    assert earlier_job.exists() is linked


def test_how_many_jobs_come_is_said_first(tmp_path, capsys):
    options = ["seed=range(3)", "schedule=glob(step*)", "optimizer.lr=0.1,0.2", "budget=steps"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", return_hydra_config=True)
        cfg.hydra.sweeper.params = {"seed": "range(2)"}
        cfg.hydra.overrides.task = options
        _say_what_comes(cfg, Path("s"))
    assert capsys.readouterr().out == "6 jobs in s; Hydra composes them first\n"


def test_the_table_is_printed_though_the_disk_is_full(tmp_path, capsys, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_onecycle.sweep.callback.write_results", refuse)
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    _print_table(tmp_path)
    assert capsys.readouterr().out == f"no job of {tmp_path} has begun\n"
    (tmp_path / "0-seed=0").mkdir()
    (tmp_path / "0-seed=0" / "result.json").write_text('{"status": "completed"}')
    _print_table(tmp_path)
    output = capsys.readouterr().out
    assert "1 job: 1 completed." in output
    assert "results are not written: [Errno 28] No space left on device" in output


def test_the_outcome_of_a_job(tmp_path):
    job = Job(tmp_path / "0-a", tmp_path, ())
    assert parsed(["a.b=False", "c=0.10"]) == parsed(["c=0.1", "a.b=false"])

    def left(**result):
        job.directory.mkdir(exist_ok=True)
        (job.directory / "result.json").write_text(json.dumps(result))
        return job.outcome()

    with pytest.raises(JobFailed, match="0-a: it has left no"):
        job.outcome()
    assert left(status="completed", reason=None, metrics={"val/acc": 0.5}) == 0.5
    assert left(status="completed", reason=None, metrics={}) is None
    assert left(status="completed", reason="cut short by max_time", metrics={"val/acc": 0.5}) == 0.5
    assert left(status="diverged", reason="loss is nan", metrics={}) is None
    with pytest.raises(JobFailed, match="0-a: killed by SIGKILL"):
        left(status="failed", reason="killed by SIGKILL")
    with pytest.raises(JobFailed, match="0-a: still testing, or killed"):
        left(status="completed", reason="still testing, or killed", metrics={"val/acc": 0.5})
