"""Batch renormalization: batch statistics, brought near to the running ones (Ioffe 2017, algorithm 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnstudy.norms._checks import check, check_count
from bnstudy.norms._statistics import Held, moments

STACKABLE = True  # every channel is normalized by itself


def build(
    num_features: int, ndim: int, *, eps: float = 1e-5, momentum: float = 0.1, r_max: float = 3.0, d_max: float = 5.0
) -> nn.Module:
    """See `BatchRenorm`. Raises ValueError for values of the options that make no norm."""
    check(eps, momentum)
    if not (math.isfinite(r_max) and r_max >= 1):
        raise ValueError(f"norm.r_max = {r_max}: the factor lies in [1 / r_max, r_max]; give 1 (none) or more")
    if not (math.isfinite(d_max) and d_max >= 0):
        raise ValueError(f"norm.d_max = {d_max}: the shift lies in [-d_max, d_max]; give 0 (none) or more")
    return BatchRenorm(num_features, eps, momentum, r_max, d_max)


class BatchRenorm(nn.Module):
    """y = gamma ((x - mean) / std * r + d) + beta, for images (N, C, H, W) and features (N, C).

    r = std / running std, within [1 / r_max, r_max], and d = (mean - running mean) / running std, within
    [-d_max, d_max], are constants of the gradient. Where neither is clipped the output is that of evaluation; with
    r_max = 1 and d_max = 0 it is batch normalization. The published schedule, which begins with these and widens over
    tens of thousands of updates to 3 and 5, is left out: the bounds are what they are from the start.
    """

    running_mean: Tensor
    running_var: Tensor
    stops_gradient = True  # at r and d: its gradients are those of no loss, and have no Hessian behind them

    def __init__(self, num_features: int, eps: float, momentum: float, r_max: float, d_max: float) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.r_max, self.d_max = r_max, d_max
        self.weight = nn.Parameter(torch.ones(num_features))  # gamma
        self.bias = nn.Parameter(torch.zeros(num_features))  # beta
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        count = x.numel() // x.shape[1]
        check_count(count)
        with torch.no_grad():
            variance_C, mean_C = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
            r_C, d_C = self._correction(mean_C, variance_C)
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(variance_C * count / (count - 1), self.momentum)
        scale_C, shift_C = self.weight * r_C, self.weight * d_C + self.bias
        return functional.batch_norm(x, None, None, scale_C, shift_C, training=True, eps=self.eps)

    def held(self, x: Tensor) -> Held:
        """The norm with the statistics of this mini-batch, and r and d, as constants."""
        mean_1C, variance_1C = moments(x)
        r_1C, d_1C = self._correction(mean_1C, variance_1C)
        scale_1C = self.weight * r_1C / (variance_1C + self.eps).sqrt()
        return Held(mean_1C, scale_1C, self.weight * d_1C + self.bias)

    def _correction(self, mean_C: Tensor, variance_C: Tensor) -> tuple[Tensor, Tensor]:
        """r and d."""
        running_std_C = (self.running_var + self.eps).sqrt()
        r_C = ((variance_C + self.eps).sqrt() / running_std_C).clamp(1 / self.r_max, self.r_max)
        return r_C, ((mean_C - self.running_mean) / running_std_C).clamp(-self.d_max, self.d_max)
