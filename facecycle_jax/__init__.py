"""FaceCycle in JAX and Flax.

Face representations from the cycle-consistency of faces.
"""

from facecycle_jax._version import __version__
from facecycle_jax.inference.face_cycle import FaceCycle, load

__all__ = ["FaceCycle", "__version__", "load"]
