"""Errors by which a test does not fail: those of a divergence, and of hooks after an epoch.

Distributions refuse NaN, a matrix becomes singular. A hook reads what a validation has logged.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_warn
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

_RAISED = (MisconfigurationException, torch.cuda.OutOfMemoryError)


def guarded(
    step: Callable[..., Any],
    module: nn.Module,
    original: nn.Module | None,
    may_diverge: Callable[[], bool],
    diverged: Callable[[Exception], None],
) -> Callable[..., Any]:
    """Return a step that, where only the trained weights make it fail, is a divergence.

    The step is taken again with the same weights, and then with those of the start. An error that
    does not come again, or comes with the weights of the start, too, has another reason and is
    raised.

    Args:
        step: A method of ``module``, such as its ``training_step``.
        module: The one that is trained.
        original: That with the weights of the start.
        may_diverge: Whether the weights are others than at the start.
        diverged: Called with the error. The step then returns what the weights of the start give.
    """

    @functools.wraps(step)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        """Run the step; after a divergence, run it with the weights of the start."""
        try:
            return step(*args, **kwargs)
        except _RAISED:
            raise
        except Exception as error:
            if not may_diverge() or not _raises(type(error), step, *args, **kwargs):
                raise
            try:
                _give_weights(original, module)
                output = step(*args, **kwargs)
            except Exception:
                raise error from None
            diverged(error)
            return output

    return wrapped


def _raises(kind: type[Exception], step: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    try:
        step(*args, **kwargs)
    except Exception as error:
        return type(error) is kind
    return False


def _give_weights(giver: nn.Module | None, taker: nn.Module) -> None:
    """Set parameters and buffers to those of another module, where it has them."""
    of_both = [
        dict(itertools.chain(module.named_parameters(), module.named_buffers())) if module else {}
        for module in (giver, taker)
    ]
    with torch.no_grad():
        for name in of_both[0].keys() & of_both[1].keys():
            given, taken = of_both[0][name], of_both[1][name]
            if not nn.parameter.is_lazy(given) and given.shape == taken.shape:
                taken.copy_(given)


def excused(hook: Callable[..., None], told: set[Any]) -> Callable[..., None]:
    """Return a hook of which an error is a warning.

    At the end of an epoch or of a training, a hook may read the results of a validation or the path
    of a checkpoint, and there is none.

    Args:
        hook: A method of a module or a callback.
        told: Hooks and kinds of errors for which there is no warning; gets those for which there
            was.
    """

    @functools.wraps(hook)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        """Call the hook."""
        try:
            hook(*args, **kwargs)
        except _RAISED:
            raise
        except Exception as error:
            what = f"{hook.__qualname__} raised {type(error).__name__}"
            if what not in told:
                told.add(what)
                rank_zero_warn(
                    f"{what}: {error}. A range test and a search go on: they validate less often"
                    " than the training, and save nothing."
                )

    return wrapped
