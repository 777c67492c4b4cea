"""The CIFAR ResNet whose classifier's weights and biases start at zero: the first update moves the classifier alone."""

from __future__ import annotations

from torch import nn

from bnstudy.models import resnet
from bnstudy.norms import Factory

INPUT_SIZE = resnet.INPUT_SIZE


def build(shape: tuple[int, int, int], num_classes: int, norm: Factory, *, depth: int = 110) -> nn.Module:
    """Depths and errors are those of `resnet`."""
    network = resnet.build(shape, num_classes, norm, depth=depth)
    network.initial_factors = {"classifier": 0.0}  # type: ignore[assignment]
    return network
