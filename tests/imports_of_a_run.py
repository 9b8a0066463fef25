"""What a run of ``train.py`` imports; the server of ``forks.py`` does it once for all runs."""

import gc
from importlib import import_module

from hydra.core.plugins import Plugins

MODULES = (
    "train",  # first: which of Lightning's packages comes first decides whose logger is used
    "experiments.data",
    "experiments.models",
    "matplotlib.backends.backend_agg",
    "sklearn.datasets",
    "torch.utils.tensorboard",
)
for module in MODULES:
    import_module(module)
Plugins.instance()  # imports Hydra's plugins
gc.freeze()  # a collection in a fork would copy all of it
