"""Lightning's loops for a range test, which decides when they validate and end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from lightning.pytorch import Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.states import RunningStage, TrainerFn

from lightning_onecycle._lightning import class_for, subclass_for


class EndsAndValidates(Protocol):
    """What the loops ask, and what they tell."""

    stopped: str
    validation_due: bool

    def validated(self, trainer: Trainer, logged: Any) -> None:
        """Take what the validation has logged."""


def loop_for(trainer: Trainer, test: EndsAndValidates) -> _FitLoop:
    """Return a loop that goes over the data until the test has ended.

    Its limits are those that the user's code sees.
    """
    fit: Any = subclass_for(_TestFitLoop, _FitLoop, trainer)
    epoch: Any = subclass_for(_TestEpochLoop, _TrainingEpochLoop, trainer)
    validation: Any = subclass_for(_TestValidationLoop, _EvaluationLoop, trainer)

    loop = fit(trainer, trainer.min_epochs, trainer.max_epochs)
    loop.epoch_loop = epoch(trainer, trainer.min_steps, trainer.max_steps)
    loop.epoch_loop.val_loop = validation(
        trainer,
        class_for(TrainerFn, trainer).FITTING,
        class_for(RunningStage, trainer).VALIDATING,
        verbose=False,
        inference_mode=False,
    )
    loop.test = loop.epoch_loop.test = loop.epoch_loop.val_loop.test = test
    return loop


class _TestFitLoop:
    test: EndsAndValidates
    max_batches: int | float

    @property
    def done(self) -> bool:
        """Whether the test has ended, or cannot begin."""
        return bool(self.test.stopped) or self.max_batches == 0

    @property
    def _can_stop_early(self) -> bool:
        return True


class _TestEpochLoop:
    test: EndsAndValidates
    _num_ready_batches_reached: Callable[[], bool]

    @property
    def done(self) -> bool:
        """Whether the test or its epoch has ended."""
        return bool(self.test.stopped) or self._num_ready_batches_reached()

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        return self.test.validation_due


class _TestValidationLoop:
    test: EndsAndValidates
    trainer: Trainer

    def run(self) -> Any:
        """Validate, and give the test the logged values."""
        logged = super().run()  # type: ignore[misc]
        self.test.validated(self.trainer, logged)
        return logged
