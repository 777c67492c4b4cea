"""3x3 convolutions with a quarter of the products: Winograd's F(4x4, 3x3), for wide images in channels_last.

What a direct convolution multiplies 144 times, four outputs by four, this does 36 times, between sums of inputs and of
weights (Lavin and Gray, 2016, "Fast algorithms for convolutional neural networks"; the matrices are in winograd.c).
Both gradients have the same form. Rounding errors are one to two and a half times those of torch's direct convolution
(docs/speed.md). Images may be stored in bf16: products and sums are float32.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.training.engine.kernels import bf16, build
from bnstudy.training.engine.kernels.build import long, pointers

LANES, MAX_CHANNELS = 16, 128
MIN_PIXELS = 64  # of an image; of a smaller one the tiles' edges are most of the work


class WinogradConv(nn.Module):
    """Takes the place of a convolution of 3x3 with stride and padding 1, and of a ReLU after it, if asked to."""

    def __init__(self, conv: nn.Conv2d, relu: bool = False) -> None:
        super().__init__()
        self.conv, self.relu = conv, relu

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
        if torch.is_autocast_enabled("cpu"):
            x_NCHW = x_NCHW.to(torch.get_autocast_dtype("cpu"))  # as autocast does
        library = _library(x_NCHW.dtype, *weight.shape[:2]) if (fits := _fits(x_NCHW, weight)) else None
        if fits:
            build.count_use("winograd", library)
        if library is None:
            y = bf16.convolve(self.conv, x_NCHW)
            return torch.relu(y) if self.relu else y
        y = _Convolved.apply(x_NCHW, weight, self.relu)
        return y


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OIHW: Tensor, relu: bool) -> Tensor:
        out, into = weight_OIHW.shape[:2]
        y = _empty(x, out)
        packed_HWIO = _rounded(weight_OIHW, x).permute(2, 3, 1, 0).contiguous()
        _library(x.dtype, out, into).convolve(*pointers(x, packed_HWIO, y), *_sizes(x), int(relu), _threads())
        ctx.save_for_backward(x, weight_OIHW, y if relu else None)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        build.check_once()
        x, weight_OIHW, y = ctx.saved_tensors
        out, into = weight_OIHW.shape[:2]
        grad = gradients[0].contiguous(memory_format=torch.channels_last)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _empty(x, into)
            packed_HWOI = _rounded(weight_OIHW, x).permute(2, 3, 0, 1).contiguous()
            library = _library(x.dtype, into, out)
            library.input_gradient(*pointers(grad, y, packed_HWOI, grad_x), *_sizes(x), _threads())
        if ctx.needs_input_grad[1]:
            grad_HWIO = torch.empty(3, 3, into, out, dtype=build.real(x.dtype))
            library = _library(x.dtype, out, into)
            library.kernel_gradient(*pointers(x, grad, y, grad_HWIO), *_sizes(x), _threads())
            grad_weight = grad_HWIO.permute(3, 2, 0, 1)
        return grad_x, grad_weight, None


def _empty(like: Tensor, channels: int) -> Tensor:
    shape = (len(like), channels, *like.shape[2:])
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def _rounded(weight: Tensor, x: Tensor) -> Tensor:
    """The weights as a convolution of x takes them, in the type of the kernel's sums."""
    return weight.to(x.dtype).to(build.real(x.dtype))


def _threads() -> int:
    return torch.get_num_threads()


def _sizes(x: Tensor) -> tuple[Any, int, int]:
    return long(len(x)), *x.shape[2:]


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel takes these tensors: channels_last, one type, enough pixels.

    Of bf16 only in autocast, and where the processor has no matrix unit, with which torch is faster.
    """
    if x.device.type != "cpu" or x.dim() != 4 or x.dtype not in build.TYPES or build.real(x.dtype) != weight.dtype:
        return False
    if torch.is_autocast_enabled("cpu") != (x.dtype == torch.bfloat16) or not x.is_contiguous(
        memory_format=torch.channels_last
    ):
        return False
    if x.dtype == torch.bfloat16 and build.has_matrix_unit():
        return False
    return x.shape[2] * x.shape[3] >= MIN_PIXELS


@functools.cache
def _library(dtype: torch.dtype, out_channels: int, in_channels: int) -> Any:
    return build.library("winograd", **build.TYPES[dtype], CIN=in_channels, COUT=out_channels)
