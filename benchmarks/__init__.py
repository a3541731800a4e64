"""Measurements run from a checkout; each module prints a table, and JSON with ``--json``."""
