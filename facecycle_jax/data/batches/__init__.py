"""Batches.

Sampling as a pure function of seed and step, and the backends that read them.
"""
