"""Measures the program against a plain PyTorch implementation.

Run `python -m benchmarks --help`.
"""
