"""A multilayer perceptron: dense layers on the image's values, 784-256-10 by default."""

from __future__ import annotations

import math

from torch import Tensor, nn

from bnstudy.models._choices import ACTIVATIONS, one_of
from bnstudy.models.layers import Layer
from bnstudy.norms import Factory

INPUT_SIZE = None
STACKABLE = True  # features stay apart: no operation but the weight layers mixes them


def build(
    shape: tuple[int, int, int],
    num_classes: int,
    norm: Factory,
    *,
    hidden: str = "256",
    activation: str = "relu",
) -> nn.Module:
    """`hidden`: widths of the hidden layers with dashes between them, from the image on, such as 256 or 512-256.

    Raises ValueError for widths that are not positive whole numbers, or an unknown activation.
    """
    one_of("activation", activation, ACTIVATIONS)
    widths = [int(width) if width.isdecimal() else 0 for width in hidden.split("-")]
    if min(widths) < 1:
        raise ValueError(f"model.hidden = {hidden!r}: give widths with dashes between them, such as 256 or 512-256")
    return MLP(math.prod(shape), widths, num_classes, norm, activation)


class MLP(nn.Module):
    """Dense layer, norm, activation, as often as there are widths; the classifier."""

    def __init__(self, num_inputs: int, widths: list[int], num_classes: int, norm: Factory, activation: str) -> None:
        super().__init__()
        self.hidden = nn.Sequential()
        layers: list[Layer] = []
        entering = num_inputs
        for index, width in enumerate(widths):
            block = nn.Sequential()
            block.add_module("dense", nn.Linear(entering, width))
            block.add_module("norm", norm(width, 0, f"hidden.{index}.norm"))
            block.add_module("act", ACTIVATIONS[activation]())
            self.hidden.append(block)
            layers.append(Layer(index + 1, f"hidden.{index}.dense", "linear", f"hidden.{index}.act"))
            entering = width
        self.classifier = nn.Linear(entering, num_classes)
        self.layers = (*layers, Layer(len(layers) + 1, "classifier", "linear", "classifier"))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.hidden(images_NCHW.flatten(1)))
        return logits
