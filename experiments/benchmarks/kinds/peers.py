"""The LR finders of others on the tasks of `tasks`, with their defaults.

    PYTHON -m experiments.benchmarks.kinds.peers

PYTHON has fastai, torch-lr-finder and pytorch-ignite installed, besides Lightning, scikit-learn and
statsmodels. Their nets take a batch and return its loss, so that any problem fits in.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.kinds.measure import RESULTS, SEEDS
from experiments.benchmarks.kinds.tasks import TASKS
from experiments.benchmarks.kinds.trainings import Regime, build, trainer_for
from experiments.rows import add_line, quiet, read_lines

Suggestions = dict[str, "float | None"]


class LossOf(nn.Module):
    """A net that returns the loss of a batch.

    Args:
        regime: Whose net and loss.
    """

    def __init__(self, regime: Regime) -> None:
        super().__init__()
        self.net, self.loss = regime.net, regime.loss

    def forward(self, batch: list[Tensor]) -> Tensor:
        """Return the loss."""
        return self.loss(self.net, batch)


def itself(loss: Tensor, _: Any = None) -> Tensor:
    """Stand in for a loss function."""
    return loss


class Pairs:
    """Batches as pairs of an input and a target that nobody looks at."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.dataset = loader, loader.dataset
        self.batch_size = loader.sampler.batch_size

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        for batch in self.loader:
            yield list(batch), torch.zeros(1)


def lightning(regime: Regime, loader: Any) -> Suggestions:
    """Lightning's Tuner."""
    from lightning.pytorch.tuner import Tuner

    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(regime.task.steps)
        trainer._default_root_dir = folder
        finder = Tuner(trainer).lr_find(regime, loader, update_attr=False)
    return {"Lightning's Tuner": finder.suggestion()}


def torch_lr_finder(regime: Regime, loader: Any) -> Suggestions:
    """torch-lr-finder as its README: 1e-7 to 100 in 100 steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from torch_lr_finder import LRFinder, TrainDataLoaderIter

    class Iterate(TrainDataLoaderIter):
        def __init__(self, batches: Pairs) -> None:
            self.data_loader, self._iterator, self.auto_reset = batches, iter(batches), True

    finder = LRFinder(LossOf(regime), regime.configure_optimizers(), itself, device="cpu")
    finder.range_test(Iterate(Pairs(loader)), start_lr=1e-7, end_lr=100, num_iter=100)
    _, axes = pyplot.subplots()
    _, lr = finder.plot(ax=axes, suggest_lr=True)
    pyplot.close("all")
    return {"torch-lr-finder": float(lr)}


def fastai(regime: Regime, loader: Any) -> Suggestions:
    """The ``lr_find()`` of fastai with its four rules; ``valley`` is its default."""
    from fastai.callback.schedule import minimum, slide, steep, valley
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    def make(params: Any, **options: Any) -> Any:
        return OptimWrapper(opt=regime.configure_optimizers())

    with tempfile.TemporaryDirectory() as folder:
        loaders = DataLoaders(Pairs(loader), Pairs(loader), device="cpu")
        learner = Learner(loaders, LossOf(regime), loss_func=itself, opt_func=make, path=folder)
        with learner.no_bar(), learner.no_logging():
            rules = (minimum, steep, valley, slide)
            found = learner.lr_find(show_plot=False, suggest_funcs=rules)
    return {f"fastai {name}": float(lr) for name, lr in found._asdict().items()}


def ignite(regime: Regime, loader: Any) -> Suggestions:
    """The ``FastaiLRFinder`` of ignite on a supervised trainer: to 10 in 100 steps, from 1e-7."""
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    net, optimizer, finder = LossOf(regime), regime.configure_optimizers(), FastaiLRFinder()
    engine = create_supervised_trainer(net, optimizer, itself)
    keep = {"model": net, "optimizer": optimizer}
    with finder.attach(engine, to_save=keep, start_lr=1e-7, num_iter=100) as tested:
        tested.run(Pairs(loader))
    return {"ignite": float(finder.lr_suggestion())}


PEERS: tuple[Callable[[Regime, Any], Suggestions], ...] = (
    lightning,
    torch_lr_finder,
    fastai,
    ignite,
)


def main() -> None:
    """Run each peer on each task and seed; one that raises an error has no answer."""
    quiet()
    path = RESULTS / "peers.jsonl"
    rows = list(read_lines(path))
    done = {(row["task"], row["peer"], row["seed"]) for row in rows}
    names: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        names[row["peer"]].add(row["method"])
    for task in TASKS:
        for peer in PEERS:
            for seed in SEEDS:
                if (task.name, peer.__name__, seed) in done:
                    continue
                regime, loader, _, _ = build(task, seed, 1e-2)
                hidden = io.StringIO()
                try:
                    with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
                        suggestions = peer(regime, loader)
                except Exception as error:
                    print(task.name, peer.__name__, seed, repr(error)[:200], flush=True)
                    suggestions = dict.fromkeys(names[peer.__name__])
                names[peer.__name__] |= set(suggestions)
                for method, lr in suggestions.items():
                    row = {"task": task.name, "peer": peer.__name__, "method": method}
                    add_line(path, {**row, "seed": seed, "lr": lr})
                print(task.name, seed, suggestions, flush=True)


if __name__ == "__main__":
    main()
