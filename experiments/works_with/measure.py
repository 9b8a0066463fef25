"""Measure how a project trains, in the environment that the project is installed in.

    python -m experiments.works_with.measure PROJECT FILE

PROJECT is a module of `experiments.works_with.projects`. Its ``fit`` trains as the project's own
documentation does, and takes the options of a Trainer. Everything is measured where that training
calls ``Trainer.fit``, so that a project which makes the Trainer itself is measured as any other.
Each phase is a process of its own, forked where the project is imported: it knows nothing of those
before. FILE gets what each found, as JSON; an error is one of its entries.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import multiprocessing
import random
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from lightning_onecycle import LRFinder, OneCycle, Schedule, Tuner, one_cycle

Found = dict[str, Any]

NUM_TRAINING = 60
LIMIT = 600
"""Seconds that a phase may take."""
OPTIONS = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""What every Trainer is given."""


class Recorder:
    """What the module brings, and what each optimizer step uses.

    It stands first among the callbacks and knows nothing of the package.

    Attributes:
        brought: The name and the interval of each scheduler of the module's own.
        peaks: The peak of each group of each optimizer: ``max_lr``, which `OneCycleLR` and
            `CyclicLR` leave in a group, or ``initial_lr``, which any scheduler does, or ``lr``.
        steps: The learning rate and the momentum of each group in each step, for each optimizer.
        losses: What ``training_step`` returned.
    """

    def __init__(self) -> None:
        self.optimizers: list[str] = []
        self.brought: list[dict[str, str]] = []
        self.peaks: list[list[float]] = []
        self.steps: list[list[list[tuple[float, float | None]]]] = []
        self.losses: list[float] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at optimizers and schedulers before any other callback changes them."""
        self.optimizers = [type(optimizer).__name__ for optimizer in trainer.optimizers]
        self.brought = [
            {"name": type(config.scheduler).__name__, "interval": config.interval}
            for config in trainer.lr_scheduler_configs
        ]
        self.peaks = [[peak(g) for g in o.param_groups] for o in trainer.optimizers]
        self.steps = [[] for _ in trainer.optimizers]

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Write down what this step uses."""
        position = [id(each) for each in trainer.optimizers].index(id(optimizer))
        self.steps[position].append([values(group) for group in optimizer.param_groups])

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write down the loss."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None:
            self.losses.append(float(loss))


def peak(group: Mapping[str, Any]) -> float:
    """Return the learning rate that a group had before a scheduler changed it.

    Example:
        >>> peak({"lr": 0.004, "initial_lr": 0.4})
        0.4
    """
    return float(group.get("max_lr", group.get("initial_lr", group["lr"])))


def values(group: Mapping[str, Any]) -> tuple[float, float | None]:
    """Return the learning rate, and the momentum or first beta unless there is none or it is 0."""
    momentum = group["betas"][0] if "betas" in group else group.get("momentum") or None
    return float(group["lr"]), None if momentum is None else float(momentum)


def first_difference(
    steps: Sequence[Sequence[tuple[float, float | None]]],
    peaks: Sequence[float],
    schedule: Schedule,
) -> str | None:
    """Say where steps differ from a schedule that is laid over exactly them; None: nowhere.

    Args:
        steps: The learning rate and the momentum of each group in each step.
        peaks: Each group's.
        schedule: What the steps should have used.
    """
    for index, (groups, point) in enumerate(zip(steps, schedule.trace(len(steps)), strict=True)):
        if len(groups) != len(peaks):
            return f"step {index}: {len(groups)} parameter groups, {len(peaks)} at the start"
        for number, ((lr, momentum), top) in enumerate(zip(groups, peaks, strict=True)):
            if lr != top * point.lr:
                return f"step {index}, group {number}: lr {lr!r}, not {top * point.lr!r}"
            if momentum is not None and momentum != point.momentum:
                return f"step {index}, group {number}: momentum {momentum!r}, not {point.momentum}"
    return None


def digest(*parts: Any) -> str:
    """Return a hash of tensors, arrays, numbers and containers of them, of every bit."""
    total = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            part = part.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        if isinstance(part, np.ndarray):
            total.update(part.tobytes())
        elif isinstance(part, Mapping):
            add([*part.items()])
        elif isinstance(part, (list, tuple)):
            for item in part:
                add(item)
        else:
            total.update(repr(part).encode())

    add(parts)
    return total.hexdigest()[:16]


def state(trainer: Any, module: torch.nn.Module, optimizers: list[Optimizer]) -> dict[str, str]:
    """Return a hash of each thing that a range test could leave changed."""
    legacy = np.random.get_state()  # noqa: NPY002 - what projects use
    numbers = (random.getstate(), legacy, torch.get_rng_state())
    return {
        "weights": digest(module.state_dict()),
        "gradients": digest([p.grad for p in module.parameters()]),
        "modes": digest([(m.training, *vars(m)) for m in module.modules()]),
        "optimizers": digest([optimizer.state_dict() for optimizer in optimizers]),
        "random numbers": digest(numbers),
        "trainer": digest(
            trainer.global_step, trainer.current_epoch, [id(c) for c in trainer.callbacks]
        ),
    }


def train(
    project: ModuleType,
    callbacks: Sequence[Any],
    found: Found,
    before: Callable[..., None] | None = None,
) -> tuple[Recorder, Any]:
    """Train as the project does.

    Args:
        project: A module of `experiments.works_with.projects`.
        callbacks: What its users would give.
        found: Gets the weights and losses of the end, hashed.
        before: Called in place of the training's ``Trainer.fit``, with its trainer and its
            arguments, before that runs.

    Returns:
        What was recorded, and the trainer.
    """
    names = ("lightning.pytorch", "pytorch_lightning")
    originals = {
        sys.modules[n].Trainer: sys.modules[n].Trainer.fit for n in names if n in sys.modules
    }
    trained: list[tuple[Recorder, Any]] = []

    def restore() -> None:
        for cls, original in originals.items():
            cls.fit = original

    def fit(trainer: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        restore()  # the range test calls it, too
        (cls,) = (cls for cls in originals if isinstance(trainer, cls))
        package = cls.__module__.removesuffix(".trainer.trainer")
        callback = importlib.import_module(package).Callback
        recorder = type("Recorder", (Recorder, callback), {})()
        trainer.callbacks.insert(0, recorder)
        trained.append((recorder, trainer))
        found.update(module=type(model).__qualname__, lightning=package)
        if before is not None:
            before(trainer, model, *args, **kwargs)
        result = trainer.fit(model, *args, **kwargs)
        weights = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
        found["end"] = digest(weights, recorder.losses)
        return result

    for cls in originals:
        cls.fit = fit
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    try:
        project.fit(callbacks=list(callbacks), **OPTIONS)
    finally:
        restore()
    if not trained:
        raise RuntimeError("the project did not call Trainer.fit")
    return trained[0]


def judge(recorder: Recorder, found: Found, peaks: list[list[float]] | None = None) -> None:
    """Hold the steps that were taken against 1cycle, over exactly as many."""
    pairs = zip(recorder.steps, peaks or recorder.peaks, strict=True)
    wrong = [first_difference(steps, tops, one_cycle()) for steps, tops in pairs]
    found["steps"] = [len(steps) for steps in recorder.steps]
    found["wrong"] = next(filter(None, wrong), None)


# ---- the phases -----------------------------------------------------------------------------


def own(project: ModuleType, found: Found) -> None:
    """Without any callback: what the module brings."""
    recorder, _ = train(project, [], found)
    found.update(optimizers=recorder.optimizers, schedulers=recorder.brought)
    found["steps"] = [len(steps) for steps in recorder.steps]
    distributions = ("torch", found["lightning"].replace(".pytorch", "").replace("_", "-"))
    found["versions"] = {name: version(name) for name in distributions}


def onecycle(project: ModuleType, found: Found) -> None:
    """With `OneCycle`: every step against the schedule."""
    recorder, _ = train(project, [OneCycle()], found)
    found["peaks"] = recorder.peaks
    judge(recorder, found)


def range_test(project: ModuleType, found: Found) -> None:
    """A range test right before the same fit: its curve, and what it leaves behind."""

    def before(
        trainer: Any,
        model: Any,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        **others: Any,
    ) -> None:
        gc.collect()
        alive = [o for o in gc.get_objects() if issubclass(type(o), Optimizer)]
        held = state(trainer, model, alive)
        curve = Tuner(trainer).lr_find(
            model,
            train_dataloaders,
            datamodule,
            val_dataloaders=val_dataloaders,
            num_training=NUM_TRAINING,
        )
        now = state(trainer, model, alive)
        found["changed"] = [name for name in held if held[name] != now[name]]
        suggestion = curve.suggest()
        found.update(points=len(curve.lrs), stopped=curve.stopped)
        found.update(suggestion=suggestion.lr, reason=suggestion.reason)

    recorder, _ = train(project, [OneCycle()], found, before)
    judge(recorder, found)


def finder(project: ModuleType, found: Found) -> None:
    """With `LRFinder` before `OneCycle`: every step against the schedule at the peak it found."""
    callbacks = [LRFinder(num_training=NUM_TRAINING), OneCycle()]
    recorder, trainer = train(project, callbacks, found)
    # A project may have copied its callbacks.
    (used,) = (callback for callback in trainer.callbacks if isinstance(callback, LRFinder))
    assert used.max_lr is not None
    found["max_lr"] = used.max_lr
    judge(recorder, found, scaled(recorder.peaks, used.max_lr))


def given(project: ModuleType, max_lr: float, found: Found) -> None:
    """With the peak that `LRFinder` found, given to `OneCycle`: the fit that a test must equal."""
    recorder, _ = train(project, [OneCycle(max_lr=max_lr)], found)
    judge(recorder, found, scaled(recorder.peaks, max_lr))


def scaled(peaks: list[list[float]], max_lr: float) -> list[list[float]]:
    """Return the peaks of each optimizer's groups where the largest is given.

    Example:
        >>> scaled([[0.1, 0.2]], 0.4)
        [[0.2, 0.4]]
    """
    return [[max_lr * (lr / max(groups)) for lr in groups] for groups in peaks]


def alone(phase: Callable[..., None], *arguments: Any) -> Found:
    """Run a phase in a process of its own; return what it found, and why it failed if it did."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run() -> None:
        found: Found = {}
        try:
            phase(*arguments, found)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            found["error"] = reason(error)
        sender.send(found)

    process = context.Process(target=run)
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(LIMIT) else {"error": f"more than {LIMIT} seconds"}
    except EOFError:
        process.join()
        return {"error": f"exit code {process.exitcode}"}
    finally:
        process.kill()


def reason(error: BaseException) -> str:
    """Return the kind of an error, and its message in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def measure(project: ModuleType) -> dict[str, Found]:
    """Return what each phase found in a project."""
    result = {phase.__name__: alone(phase, project) for phase in PHASES}
    if "max_lr" in result["finder"]:
        result["given"] = alone(given, project, result["finder"]["max_lr"])
    return result


PHASES = (own, onecycle, range_test, finder)


def main(name: str, file: str) -> None:
    """Measure one project, and write down what was found."""
    try:
        project = importlib.import_module(f"experiments.works_with.projects.{name}")
        result: Found = measure(project)
    except Exception as error:
        traceback.print_exc()
        result = {"error": reason(error)}
    Path(file).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
