"""Leslie Smith's 1cycle policy for PyTorch Lightning."""
