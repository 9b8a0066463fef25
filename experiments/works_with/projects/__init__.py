"""A module for each project: ``fit(**options)`` trains as its documentation does.

The options are those of a Trainer, ``callbacks`` among them. The classes that are trained are the
project's own, unmodified; data are generated, or come with a package.
"""

from __future__ import annotations

TORCH = "torch==2.13.0"

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "chemprop": (TORCH, "chemprop==2.3.1"),
    "gluonts": (TORCH, "gluonts[torch]==0.17.0"),
    "neuralforecast": (TORCH, "neuralforecast==3.3.0"),
    "pytorch_forecasting": (TORCH, "pytorch-forecasting==1.8.0"),
}
"""What pip installs for each; the last is the project itself."""
