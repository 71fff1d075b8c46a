"""Ten minutes of one GPU: a packed upload, one command there, small files back.

docs/scale.md describes the commands.
"""
