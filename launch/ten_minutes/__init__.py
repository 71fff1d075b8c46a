"""Trains and measures on a GPU that is lent for ten minutes.

A packed folder is uploaded, one command runs there, and small files come back.
docs/scale.md describes the commands.
"""
