"""Measures the program against a plain PyTorch rendering.

Run `python -m benchmarks --help`.
"""
