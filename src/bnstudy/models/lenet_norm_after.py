"""LeNet with its norms behind the activations instead of before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from bnstudy.models import lenet
from bnstudy.models._choices import ACTIVATIONS, POOLINGS
from bnstudy.models.layers import Layer
from bnstudy.norms import Factory

INPUT_SIZE = lenet.INPUT_SIZE
STACKABLE = True  # as `lenet`


def build(
    shape: tuple[int, int, int],
    num_classes: int,
    norm: Factory,
    *,
    padding: int = 0,
    pooling: str = "max",
    activation: str = "sigmoid",
) -> nn.Module:
    """Options and errors are those of `lenet`."""
    nowhere = cast(Factory, lambda *_: nn.Identity())
    weights = lenet.build(shape, num_classes, nowhere, padding=padding, pooling=pooling, activation=activation)
    return LeNetNormAfter(cast(lenet.LeNet, weights), norm, ACTIVATIONS[activation], POOLINGS[pooling])


class LeNetNormAfter(nn.Module):
    """Two of convolution, activation, norm, pooling; two of dense layer, activation, norm; the classifier.

    Its weight layers are those of `weights`. The norm stands before the pooling, where it sees all that BN before the
    activation would.
    """

    def __init__(
        self,
        weights: lenet.LeNet,
        norm: Factory,
        activation: type[nn.Module],
        pooling: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.conv1 = weights.conv1
        self.act1, self.norm1, self.pool1 = activation(), norm(6, 2, "norm1"), pooling(2)
        self.conv2 = weights.conv2
        self.act2, self.norm2, self.pool2 = activation(), norm(16, 2, "norm2"), pooling(2)
        self.dense1 = weights.dense1
        self.act3, self.norm3 = activation(), norm(120, 0, "norm3")
        self.dense2 = weights.dense2
        self.act4, self.norm4 = activation(), norm(84, 0, "norm4")
        self.classifier = weights.classifier
        self.layers = (
            Layer(1, "conv1", "conv", "pool1"),
            Layer(2, "conv2", "conv", "pool2"),
            Layer(3, "dense1", "linear", "norm3"),
            Layer(4, "dense2", "linear", "norm4"),
            Layer(5, "classifier", "linear", "classifier"),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.pool1(self.norm1(self.act1(self.conv1(images_NCHW))))
        x = self.pool2(self.norm2(self.act2(self.conv2(x))))
        x = self.norm3(self.act3(self.dense1(x.flatten(1))))
        x = self.norm4(self.act4(self.dense2(x)))
        logits: Tensor = self.classifier(x)
        return logits
