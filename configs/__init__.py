"""The configs: one file a run, base.py what they share. Installed as facecycle_jax.configs."""
