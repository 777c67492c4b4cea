"""Perceptrons of one width and any depth, plain or residual: where BN itself makes gradients explode or does not.

A plain layer is dense, norm, ReLU: with BN its squared gradients grow by pi / (pi - 1) a layer on the way back (Yang et
al., 2019). With `residual` that is added to what entered: x + ReLU(norm(W x)).
"""

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
    depth: int = 10,
    width: int = 512,
    residual: bool = False,
) -> nn.Module:
    """`depth` counts all dense layers, the first and the classifier among them. Raises ValueError for fewer than 3."""
    if depth < 3:
        raise ValueError(
            f"model.depth = {depth}: give 3 or more: the first layer, one or more of one width, the classifier"
        )
    if width < 1:
        raise ValueError(f"model.width = {width}: give 1 or more")
    return DeepPerceptron(math.prod(shape), num_classes, norm, depth, width, residual)


class Hidden(nn.Module):
    """Dense layer, norm, ReLU; with `residual` added to the input."""

    def __init__(self, widths: tuple[int, int], norm: Factory, path: str, residual: bool) -> None:
        super().__init__()
        self.dense = nn.Linear(*widths, bias=False)
        self.norm = norm(widths[1], 0, f"{path}.norm")
        self.relu = nn.ReLU()
        self.leave = nn.Identity()  # what the next layer sees
        self.residual = residual

    def forward(self, x_ND: Tensor) -> Tensor:
        y_ND = self.relu(self.norm(self.dense(x_ND)))
        left: Tensor = self.leave(x_ND + y_ND if self.residual else y_ND)
        return left


class DeepPerceptron(nn.Module):
    """A first layer to the width, hidden layers, the classifier."""

    def __init__(
        self, num_inputs: int, num_classes: int, norm: Factory, depth: int, width: int, residual: bool
    ) -> None:
        super().__init__()
        entering = [num_inputs, *[width] * (depth - 2)]
        self.hidden = nn.Sequential(
            *(
                Hidden((size, width), norm, f"hidden.{index}", residual and index > 0)
                for index, size in enumerate(entering)
            )
        )
        self.classifier = nn.Linear(width, num_classes)
        self.layers = (
            *(
                Layer(
                    index + 1,
                    f"hidden.{index}.dense",
                    "linear",
                    f"hidden.{index}.leave",
                    block_output=residual and index > 0,
                )
                for index in range(depth - 1)
            ),
            Layer(depth, "classifier", "linear", "classifier"),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.hidden(images_NCHW.flatten(1)))
        return logits
