"""The LR finders of others, each used as its own documentation does, on the tasks of `regret`.

They are imported when they are run: none of them is needed by the project. Options are passed on to
the finder.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy

from experiments.data.base import InMemoryDataModule
from experiments.task import Classifier

Suggestions = dict[str, float | None]
Run = tuple[Classifier, InMemoryDataModule, Trainer]
"""A module, its data, and the trainer that would train it."""

POINTS = 100


class _Batches:
    """The training or validation loader with images standardized, as the nets get them."""

    def __init__(self, data: InMemoryDataModule, loader: Any) -> None:
        self.data, self.loader, self.epoch = data, loader, 0
        self.batch_size, self.dataset = loader.batch_size, loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if hasattr(self.loader.sampler, "set_epoch"):
            self.loader.sampler.set_epoch(self.epoch)
        self.epoch += 1
        for batch in self.loader:
            yield self.data.on_after_batch_transfer(batch, 0)


def lightning_tuner(run: Run, **options: Any) -> Suggestions:
    """Lightning's Tuner with its defaults: 1e-8 to 1, steepest descent against the LR itself."""
    from lightning.pytorch.tuner import Tuner

    module, data, trainer = run
    # update_attr, its default, would write the answer into an attribute that the module lacks.
    options = {"num_training": POINTS, "update_attr": False, **options}
    finder = Tuner(trainer).lr_find(module, datamodule=data, **options)
    return {"lightning": finder.suggestion()}


def torch_lr_finder(run: Run, **options: Any) -> Suggestions:
    """torch-lr-finder as its README: 1e-7 to 100 in 100 steps, and what the plot suggests."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from torch_lr_finder import LRFinder, TrainDataLoaderIter

    class Iterate(TrainDataLoaderIter):
        def __init__(self, batches: _Batches) -> None:
            self.data_loader, self._iterator, self.auto_reset = batches, iter(batches), True

    module, data, _ = run
    data.setup("fit")
    module.train()
    finder = LRFinder(module, module.configure_optimizers(), cross_entropy, device="cpu")
    batches = Iterate(_Batches(data, data.train_dataloader()))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        options = {"start_lr": 1e-7, "end_lr": 100, "num_iter": POINTS, **options}
        finder.range_test(batches, **options)
        _, axes = pyplot.subplots()
        _, lr = finder.plot(ax=axes, suggest_lr=True)
        pyplot.close("all")
    return {"torch-lr-finder": float(lr)}


def fastai(run: Run, **options: Any) -> Suggestions:
    """The ``lr_find()`` of fastai: 1e-7 to 10 in 100 steps; its suggestion by default is valley."""
    from fastai.callback.schedule import minimum, slide, steep, valley
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    module, data, _ = run
    data.setup("fit")
    make: partial[Any] = module.optimizer  # type: ignore[assignment]
    loaders = [data.train_dataloader(), data.val_dataloader()]
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(
            DataLoaders(*(_Batches(data, loader) for loader in loaders), device="cpu"),
            module.net,
            loss_func=cross_entropy,
            opt_func=partial(OptimWrapper, opt=make.func, **make.keywords),
            path=folder,
        )
        with learner.no_bar(), learner.no_logging():
            options = {
                "num_it": POINTS,
                "suggest_funcs": (minimum, steep, valley, slide),
                **options,
            }
            found = learner.lr_find(show_plot=False, **options)
    return {f"fastai {name}": float(lr) for name, lr in found._asdict().items()}


def ignite(run: Run, **options: Any) -> Suggestions:
    """The ``FastaiLRFinder`` of ignite on a supervised trainer: to 10 in 100 steps, from 1e-7."""
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    module, data, _ = run
    data.setup("fit")
    optimizer, finder = module.configure_optimizers(), FastaiLRFinder()
    engine = create_supervised_trainer(module.net, optimizer, cross_entropy)
    keep = {"model": module.net, "optimizer": optimizer}
    # Its default begins at the optimizer's own rate, which is a guess of the peak here.
    options = {"start_lr": 1e-7, "num_iter": POINTS, **options}
    with finder.attach(engine, to_save=keep, **options) as tested:
        tested.run(_Batches(data, data.train_dataloader()))
    try:
        lr = finder.lr_suggestion()
    except RuntimeError:  # of a curve that it cannot read
        lr = None
    return {"ignite": lr if lr is None else float(lr)}


PEERS: dict[str, Callable[..., Suggestions]] = {
    "lightning": lightning_tuner,
    "torch-lr-finder": torch_lr_finder,
    "fastai": fastai,
    "ignite": ignite,
}
