"""3x3 convolutions with less than half of the products: Winograd's F(2x2, 3x3), for wide images in channels_last.

What a direct convolution multiplies 36 times, two outputs by two, this does 16 times, between sums of inputs and of
weights (Lavin and Gray, 2016, "Fast algorithms for convolutional neural networks"; the matrices are in winograd.c).
Both gradients have the same form. Rounding errors are of the size of those of torch's direct convolution; of the
gradient of the kernel up to three times these, 1e-6 of it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.engine.kernels import build
from bnstudy.engine.kernels.build import long, pointers

LANES, MAX_CHANNELS = 16, 128
MIN_PIXELS = 64  # of an image: tiles are multiplied 16 at a time
TYPES = {torch.float32: "float", torch.float64: "double"}


class WinogradConv(nn.Module):
    """Takes the place of a convolution of 3x3 with stride and padding 1."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    @staticmethod
    def applies(conv: nn.Module) -> bool:
        return (
            type(conv) is nn.Conv2d
            and (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
            and (conv.groups, conv.bias, conv.padding_mode) == (1, None, "zeros")
            and all(0 < c <= MAX_CHANNELS and c % LANES == 0 for c in (conv.in_channels, conv.out_channels))
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        weight = self.conv.weight
        if not _fits(x_NCHW, weight) or _library(weight.dtype, *weight.shape[:2]) is None:
            found: Tensor = self.conv(x_NCHW)
        else:
            found = _Convolved.apply(x_NCHW, weight)
        return found


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OIHW: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight_OIHW)
        return _convolved(x, weight_OIHW.permute(2, 3, 1, 0), turned=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight_OIHW = ctx.saved_tensors
        grad = gradients[0].contiguous(memory_format=torch.channels_last)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolved(grad, weight_OIHW.permute(2, 3, 0, 1), turned=True)
        if ctx.needs_input_grad[1]:
            out, into = weight_OIHW.shape[:2]
            found_HWIO = torch.empty(3, 3, into, out, dtype=x.dtype)
            library = _library(x.dtype, out, into)
            library.kernel_gradient(*pointers(x, grad, found_HWIO), *_sizes(x), torch.get_num_threads())
            grad_weight = found_HWIO.permute(3, 2, 0, 1)
        return grad_x, grad_weight


def _convolved(x: Tensor, weight_HWIO: Tensor, *, turned: bool) -> Tensor:
    into, out = weight_HWIO.shape[2:]
    packed = weight_HWIO.contiguous()
    y = torch.empty(len(x), out, *x.shape[2:], dtype=x.dtype, memory_format=torch.channels_last)
    library = _library(x.dtype, out, into)
    library.convolve(*pointers(x, packed, y), *_sizes(x), int(turned), torch.get_num_threads())
    return y


def _sizes(x: Tensor) -> tuple[Any, int, int]:
    return long(len(x)), x.shape[2] // 2, x.shape[3] // 2


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Whether it is not torch that has to do it: another layout or type, odd sides, or few pixels."""
    if x.device.type != "cpu" or x.dim() != 4 or x.dtype != weight.dtype or x.dtype not in TYPES:
        return False
    if torch.is_autocast_enabled("cpu") or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    height, width = x.shape[2:]
    return height % 2 == width % 2 == 0 and height * width >= MIN_PIXELS


@functools.cache
def _library(dtype: torch.dtype, out_channels: int, in_channels: int) -> Any:
    return build.library("winograd", REAL=TYPES[dtype], CIN=in_channels, COUT=out_channels)
