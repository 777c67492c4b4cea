"""A product of square matrices: dense layers without bias or non-linearity (Bjorck et al. 2018, section 4)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from bnstudy.models.layers import Layer
from bnstudy.norms import Factory

INPUT_SIZE = None


def build(
    shape: tuple[int, int, int],
    num_classes: int,
    norm: Factory,
    *,
    width: int = 1000,
    num_factors: int = 5,
) -> nn.Module:
    """`num_factors` matrices of `width` rows and columns; under init=xavier_normal their entries are N(0, 1/width).

    Raises ValueError for fewer than one factor, or a width that is not between 1 and the number of an image's values.
    """
    num_values = math.prod(shape)
    if not 1 <= width <= num_values:
        raise ValueError(f"model.width = {width}: an image has {num_values} values; give that or less, at least 1")
    if num_factors < 1:
        raise ValueError(f"model.num_factors = {num_factors}: give 1 or more")
    return MatrixProduct(width, num_factors, num_classes, norm)


class MatrixProduct(nn.Module):
    """y = A_t ... A_1 x, with x the first `width` values of an image; a norm behind each factor; a classifier of y."""

    def __init__(self, width: int, num_factors: int, num_classes: int, norm: Factory) -> None:
        super().__init__()
        self.width = width
        self.factors = nn.Sequential()
        layers: list[Layer] = []
        for index in range(num_factors):
            factor = nn.Sequential()
            factor.add_module("dense", nn.Linear(width, width, bias=False))
            factor.add_module("norm", norm(width, 0, f"factors.{index}.norm"))
            self.factors.append(factor)
            layers.append(Layer(index + 1, f"factors.{index}.dense", "linear", f"factors.{index}.norm"))
        self.classifier = nn.Linear(width, num_classes)
        self.layers = (*layers, Layer(num_factors + 1, "classifier", "linear", "classifier"))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.factors(images_NCHW.flatten(1)[:, : self.width]))
        return logits
