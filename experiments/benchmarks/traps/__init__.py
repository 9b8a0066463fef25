"""Traps of schedulers and LR finders, each as a case that is run: theirs beside ours."""
