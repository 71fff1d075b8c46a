"""The configs, one file for each run, installed as facecycle_jax.configs.

base.py holds the fields that they share.
"""
