"""Convolutions of bf16 where torch's are slow: rounded to bf16, multiplied in float32.

On a processor that does not multiply bf16 torch takes ten times as long for all of them; on one that does, but has no
matrix unit, two to three times as long as in float32 for the kernel's gradient at a stride. Rounded is what autocast
rounds (input, weights, output), and the products of two bf16 are exact in float32, in which processors that do multiply
bf16 add them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.training.engine.kernels import build

convolution_backward = torch.ops.aten.convolution_backward


class RoundedConv(nn.Module):
    """Takes the place of a convolution."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.conv, x)


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """The convolution of x, in bf16 where autocast to it is on."""
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if type(conv) is not nn.Conv2d or x.device.type != "cpu" or not half:
        y: Tensor = conv(x)
        return y
    if not build.multiplies_bf16():
        x, weight = (values.bfloat16().float() for values in (x, conv.weight))
        bias = None if conv.bias is None else conv.bias.bfloat16().float()
        with torch.autocast("cpu", enabled=False):
            return conv._conv_forward(x, weight, bias).bfloat16()
    plain = conv.bias is None and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)
    if plain and max(conv.stride) > 1 and max(conv.kernel_size) > 1 and not build.has_matrix_unit():
        with torch.autocast("cpu", enabled=False):
            y = _Strided.apply(x.bfloat16(), conv.weight, conv)
        return y
    y = conv(x)
    return y


class _Strided(torch.autograd.Function):
    """torch's convolution of bf16, but for the kernel's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.call = (conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups)
        return conv._conv_forward(x, weight.bfloat16(), None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        build.check_once()
        (grad,), (x, weight) = gradients, ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = convolution_backward(grad, x, weight.bfloat16(), None, *ctx.call, (True, False, False))[0]
        if ctx.needs_input_grad[1]:
            float_grad, float_x = grad.float(), x.float()
            grad_weight = convolution_backward(float_grad, float_x, weight, None, *ctx.call, (False, True, False))[1]
        return grad_x, grad_weight, None
