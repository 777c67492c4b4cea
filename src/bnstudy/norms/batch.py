"""Batch normalization as torch has it (Ioffe and Szegedy, 2015)."""

from __future__ import annotations

from torch import nn

from bnstudy.norms._checks import check

STACKABLE = True  # every channel is normalized by itself


def build(num_features: int, ndim: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> nn.Module:
    """Over batch and space for images (ndim 2), over the batch for features (ndim 0).

    `momentum` is the weight of the new value in the running statistics; the running variance is the unbiased one.
    Without `affine` there are no gamma and beta: they stay at 1 and 0.
    Raises ValueError for values of the options that make no norm.
    """
    check(eps, momentum)
    kind = nn.BatchNorm2d if ndim == 2 else nn.BatchNorm1d
    return kind(num_features, eps=eps, momentum=momentum, affine=affine)
