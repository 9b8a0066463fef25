"""Lightning's loops, but they end when a range test does, and validate when it says so."""

from __future__ import annotations

from typing import Any, Protocol

from lightning.pytorch import Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.states import RunningStage, TrainerFn


class EndsAndValidates(Protocol):
    """What the loops ask, and what they tell."""

    stopped: str
    validation_due: bool

    def validated(self, trainer: Trainer, logged: Any) -> None:
        """Take what the validation has logged."""


class TestFitLoop(_FitLoop):
    """Goes over the data until the test has ended, under the limits that the user's code sees."""

    def __init__(self, trainer: Trainer, test: EndsAndValidates) -> None:
        super().__init__(trainer, trainer.min_epochs, trainer.max_epochs)
        self.test = test
        self.epoch_loop = _TestEpochLoop(trainer, test)

    @property
    def done(self) -> bool:
        """Whether the test has ended, or cannot begin."""
        return bool(self.test.stopped) or self.max_batches == 0

    @property
    def _can_stop_early(self) -> bool:
        return True


class _TestEpochLoop(_TrainingEpochLoop):
    def __init__(self, trainer: Trainer, test: EndsAndValidates) -> None:
        super().__init__(trainer, trainer.min_steps, trainer.max_steps)
        self.test = test
        self.val_loop = _TestValidationLoop(trainer, test)

    @property
    def done(self) -> bool:
        return bool(self.test.stopped) or self._num_ready_batches_reached()

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        return self.test.validation_due


class _TestValidationLoop(_EvaluationLoop):
    def __init__(self, trainer: Trainer, test: EndsAndValidates) -> None:
        super().__init__(
            trainer,
            TrainerFn.FITTING,
            RunningStage.VALIDATING,
            verbose=False,
            inference_mode=False,
        )
        self.test = test

    def run(self) -> Any:
        logged = super().run()
        self.test.validated(self.trainer, logged)
        return logged
