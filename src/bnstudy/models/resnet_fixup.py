"""The CIFAR ResNet with Fixup in place of norms (Zhang et al., 2019): trainable at any depth by how it starts.

The rules of its section 3: the classifier and the last convolution of every residual branch start at zero; the other
convolutions of the branches are scaled by L^(-1/(2m - 2)), L the number of branches and m = 2 layers a branch; each
branch has one learnt factor (1 at first), and there is a learnt number (0 at first) added before every convolution,
activation and the classifier. Fixup's base law is He's: init=kaiming_normal. The projections of shortcuts, which
Fixup's own CIFAR networks do without, are left as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnstudy.models import resnet
from bnstudy.norms import Factory

INPUT_SIZE = resnet.INPUT_SIZE
LAYERS_A_BRANCH = 2  # m


def build(shape: tuple[int, int, int], num_classes: int, norm: Factory, *, depth: int = 110) -> nn.Module:
    """Depths and errors are those of `resnet`; raises ValueError for a norm, too, which would undo what Fixup does."""
    network = resnet.build(shape, num_classes, norm, depth=depth)
    assert isinstance(network, resnet.ResNet)
    if any(type(layer) is not nn.Identity for layer in norm.layers):
        raise ValueError("model.name = resnet_fixup: Fixup stands in place of norms; give norm=none")
    blocks = {name: module for name, module in network.named_modules() if isinstance(module, resnet.Block)}
    factors = {"classifier": 0.0}
    for name, block in blocks.items():
        factors[f"{name}.conv1"] = len(blocks) ** (-1 / (2 * LAYERS_A_BRANCH - 2))
        factors[f"{name}.conv2"] = 0.0
        block.conv1, block.conv2 = ShiftedConv2d(block.conv1), ShiftedConv2d(block.conv2)
        block.norm1, block.norm2 = Shift(), ScaleAndShift()
    network.norm, network.before_pooling = Shift(), Shift()  # the mean over space keeps the second
    network.initial_factors = factors  # type: ignore[assignment]
    return network


class Shift(nn.Module):
    """y = x + b, one number."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class ScaleAndShift(nn.Module):
    """y = a x + b, two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x + self.bias


class ShiftedConv2d(nn.Conv2d):
    """A convolution of x + b, one number, of the shape of another; zeros are padded after the addition."""

    def __init__(self, like: nn.Conv2d) -> None:
        size, stride, padding = (tuple(pair) for pair in (like.kernel_size, like.stride, like.padding))
        super().__init__(like.in_channels, like.out_channels, size, stride, padding, bias=False)  # type: ignore[arg-type]
        self.before = nn.Parameter(torch.zeros(1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self._conv_forward(x_NCHW + self.before, self.weight, None)
