"""Probes that evaluate learned codes."""
