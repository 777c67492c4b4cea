"""Dynamic tanh in place of a norm: squashed by value, without any statistics (Zhu et al., 2025, section 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

STACKABLE = False  # alpha is one number for all channels


def build(num_features: int, ndim: int, *, alpha: float = 0.5) -> nn.Module:
    """`alpha` is the initial steepness. Raises ValueError for one that is not above zero."""
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"norm.alpha = {alpha}: give a finite number above 0, such as 0.5")
    return DynamicTanh(num_features, alpha)


class DynamicTanh(nn.Module):
    """y = gamma tanh(alpha x) + beta; alpha is one learnt number, gamma and beta are by channel."""

    def __init__(self, num_features: int, alpha: float) -> None:
        super().__init__()
        self.num_features = num_features
        self.alpha = nn.Parameter(torch.full((1,), alpha))
        self.weight = nn.Parameter(torch.ones(num_features))  # gamma
        self.bias = nn.Parameter(torch.zeros(num_features))  # beta

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        return torch.tanh(self.alpha * x) * self.weight.reshape(shape) + self.bias.reshape(shape)
