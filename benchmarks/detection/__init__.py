"""Detectors against attacks, measured: ``python -m benchmarks.detection``."""
