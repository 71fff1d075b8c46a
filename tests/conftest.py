"""Eight fake devices, set before anything uses JAX; tests of one device name it."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
