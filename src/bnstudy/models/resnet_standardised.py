"""The CIFAR ResNet with scaled weight standardisation (Qiao et al., 2019; scaled as in Brock et al., 2021, eq. 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bnstudy.models import resnet
from bnstudy.norms import Factory

INPUT_SIZE = resnet.INPUT_SIZE
# Keeps the variance through a ReLU: of relu(z), z a standard normal variable, it is (1 - 1 / pi) / 2.
GAIN = math.sqrt(2 / (1 - 1 / math.pi))
EPS = 1e-4  # added to the variance of the weights times their number


def build(shape: tuple[int, int, int], num_classes: int, norm: Factory, *, depth: int = 110) -> nn.Module:
    """Depths and errors are those of `resnet`. The classifier stays as it is."""
    network = resnet.build(shape, num_classes, norm, depth=depth)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, _standardised(module))
    return network


class StandardisedConv2d(nn.Conv2d):
    """A convolution with weights GAIN (w - mean) / sqrt(fan_in variance + EPS), each output channel's by itself."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        fan_in = self.weight[0].numel()
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        weight_OIHW = GAIN * (self.weight - mean) / (fan_in * variance + EPS).sqrt()
        return self._conv_forward(x_NCHW, weight_OIHW, self.bias)


def _standardised(conv: nn.Conv2d) -> StandardisedConv2d:
    return StandardisedConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=False,
    )
