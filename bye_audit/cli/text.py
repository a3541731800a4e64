"""Numbers as people read them."""

from __future__ import annotations


def format_seconds(seconds: float) -> str:
    """Write a duration as ``41 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: int, noun: str) -> str:
    """Write a number with its noun, as in ``1 sample`` or ``4,000 samples``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
