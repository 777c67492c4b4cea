"""Numbers as they are read: seconds as minutes, hours and days."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds in words of at most two units: `8 s`, `3 min 20 s`, `2 h 5 min`, `1 d 3 h`."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
