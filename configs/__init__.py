"""Runnable pages, one per run."""
