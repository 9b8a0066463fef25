"""How Sphinx builds the site: ``sphinx-build -W docs build/site``."""

from __future__ import annotations

import shutil
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.domains.python import PyXRefRole
from sphinx.util.inspect import signature, stringify_signature

DOCS = Path(__file__).parent

project = "lightning-onecycle"
release = version = version_of(project)

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "matplotlib.sphinxext.plot_directive",
]
html_theme = "furo"
pygments_dark_style = "one-dark"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebook is committed with what it gave

# Docstrings are in Google's layout, and a name in single backticks is a link to what has it.
default_role = "py:name"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
nitpicky = True
nitpick_ignore_regex = [
    # Other libraries: their indexes are on the internet, and a build needs none.
    ("py:.*", r"(collections|pathlib|typing|torch|lightning|matplotlib|omegaconf|hydra)\..*"),
    ("py:.*", r"Axes|Figure|MisconfigurationException|Optimizer|Path|Trainer|json\.dump"),
]

plot_pre_code = """
from matplotlib import pyplot as plt
from lightning_onecycle import *
from lightning_onecycle.plots import plot_schedule
"""
plot_apply_rcparams = True
plot_formats = [("svg", 100)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = True
plot_rcparams = {"figure.figsize": (7.0, 3.0), "figure.constrained_layout.use": True}


def copy_experiments(app: Any, config: Any) -> None:
    """Bring what was measured into the site: its texts, tables and pictures."""
    copy = DOCS / "experiments"
    shutil.rmtree(copy, ignore_errors=True)
    for source in (DOCS.parent / "experiments").rglob("*"):
        if source.suffix in {".md", ".csv", ".png"}:
            target = copy / source.relative_to(DOCS.parent / "experiments")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def title_tables(app: Any, docname: str, source: list[str]) -> None:
    """Keep tables that benchmarks have written out of the menu, and give them a title."""
    folder, _, name = docname.rpartition("/")
    if folder.endswith("results"):
        if not source[0].startswith("# "):
            source[0] = f"# {name.replace('_', ' ').capitalize()}\n\n{source[0]}"
        source[0] = f"---\norphan: true\n---\n\n{source[0]}"


def link_experiments(app: Any, docname: str, source: list[str]) -> None:
    """Lead a page's links to ``../experiments/``, as a clone has it, to the copy in the site."""
    if "/" not in docname:
        source[0] = source[0].replace("](../experiments/", "](experiments/")


class Name(PyXRefRole):
    """A link to what has a name, in whatever module of the package it is."""

    def process_link(self, env: Any, refnode: Any, *arguments: Any) -> tuple[str, str]:
        """Look for the name in all modules."""
        title_and_target = super().process_link(env, refnode, *arguments)
        refnode["reftype"], refnode["refspecific"] = "obj", True
        return title_and_target


def show_init(
    app: Any, what: str, name: str, obj: Any, options: Any, given: str, returns: Any
) -> Any:
    """Show what a callback's ``__init__`` takes; its ``__new__`` takes anything."""
    if what != "class" or given != "(*args, **kwargs)":
        return None
    if obj.__init__ is object.__init__:
        return "()", None
    return stringify_signature(
        signature(obj.__init__, bound_method=True), show_annotation=False
    ), None


def write_math(writer: Any, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers show without a script."""
    formula = node.astext().replace(r"\_", "_")
    writer.body.append(tex2mathml(formula, as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Tell Sphinx of these."""
    app.connect("config-inited", copy_experiments)
    app.connect("source-read", title_tables)
    app.connect("source-read", link_experiments)
    app.connect("autodoc-process-signature", show_init)
    app.add_role_to_domain("py", "name", Name())
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.config.html_math_renderer = "mathml"
