"""Group normalization: over space and some of an example's channels (Wu and He, 2018)."""

from __future__ import annotations

from torch import nn

from bnstudy.norms._checks import check_eps
from bnstudy.norms._groups import GroupNorm


def build(num_features: int, ndim: int, *, groups: int = 2, eps: float = 1e-5) -> nn.Module:
    """Every example by itself, in training as in evaluation; the channels in `groups` groups of neighbours.

    Where `groups` does not divide the channels it is the next smaller number that does: networks narrow to a few.
    Raises ValueError for values of the options that make no norm.
    """
    check_eps(eps)
    if groups < 1:
        raise ValueError(f"norm.groups = {groups}: give 1 (layer normalization) or more")
    divisor = next(number for number in range(min(groups, num_features), 0, -1) if num_features % number == 0)
    return GroupNorm(divisor, num_features, eps=eps)
