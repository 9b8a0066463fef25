"""What a run leaves in each logger, read back as the logger's own reader does."""

import atexit
import csv
import json
import struct
from importlib.util import find_spec

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import Tiny, fit
from forks import run
from lightning_onecycle import LRCurve, OneCycle, one_cycle
from lightning_onecycle.sweep.processes import run_in_a_fork

QUIET = ("trainer=cpu", "trainer.enable_progress_bar=false")
STEPS = 36
INSTALLED = ["csv", "tensorboard", *filter(find_spec, ("wandb", "mlflow"))]


def from_csv(folder):
    """Return the metrics as {name: values}, and the names of the figures."""
    (path,) = folder.rglob("metrics.csv")
    metrics = {}
    for row in csv.DictReader(path.open()):
        for name, value in row.items():
            if value:
                metrics.setdefault(name, []).append(float(value))
    return metrics, set()


def from_tensorboard(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()
    metrics = {tag: [event.value for event in events.Scalars(tag)] for tag in tags["scalars"]}
    return metrics, set(tags["images"])


def from_wandb(folder):
    """Read the log that ``wandb sync`` uploads: LevelDB's format behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, at, part = path.read_bytes(), 7, b""
    metrics, has_ended = {}, False
    while at + 7 <= len(data):
        if (room := 32_768 - at % 32_768) < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record, part = Record.FromString(part), b""
            has_ended |= record.HasField("exit")
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                metrics.setdefault(name, []).append(json.loads(item.value_json))
    assert has_ended
    figures = {name.removesuffix("/_type") for name in metrics if name.endswith("/_type")}
    for figure in figures:
        (picture,) = metrics[f"{figure}/filenames"][0]
        assert (path.parent / "files" / picture).read_bytes()[:4] == b"\x89PNG"
    return metrics, figures


def from_mlflow(folder):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("lightning-onecycle")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == folder.name
    name = found.info.run_id
    metrics = {
        key: [point.value for point in client.get_metric_history(name, key)]
        for key in found.data.metrics
    }
    return metrics, {a.path.removesuffix(".png") for a in client.list_artifacts(name)}


READERS = {
    "csv": from_csv,
    "tensorboard": from_tensorboard,
    "wandb": from_wandb,
    "mlflow": from_mlflow,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The directory of a range test and a training with all loggers that are installed."""
    folder = tmp_path_factory.mktemp("run")
    options = [f"logger=[{','.join(INSTALLED)}]", f"hydra.run.dir={folder}"]
    if "mlflow" in INSTALLED:
        options.append(f"logger.mlflow.artifact_location=file:{folder}/artifacts")
    code, output = run(
        *(*QUIET, "lr_find=then_fit", "trainer.max_epochs=2", *options),
        anew=len(INSTALLED) > 2,  # wandb and mlflow start threads and processes at their import
        WANDB_MODE="offline",
        MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db",
    )
    assert code == 0, output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("logger", READERS)
def test_each_logger_has_the_schedule_the_losses_and_both_figures(logger, folder):
    if logger not in INSTALLED:
        pytest.skip(f"{logger} is not installed")
    metrics, figures = READERS[logger](folder)
    curve = LRCurve.load(folder / "lr_find.json")
    peak = curve.suggestion()
    points = one_cycle().trace(STEPS)
    assert metrics["lr"] == pytest.approx([peak * point.lr for point in points])
    assert metrics["momentum"] == pytest.approx([point.momentum for point in points])
    assert metrics["lr_find/lr"] == pytest.approx(curve.lrs)
    assert metrics["lr_find/loss"] == pytest.approx(curve.losses)
    result = json.loads((folder / "result.json").read_text())["metrics"]
    for name in ("train/loss", "val/loss", "test/acc"):
        assert metrics[name][-1] == pytest.approx(result[name])
    assert figures == (set() if logger == "csv" else {"lr_find", "schedule"})


@pytest.mark.slow
def test_a_range_test_alone_is_in_the_logger(tmp_path):
    code, output = run(*QUIET, "lr_find=only", "logger=csv", f"hydra.run.dir={tmp_path}")
    assert code == 0, output
    metrics, _ = from_csv(tmp_path)
    assert metrics["lr_find/lr"] == pytest.approx(LRCurve.load(tmp_path / "lr_find.json").lrs)


def test_a_service_that_refuses_is_told_in_one_line_before_anything_is_trained(tmp_path):
    pytest.importorskip("wandb")
    options = ("logger=wandb", f"hydra.run.dir={tmp_path}")
    home = {"HOME": str(tmp_path), "WANDB_API_KEY": "", "WANDB_MODE": "online"}
    code, output = run(*QUIET, *options, "lr_find=then_fit", anew=True, **home)
    assert code == 1
    assert output.splitlines()[-1].startswith("train.py: logger: WandbLogger: ")
    assert not (tmp_path / "lr_find.json").exists()


@pytest.mark.slow
def test_a_logger_that_is_not_installed_is_told_in_one_line(tmp_path):
    if find_spec("comet_ml"):
        pytest.skip("comet_ml is installed")
    other = "+logger.own._target_=lightning.pytorch.loggers.CometLogger"
    code, output = run(*QUIET, other, f"hydra.run.dir={tmp_path}")
    assert code == 1
    (line,) = output.splitlines()
    assert line.startswith("train.py: logger.own: Requirement 'comet-ml")


def test_a_run_that_finds_no_peak_has_failed_for_its_logger(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    code, output = run(
        *(*QUIET, "logger=mlflow", "lr_find=then_fit", "lr_find.max_lr=1e-5"),
        f"logger.mlflow.artifact_location=file:{tmp_path}/artifacts",
        f"hydra.run.dir={tmp_path}",
        anew=True,
        MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db",
    )
    assert code == 1, output
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("lightning-onecycle")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FAILED"


def test_a_figure_that_a_logger_does_not_take_is_a_warning(tmp_path):
    logger, other = TensorBoardLogger(tmp_path), CSVLogger(tmp_path)

    def refuse(*_):
        raise OSError("no space left")

    logger.experiment.add_figure = refuse
    message = "TensorBoardLogger could not log the figure 'schedule': OSError: no space left"
    with pytest.warns(UserWarning, match=message):
        used = fit(Tiny(), OneCycle(), max_epochs=1, logger=[logger, other])
    assert len(used.lrs) == 12


def test_a_job_in_a_fork_runs_its_own_exit_functions_and_not_the_parents(tmp_path):
    parents, own = tmp_path / "parents", tmp_path / "own"
    atexit.register(parents.touch)
    try:
        assert run_in_a_fork(lambda: atexit.register(own.touch)).code == 0
    finally:
        atexit.unregister(parents.touch)
    assert own.exists()
    assert not parents.exists()
