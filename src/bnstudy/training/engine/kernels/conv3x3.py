"""3x3 convolutions for wide images in channels_last, with a quarter of the products or with the matrix unit's.

What a direct convolution multiplies 144 times, four outputs by four, winograd.c does 36 times, at stride 2 81 times,
between sums of inputs and of weights: Winograd's F(4x4, 3x3) (Lavin and Gray, 2016, "Fast algorithms for convolutional
neural networks"). Both gradients have the same form. Rounding errors are one to two and a half times those of torch's
direct convolution (docs/speed.md). Images may be stored in bf16: products and sums are float32. On a processor with AMX
those of bf16 are convolved directly, by amx.c: products are exact, and sums float32.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.training.engine.kernels import bf16, build, wide
from bnstudy.training.engine.kernels.build import pointers
from bnstudy.training.engine.kernels.norm_relu import NormReLU


class Conv3x3(nn.Module):
    """Takes the place of a convolution of 3x3 with padding 1 at stride 1 or 2, and of a ReLU after it, if asked to.

    At stride 1 also of an addition before the ReLU (if called with `added`). If it is to pass its input on, it also
    returns that, for those who use it, too: their gradient is then added where the convolution's is written. Both save
    a pass over memory.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool = False) -> None:
        super().__init__()
        self.conv, self.relu, self.passes_on = conv, relu, False
        self.apart = NormReLU(None)  # adds and rectifies where the kernel does not

    @staticmethod
    def applies(conv: nn.Module) -> bool:
        same = wide.is_wide(conv) and (conv.kernel_size, conv.padding) == ((3, 3), (1, 1))
        return same and conv.stride in ((1, 1), (2, 2))

    def forward(self, x_NCHW: Tensor, added: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        weight, stride, entering = self.conv.weight, self.conv.stride[0], wide.cast(x_NCHW)
        library = _library(entering.dtype, stride, *weight.shape[:2]) if (fits := wide.fits(entering, weight)) else None
        if fits:
            build.count_use(_kernel(entering.dtype), library)
        if library is None:
            y, passed = bf16.convolve(self.conv, entering), x_NCHW
            if added is not None:
                y = self.apart(y, added)
            elif self.relu:
                y = torch.relu(y)
        elif added is None or _alike(added, entering, len(weight)):
            y, passed = _Convolved.apply(entering, weight, stride, self.relu, added)
        else:
            y, passed = _Convolved.apply(entering, weight, stride, False, None)
            y = self.apart(y, added)
        if entering is not x_NCHW:
            passed = x_NCHW
        return (y, passed) if self.passes_on else y


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OIHW: Tensor, stride: int, relu: bool, added: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        out, into = weight_OIHW.shape[:2]
        weight_OIHW = weight_OIHW.contiguous(memory_format=torch.channels_last)
        plain = x.dtype == torch.bfloat16 and stride > 1 and build.multiplies_bf16() and not build.has_amx()
        if plain:  # torch's takes two thirds of the time
            y = torch.conv2d(x, weight_OIHW.to(x.dtype), None, stride, padding=1)
            y = torch.relu_(y) if relu else y
        else:
            y = wide.shrunk(x, out, stride)
            library = _library(x.dtype, stride, out, into)
            library.convolve(*pointers(x, weight_OIHW, added, y), *wide.sizes(x), int(relu), wide.threads())
        ctx.save_for_backward(x, weight_OIHW, y if relu else None)
        ctx.stride, ctx.adds = stride, added is not None
        ctx.set_materialize_grads(False)  # of x where nobody else uses it
        return y, x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        build.check_once()
        x, weight_OIHW, y = ctx.saved_tensors
        out, into = weight_OIHW.shape[:2]
        grad, passed = (g if g is None else g.contiguous(memory_format=torch.channels_last) for g in gradients)
        grad_x = grad_weight = grad_added = None
        if grad is None:
            return passed, None, None, None, None
        if ctx.needs_input_grad[0]:
            grad_x, grad_added = torch.empty_like(x), torch.empty_like(grad) if ctx.adds else None
            library = _library(x.dtype, ctx.stride, into, out)
            arrays = pointers(grad, y, weight_OIHW, passed, grad_x, grad_added)
            library.input_gradient(*arrays, *wide.sizes(x), wide.threads())
        elif ctx.adds:
            grad_added = grad.masked_fill(y <= 0, 0).contiguous(memory_format=torch.channels_last)
        if grad_added is not None:  # read once more, and ReLU need not be
            grad, y = grad_added, None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.empty_like(weight_OIHW)
            library = _library(x.dtype, ctx.stride, out, into)
            library.kernel_gradient(*pointers(x, grad, y, grad_weight), *wide.sizes(x), wide.threads())
        return grad_x, grad_weight, None, None, grad_added


def _alike(added: Tensor, x: Tensor, channels: int) -> bool:
    """Whether the kernel can add this to what it makes of x at stride 1."""
    shape = (len(x), channels, *x.shape[2:])
    laid_out = added.is_contiguous(memory_format=torch.channels_last)
    return added.shape == shape and added.dtype == x.dtype and added.device == x.device and laid_out


def _kernel(dtype: torch.dtype) -> str:
    return "amx" if dtype == torch.bfloat16 and build.has_amx() else "winograd"


def _library(dtype: torch.dtype, stride: int, out_channels: int, in_channels: int) -> Any:
    return _compiled(_kernel(dtype), dtype, stride, out_channels, in_channels)


@functools.cache
def _compiled(kernel: str, dtype: torch.dtype, stride: int, out_channels: int, in_channels: int) -> Any:
    """The kernel; None also where the system does not let this process use the matrix unit."""
    macros = {"STRIDE": stride, "CIN": in_channels, "COUT": out_channels}
    library: Any = build.library(kernel, **build.TYPES[dtype], **macros)
    if library is not None and kernel == "amx" and not library.allowed():
        build.say("amx.c: the system does not let this process use the matrix unit; torch computes instead")
        return None
    return library
