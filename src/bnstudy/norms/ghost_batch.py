"""Ghost batch normalization: statistics over parts of the mini-batch (Hoffer et al. 2017, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnstudy.norms._checks import check
from bnstudy.norms._statistics import Held, affine, moments

STACKABLE = True  # every channel is normalized by itself


def build(num_features: int, ndim: int, *, eps: float = 1e-5, momentum: float = 0.1, size: int = 32) -> nn.Module:
    """See `GhostBatchNorm`. Raises ValueError for values of the options that make no norm."""
    check(eps, momentum)
    if size < 2:
        raise ValueError(f"norm.size = {size}: statistics need more than one example; give 2 or more")
    return GhostBatchNorm(num_features, eps, momentum, size)


class GhostBatchNorm(nn.BatchNorm2d):
    """Batch normalization as if the mini-batch were cut into ones of `size` examples, the last with what is left.

    The noise of the statistics is that of small mini-batches, the gradient's that of the whole. One after the other
    the parts enter the running statistics, as the published algorithm has it; evaluation is that of batch
    normalization. For images (N, C, H, W) and features (N, C).
    """

    def __init__(self, num_features: int, eps: float, momentum: float, size: int) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return self.forward(x[:, :, None, None]).flatten(1)
        parts = x.split(self.size) if self.training else (x,)
        norm = super().forward
        return torch.cat([norm(part) for part in parts])

    def held(self, x: Tensor) -> Held:
        """The norm with the statistics of each part as constants of its examples."""
        parts = [(len(part), affine(self, *moments(part))) for part in x.split(self.size)]
        constants = ("centre", "scale", "shift")
        return Held(*(torch.cat([getattr(part, n).expand(num, -1) for num, part in parts]) for n in constants))
