"""Trained models: `FaceCycle`, and the runner that batches and compiles its work."""

from facecycle_jax.inference.face_cycle import (
    FaceCycle,
    PeerModel,
    load,
    model_from_run,
    model_from_state,
)

__all__ = ["FaceCycle", "PeerModel", "load", "model_from_run", "model_from_state"]
