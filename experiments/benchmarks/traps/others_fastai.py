"""The LR finder of fastai, where it can be imported."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning.pytorch import seed_everything
from torch import nn
from torch.optim import SGD

import lightning_onecycle
from experiments.benchmarks.traps.finder_curve import ours
from experiments.benchmarks.traps.others import (
    SECTION,
    SPAN,
    Loss,
    Pairs,
    Script,
    keeps_ratio,
    lag,
    nan_at_12,
    negative,
    no_lag,
    same,
    sigmoid,
    with_and_without,
)
from experiments.benchmarks.traps.toys import (
    SEEN,
    Net,
    fit,
    forget,
    loader,
    trainer,
)
from experiments.benchmarks.traps.trap import Outcome, error_of, outcome
from lightning_onecycle import OneCycle

FASTAI = "fastai"


def _learner(loss: Loss) -> Any:
    import fastai.callback.schedule  # noqa: F401 # it adds lr_find to the learner
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    # As the nets of the others: plain SGD of torch.
    make = partial(OptimWrapper, opt=SGD, momentum=0.9)
    loaders = DataLoaders(Pairs(), Pairs(2), device="cpu")
    return Learner(loaders, nn.Linear(4, 1), loss_func=loss, opt_func=make, lr=0.1)


def _fastai(script: Script | None = None, **options: Any) -> tuple[Any, Loss, Any]:
    """Run fastai's finder; return the learner, the loss and what is suggested."""
    learner = _learner(loss := Loss(script))
    options = {"start_lr": SPAN[0], "end_lr": SPAN[1], "show_plot": False, **options}
    with learner.no_bar(), learner.no_logging():
        found = learner.lr_find(**options)
    return learner, loss, found


@SECTION.them("F1", "fastai: a NaN does not stop the test", needs=FASTAI)
def _() -> Outcome:
    calls = _fastai(nan_at_12)[1].calls
    return outcome((calls <= 14, f"NaN at step 12: goes on to step {calls} of 100"))


@SECTION.us("F1")
def _() -> Outcome:
    curve = ours(Net(script=nan_at_12), num_training=100)
    return outcome(
        (len(curve.lrs) == 13, f"NaN at step 12: {curve.stopped}, step {len(curve.lrs)}")
    )


@SECTION.them("F2", "fastai: negative losses stop the test at once", needs=FASTAI)
def _() -> Outcome:
    calls = _fastai(negative, suggest_funcs=None)[1].calls
    return outcome((calls >= 100, f"losses from -1 falling: {calls} of 100 steps"))


@SECTION.us("F2")
def _() -> Outcome:
    curve = ours(Net(script=negative), num_training=100, early_stop_threshold=4.0)
    return outcome(
        (len(curve.lrs) == 100, f"losses from -1 falling: {len(curve.lrs)} of 100 steps")
    )


@SECTION.them("F3", "fastai: the training after the test is another", needs=FASTAI)
def _() -> Outcome:
    losses = []
    for test in (False, True):
        seed_everything(1, verbose=False)
        learner = _learner(loss := Loss())
        with learner.no_bar(), learner.no_logging():
            if test:
                learner.lr_find(show_plot=False)
            loss.seen.clear()
            learner.fit(1)
        losses.append(loss.seen[:12])
    return same(*losses)


@SECTION.us("F3")
def _() -> Outcome:
    return same(*with_and_without())


@SECTION.them("F4", "fastai: rates for each group, start_lr=[...], do not work", needs=FASTAI)
def _() -> Outcome:
    error = error_of(lambda: _fastai(start_lr=[1e-5], end_lr=[1.0]))
    return outcome((not error, error or "runs"))


@SECTION.us("F4")
def _() -> Outcome:
    return keeps_ratio()


@SECTION.them(
    "F5", "fastai: the test's momentum is not that at the peak of the cycle", needs=FASTAI
)
def _() -> Outcome:
    from fastai.callback.core import Callback

    class Looks(Callback):
        seen: list[float] = []  # noqa: RUF012

        def after_step(self) -> None:
            """Write down."""
            self.seen.append(self.opt.hypers[-1]["mom"])

    learner = _learner(Loss())
    learner.add_cb(looks := Looks())
    with learner.no_bar(), learner.no_logging():
        learner.lr_find(show_plot=False)
        test, looks.seen[:] = {*looks.seen}, []
        learner.fit_one_cycle(2, 0.1)
    return outcome((test == {min(looks.seen)}, f"test {test}, at the peak {min(looks.seen):.2f}"))


@SECTION.us("F5")
def _() -> Outcome:
    forget()
    lightning_onecycle.Tuner(trainer(OneCycle(), max_epochs=20)).lr_find(Net(), loader())
    test = {groups[0][1] for groups in SEEN.steps}
    fit(Net(), OneCycle())
    peak = min(groups[0][1] for groups in SEEN.steps)
    return outcome((test == {peak}, f"test {test}, at the peak {peak:.2f}"))


@SECTION.them("F6", "fastai: a running average shifts the suggestion to higher rates", needs=FASTAI)
def _() -> Outcome:
    from fastai.callback.schedule import steep

    return outcome(lag("steep", _fastai(sigmoid, suggest_funcs=steep)[2].steep))


@SECTION.us("F6")
def _() -> Outcome:
    return no_lag()
