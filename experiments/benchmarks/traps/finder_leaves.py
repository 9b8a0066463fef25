"""What an LR finder leaves behind, and what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch.tuner as lightning_tuner
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import lightning_onecycle
from experiments.benchmarks.traps.finder_curve import POINTS, ours, theirs
from experiments.benchmarks.traps.finder_run import DATA, RANGE, TEST
from experiments.benchmarks.traps.toys import (
    SEEN,
    Net,
    forget,
    loader,
    trainer,
    used,
)
from experiments.benchmarks.traps.trap import Outcome, Section, error_of, named, outcome

SECTION = Section("LR finder: what it leaves behind")


class _Configured(Net):
    def __init__(self) -> None:
        from omegaconf import OmegaConf

        super().__init__()
        self.save_hyperparameters({"cfg": OmegaConf.create({"lr": 0.1})})


def _with_config(run: Any) -> Outcome:
    net = _Configured()
    before = [p.tolist() for p in net.parameters()]
    error = error_of(lambda: run(net))
    kept = before == [p.tolist() for p in net.parameters()]
    files = [path.name for path in Path().rglob("*.ckpt")]
    return outcome(
        (not error, error or f"{len(used())} points"),
        (kept, "weights as before" if kept else "weights are those of the test"),
        (not files, f"{len(files)} checkpoint(s) left on disk"),
    )


@SECTION.them(33, "OmegaConf in the hyperparameters: fails when the test is over")
def _() -> Outcome:
    return _with_config(theirs)


@SECTION.us(33)
def _() -> Outcome:
    return _with_config(ours)


class _Failing(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if SEEN.batches == 10:
            raise MemoryError("out of memory")
        return super().training_step(batch, batch_idx)


def _failed(tuner: Any) -> Outcome:
    net, data = _Failing(), loader(shuffle=True)
    of = trainer(
        ModelCheckpoint(),
        logger=CSVLogger("."),
        enable_checkpointing=True,
        limit_val_batches=3,
        max_epochs=100,
    )

    def state() -> dict[str, Any]:
        return {
            "callbacks": list(of.callbacks),  # type: ignore[attr-defined]
            "logger": of.logger,
            "limit_val_batches": of.limit_val_batches,
            "random numbers": torch.get_rng_state().tolist(),
        }

    before = state()
    try:
        tuner(of).lr_find(net, data, num_training=POINTS)
    except MemoryError as error:
        raised = named(error)
    after = state()
    changed = [name for name, value in before.items() if after[name] != value]
    return outcome((not changed, f"{raised}; changed: {', '.join(changed) or 'nothing'}"))


@SECTION.them(49, "an exception in the test leaves the trainer as the test had it")
def _() -> Outcome:
    return _failed(lightning_tuner.Tuner)


@SECTION.us(49)
def _() -> Outcome:
    return _failed(lightning_onecycle.Tuner)


def _tags(folder: str) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = []
    for file in Path(folder).rglob("events*"):
        events = EventAccumulator(str(file))
        events.Reload()
        names += [tag for kind in ("scalars", "images") for tag in events.Tags()[kind]]
    return sorted(set(names))


def _logged(tuner: Any) -> tuple[Any, list[str]]:
    of = trainer(logger=TensorBoardLogger("logs"), log_every_n_steps=1, max_epochs=10)
    curve = tuner(of).lr_find(Net(), DATA(), num_training=TEST, update_attr=False, **RANGE)
    of.fit(Net(), DATA())
    return curve, _tags("logs")


def _has_test(tags: list[str]) -> bool:
    return any("lr_find" in tag for tag in tags)


@SECTION.them(51, "nothing of the test is in TensorBoard")
def _() -> Outcome:
    tags = _logged(lightning_tuner.Tuner)[1]
    return outcome((_has_test(tags), f"tags: {', '.join(tags)}"))


@SECTION.us(51)
def _() -> Outcome:
    from experiments.lr_find import show_curve

    curve, tags = _logged(lightning_onecycle.Tuner)
    show_curve(curve, curve.suggest(), [TensorBoardLogger("shown")], Path("shown"))
    files = [name for name in ("lr_find.json", "lr_find.png") if Path("shown", name).exists()]
    shown = [tag for tag in _tags("shown") if "lr_find" in tag]
    return outcome(
        (_has_test(tags), f"Tuner: tags {', '.join(tags)}"),
        (len(shown) >= 2 and len(files) == 2, f"train.py: {', '.join(shown)}; {', '.join(files)}"),
    )


class _Loads(Net):
    """Makes a loader with a generator of its own, which it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.made = torch.Generator().manual_seed(3), 0

    def train_dataloader(self) -> Any:
        SEEN.made += 1
        return loader(shuffle=True, generator=self.generator)


def _order_kept(tuner: Any) -> Outcome:
    SEEN.made = 0
    losses = []
    for test in (False, True):
        SEEN.made = 0
        torch.manual_seed(1)
        net, of = _Loads(), trainer()
        if test:
            tuner(of).lr_find(net, num_training=POINTS, update_attr=False)
        forget()
        of.fit(net)
        losses.append([*SEEN.losses])
    same = sum(a == b for a, b in zip(*losses, strict=False))
    what = f"{same} of 24 losses are those without the test; {SEEN.made} loaders made"
    return outcome((same == 24, what))


@SECTION.them(53, "loaders are made again, and their own generators move on")
def _() -> Outcome:
    return _order_kept(lightning_tuner.Tuner)


@SECTION.us(53)
def _() -> Outcome:
    return _order_kept(lightning_onecycle.Tuner)


class _Looks(Net):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        SEEN.files = [path for path in Path().rglob("*") if path.name != "output"]


def _on_disk(run: Any) -> Outcome:
    run(_Looks())
    names = [path.name[:8] + "..." + path.suffix for path in SEEN.files]
    return outcome((not names, f"during the test: {', '.join(names) or 'no file'}"))


@SECTION.them(54, "a whole checkpoint is written to disk")
def _() -> Outcome:
    return _on_disk(theirs)


@SECTION.us(54)
def _() -> Outcome:
    return _on_disk(ours)


@SECTION.them(55, "state leaks into the training, in release after release", slow=True)
def _() -> Outcome:
    return _leaks("Lightning's Tuner")


@SECTION.us(55)
def _() -> Outcome:
    return _leaks("lightning_onecycle")


def _leaks(kind: str) -> Outcome:
    from experiments.benchmarks import finder_traces

    checks = finder_traces.TRACES.values()
    kept = sum(finder_traces.outcome(check, kind) == "yes" for check in checks)
    return outcome((kept == len(checks), f"{kept} of {len(checks)} kinds of state as before"))
