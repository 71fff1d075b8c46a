"""Weights of other programs in.

The original PyTorch program and ImageNet VGG-19 files.
"""

from facecycle_jax.interop.original import read_original

__all__ = ["read_original"]
