"""FaceCycle in JAX and Flax: face representations from cycle-consistency."""

from facecycle_jax._version import __version__
from facecycle_jax.inference.face_cycle import FaceCycle
from facecycle_jax.inference.loading import load

__all__ = ["FaceCycle", "__version__", "load"]
