"""Evaluation sets with labels, read as published."""
