import json
import multiprocessing

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from conftest import Tiny, loader, quiet_trainer
from lightning_onecycle import BatchSizeSchedule, Diverged, OneCycle, RunRecord, Sharpness
from lightning_onecycle.report import read_result, record_failure
from lightning_onecycle.report.record import RUNNING, STARTING, is_complete

FACTS = {"schedule": "onecycle", "seed": 3, "batch_size": 4}


class At(Callback):
    """Calls ``what`` in the middle of training."""

    def __init__(self, what):
        self.what = what

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 7:
            self.what()


class Measured(Tiny):
    def training_step(self, batch, batch_idx):
        self.log("train/loss", self.loss(), on_step=False, on_epoch=True)
        self.log("odd", float("nan"))
        return self.loss()

    def test_step(self, batch, batch_idx):
        self.log("test/acc", 0.5)


def read(path):
    return json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is not JSON


def train(path, *callbacks, ckpt_path=None, **arguments):
    trainer = quiet_trainer(OneCycle(), RunRecord(path, **FACTS), *callbacks, **arguments)
    module = Measured()
    trainer.fit(module, loader(5), ckpt_path=ckpt_path)
    return trainer, module


def raises(exception):
    def now():
        raise exception

    return now


def test_a_completed_run(tmp_path):
    path = tmp_path / "run" / "result.json"
    trainer, module = train(path, max_epochs=2, accumulate_grad_batches=2)
    result = read(path)
    assert result | FACTS == result
    assert (result["steps"], result["total_steps"], result["epochs"]) == (6, 6, 2)
    assert (result["max_lr"], result["world_size"]) == (0.4, 1)
    assert result["effective_batch_size"] == 8
    assert (result["status"], result["reason"]) == ("completed", None)
    assert result["steps_per_second"] == pytest.approx(6 / result["fit_seconds"], rel=0.2)
    assert result["metrics"]["train/loss"] == pytest.approx(
        float(trainer.callback_metrics["train/loss"])
    )
    assert result["metrics"]["odd"] is None
    trainer.test(module, loader(2), verbose=False)
    assert read(path) == result | {"metrics": result["metrics"] | {"test/acc": 0.5, "odd": None}}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("exception", "status", "reason"),
    [
        (Diverged("the loss is nan"), "diverged", "Diverged: the loss is nan"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (torch.OutOfMemoryError("2 TiB"), "failed", "OutOfMemoryError: 2 TiB"),
    ],
)
def test_how_a_run_ends_is_kept(tmp_path, exception, status, reason):
    path = tmp_path / "result.json"
    # Lightning turns Ctrl-C into an exit.
    with pytest.raises((type(exception), SystemExit)):
        train(path, At(raises(exception)), max_epochs=3)
    result = read(path)
    assert (result["status"], result["reason"]) == (status, reason)
    assert (result["steps"], result["total_steps"]) == (7, 15)


class Stops(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step >= 7


def stop_early():
    return EarlyStopping("train/loss", patience=1, mode="max", check_on_train_epoch_end=True)


@pytest.mark.parametrize(
    ("callback", "max_time", "reason"),
    [
        (stop_early, None, "cut short by EarlyStopping"),
        (lambda: Callback(), {"seconds": 0.2}, "cut short by max_time"),
        (Stops, None, "cut short by trainer.should_stop"),
    ],
)
def test_a_cycle_that_is_cut_short_has_a_reason(tmp_path, callback, max_time, reason):
    path = tmp_path / "result.json"
    trainer, module = train(path, callback(), max_epochs=9000, max_time=max_time)
    result = read(path)
    assert (result["status"], result["reason"]) == ("completed", reason)
    assert result["steps"] < result["total_steps"] == 45_000
    assert is_complete(result)
    trainer.test(module, loader(2), verbose=False)
    assert read(path)["reason"] == reason


def test_a_run_that_stops_at_the_end_of_its_cycle_is_not_cut_short(tmp_path):
    class StopsAtTheEnd(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.global_step == 15

    train(tmp_path / "result.json", StopsAtTheEnd(), max_epochs=3)
    assert read(tmp_path / "result.json")["reason"] is None


def test_a_validation_loss_that_is_not_finite_is_no_completed_run(tmp_path):
    class Diverges(Measured):
        def validation_step(self, batch, batch_idx):
            self.log("val/loss", float("inf"))

    path = tmp_path / "result.json"
    save = ModelCheckpoint(tmp_path, filename="last")
    for ckpt_path in (None, tmp_path / "last.ckpt"):  # the resumed one is at its end already
        trainer = quiet_trainer(OneCycle(), RunRecord(path, **FACTS), save, max_epochs=2)
        module = Diverges()
        trainer.fit(module, loader(5), loader(1), ckpt_path=ckpt_path)
        trainer.test(module, loader(2), verbose=False)
        result = read(path)
        assert (result["status"], result["steps"], result["total_steps"]) == ("diverged", 10, 10)
        assert result["reason"] == "val/loss is inf at the end of training"


def test_while_it_runs_it_says_what_a_kill_would_leave(tmp_path):
    seen = []
    path = tmp_path / "result.json"
    train(path, At(lambda: seen.append(read(path))), max_epochs=3)
    assert seen[0]["status"] == "interrupted"
    assert seen[0]["reason"] == "still running, or killed"
    assert seen[0]["steps"] == 5  # of the last epoch that has ended
    assert "train/loss" in seen[0]["metrics"]


def test_a_failure_before_training_is_kept(tmp_path):
    class Broken(Callback):
        def on_fit_start(self, trainer, pl_module):
            raise ValueError("no")

    path = tmp_path / "result.json"
    with pytest.raises(ValueError, match="no"):
        train(path, Broken(), max_epochs=1)
    assert read(path) == FACTS | {"status": "failed", "reason": "ValueError: no", "metrics": {}}


def test_a_resumed_run_counts_all_its_time(tmp_path):
    path = tmp_path / "result.json"
    saving = ModelCheckpoint(tmp_path, save_last=True)
    train(path, saving, max_epochs=2)
    first = read(path)
    train(path, max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
    second = read(path)
    assert second["fit_seconds"] > first["fit_seconds"]
    assert (second["steps"], second["total_steps"]) == (15, 15)


def test_a_resume_that_fails_leaves_the_result_as_it_was(tmp_path):
    path = tmp_path / "result.json"
    train(path, ModelCheckpoint(tmp_path, save_last=True), max_epochs=1)
    first = read(path)
    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    with pytest.raises(Exception, match=r"."):
        train(path, max_epochs=2, ckpt_path=tmp_path / "last.ckpt")
    assert read(path) == first


def test_a_job_that_is_to_continue_and_gives_no_checkpoint_says_so(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"status": "interrupted", "reason": STARTING, "steps": 3}))
    with pytest.warns(UserWarning, match="starts again: 3 steps are in its checkpoint"):
        train(path)


def test_a_damaged_result_does_not_stand_in_the_way(tmp_path):
    path = tmp_path / "result.json"
    train(path, ModelCheckpoint(tmp_path, save_last=True), max_epochs=1)
    path.write_text('{"steps": 5, "met')
    with pytest.warns(UserWarning, match="cannot be read and is replaced"):
        train(path, max_epochs=2, ckpt_path=tmp_path / "last.ckpt")
    assert read(path)["steps"] == 10


def test_a_test_that_fails_does_not_undo_the_training(tmp_path):
    path = tmp_path / "result.json"
    trainer, module = train(path, max_epochs=1)
    module.test_step = raises(RuntimeError("no"))
    with pytest.raises(Exception, match=r"."):
        trainer.test(module, loader(2), verbose=False)
    result = read(path)
    assert (result["status"], result["steps"], result["total_steps"]) == ("completed", 5, 5)
    assert result["reason"]


def test_an_effective_batch_is_no_larger_than_an_epoch(tmp_path):
    path = tmp_path / "result.json"
    train(path, max_epochs=2, accumulate_grad_batches=100)
    assert (read(path)["effective_batch_size"], read(path)["steps"]) == (4 * 5, 2)


def test_a_result_of_thousands_of_levels_is_a_damaged_one(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("[" * 100_000)
    assert read_result(path) == {}


def test_numpy_facts(tmp_path):
    path = tmp_path / "result.json"
    trainer = quiet_trainer(RunRecord(path, seed=np.int64(3), batch_size=np.int32(2)), max_epochs=1)
    trainer.fit(Measured(), loader(2))
    assert (read(path)["seed"], read(path)["effective_batch_size"]) == (3, 2)


def test_it_holds_what_was_measured_last(tmp_path):
    path = tmp_path / "result.json"
    sharpness = Sharpness(every_n_steps=4)  # and at the end, behind step 10, when it is complete
    train(path, sharpness, max_epochs=2)
    assert sharpness._measured_at == 10
    result = read(path)
    assert result["status"] == "completed"
    assert {"measure/sharpness", "measure/hessian_eigenvalue"} <= sharpness.latest.keys()
    for tag, value in sharpness.latest.items():
        assert result["metrics"][tag] == value


def test_a_run_without_a_step_has_no_total(tmp_path):
    path = tmp_path / "result.json"
    train(path, max_epochs=2, max_time="00:00:00:00")
    result = read(path)
    assert (result["steps"], result["total_steps"]) == (0, None)
    assert result["reason"] == "cut short by max_time"


def test_a_total_is_unknown_until_a_step_has_shown_the_pace(tmp_path):
    path, totals = tmp_path / "result.json", []
    look, time = At(lambda: setattr(trainer, "should_stop", True)), {"max_time": "00:00:01:00"}
    look.on_train_batch_start = lambda *_: totals.append(read(path)["total_steps"])
    record = RunRecord(path, **FACTS)
    trainer = quiet_trainer(OneCycle(budget="time"), record, look, max_epochs=-1, **time)
    trainer.fit(Measured(), loader(5))
    assert totals[:5] == [None] * 5
    assert totals[5] > 5  # the first epoch has shown it


def test_a_batch_size_that_changes_is_no_one_number(tmp_path):
    path = tmp_path / "result.json"
    train(path, BatchSizeSchedule([(0, 2), (0.5, 4)]), max_epochs=2)
    result = read(path)
    assert result["status"] == "completed"
    assert result["batch_size"] is result["effective_batch_size"] is None


def fail_often(path, who):
    for _ in range(100):
        record_failure(path, RUNNING, who=who)  # a reason that the next one may write over
    record_failure(path, f"failed in {who}")


def test_ranks_that_fail_together_leave_the_reason_of_one(tmp_path):
    path = tmp_path / "result.json"
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=fail_often, args=(path, rank)) for rank in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * 4
    assert read(path)["reason"].startswith("failed in ")
    assert list(tmp_path.iterdir()) == [path]
