"""Batch normalization that takes a mini-batch of one, too, where torch refuses: to see what a layer learns there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnstudy.norms._checks import check
from bnstudy.norms._statistics import Held, affine, moments

STACKABLE = True  # every channel is normalized by itself


def build(num_features: int, ndim: int, *, eps: float = 1e-5, momentum: float = 0.1) -> nn.Module:
    """See `BatchNormOfOne`. Raises ValueError for values of the options that make no norm."""
    check(eps, momentum)
    return BatchNormOfOne(num_features, eps, momentum)


class BatchNormOfOne(nn.Module):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, for images (N, C, H, W) and features (N, C).

    A channel of a single value is its own mean: y = beta, and no gradient passes. The running variance is the biased
    one, as the unbiased one of a single value is 0 / 0.
    """

    running_mean: Tensor
    running_var: Tensor
    biased_running_variance = True

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))  # gamma
        self.bias = nn.Parameter(torch.zeros(num_features))  # beta
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        if self.training:
            everything_but_channel = [d for d in range(x.dim()) if d != 1]
            mean = x.mean(everything_but_channel)
            variance = (x - mean.reshape(shape)).square().mean(everything_but_channel)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance, self.momentum)
        else:
            mean, variance = self.running_mean, self.running_var
        normalized = (x - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + self.eps)
        return self.weight.reshape(shape) * normalized + self.bias.reshape(shape)

    def held(self, x: Tensor) -> Held:
        """The norm with the statistics of this mini-batch as constants."""
        return affine(self, *moments(x))
