"""Preparation: raw data sets become records."""
