"""The maths of detection: arrays in, arrays and frozen dataclasses out; no tables, no models."""
