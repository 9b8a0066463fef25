"""What a learning-rate finder loses on image nets: `tasks`, `measure`, `table`."""
