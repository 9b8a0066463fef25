"""Whether the package works with real projects built on Lightning, unmodified."""
