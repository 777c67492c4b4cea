"""The probability integral transform as a norm: each activation becomes its rank in the batch, smoothly.

F(X) is uniform on [0, 1] where F is the distribution function of X (Fisher, 1932; Rosenblatt, 1952): whatever their
distribution, activations get one and the same, where batch normalization gives them only two moments in common.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from bnstudy.norms._checks import check, check_count

STACKABLE = True  # every channel is transformed by itself
MAX_VALUES = 4096  # of a channel from which its distribution is estimated
GOLDEN = (math.sqrt(5) - 1) / 2


def build(num_features: int, ndim: int, *, eps: float = 1e-5, momentum: float = 0.1, bins: int = 32) -> nn.Module:
    """See `ProbabilityIntegral`. Raises ValueError for values of the options that make no transform."""
    check(eps, momentum)
    if bins < 1:
        raise ValueError(f"norm.bins = {bins}: the distribution is that of so many bins of equal mass; give 1 or more")
    return ProbabilityIntegral(num_features, eps, momentum, bins)


class ProbabilityIntegral(nn.Module):
    """y = gamma sqrt(12) (F(x) - 1/2) + beta: for gamma 1 and beta 0 of mean 0 and variance 1, for (N, C[, H, W]).

    F rises linearly between the channel's quantiles at 0, 1/bins, ..., 1 (interpolated between neighbouring values;
    Hyndman and Fan 1996, type 7), that is, its density is a histogram of bins of equal mass; so there is a gradient
    almost everywhere, through the values and through the quantiles. eps is added to the bins' widths. Quantiles are
    those of the mini-batch in training (of 4096 values spread evenly where there are more) and running averages of
    them in evaluation, where what lies beyond them becomes F = 0 or 1. `momentum` is the weight of the new value.
    """

    running_quantiles: Tensor

    def __init__(self, num_features: int, eps: float, momentum: float, bins: int) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))  # gamma
        self.bias = nn.Parameter(torch.zeros(num_features))  # beta
        start = torch.linspace(-math.sqrt(3), math.sqrt(3), bins + 1)  # of the uniform distribution of variance 1
        self.register_buffer("running_quantiles", start.repeat(num_features, 1))

    def forward(self, x: Tensor) -> Tensor:
        values_CM = x.transpose(0, 1).flatten(1)
        quantiles_CB = self._quantiles(values_CM) if self.training else self.running_quantiles
        rank_CM = _distribution(values_CM, quantiles_CB, self.eps)
        y_CM = (self.weight * math.sqrt(12))[:, None] * (rank_CM - 0.5) + self.bias[:, None]
        y = y_CM.unflatten(1, (len(x), *x.shape[2:])).transpose(0, 1)
        return y.contiguous(memory_format=_layout(x))

    def held(self, x: Tensor) -> ProbabilityIntegral:
        """The transform with the quantiles of this mini-batch as constants."""
        fixed = copy.deepcopy(self).eval()
        fixed.running_quantiles = self.statistics(x)["running_quantiles"].detach()
        return fixed

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        """The quantiles of this mini-batch by itself."""
        return {"running_quantiles": self._of_batch(x.transpose(0, 1).flatten(1))}

    def _quantiles(self, values_CM: Tensor) -> Tensor:
        """The quantiles of the mini-batch, which move the running ones."""
        quantiles_CB = self._of_batch(values_CM)
        with torch.no_grad():
            self.running_quantiles.lerp_(quantiles_CB, self.momentum)
        return quantiles_CB

    def _of_batch(self, values_CM: Tensor) -> Tensor:
        check_count(values_CM.shape[1])
        levels_B = torch.linspace(0, 1, self.running_quantiles.shape[1], dtype=values_CM.dtype, device=values_CM.device)
        return torch.quantile(_spread_evenly(values_CM), levels_B, dim=1).T


def _distribution(values_CM: Tensor, quantiles_CB: Tensor, eps: float) -> Tensor:
    """The share of a channel, between 0 and 1, that lies below each of the values."""
    inner_CB = quantiles_CB[:, 1:-1].detach().contiguous()
    bin_CM = torch.searchsorted(inner_CB, values_CM.detach().contiguous(), right=True)
    width_CB = quantiles_CB.diff(dim=1) + eps
    inside_CM = (values_CM - quantiles_CB.gather(1, bin_CM)) / width_CB.gather(1, bin_CM)
    return (bin_CM + inside_CM.clamp(0, 1)) / width_CB.shape[1]


def _spread_evenly(values_CM: Tensor) -> Tensor:
    """At most `MAX_VALUES` of the columns, by the golden ratio: multiples of it fall on no grid of pixels."""
    count = values_CM.shape[1]
    if count <= MAX_VALUES:
        return values_CM
    places = torch.arange(MAX_VALUES, dtype=torch.float64, device=values_CM.device) * GOLDEN
    return values_CM[:, (places.frac() * count).long()]


def _layout(x: Tensor) -> torch.memory_format:
    plain = x.dim() != 4 or x.is_contiguous()
    return torch.contiguous_format if plain else torch.channels_last
