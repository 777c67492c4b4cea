"""Activations and poolings by name, and the check of such options."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}  # none of them ever falls
POOLINGS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


def one_of(option: str, value: str, known: Iterable[str]) -> None:
    """Raises ValueError naming the option unless its value is known."""
    known = list(known)
    if value not in known:
        raise ValueError(f"model.{option} = {value!r}: choose one of {', '.join(known)}")
