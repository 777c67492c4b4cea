"""3x3 convolutions with a quarter of the products: Winograd's F(4x4, 3x3), for wide images in channels_last.

What a direct convolution multiplies 144 times, four outputs by four, this does 36 times, at stride 2 81 times, between
sums of inputs and of weights (Lavin and Gray, 2016, "Fast algorithms for convolutional neural networks"; the matrices
are in winograd.c). Both gradients have the same form. Rounding errors are one to two and a half times those of torch's
direct convolution (docs/speed.md). Images may be stored in bf16: products and sums are float32.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.training.engine.kernels import bf16, build, wide
from bnstudy.training.engine.kernels.build import pointers


class WinogradConv(nn.Module):
    """Takes the place of a convolution of 3x3 with padding 1 at stride 1 or 2, and of a ReLU after it, if asked to.

    If it is to pass its input on, it also returns that, for those who use it, too: their gradient is then added where
    the convolution's is written, which saves a pass over memory.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool = False) -> None:
        super().__init__()
        self.conv, self.relu, self.passes_on = conv, relu, False

    @staticmethod
    def applies(conv: nn.Module) -> bool:
        same = wide.is_wide(conv) and (conv.kernel_size, conv.padding) == ((3, 3), (1, 1))
        return same and conv.stride in ((1, 1), (2, 2))

    def forward(self, x_NCHW: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        weight, stride, entering = self.conv.weight, self.conv.stride[0], wide.cast(x_NCHW)
        library = _library(entering.dtype, stride, *weight.shape[:2]) if (fits := wide.fits(entering, weight)) else None
        if fits:
            build.count_use("winograd", library)
        if library is None:
            y = bf16.convolve(self.conv, entering)
            y = torch.relu(y) if self.relu else y
            passed = x_NCHW
        else:
            y, passed = _Convolved.apply(entering, weight, stride, self.relu)
            passed = passed if entering is x_NCHW else x_NCHW
        return (y, passed) if self.passes_on else y


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OIHW: Tensor, stride: int, relu: bool) -> tuple[Tensor, Tensor]:
        out, into = weight_OIHW.shape[:2]
        weight_OIHW = weight_OIHW.contiguous(memory_format=torch.channels_last)
        if x.dtype == torch.bfloat16 and stride > 1 and build.multiplies_bf16():  # torch's takes two thirds of the time
            y = torch.conv2d(x, weight_OIHW.to(x.dtype), None, stride, padding=1)
            y = torch.relu_(y) if relu else y
        else:
            y = wide.shrunk(x, out, stride)
            library = _library(x.dtype, stride, out, into)
            library.convolve(*pointers(x, weight_OIHW, y), *wide.sizes(x), int(relu), wide.threads())
        ctx.save_for_backward(x, weight_OIHW, y if relu else None)
        ctx.stride = stride
        ctx.set_materialize_grads(False)  # of x where nobody else uses it
        return y, x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        build.check_once()
        x, weight_OIHW, y = ctx.saved_tensors
        out, into = weight_OIHW.shape[:2]
        grad, passed = (g if g is None else g.contiguous(memory_format=torch.channels_last) for g in gradients)
        grad_x = grad_weight = None
        if grad is None:
            return passed, None, None, None
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(x)
            library = _library(x.dtype, ctx.stride, into, out)
            arrays = pointers(grad, y, weight_OIHW, passed, grad_x)
            library.input_gradient(*arrays, *wide.sizes(x), wide.threads())
        if ctx.needs_input_grad[1]:
            grad_weight = torch.empty_like(weight_OIHW)
            library = _library(x.dtype, ctx.stride, out, into)
            library.kernel_gradient(*pointers(x, grad, y, grad_weight), *wide.sizes(x), wide.threads())
        return grad_x, grad_weight, None, None


@functools.cache
def _library(dtype: torch.dtype, stride: int, out_channels: int, in_channels: int) -> Any:
    macros = {"STRIDE": stride, "CIN": in_channels, "COUT": out_channels}
    return build.library("winograd", **build.TYPES[dtype], **macros)
