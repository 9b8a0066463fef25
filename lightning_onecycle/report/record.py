"""``result.json``: the settings of a run, its progress, and how it ended."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities import rank_zero_warn
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_onecycle._files import write_whole
from lightning_onecycle._lightning import Callback, of_either_lightning
from lightning_onecycle.batch_size import BatchSizeSchedule
from lightning_onecycle.budget import time_limit
from lightning_onecycle.callback import ScheduleCallback
from lightning_onecycle.measure._measurement import Measurement
from lightning_onecycle.report.divergence import Diverged

Status = Literal["completed", "diverged", "interrupted", "failed"]
STARTING, RUNNING, TESTING = (
    f"still {doing}, or killed" for doing in ("starting again", "running", "testing")
)
"""Reasons of a run that has not said how it ended."""
CUT = "cut short"
"""How the reason of a completed run begins whose cycle was not to come to its end."""


class RunRecord(Callback):
    """Keep ``result.json`` up to date during a run.

    It is written when training starts, after each epoch, after testing and at the end. Until the
    end its status is ``"interrupted"``, so that is the status of a killed run. List this callback
    after the `ScheduleCallback` that it reads.

    A run whose validation loss is not finite at its end is ``"diverged"``. A run that ends before
    its cycle is complete, for example by ``max_time`` or ``EarlyStopping``, is ``"completed"`` and
    has a ``reason``.

    The file has the facts as given, ``total_steps``, ``steps`` (taken by the optimizer),
    ``max_lr``, ``world_size``, ``effective_batch_size``, ``epochs``, ``fit_seconds`` (with
    validation, over all resumed parts), ``steps_per_second``, ``status``, ``reason`` and
    ``metrics``. The metrics include the last values of `GradientNoiseScale` and `Sharpness`. Values
    that are not finite or not known are null, and so are the batch sizes of a run with a
    `BatchSizeSchedule`.

    Args:
        path: The file. Rank 0 writes it, always as a whole.
        **facts: What identifies the run: ``schedule``, ``seed``, ``batch_size`` (per device).

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_onecycle import OneCycle
        >>> record = RunRecord("logs/result.json", schedule="onecycle", seed=1, batch_size=64)
        >>> trainer = Trainer(callbacks=[OneCycle(), record], logger=False)
    """

    takes_part_in_range_test = False

    def __init__(self, path: str | Path, **facts: Any) -> None:
        super().__init__()
        self.path = Path(path)
        self.facts = facts
        self.result: dict[str, Any] = {}
        self._reason: str | None = None  # of how training has ended
        self._seconds_before = 0.0
        self._started: float | None = None

    @property
    def has_begun(self) -> bool:
        """Whether training has begun, since the last ``fit`` or at all."""
        return self._started is not None

    def state_dict(self) -> dict[str, float]:
        """Return the seconds spent, so that a resumed run counts them too."""
        return {"fit_seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Load the seconds of earlier parts of the run."""
        self._seconds_before = state_dict["fit_seconds"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the file of an earlier part of the run, if this one continues it."""
        self._started, self.result = None, {}
        if trainer.ckpt_path is not None and self.path.is_file():
            try:
                self.result = json.loads(self.path.read_text())
            except (ValueError, RecursionError) as error:
                rank_zero_warn(f"{self.path} cannot be read and is replaced: {error}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write that the run has begun."""
        if trainer.ckpt_path is None and self.path.is_file():
            earlier = read_result(self.path)
            if earlier.get("reason") == STARTING and earlier.get("steps"):
                rank_zero_warn(
                    f"The run starts again: {earlier['steps']} steps are in its checkpoint, and"
                    " Trainer.fit was given none. Give it as ckpt_path to continue."
                )
        self._started = time.monotonic()
        self._update(trainer, "interrupted", RUNNING)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the progress."""
        self._update(trainer, "interrupted", RUNNING)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write that training has come to its end."""
        self._update(trainer, *self._end(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the metrics that later callbacks logged at the end of training."""
        if self._started is None:  # it was at its end when it was resumed
            if not is_complete(self.result) and self.result.get("status") != "diverged":
                self._update(trainer, *self._end(trainer))
        elif self.result:
            self.result["metrics"] = self._metrics(trainer)
            self._write(trainer)
        self._reason = self.result.get("reason")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write that the test is not over."""
        if self.result:
            self.result["reason"] = TESTING
            self._write(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the metrics of the test set."""
        metrics = self.result.get("metrics", {}) | _finite(trainer.callback_metrics)
        self.result = self.facts | self.result | {"reason": self._reason, "metrics": metrics}
        self._write(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write why the run has ended."""
        status: Status = "failed"
        if isinstance(exception, Diverged):
            status = "diverged"
        elif isinstance(exception, (KeyboardInterrupt, *of_either_lightning(SIGTERMException))):
            status = "interrupted"
        reason = f"{type(exception).__name__}: {exception}".rstrip(": ")
        if self.result.get("status") == "completed":
            # Training has come to its end before, whatever became of a test or of a resume.
            self.result["reason"] = reason
            self._write(trainer)
        elif self._started is not None:
            self._update(trainer, status, reason)
        elif not self.path.is_file():  # of an earlier part, which has come further than this one
            self.result = self.facts | {"status": status, "reason": reason, "metrics": {}}
            self._write(trainer)

    def _end(self, trainer: Trainer) -> tuple[Status, str | None]:
        """Return the status of a training that has ended."""
        for name, value in trainer.callback_metrics.items():
            if "val" in name and "loss" in name and not math.isfinite(value):
                return "diverged", f"{name} is {float(value)} at the end of training"
        schedules = [c for c in trainer.callbacks if isinstance(c, ScheduleCallback)]  # type: ignore[attr-defined]
        scheduler = next((s for c in schedules if c.budget == "steps" for s in c.schedulers), None)
        # Steps that a gradient scaler skips are missing in the end, too.
        if trainer.should_stop and scheduler and scheduler.last_epoch < scheduler.total_steps:
            return "completed", f"{CUT} by {_who_stopped(trainer)}"
        return "completed", None

    def _seconds(self) -> float:
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._seconds_before + running

    def _update(self, trainer: Trainer, status: Status, reason: str | None) -> None:
        seconds = self._seconds()
        steps, total, peak = trainer.global_step, None, None
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ScheduleCallback) and callback.schedulers:
                scheduler = callback.schedulers[0]
                steps, total = scheduler.last_epoch, callback.planned_steps
                peak = max(scheduler.max_lrs)
        if self._started is None:  # no schedule has been planned in this part of the run
            total = self.result.get("total_steps")
        changes = any(isinstance(c, BatchSizeSchedule) for c in trainer.callbacks)  # type: ignore[attr-defined]
        batch_size = None if changes else self.facts.get("batch_size")
        # The last step of an epoch has what is left; with fewer batches, so has each step.
        batches = min(trainer.accumulate_grad_batches, trainer.num_training_batches)
        per_step = int(trainer.world_size * max(batches, 1))
        self.result = self.facts | {
            "total_steps": total,
            "steps": steps,
            "max_lr": peak,
            "world_size": trainer.world_size,
            "effective_batch_size": None if batch_size is None else batch_size * per_step,
            "epochs": trainer.current_epoch,
            "fit_seconds": round(seconds, 3),
            "steps_per_second": round(steps / seconds, 3) if seconds > 0 else None,
            "status": status,
            "reason": reason,
            "metrics": self._metrics(trainer),
        }
        if changes:
            self.result["batch_size"] = None
        self._write(trainer)

    def _metrics(self, trainer: Trainer) -> dict[str, float | None]:
        metrics = self.result.get("metrics", {}) | _finite(trainer.callback_metrics)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Measurement):
                metrics |= callback.latest
        return metrics

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            write_result(self.path, self.result)


def is_complete(result: Mapping[str, Any]) -> bool:
    """Return whether a run has come to its end, and its test if it has one."""
    reason = result.get("reason")
    return result.get("status") == "completed" and (not reason or reason.startswith(CUT))


def _who_stopped(trainer: Trainer) -> str:
    timer = time_limit(trainer)
    if timer is not None and (timer.time_remaining() or 0.0) <= 0.0:
        return "max_time"
    callbacks = (c for c in trainer.callbacks if isinstance(c, of_either_lightning(EarlyStopping)))  # type: ignore[attr-defined]
    return next((type(callback).__name__ for callback in callbacks), "trainer.should_stop")


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``, whole or not at all.

    Args:
        path: The file.
        result: What is written as JSON.
    """
    write_whole(path, json.dumps(result, indent=2, default=float) + "\n")


def read_result(path: Path) -> dict[str, Any]:
    """Read ``result.json``.

    Args:
        path: The file.

    Returns:
        What is in it; nothing if it is missing or damaged.
    """
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return result if isinstance(result, dict) else {}


def record_failure(path: Path, reason: str, *, status: Status = "failed", **facts: Any) -> None:
    """Write why a run has ended, if the run could not.

    Args:
        path: Its ``result.json``. An end that the run itself has written stays.
        reason: Such as ``"killed by SIGKILL"``.
        status: Its status, unless it was completed before.
        **facts: What identifies the run, where there is no such file.
    """
    result = read_result(path)
    if not result or result.get("reason") in (STARTING, RUNNING, TESTING):
        if result.get("status") == "completed":
            status = "completed"
        kept = {"metrics": {}} | facts | result
        write_result(path, kept | {"status": status, "reason": reason})


def _finite(metrics: Any) -> dict[str, float | None]:
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
