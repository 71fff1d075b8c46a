"""Trained models: `FaceCycle`, and the runner that batches and compiles its work."""

from facecycle_jax.inference.face_cycle import FaceCycle, PreparedFaces
from facecycle_jax.inference.loading import load, model_from_run, model_from_state
from facecycle_jax.inference.motion_control import PoseDirections, pose_directions
from facecycle_jax.inference.peer_model import PeerModel

__all__ = [
    "FaceCycle",
    "PeerModel",
    "PoseDirections",
    "PreparedFaces",
    "load",
    "model_from_run",
    "model_from_state",
    "pose_directions",
]
