"""A context in which training leaves no trace."""

from __future__ import annotations

import copy
import functools
import io
import logging
import signal
import tempfile
import threading
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_info
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_onecycle import _copies, _generators
from lightning_onecycle._lightning import class_for, of_either_lightning, subclass_for

_NEVER_ENTERED = (
    Trainer,
    LightningModule,
    Logger,
    Tensor,
    type,
    types.ModuleType,
    types.FunctionType,
    threading.Thread,
    BaseProcess,
    logging.Filterer,
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
)
_CONTAINERS = (list, deque, dict, defaultdict, set)
_MOST_OBJECTS, _LONGEST_CONTAINER = 10_000, 100


@contextmanager
def isolated(
    trainer: Trainer,
    module: LightningModule,
    data: Iterable[Any] = (),
    *,
    keep_callback: Callable[[Callback], bool] = lambda _: True,
    told: set[int] | None = None,
) -> Iterator[LightningModule]:
    """Yield a copy of ``module`` that the trainer may ``fit`` without leaving a trace.

    Inside the context the trainer has new loops, deep copies of its callbacks, loggers and a
    profiler that do nothing, and no launcher: ``fit`` runs in this process. Loggers' directories
    are temporary, and no checkpoint hook runs. An optimizer that was made before
    ``configure_optimizers`` is replaced by a copy without its hooks, wherever it is kept. A module
    of ``torch.compile`` runs uncompiled.

    After the context, also after an exception, these are restored:

    - the module and everything attached to it, callbacks, loops, optimizers, ``GradScaler``
    - the trainer's attributes, strategy, plugins and connectors, and the checkpoint that Lightning
      is about to resume from
    - random number generators: Python, NumPy, torch, the trainer's device
    - in loaders, samplers, datasets and the data module, and in the objects that these hold:
      attributes, the contents of plain containers, generators, and buffers of modules

    These are not restored:

    - the contents of arrays and other objects that a dataset or a data module changes in place
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
        kept = _Kept(stack)
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
        if trainer.loggers:
            directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            logs_nothing: Any = subclass_for(_HasADirectory, DummyLogger, trainer)
            trainer.loggers = [logs_nothing(stack.enter_context(directory))]
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
    kept: _Kept,
    callbacks: list[Callback],
    copied: LightningModule,
    memo: _copies.Memo,
) -> None:
    fit_loop = class_for(_FitLoop, trainer)(trainer, trainer.min_epochs, trainer.max_epochs)
    epoch_class = class_for(_TrainingEpochLoop, trainer)
    epoch_loop = epoch_class(trainer, trainer.min_steps, trainer.max_steps)
    trainer.fit_loop, fit_loop.epoch_loop = fit_loop, epoch_loop
    trainer.callbacks = _copies.copy_callbacks(callbacks, memo)  # type: ignore[attr-defined]
    trainer.profiler = class_for(PassThroughProfiler, trainer)()  # type: ignore[attr-defined]
    connector = subclass_for(_NothingToResume, _CheckpointConnector, trainer)
    trainer._checkpoint_connector = connector(trainer)
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


# ---- what is put back -----------------------------------------------------------------------


class _Kept:
    """Attributes, contents of plain containers and generators, as they were when first seen."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack  # goes on with the next where one cannot be put back
        self._seen: dict[int, Any] = {}  # the objects, too: an id is not to be given again

    def attributes(self, owner: Any) -> None:
        """Remember the attributes of ``owner``, and what is in those that are plain containers."""
        attributes = vars(owner)
        was = dict(attributes)
        contents = [
            (value, copy.copy(value)) for value in was.values() if type(value) in _CONTAINERS
        ]

        def put_back() -> None:
            attributes.clear()
            attributes.update(was)
            for value, content in contents:
                _refill(value, content)

        self._stack.callback(put_back)

    def data(self, roots: Iterable[Any]) -> list[Any]:
        """Remember loaders, and what they hold: samplers, datasets, generators, in any depth.

        Returns:
            The iterators among these, of which the place cannot be remembered.
        """
        found, running = deque(roots), []
        never_entered = of_either_lightning(*_NEVER_ENTERED)
        while found and len(self._seen) < _MOST_OBJECTS:
            item = found.popleft()
            if id(item) in self._seen or isinstance(item, never_entered):
                continue
            self._seen[id(item)] = item
            set_state = _generators.state_of(item)
            if set_state is not None:
                self._stack.callback(set_state)
            elif isinstance(item, (list, tuple, set, dict)):
                if len(item) <= _LONGEST_CONTAINER:
                    found.extend(item.values() if isinstance(item, dict) else item)
            elif isinstance(item, functools.partial):
                found.extend((*item.args, *item.keywords.values()))
            elif isinstance(item, types.MethodType):
                found.append(item.__self__)
            elif hasattr(item, "__dict__"):
                self.attributes(item)
                if isinstance(item, nn.Module):  # such as a transform that is fitted to the data
                    for buffer in item.buffers(recurse=False):
                        self._stack.callback(buffer.detach().copy_, buffer.detach().clone())
                if isinstance(item, DataLoader):
                    # Workers that persist have a state of their own: these start others.
                    vars(item)["_iterator"] = None
                found.extend(vars(item).values())
            elif isinstance(item, Iterator) and not isinstance(item, io.IOBase):
                running.append(item)
        return running


def _refill(container: Any, content: Any) -> None:
    """Give a container the content that it had."""
    container.clear()
    if isinstance(container, (list, deque)):
        container.extend(content)
    else:
        container.update(content)
