"""LeNet whose BN behind convolutions takes the statistics of each pixel by itself, over the mini-batch alone.

A model and not a norm: a norm is not told how large the images are, of which the running statistics need to know.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnstudy.models import lenet
from bnstudy.norms import Factory

INPUT_SIZE = None
STACKABLE = True  # channels stay apart, as in lenet


def build(
    shape: tuple[int, int, int],
    num_classes: int,
    norm: Factory,
    *,
    padding: int = 0,
    pooling: str = "max",
    activation: str = "sigmoid",
) -> nn.Module:
    """Raises ValueError as lenet does, and for a norm behind a convolution that is not batch."""
    network = lenet.build(shape, num_classes, norm, padding=padding, pooling=pooling, activation=activation)
    assert isinstance(network, lenet.LeNet)
    with torch.no_grad():  # how large the feature maps are
        first = network.conv1(torch.zeros(1, *shape))
        second = network.conv2(network.squash1(first))
    network.norm1, network.norm2 = _per_pixel(network.norm1, first), _per_pixel(network.norm2, second)
    return network


def _per_pixel(norm: nn.Module, map_1CHW: Tensor) -> nn.Module:
    """The norm's counterpart for feature maps of this size; a place without a norm stays without."""
    if isinstance(norm, nn.Identity):
        return norm
    if type(norm) is not nn.BatchNorm2d:
        raise ValueError(f"norm: lenet_per_pixel takes BN's statistics by pixel, not {type(norm).__name__}; give batch")
    return PerPixel(norm, map_1CHW[0].numel())


class PerPixel(nn.Module):
    """y = gamma (x - mean) / sqrt(variance + eps) + beta for images (N, C, H, W), mean and variance being (C, H, W).

    Each is over the N values of a pixel of a channel, as BN behind a dense layer has them: biased variance in training,
    running statistics in evaluation. Gamma and beta are those of the norm whose place it takes, a number a channel, so
    that the two differ in the statistics alone and have the same parameters.
    """

    def __init__(self, norm: nn.BatchNorm2d, num_pixels: int) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias  # gamma, beta; None where they are not learned
        self.pixels = nn.BatchNorm1d(num_pixels, eps=norm.eps, momentum=norm.momentum, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pixels(x.flatten(1)).view_as(x)
        return y if self.weight is None else y * self.weight[:, None, None] + self.bias[:, None, None]
