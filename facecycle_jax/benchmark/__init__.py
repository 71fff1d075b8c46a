"""Measures the program against a plain PyTorch rendering: python -m facecycle_jax.benchmark --help."""
