"""A context in which training leaves no trace."""

from __future__ import annotations

import copy
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_info
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from lightning_onecycle import _copies, _generators
from lightning_onecycle._deepcopy import Memo
from lightning_onecycle._kept import Kept
from lightning_onecycle._lightning import class_for, subclass_for


@contextmanager
def isolated(
    trainer: Trainer,
    module: LightningModule,
    data: Iterable[Any] = (),
    *,
    keep_callback: Callable[[Callback], bool] = lambda _: True,
    told: set[Any] | None = None,
) -> Iterator[LightningModule]:
    """Yield a copy of ``module`` that the trainer may ``fit`` without leaving a trace.

    Inside the context the trainer has new loops, deep copies of its callbacks, loggers and a
    profiler that do nothing, and no launcher: ``fit`` runs in this process. Loggers' directories
    and ``trainer.default_root_dir`` are temporary, no checkpoint hook runs, and
    ``trainer.save_checkpoint`` does nothing. An optimizer that was made before
    ``configure_optimizers`` is replaced by a copy without its hooks, wherever it is kept. A module
    of ``torch.compile`` runs uncompiled.

    After the context, also after an exception, these are restored:

    - the module and everything attached to it, callbacks, loops, optimizers, ``GradScaler``
    - the trainer's attributes, strategy, plugins and connectors, and the checkpoint that Lightning
      is about to resume from
    - random number generators: Python, NumPy, torch, the trainer's device
    - in loaders, samplers, datasets and the data module, and in the objects that these hold:
      attributes, the contents of plain containers and of NumPy's arrays (128 MiB of them),
      generators, and buffers of modules

    These are not restored:

    - the contents of tensors and other objects that a dataset or a data module changes in place
    - what the module does outside itself, such as a scheduler that it builds on the optimizer of
      another object
    - a process group that was started
    - an iterator that the data hold and share among all passes; one line says so

    Args:
        trainer: The user's own.
        module: What it trains. It is not changed.
        data: What ``fit`` is given: loaders or collections of them, the data module.
        keep_callback: Which of the trainer's callbacks take part.
        told: Ids of the iterators for which there is no such line; gets those for which there was.

    Raises:
        MisconfigurationException: If the module holds something that cannot be copied, or an
            optimizer trains parameters that the module does not have.

    Example:
        >>> import torch
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> model = BoringModel()
        >>> trainer = Trainer(max_steps=3, logger=False, enable_checkpointing=False,
        ...                   enable_progress_bar=False, enable_model_summary=False)
        >>> before = model.layer.weight.clone()
        >>> with isolated(trainer, model) as copied:
        ...     trainer.fit(copied)
        ...     trainer.global_step
        3
        >>> torch.equal(model.layer.weight, before), trainer.global_step
        (True, 0)
    """
    with ExitStack() as stack:
        # Put back in the opposite order: the generators last of all.
        stack.enter_context(_generators.isolated(trainer.strategy.root_device))
        stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)  # Lightning ignores it after a first Ctrl+C
            if handler is not None:
                stack.callback(signal.signal, signal.SIGINT, handler)
        kept = Kept(stack)
        for owner in _owners(trainer):
            kept.attributes(owner)
        memo, held = _copies.what_is_shared(trainer, module)
        told = set() if told is None else told
        for iterator in kept.data([*data, *held]):
            if id(iterator) in told:
                continue
            told.add(id(iterator))
            rank_zero_info(
                f"The data hold a running iterator, a {type(iterator).__name__}: the training does"
                " not see the batches that a test takes from it."
            )
        copied = _copies.copy_module(module, memo)
        # A gradient that appears in the original comes from a function that could not be copied.
        for parameter in module.parameters():
            stack.callback(setattr, parameter, "grad", parameter.grad)
            parameter.grad = None
        callbacks = [callback for callback in trainer.callbacks if keep_callback(callback)]  # type: ignore[attr-defined]
        _prepare(trainer, kept, callbacks, copied, memo)
        logs_nothing: Any = subclass_for(_HasADirectory, DummyLogger, trainer)
        root, *of_loggers = (
            stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            for _ in (trainer, *trainer.loggers)
        )
        trainer._default_root_dir = root  # type: ignore[attr-defined]
        trainer.loggers = [logs_nothing(directory) for directory in of_loggers]
        yield copied


def _owners(trainer: Trainer) -> list[Any]:
    """Return what a fit writes into, apart from module, callbacks and data."""
    evaluation: list[Any] = [trainer.validate_loop, trainer.test_loop, trainer.predict_loop]
    return [
        trainer,
        trainer.state,
        trainer.strategy,
        trainer.strategy.precision_plugin,
        trainer._data_connector,
        trainer._logger_connector,
        trainer._callback_connector,
        trainer._checkpoint_connector,
        trainer._signal_connector,
        *evaluation,
        *(loop._data_source for loop in evaluation),
    ]


def _prepare(
    trainer: Trainer,
    kept: Kept,
    callbacks: list[Callback],
    copied: LightningModule,
    memo: Memo,
) -> None:
    fit_loop = class_for(_FitLoop, trainer)(trainer, trainer.min_epochs, trainer.max_epochs)
    epoch_class = class_for(_TrainingEpochLoop, trainer)
    epoch_loop = epoch_class(trainer, trainer.min_steps, trainer.max_steps)
    trainer.fit_loop, fit_loop.epoch_loop = fit_loop, epoch_loop
    trainer.callbacks = _copies.copy_callbacks(callbacks, memo)  # type: ignore[attr-defined]
    trainer.profiler = class_for(PassThroughProfiler, trainer)()  # type: ignore[attr-defined]
    connector = subclass_for(_NothingToResume, _CheckpointConnector, trainer)
    trainer._checkpoint_connector = connector(trainer)
    trainer.save_checkpoint = _nothing  # type: ignore[method-assign] # of the user's own hooks
    strategy = trainer.strategy
    strategy._launcher = None
    scaler = getattr(strategy.precision_plugin, "scaler", None)
    if scaler is not None:
        strategy.precision_plugin.scaler = copy.deepcopy(scaler)  # type: ignore[attr-defined]
    # Loaders that a hook makes share generators and datasets with whoever made them. This is called
    # with each loader before an iterator of it is drawn.
    process = strategy.process_dataloader

    def process_dataloader(dataloader: object) -> object:
        kept.data([dataloader])
        return process(dataloader)

    strategy.process_dataloader = process_dataloader  # type: ignore[method-assign]
    setup = strategy.setup_optimizers

    def setup_optimizers(trainer: Trainer) -> None:
        """Make the optimizers, and those of the original module into ones of the copy."""
        with _copies.globals_of_the_copy(copied.configure_optimizers, memo):
            setup(trainer)
        strategy.optimizers, strategy.lr_scheduler_configs = _copies.optimizers_of_the_copy(
            copied, strategy.optimizers, strategy.lr_scheduler_configs, memo
        )

    strategy.setup_optimizers = setup_optimizers  # type: ignore[method-assign]


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


class _HasADirectory:
    """For a logger that does nothing: a module may write into its directory."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._directory = directory

    @property
    def save_dir(self) -> str:
        return self._directory

    log_dir = root_dir = save_dir


class _NothingToResume:
    @property
    def _hpc_resume_path(self) -> None:  # what a preempted SLURM job has left
        return None
