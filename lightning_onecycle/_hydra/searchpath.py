"""A plugin of Hydra, which finds it by itself where the wheel is installed.

There it is the package ``hydra_plugins.lightning_onecycle``; Hydra does not look into an editable
install.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class LightningOneCycleSearchPath(SearchPathPlugin):
    """Offer the config group ``schedule``, and ``hydra/callbacks: sweep``, to any Hydra app."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Look in the package behind all other places, so that an app's own configs come first."""
        search_path.append("lightning-onecycle", "pkg://lightning_onecycle.conf")
