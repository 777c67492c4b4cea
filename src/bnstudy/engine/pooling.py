"""2x2 max-pooling in the plain layout (N, C, H, W) on the CPU: whole rows at a time, where torch goes place by place.

Of places that share the maximum one gets the gradient, as with torch, if not always the same one: where two rows tie
the upper, where two columns tie the left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor) -> Tensor:
        rows = torch.maximum(x_NCHW[:, :, 0::2], x_NCHW[:, :, 1::2])
        ctx.save_for_backward(x_NCHW, rows)
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x_NCHW, rows = ctx.saved_tensors
        (grad,) = gradients
        height, width = x_NCHW.shape[2:]
        right = rows[..., 1::2] > rows[..., 0::2]
        below = x_NCHW[:, :, 1::2] > x_NCHW[:, :, 0::2]
        below = torch.where(right, below[..., 1::2], below[..., 0::2])
        corner = torch.arange(0, height, 2)[:, None] * width + torch.arange(0, width, 2)
        winner = torch.add(torch.add(corner, right), below, alpha=width)
        fixed = ([2, 2], [2, 2], [0, 0], [1, 1], False)
        found: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(grad, x_NCHW, *fixed, winner)
        return found


def install(network: nn.Module) -> None:
    """Has every 2x2 max-pool of the network compute so; where a row or column is left over, torch computes."""
    for module in network.modules():
        if isinstance(module, nn.MaxPool2d) and module.kernel_size == module.stride == 2 and not module.padding:
            module.forward = _pool  # type: ignore[assignment,method-assign]


def _pool(x_NCHW: Tensor) -> Tensor:
    if x_NCHW.shape[2] % 2 or x_NCHW.shape[3] % 2:
        return nn.functional.max_pool2d(x_NCHW, 2)
    pooled: Tensor = _MaxPool.apply(x_NCHW)
    return pooled
