"""Checks of the norms' options."""

from __future__ import annotations

import math


def check(eps: float, momentum: float) -> None:
    """Raises ValueError for an eps that lets a constant channel divide by zero, or a momentum that is no weight."""
    check_eps(eps)
    check_momentum(momentum)


def check_momentum(momentum: float) -> None:
    """Raises ValueError for a momentum that is no weight."""
    if not 0 <= momentum <= 1:
        raise ValueError(f"norm.momentum = {momentum}: the new value's weight lies in [0, 1]; the usual one is 0.1")


def check_eps(eps: float) -> None:
    """Raises ValueError for an eps that lets a constant channel divide by zero."""
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"norm.eps = {eps}: added to the variance, it must be above 0; the usual value is 1e-5")


def check_count(count: int) -> None:
    """Raises ValueError where a channel has a single value, whose deviation from the mean is always 0."""
    if count < 2:
        raise ValueError("batch statistics need more than one value per channel; use data.batch_size=2 or more")
