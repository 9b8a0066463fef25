"""A module for each project: ``fit(**options)`` trains as its documentation does.

The options are those of a Trainer, ``callbacks`` among them. The classes that are trained are the
project's own, unmodified; data are generated, or come with a package.
"""

from __future__ import annotations

TORCH = "torch==2.13.0"

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "casanovo": (TORCH, "pyarrow<21", "casanovo==5.2.1"),
    "chemprop": (TORCH, "chemprop==2.3.1"),
    "darts": (TORCH, "darts[torch]==0.48.1"),
    "deeptab": (TORCH, "deeptab==2.1.0"),
    "gluonts": (TORCH, "gluonts[torch]==0.17.0"),
    "matgl": (TORCH, "matgl==4.1.2"),
    "mlcolvar": (TORCH, "mlcolvar==1.3.1"),
    "neural_amp_modeler": (TORCH, "neural-amp-modeler==0.13.0"),
    "neuralforecast": (TORCH, "neuralforecast==3.3.0"),
    "neuralprophet": (TORCH, "pandas<3", "neuralprophet==0.9.0"),
    "pina_mathlab": (TORCH, "pina-mathlab==0.3.2.post2610"),
    "pytorch_forecasting": (TORCH, "pytorch-forecasting==1.8.0"),
    "pytorch_tabular": (TORCH, "requests", "pytorch-tabular==1.2.0"),
    "rectools": (TORCH, "rectools[torch]==0.19.0"),
    "scvi_tools": (TORCH, "scvi-tools==1.4.2"),
}
"""What pip installs for each; the last is the project itself.

Between torch and the project stands what it imports and does not name, or a release that it can do
with: Casanovo has NumPy 1, and NeuralProphet calls a method that pandas 3 lacks.
"""
