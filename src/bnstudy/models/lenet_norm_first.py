"""LeNet with a place for a norm on the images themselves: what standardises inputs in the place of preprocessing."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from bnstudy.models import lenet
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
    """`norm.where` has to name `norm0` to put a norm there. Options and errors are those of `lenet`."""
    first = norm.extra(shape[0], 2, "norm0")
    network = lenet.build(shape, num_classes, norm, padding=padding, pooling=pooling, activation=activation)
    return LeNetNormFirst(first, cast(lenet.LeNet, network))


class LeNetNormFirst(lenet.LeNet):
    """The norm of the images, then the layers of `network`, by their names there."""

    def __init__(self, norm: nn.Module, network: lenet.LeNet) -> None:
        nn.Module.__init__(self)
        self.norm0 = norm
        for name, module in network.named_children():
            self.add_module(name, module)
        self.layers = network.layers

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return super().forward(self.norm0(images_NCHW))
