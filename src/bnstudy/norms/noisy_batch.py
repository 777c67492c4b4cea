"""Batch normalization and, after it, noise that brings back what it took away (Santurkar et al. 2018, section 2.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bnstudy.norms import batch
from bnstudy.norms._statistics import Held, affine, moments

SPREAD = 0.1  # of single examples around the noise of their step
DRAWS = True  # random numbers, so that it trains alone


def build(
    num_features: int, ndim: int, *, eps: float = 1e-5, momentum: float = 0.1, mean: float = 0.5, std: float = 1.25
) -> nn.Module:
    """See `NoisyBatchNorm`. Raises ValueError for values of the options that make no norm."""
    if not (math.isfinite(mean) and mean >= 0):
        raise ValueError(f"norm.mean = {mean}: the noise's mean is drawn from [-mean, mean]; give 0 or more")
    if not (math.isfinite(std) and std >= 1):
        raise ValueError(f"norm.std = {std}: the factor is drawn from [1, std]; give 1 or more")
    return NoisyBatchNorm(batch.build(num_features, ndim, eps=eps, momentum=momentum), mean, std)


class NoisyBatchNorm(nn.Module):
    """Batch normalization, then y = s x + m, with s and m drawn anew in every pass of training.

    Each channel draws a mean from [-mean, mean] and a factor from [1, std], every example its own m and s around them
    (uniformly within 0.1; normally with standard deviation 0.1). So the distribution of what the next layer is given
    moves at every step, in its mean and its variance. In evaluation there is no noise.
    """

    def __init__(self, norm: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.norm, self.mean, self.std = norm, mean, std

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x)
        if not self.training:
            return normed
        noise, factor = self._draw(normed)
        return torch.addcmul(noise, normed, factor)

    def held(self, x: Tensor) -> Held:
        """The norm with the statistics of this mini-batch, and this draw, as constants."""
        inner = affine(self.norm, *moments(x))
        noise, factor = self._draw(x)
        scale, shift = (value.reshape(*value.shape, *[1] * (x.dim() - 2)) for value in (inner.scale, inner.shift))
        return Held(inner.centre, scale * factor, torch.addcmul(noise, shift, factor))

    def _draw(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """m and s."""
        examples, channels, *space = normed.shape
        shape = (examples, channels) + (1,) * len(space)
        shift, scale, around, factor = (normed.new_empty(s) for s in ((channels,), (channels,), shape, shape))
        middle_C = shift.uniform_(-self.mean, self.mean).view(1, -1, *shape[2:])
        factor_C = scale.uniform_(1, self.std).view(1, -1, *shape[2:])
        noise = middle_C + around.uniform_(-SPREAD, SPREAD)
        return noise, factor_C + SPREAD * factor.normal_()
