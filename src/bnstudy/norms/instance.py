"""Instance normalization: over the space of each channel of each example (Ulyanov et al., 2016)."""

from __future__ import annotations

from torch import nn

from bnstudy.norms._checks import check_eps
from bnstudy.norms._groups import GroupNorm


def build(num_features: int, ndim: int, *, eps: float = 1e-5) -> nn.Module:
    """Every example by itself, in training as in evaluation. Raises ValueError for an eps that makes no norm.

    Features (ndim 0) have no space: the one value of a channel would become zero. They pass as they are. A group for
    each channel: as torch's InstanceNorm2d, which does not keep the layout in memory.
    """
    check_eps(eps)
    return GroupNorm(num_features, num_features, eps=eps) if ndim == 2 else nn.Identity()
