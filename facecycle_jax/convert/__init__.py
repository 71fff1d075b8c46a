"""Weights of other programs in, ours out."""

from facecycle_jax.convert.errors import ConversionError
from facecycle_jax.convert.model_folder import ModelFolder, read_model, write_model
from facecycle_jax.convert.model_spec import ORIGINAL_MODEL
from facecycle_jax.convert.original import read_original

__all__ = [
    "ORIGINAL_MODEL",
    "ConversionError",
    "ModelFolder",
    "read_model",
    "read_original",
    "write_model",
]
