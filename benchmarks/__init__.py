"""Measures the program against a plain PyTorch rendering: python -m benchmarks --help."""
