"""FaceCycle in JAX and Flax: face representations from the cycle-consistency of faces."""

from facecycle_jax._version import __version__

__all__ = ["__version__"]
