"""Learning-rate finders on tasks that are no image classifiers: `measure`, then `table`."""
