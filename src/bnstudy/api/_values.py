"""What a caller's numbers are in a configuration, which holds Python's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def plain(value: Any) -> Any:
    """Numbers, arrays and series of numpy, pandas or torch, and any sequence, as Python's own numbers and lists."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(map(plain, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
