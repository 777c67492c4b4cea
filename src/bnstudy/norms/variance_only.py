"""Variance-only batch normalization: every channel is scaled and not centred, the other half of what BN does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnstudy.norms._checks import check, check_count
from bnstudy.norms._statistics import Held

STACKABLE = True  # every channel is scaled by itself


def build(num_features: int, ndim: int, *, eps: float = 1e-5, momentum: float = 0.1) -> nn.Module:
    """See `VarianceOnly`. Raises ValueError for values of the options that make no norm."""
    check(eps, momentum)
    return VarianceOnly(num_features, eps, momentum)


class VarianceOnly(nn.Module):
    """y = gamma x / sqrt(variance + eps) + beta, for images (N, C, H, W) and features (N, C).

    The variance is the mini-batch's, about its mean: after `mean_only` without beta this is BN. Evaluation uses the
    running variance, which is the unbiased one, as BN's.
    """

    running_var: Tensor

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))  # gamma
        self.bias = nn.Parameter(torch.zeros(num_features))  # beta
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        variance_C = self.running_var
        if self.training:
            count = x.numel() // x.shape[1]
            check_count(count)
            variance_C = _variance(x)
            with torch.no_grad():
                self.running_var.lerp_(variance_C * count / (count - 1), self.momentum)
        shape = (1, -1, *[1] * (x.dim() - 2))
        scale_C = self.weight / (variance_C + self.eps).sqrt()
        return x * scale_C.reshape(shape) + self.bias.reshape(shape)

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        """The statistics of one mini-batch."""
        count = x.numel() // x.shape[1]
        return {"running_var": _variance(x) * count / max(1, count - 1)}

    def held(self, x: Tensor) -> Held:
        """The norm with the variance of this mini-batch as a constant."""
        scale_1C = self.weight / (_variance(x)[None] + self.eps).sqrt()
        return Held(torch.zeros_like(scale_1C), scale_1C, self.bias[None])


def _variance(x: Tensor) -> Tensor:
    """Biased variance of every channel, by torch, which is exact for values far from 0, where the mean is rounded."""
    return x.var([d for d in range(x.dim()) if d != 1], correction=0)
