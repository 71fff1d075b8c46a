"""Batches: sampling as a pure function of seed and step, and the reading backends."""
