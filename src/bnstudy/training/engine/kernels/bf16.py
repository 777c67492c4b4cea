"""Convolutions of bf16 where torch's are slow: rounded to bf16, multiplied in float32.

On a processor that does not multiply bf16 torch takes ten times as long. Rounded is what autocast rounds (input,
weights, output), and the products of two bf16 are exact in float32, in which processors that do multiply bf16 add them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnstudy.training.engine.kernels import build


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
    y = conv(x)
    return y
