"""SkipInit: a learnt factor, zero at first, at the end of a residual branch (De and Smith, 2020, section 4).

Meant for the last place of each branch alone: norm=skipinit_branches has norm.where="stage*.norm2".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

STACKABLE = False  # one number for all channels


def build(num_features: int, ndim: int, *, start: float = 0.0) -> nn.Module:
    """`start` is the initial value of the factor. Raises ValueError for one that is not finite."""
    if not math.isfinite(start):
        raise ValueError(f"norm.start = {start}: give a finite number; SkipInit has 0")
    return SkipInit(start)


class SkipInit(nn.Module):
    """y = alpha x."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), start))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x
