"""Dropout where the norms stand, to compare the two as regularisers (Srivastava et al., 2014)."""

from __future__ import annotations

from torch import nn

DRAWS = True  # random numbers, so that it trains alone


def build(num_features: int, ndim: int, *, p: float = 0.2) -> nn.Module:
    """In training every activation is zero with probability `p`, and divided by 1 - p if not. In evaluation nothing.

    Raises ValueError for a p that is no probability, or leaves nothing.
    """
    if not 0 <= p < 1:
        raise ValueError(f"norm.p = {p}: the probability with which an activation is dropped lies in [0, 1)")
    return nn.Dropout(p)
