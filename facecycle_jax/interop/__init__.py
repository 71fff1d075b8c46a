"""Readers of other programs' weights: the original PyTorch program and VGG-19 files."""

from facecycle_jax.interop.original import read_original

__all__ = ["read_original"]
