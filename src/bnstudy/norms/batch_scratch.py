"""Batch normalization written out, as a lesson: mean, variance, normalize, scale, shift, and running statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnstudy.norms._checks import check, check_count
from bnstudy.norms._statistics import Held, affine, moments

STACKABLE = True  # every channel is normalized by itself


def build(
    num_features: int, ndim: int, *, eps: float = 1e-5, momentum: float = 0.1, biased_running_variance: bool = False
) -> nn.Module:
    """See `BatchNormScratch`. Raises ValueError for values of the options that make no norm."""
    check(eps, momentum)
    return BatchNormScratch(num_features, eps, momentum, biased_running_variance)


class BatchNormScratch(nn.Module):
    """Equation 1 of Bjorck et al. (2018), for images (N, C, H, W) and for features (N, C).

    y = gamma (x - mean) / sqrt(var + eps) + beta. In training each channel's mean and (biased) variance are those of
    the mini-batch, over everything but the channel; in evaluation they are the running statistics. `momentum` is the
    weight of the new value in these. The running variance takes the unbiased estimate, as torch does, or with
    `biased_running_variance` the biased one, as Dive into Deep Learning does.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float, momentum: float, biased_running_variance: bool) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.biased_running_variance = biased_running_variance
        self.weight = nn.Parameter(torch.ones(num_features))  # gamma
        self.bias = nn.Parameter(torch.zeros(num_features))  # beta
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        if self.training:
            everything_but_channel = [d for d in range(x.dim()) if d != 1]
            count = x.numel() // x.shape[1]
            check_count(count)
            mean = x.mean(everything_but_channel)
            deviation = x - mean.reshape(shape)
            # Of values far from 0 the mean is rounded, and the squares of its error are no variance.
            variance = deviation.square().mean(everything_but_channel) - deviation.mean(everything_but_channel).square()
            self._remember(mean.detach(), variance.detach(), count)
        else:
            mean, variance = self.running_mean, self.running_var
        normalized = (x - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + self.eps)
        return self.weight.reshape(shape) * normalized + self.bias.reshape(shape)

    def held(self, x: Tensor) -> Held:
        """The norm with the statistics of this mini-batch as constants."""
        return affine(self, *moments(x))

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        new = variance if self.biased_running_variance else variance * count / (count - 1)
        self.running_mean.mul_(1 - self.momentum).add_(mean, alpha=self.momentum)
        self.running_var.mul_(1 - self.momentum).add_(new, alpha=self.momentum)
