r"""TFDS builders; importing a module of this folder registers its builders with TFDS.

tfds build facecycle_voxceleb1 --imports facecycle_jax.data.prepare.builders.voxceleb \\
  --manual_dir RAW --data_dir OUT
"""
