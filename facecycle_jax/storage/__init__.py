"""Model folders, their format, and the bundled models."""

from facecycle_jax.storage.model_folder import ModelFolder, read_model, write_model
from facecycle_jax.storage.model_spec import ORIGINAL_MODEL

__all__ = ["ORIGINAL_MODEL", "ModelFolder", "read_model", "write_model"]
