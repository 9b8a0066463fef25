"""train.py as a user runs it: processes, kills."""

import csv
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import python
from experiments.checkpoint_io import AtomicCheckpointIO
from forks import run, start
from lightning_onecycle import LRCurve, Search, __version__, one_cycle
from lightning_onecycle.report.record import RUNNING, TESTING
from lightning_onecycle.sweep.job_files import start_anew

ROOT = Path(__file__).parents[1]
QUIET = ("trainer=cpu", "trainer.enable_progress_bar=false")
# Two seconds or more, to be interrupted, with a checkpoint every tenth of a second.
LONG = (
    *QUIET, "trainer.max_epochs=30", "callbacks.gap=null",
    "callbacks.last_seconds.train_time_interval.seconds=0.1",
    "+callbacks.slow={_target_: saboteurs.Slow, seconds: 0.004}",
)  # fmt: skip


def result_of(directory):
    return json.loads((directory / "result.json").read_text())


def weights_of(directory):
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def wait_for_steps(process, directory, steps):
    """Wait until the checkpoint of a running process has taken so many optimizer steps."""
    path = directory / "checkpoints" / "last.ckpt"
    while process.poll() is None:
        if path.is_file() and torch.load(path, weights_only=True)["global_step"] >= steps:
            return
        time.sleep(0.02)
    pytest.fail(f"the run ended early:\n{process.stdout.read()}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The main job, as it comes, on a machine that has SLURM's programs."""
    directory, programs = (tmp_path_factory.mktemp(name) for name in ("finished", "programs"))
    (programs / "srun").write_text("#!/bin/sh\n")
    (programs / "srun").chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    code, output = run(*QUIET, f"hydra.run.dir={directory}", anew=True, PATH=path)
    assert code == 0, output
    return directory, output


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    code, output = run(*LONG, f"hydra.run.dir={directory}")
    assert code == 0, output
    return directory


def assert_same_end(directory, uninterrupted):
    assert result_of(directory)["status"] == "completed"
    assert result_of(directory)["metrics"] == result_of(uninterrupted)["metrics"]
    ours, theirs = weights_of(directory), weights_of(uninterrupted)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_main_job_learns(finished):
    directory, _ = finished
    result = result_of(directory)
    assert result["metrics"]["test/acc"] > 0.97
    assert result["status"] == "completed"
    # 1197 training images, 64 a batch, the last batch of each of 20 epochs left out.
    assert result["steps"] == result["total_steps"] == 18 * 20
    assert (
        result
        | {
            "schedule": "onecycle",
            "seed": 0,
            "max_lr": 0.2,
            "batch_size": 64,
            "world_size": 1,
            "effective_batch_size": 64,
        }
        == result
    )
    assert result["steps_per_second"] == pytest.approx(360 / result["fit_seconds"], rel=1e-2)


def test_main_job_says_what_it_does(finished):
    directory, output = finished
    lines = output.strip().splitlines()
    assert lines[0] == (
        "onecycle over 360 steps: lr 0.02, peak 0.2, end 0.0002, momentum 0.95 to 0.85"
    )
    assert "effective batch size 64" in lines[1]
    assert lines[2].startswith("completed: 360 steps in")
    assert str(directory) in lines[3]
    assert lines[4].startswith("look: tensorboard --logdir")
    assert len(lines) == 5


def test_main_job_leaves_everything(finished):
    directory, _ = finished
    assert OmegaConf.load(directory / ".hydra" / "config.yaml").optimizer.lr == 0.2
    assert (directory / "schedule.png").read_bytes()[:4] == b"\x89PNG"
    assert (directory / "train.log").read_text().startswith("onecycle over 360 steps")
    assert weights_of(directory)


def test_main_job_is_in_tensorboard(finished):
    directory, _ = finished
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()
    assert {
        "lr",
        "momentum",
        "weight_decay",
        "train/loss",
        "val/loss",
        "val/acc",
        "gap/loss",
        "gap/acc",
        "test/acc",
        "hp/val/acc",
    } <= set(tags["scalars"])
    assert "schedule" in tags["images"]
    lrs = events.Scalars("lr")
    steps = [event.step for event in lrs]
    assert sorted(set(steps)) == steps
    assert {0, 359} <= set(steps)
    points = one_cycle().trace(360)
    assert [event.value for event in lrs] == pytest.approx([0.2 * points[n].lr for n in steps])
    assert max(event.value for event in lrs) == pytest.approx(0.2)
    values = [value for file in directory.glob("events*") for value in values_in(file)]
    plugins = {value.metadata.plugin_data.plugin_name: value for value in values}
    assert "hparams" in plugins
    (layout,) = plugins["custom_scalars"].tensor.string_val
    assert b"learning rate and momentum" in layout
    assert b"generalization gap" in layout
    hparams = b"".join(v.metadata.plugin_data.content for v in values if "hparams" in v.tag)
    assert b"peak_lr" in hparams
    assert OmegaConf.load(directory / "hparams.yaml").peak_lr == 0.2
    assert b"sharpness" not in layout  # it is not measured, and its charts would be empty


def test_what_nobody_measures_has_no_chart(tmp_path):
    code, output = run(
        *QUIET, "trainer.max_epochs=1", "callbacks.gap=null", f"hydra.run.dir={tmp_path}"
    )
    assert code == 0, output
    values = [value for file in tmp_path.glob("events*") for value in values_in(file)]
    (layout,) = (v.tensor.string_val[0] for v in values if "custom_scalars" in v.tag)
    assert b"learning rate and momentum" in layout
    assert b"gap" not in layout


def values_in(file):
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for event in LegacyEventFileLoader(str(file)).Load():
        yield from event.summary.value


def test_help_lists_groups_and_keys():
    code, output = run("--help")
    assert code == 0
    assert output.startswith("Train a network with a schedule")
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} - {"hydra"}
    lines = output.splitlines()
    assert groups <= {line.partition(":")[0] for line in lines}
    for key in ("num_training", "label_smoothing", "max_time", "pct_final"):
        assert any(line.strip().startswith(f"{key}: ") for line in lines)


def test_version_is_that_of_the_package():
    code, output = run("--version")
    assert code == 0
    assert output.startswith(f"lightning-onecycle {__version__} (torch {torch.__version__}, ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["schedule.pct_start=1.5"], "schedule.pct_start must be in (0, 1), got 1.5"),
        (["schedule.div_factor=0"], "schedule.div_factor must be >= 1, got 0"),
        (["data.batch_size=0"], "data.batch_size must be a whole number >= 1, got 0"),
        (["optimizer.momentum=0"], "optimizer: Nesterov momentum requires a momentum"),
        (["data.batch_size=5000"], "data.batch_size must be <= 1197"),
        (["lr_find=only", "lr_find.method=best"], "lr_find.method must be one of 'max_lr'"),
        (["lr_find.mode=on"], "lr_find.mode must be one of 'off', 'only', 'then_fit',"),
        (["lr_find=only", "lr_find.min_lr=-1"], "lr_find.min_lr must be > 0, got -1"),
        (["lr_find=only", "lr_find.curve=x"], "lr_find.curve must be null with a range test"),
        (
            ["lr_find=search", "lr_find.method=slide"],
            "lr_find.method must be left out with lr_find",
        ),
        (["lr_find=only", "lr_find.allow_differences=true"], "allow_differences must be left out"),
        (
            ["lr_find.curve=x", "lr_find.val_batches=3"],
            "must be left out with lr_find.curve, which",
        ),
        (
            ["lr_find=recipe", "lr_find.weight_decays=null", "lr_find.momenta=null"],
            "lr_find.weight_decays and lr_find.momenta must not both be null with lr_find=recipe",
        ),
        (["optimizer.lr=-1"], "optimizer.lr must be > 0, got -1"),
        (["trainer.max_epochs=zwei"], "trainer.max_epochs must be a whole number >= 1, got 'zwei'"),
        (["data=fashion_mnist", "data.root=/no/such"], "data.root must be a folder with"),
        (["model.num_classes=3"], "model.num_classes must be data.num_classes, which is 10, got 3"),
        (["model.shape=[3,8,8]"], "must be data.shape, which is [1, 8, 8], got [3, 8, 8]"),
        (["callbacks=null"], "callbacks must be an option of its group, got null"),
        (["~logger"], "logger must be an option of its group, got none"),
        (["logger=null"], "logger must be an option of its group, got null"),
        (["trainer.max_steps=null"], "trainer.max_steps must be a whole number >= 1, got None"),
        (["model.hidden=3"], "model.hidden must be a list of whole numbers, got 3"),
        (["optimizer=adamw", "optimizer.betas=3"], "optimizer.betas must be two numbers in [0, 1)"),
        (["trainer.max_time=2"], "trainer.max_time must be DD:HH:MM:SS or, as {minutes: 5}, keys"),
        (["trainer.max_time=00:00:00:00"], "of a timedelta, and > 0, got '00:00:00:00'"),
        (["resume=/no/such"], "there is no /no/such/checkpoints/last.ckpt"),
        (["schedule.pct_strat=0.4"], "Key 'pct_strat' is not in struct"),
        (["schedule=nonesuch"], "In 'config': Could not find 'schedule/nonesuch'"),
    ],
)
def test_bad_input_is_refused_before_training(tmp_path, options, message):
    code, output = run(*QUIET, f"hydra.run.dir={tmp_path / 'run'}", *options)
    assert code != 0
    assert message in output
    assert "Traceback" not in output
    assert "over 360 steps" not in output
    record = tmp_path / "run" / "result.json"
    without = ("resume", "schedule.pct_strat", "schedule", "callbacks", "logger")
    if options[0].partition("=")[0] in without:
        assert not record.exists()  # there is no configuration, and no run
    else:
        assert result_of(record.parent)["status"] == "failed"
        assert message in result_of(record.parent)["reason"]


def test_a_diverging_run_says_so(tmp_path):
    code, output = run(*QUIET, f"hydra.run.dir={tmp_path}", "optimizer.lr=1e9")
    assert code == 1
    assert "\ndiverged: " in output
    assert "the loss is nan after" in output
    result = result_of(tmp_path)
    assert result["status"] == "diverged"
    assert "try a lower optimizer.lr" in result["reason"]
    assert result["steps"] < 360


def test_a_full_disk_is_told_in_one_line(tmp_path):
    fills = "+callbacks.full={_target_: saboteurs.FillDisk, seed: 0}"
    code, output = run(*QUIET, fills, f"hydra.run.dir={tmp_path}")
    assert code == 1
    told = f"train.py: the disk of {tmp_path} is full, so the run ends: [Errno 28]"
    assert output.splitlines()[-1].startswith(told)
    assert "Traceback" not in output
    assert result_of(tmp_path)["status"] == "failed"


def test_what_a_trainer_refuses_is_kept_as_the_reason(tmp_path):
    code, output = run(*QUIET, "budget=time", f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert "needs Trainer(max_time=...)" in output
    assert "Traceback" not in output
    assert result_of(tmp_path)["status"] == "failed"
    assert "needs Trainer(max_time=...)" in result_of(tmp_path)["reason"]


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same(tmp_path, uninterrupted):
    moments = sorted(random.Random(0).sample(range(20, 440), 3))
    options = [*LONG, f"hydra.run.dir={tmp_path}"]
    for steps in moments:
        process = start(*options)
        wait_for_steps(process, tmp_path, steps)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert result_of(tmp_path)["status"] == "interrupted"
        options = [f"resume={tmp_path}"]
    code, output = run(*options)
    assert code == 0, output
    assert f"{result_of(uninterrupted)['total_steps']:,} steps" in output
    assert_same_end(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_and_goes_on(tmp_path, uninterrupted, signum):
    process = start(*LONG, f"hydra.run.dir={tmp_path}")
    wait_for_steps(process, tmp_path, 100)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert "Traceback" not in output
    assert f"continue: python train.py resume={tmp_path}" in output
    result = result_of(tmp_path)
    assert result["status"] == "interrupted"
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == result["steps"]  # nothing is lost, not one step
    code, output = run(f"resume={tmp_path}")
    assert code == 0, output
    assert_same_end(tmp_path, uninterrupted)


@pytest.mark.slow
def test_resumed_with_more_epochs_and_another_peak_it_finishes_its_cycle(tmp_path, finished):
    directory = tmp_path / "run"
    shutil.copytree(finished[0], directory)
    code, output = run(f"resume={directory}", "trainer.max_epochs=25", "optimizer.lr=0.1")
    assert code == 0, output
    assert "total_steps 360 -> 450" in output
    assert "peak [0.2] -> [0.1]" in output
    result = result_of(directory)
    assert result["steps"] == result["total_steps"] == 450
    assert result["max_lr"] == 0.1
    assert result["fit_seconds"] > 0


def test_a_port_that_is_taken_is_refused_before_ranks_are_started(tmp_path):
    with socket.create_server(("", 0)) as server:
        port = str(server.getsockname()[1])
        options = ("trainer=ddp_cpu", f"hydra.run.dir={tmp_path}")
        code, output = run(*QUIET[1:], *options, MASTER_PORT=port)
    assert code == 1
    message = f"train.py: MASTER_PORT must be a free port, got {port}: "
    assert output.splitlines()[-1].startswith(message)
    assert "Traceback" not in output


RANKS = """
    import os, subprocess, sys, time
    from experiments.launch import end_with_the_first_rank

    end_with_the_first_rank()
    if "LOCAL_RANK" in os.environ:
        open("waits", "x").close()
        time.sleep(600)
    rank = subprocess.Popen([sys.executable, __file__], env=os.environ | {"LOCAL_RANK": "1"})
    while "late" not in sys.argv and not os.path.exists("waits"):
        time.sleep(0.02)
    print("SAYS", rank.pid)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
@pytest.mark.parametrize("when", ["late", "early"])
def test_a_rank_ends_with_the_first_one(tmp_path, when):
    pid = int(python(tmp_path, RANKS, when)[0].split()[1])
    end = time.monotonic() + 60
    while is_alive(pid):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert (tmp_path / "waits").exists() == (when == "early")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_multirun_goes_on_behind_a_diverging_job(tmp_path):
    code, output = run(
        *QUIET,
        "-m",
        "optimizer.lr=0.2,1e9,0.1",
        "trainer.max_epochs=2",
        f"hydra.sweep.dir={tmp_path}",
    )
    assert code == 0, output
    results = {
        result_of(file.parent)["max_lr"]: result_of(file.parent)["status"]
        for file in tmp_path.glob("*/result.json")
    }
    assert results == {0.2: "completed", 1e9: "diverged", 0.1: "completed"}


def test_a_range_test_alone(tmp_path):
    code, output = run(*QUIET, "lr_find=only", f"hydra.run.dir={tmp_path}")
    assert code == 0, output
    curve = LRCurve.load(tmp_path / "lr_find.json")
    peak = curve.suggestion()
    assert 0.02 < peak < 2.0
    assert f"optimizer.lr={peak:.3g}" in output
    assert (tmp_path / "lr_find.png").read_bytes()[:4] == b"\x89PNG"
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    assert [event.value for event in events.Scalars("lr_find/loss")] == pytest.approx(curve.losses)
    assert "lr_find" in events.Tags()["images"]
    assert not (tmp_path / "checkpoints").exists()


def test_a_signal_in_a_range_test_ends_it_as_interrupted(tmp_path):
    long = ("lr_find=only", "lr_find.num_training=20000", "lr_find.early_stop_threshold=null")
    process = start("trainer=cpu", *long, f"hydra.run.dir={tmp_path}")
    shown = ""
    while "LR range test" not in shown:  # its progress bar
        time.sleep(0.02)
        shown += process.stdout.read()
        assert process.poll() is None, shown
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    result = result_of(tmp_path)
    assert (result["status"], result["reason"]) == ("interrupted", "SIGTERMException")


@pytest.mark.slow
def test_the_same_command_starts_a_run_and_goes_on_with_it_until_it_is_over(
    tmp_path, uninterrupted
):
    directory = tmp_path / "run"
    command = (*LONG, f"hydra.run.dir={directory}", "resume=auto")
    process = start(*command)
    wait_for_steps(process, directory, 100)
    # While it runs, no other run may write there.
    record = files_in(directory / ".hydra")
    code, output = run(*command, "seed=1")
    assert code == 1
    assert f"hydra.run.dir must be free, got {directory}: another process" in output
    assert files_in(directory / ".hydra") == record
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert result_of(directory)["reason"] == "still running, or killed"
    code, output = run(*command)
    assert code == 0, output
    assert "of them taken" in output
    assert_same_end(directory, uninterrupted)
    before = files_in(directory)
    code, output = run(*command)
    assert code == 0, output
    assert "completed before, not run again" in output
    code, output = run(*command, "optimizer.lr=0.1")
    assert code == 1
    assert "whose run did not have optimizer.lr=0.1" in output
    assert "Traceback" not in output
    after = files_in(directory)
    assert {path for path in after if after[path] != before.get(path)} == {directory / "train.log"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["resume=auto"], "resume=auto needs a directory that is the same each time"),
        (["resume=auto", "-m", "seed=0,1"], "resume must be given to a single run, got 'auto'"),
    ],
)
def test_what_cannot_go_on_by_itself_is_refused(options, message):
    code, output = run(*options)
    assert code == 1
    assert message in output


@pytest.mark.slow
def test_a_range_test_and_then_the_training_at_its_peak(tmp_path):
    short = (*QUIET, "trainer.max_epochs=3")
    code, output = run(*short, "lr_find=then_fit", f"hydra.run.dir={tmp_path / 'both'}")
    assert code == 0, output
    peak = LRCurve.load(tmp_path / "both" / "lr_find.json").suggestion()
    assert result_of(tmp_path / "both")["max_lr"] == peak
    # The test has left nothing behind: given its peak, the training alone ends the same.
    code, output = run(*short, f"optimizer.lr={peak!r}", f"hydra.run.dir={tmp_path / 'alone'}")
    assert code == 0, output
    assert_same_end(tmp_path / "both", tmp_path / "alone")
    # And so it does with the peak of the saved curve.
    saved = f"lr_find.curve={tmp_path / 'both' / 'lr_find.json'}"
    code, output = run(*short, saved, f"hydra.run.dir={tmp_path / 'saved'}")
    assert code == 0, output
    assert_same_end(tmp_path / "saved", tmp_path / "alone")
    # Under other conditions it is refused, unless that is asked for.
    other = (*short, saved, "data.batch_size=32", "task.label_smoothing=0.5")
    other = (*other, "data.augment={_target_: experiments.data.Augment, flip: true}")
    other = (*other, f"hydra.run.dir={tmp_path / 'other'}")
    code, output = run(*other)
    assert code == 1
    assert "batch_size: 64, now 32" in output
    assert "hparams.label_smoothing: 0.0, now 0.5" in output
    assert "augment: None, now Augment(" in output
    assert "Traceback" not in output
    code, output = run(*other, "lr_find.allow_differences=true")
    assert code == 0, output
    assert result_of(tmp_path / "other")["max_lr"] == peak


@pytest.mark.slow
def test_a_search_and_then_the_training_at_its_peak(tmp_path):
    short = (*QUIET, "trainer.max_epochs=5")
    searched = f"hydra.run.dir={tmp_path / 'both'}"
    code, output = run(*short, "lr_find=search", "lr_find.cost=0.8", searched)
    assert code == 0, output
    search = Search.load(tmp_path / "both" / "search.json")
    result = result_of(tmp_path / "both")
    assert result["max_lr"] == search.suggestion()
    assert result["search_steps"] == search.steps <= 0.8 * result["total_steps"]
    assert "steps, 0.8 times the training's" in output
    assert str(search) in output
    assert (tmp_path / "both" / "lr_find.png").read_bytes()[:4] == b"\x89PNG"
    events = EventAccumulator(str(tmp_path / "both"), size_guidance={"scalars": 0}).Reload()
    complete = sorted((p.lr, p.loss) for p in search.probes if p.is_complete)
    for index, tag in enumerate(("lr_find/short_training_lr", "lr_find/short_training")):
        logged = [event.value for event in events.Scalars(tag)]
        assert logged == pytest.approx([point[index] for point in complete])
    assert "lr_find" in events.Tags()["images"]
    # The search has left nothing behind, and its file stands for the peak.
    saved = f"lr_find.curve={tmp_path / 'both' / 'search.json'}"
    code, output = run(*short, saved, f"hydra.run.dir={tmp_path / 'saved'}")
    assert code == 0, output
    assert_same_end(tmp_path / "both", tmp_path / "saved")
    code, output = run(*short, "lr_find=search", "lr_find.cost=-1", f"{searched}2")
    assert code == 1
    assert "lr_find.cost must be > 0, got -1" in output


@pytest.mark.slow
def test_a_sweep_of_range_tests_is_drawn_in_one_picture(tmp_path):
    code, output = run(
        *QUIET,
        "lr_find=only",
        "-m",
        "optimizer.weight_decay=0,1e-2",
        f"hydra.sweep.dir={tmp_path}",
    )
    assert code == 0, output
    assert len(list(tmp_path.glob("*/lr_find.json"))) == 2
    assert (tmp_path / "lr_find.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_resume_whatever_the_directory_is_called(tmp_path):
    directory = tmp_path / "it's 0-seed=1, lr=2"
    short = (*QUIET, "trainer.max_epochs=2")
    escaped = str(directory).replace("'", "\\'")
    code, output = run(*short, f"hydra.run.dir='{escaped}'")
    assert code == 0, output
    code, output = run(f"resume={directory}", "trainer.max_epochs=3")
    assert code == 0, output
    assert result_of(directory)["steps"] == 18 * 3
    # Again, and without a word of the epochs: it is what the run is now.
    code, output = run(f"resume={directory}", "--cfg", "job")
    assert code == 0, output
    assert "max_epochs: 3" in output


@pytest.mark.slow
def test_resume_with_another_option_of_a_group(tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "short.yaml").write_text(
        "# @package _global_\ntrainer: {max_epochs: 2}\n"
    )
    options = ("experiment=short", "schedule=triangular", "schedule.cycles=2", "logger=csv")
    options = (f"--config-dir={tmp_path / 'mine'}", *options, "+trainer.barebones=false")
    directory = tmp_path / "run"
    code, output = run(*QUIET, *options, f"hydra.run.dir={directory}")
    assert code == 0, output
    # The directory of configurations holds, and what was added may be added again.
    now = ("schedule=step", "trainer.max_epochs=3", "+trainer.barebones=false")
    code, output = run(f"resume={directory}", *now)
    assert code == 0, output
    assert "step over 54 steps, 36 of them taken" in output
    assert "other phases" in output
    for part, steps in (("version_0", range(36)), ("version_1", range(36, 54))):
        with (directory / "csv" / part / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["lr"]]
        assert [int(row["step"]) for row in rows] == list(steps)
    assert not list(directory.glob("events*"))
    assert "tensorboard" not in output


def files_in(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_run_is_not_written_over(finished):
    directory, _ = finished
    before = files_in(directory)
    code, output = run(*QUIET, "data.batch_size=32", f"hydra.run.dir={directory}")
    assert code == 1
    assert "hydra.run.dir must be a new directory" in output
    assert files_in(directory) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["lr_find=only", "lr_find.num_training=20"],
        ["trainer.max_epochs=1", "callbacks.last_epoch=null", "callbacks.last_seconds=null"],
    ],
)
def test_a_complete_run_without_a_checkpoint_is_not_written_over(tmp_path, options):
    code, output = run(*QUIET, f"hydra.run.dir={tmp_path}", *options)
    assert code == 0, output
    before = files_in(tmp_path)
    code, output = run(*QUIET, f"hydra.run.dir={tmp_path}", *options, "optimizer.lr=0.1")
    assert code == 1
    rule = f"hydra.run.dir must be a new directory, got that of an earlier run, {tmp_path}"
    assert output.splitlines()[-1] == rule
    assert files_in(tmp_path) == before


def test_a_run_that_starts_anew_removes_what_one_without_a_checkpoint_has_left(tmp_path):
    for name in ("result.json", "lr_find.json", "lr_find.png", "schedule.png", "notes.txt"):
        (tmp_path / name).touch()
    start_anew(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_complete_run_is_not_tested_again_with_other_options(tmp_path, finished):
    directory = tmp_path / "run"
    shutil.copytree(finished[0], directory)
    before = files_in(directory)
    code, output = run(f"resume={directory}", "trainer.limit_test_batches=1")
    assert code == 0, output
    assert "nothing is left to train: give a larger trainer.max_epochs" in output
    assert "completed before, not run again" in output
    after = files_in(directory)
    changed = {path.name for path in before if after[path] != before[path]}
    assert changed == {"train.log"}
    # The test of a run that was killed in it is made up for.
    killed = result_of(directory) | {"reason": TESTING, "metrics": {}}
    (directory / "result.json").write_text(json.dumps(killed))
    code, output = run(f"resume={directory}")
    assert code == 0, output
    assert result_of(directory)["reason"] is None
    assert "test/acc" in result_of(directory)["metrics"]


@pytest.mark.slow
def test_a_run_with_a_damaged_result_goes_on_by_itself_with_its_own_options_alone(tmp_path):
    command = (*QUIET, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}", "resume=auto")
    code, output = run(*command)
    assert code == 0, output
    (tmp_path / "result.json").write_text("{")
    code, output = run(*command, "seed=1")
    assert code == 1
    assert "whose run did not have seed=1: give resume=DIR" in output
    code, output = run(*command)
    assert code == 0, output
    assert result_of(tmp_path)["status"] == "completed"


def test_a_resume_that_is_refused_leaves_the_run_as_it_was(tmp_path, finished):
    directory = tmp_path / "run"
    shutil.copytree(finished[0], directory)
    interrupted = result_of(directory) | {"status": "interrupted", "reason": RUNNING}
    (directory / "result.json").write_text(json.dumps(interrupted))
    before = files_in(directory)
    code, output = run(f"resume={directory}", "optimizer=adamw", "trainer.max_epochs=40")
    assert code == 1
    message = "optimizer must stay torch.optim.SGD with resume, got torch.optim.AdamW"
    assert output.splitlines()[-1] == f"train.py: {message}"
    after = files_in(directory)
    assert {path for path in after if after[path] != before.get(path)} == {directory / "train.log"}


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(tmp_path):
    code, output = run(*QUIET, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}")
    assert code == 0, output
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    before = result_of(tmp_path)
    code, output = run(f"resume={tmp_path}")
    assert code == 1
    assert f"{checkpoint} cannot be read" in output
    assert "Traceback" not in output
    assert result_of(tmp_path) == before


def test_a_checkpoint_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def killed(checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
