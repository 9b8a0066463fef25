"""Reference models, data and tasks to try the 1cycle policy on."""
