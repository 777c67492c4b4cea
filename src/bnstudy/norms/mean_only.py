"""Mean-only batch normalization: every channel is centred and not scaled (Salimans and Kingma, 2016, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnstudy.norms._checks import check_momentum
from bnstudy.norms._statistics import Held

STACKABLE = True  # every channel is centred by itself


def build(num_features: int, ndim: int, *, momentum: float = 0.1) -> nn.Module:
    """See `MeanOnly`. Raises ValueError for a momentum that makes no running mean."""
    check_momentum(momentum)
    return MeanOnly(num_features, momentum)


class MeanOnly(nn.Module):
    """y = x - mean + beta, for images (N, C, H, W) and features (N, C); evaluation uses the running mean."""

    running_mean: Tensor

    def __init__(self, num_features: int, momentum: float) -> None:
        super().__init__()
        self.num_features, self.momentum = num_features, momentum
        self.bias = nn.Parameter(torch.zeros(num_features))  # beta
        self.register_buffer("running_mean", torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        mean_C = self.running_mean
        if self.training:
            mean_C = _mean(x)
            with torch.no_grad():
                self.running_mean.lerp_(mean_C, self.momentum)
        return x + _by_channel(self.bias - mean_C, x)

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        """The statistics of one mini-batch."""
        return {"running_mean": _mean(x)}

    def held(self, x: Tensor) -> Held:
        """The norm with the mean of this mini-batch as a constant."""
        mean_1C = _mean(x)[None]
        return Held(mean_1C, torch.ones_like(mean_1C), self.bias[None])


def _mean(x: Tensor) -> Tensor:
    return x.mean([d for d in range(x.dim()) if d != 1])


def _by_channel(values_C: Tensor, x: Tensor) -> Tensor:
    return values_C.reshape(1, -1, *[1] * (x.dim() - 2))
