"""Layer normalization over an example's channels and space (Ba et al., 2016)."""

from __future__ import annotations

from torch import nn

from bnstudy.norms._checks import check_eps
from bnstudy.norms._groups import GroupNorm


def build(num_features: int, ndim: int, *, eps: float = 1e-5) -> nn.Module:
    """Every example by itself, in training as in evaluation. Raises ValueError for an eps that makes no norm.

    One group of all channels: as torch's LayerNorm, but with a gamma and a beta for each channel and not each pixel.
    """
    check_eps(eps)
    return GroupNorm(1, num_features, eps=eps)
