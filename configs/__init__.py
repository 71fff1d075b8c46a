"""The configs, one file a run; base.py holds what they share.

Installed as facecycle_jax.configs.
"""
