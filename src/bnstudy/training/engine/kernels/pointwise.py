"""1x1 convolutions at stride 2, as a ResNet's shortcuts have, for wide images in channels_last.

They have few products, but torch takes many times as long as these: most of it for the gradient of the images, three
quarters of which is 0 (docs/speed.md). Images may be stored in bf16: products and sums are float32.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.training.engine.kernels import bf16, build, wide
from bnstudy.training.engine.kernels.build import pointers

STRIDE = 2


class PointwiseConv(nn.Module):
    """Takes the place of a 1x1 convolution at stride 2."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    @staticmethod
    def applies(conv: nn.Module) -> bool:
        wanted = (1, 1), (STRIDE, STRIDE), (0, 0)
        return wide.is_wide(conv) and (conv.kernel_size, conv.stride, conv.padding) == wanted

    def forward(self, x_NCHW: Tensor) -> Tensor:
        weight, x_NCHW = self.conv.weight, wide.cast(x_NCHW)
        library = _library(x_NCHW.dtype, *weight.shape[:2]) if (fits := wide.fits(x_NCHW, weight)) else None
        if fits:
            build.count_use("pointwise", library)
        y: Tensor = bf16.convolve(self.conv, x_NCHW) if library is None else _Convolved.apply(x_NCHW, weight)
        return y


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI11: Tensor) -> Tensor:
        y = wide.shrunk(x, len(weight_OI11), STRIDE)
        matrix_IO = wide.rounded(weight_OI11, x).flatten(1).T.contiguous()
        library = _library(x.dtype, *weight_OI11.shape[:2])
        library.convolve(*pointers(x, matrix_IO, y), *wide.sizes(x), wide.threads())
        ctx.save_for_backward(x, weight_OI11)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        build.check_once()
        x, weight_OI11 = ctx.saved_tensors
        out, into = weight_OI11.shape[:2]
        grad = gradients[0].contiguous(memory_format=torch.channels_last)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(x)
            matrix_OI = wide.rounded(weight_OI11, x).flatten(1).contiguous()
            library = _library(x.dtype, into, out)
            library.input_gradient(*pointers(grad, matrix_OI, grad_x), *wide.sizes(x), wide.threads())
        if ctx.needs_input_grad[1]:
            grad_IO = torch.empty(into, out, dtype=build.real(x.dtype))
            library = _library(x.dtype, out, into)
            library.kernel_gradient(*pointers(x, grad, grad_IO), *wide.sizes(x), wide.threads())
            grad_weight = grad_IO.T[:, :, None, None]
        return grad_x, grad_weight


@functools.cache
def _library(dtype: torch.dtype, out_channels: int, in_channels: int) -> Any:
    return build.library("pointwise", **build.TYPES[dtype], CIN=in_channels, COUT=out_channels)
