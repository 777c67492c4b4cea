"""LeNet in the variants of Dive into Deep Learning: padding, pooling and activation differ between its chapters."""

from __future__ import annotations

from torch import Tensor, nn

from bnstudy.models.layers import Layer
from bnstudy.norms import Factory

INPUT_SIZE = None
STACKABLE = True  # channels stay apart: no operation but the weight layers mixes them
POOLINGS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
ACTIVATIONS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}


def build(
    shape: tuple[int, int, int],
    num_classes: int,
    norm: Factory,
    *,
    padding: int = 0,
    pooling: str = "max",
    activation: str = "sigmoid",
) -> nn.Module:
    """Raises ValueError for an unknown pooling or activation, or images too small for two convolutions and poolings."""
    for key, value, known in (("pooling", pooling, POOLINGS), ("activation", activation, ACTIVATIONS)):
        if value not in known:
            raise ValueError(f"model.{key} = {value!r}: choose one of {', '.join(known)}")
    if padding < 0:
        raise ValueError(f"model.padding = {padding}: give 0 or more; the textbook uses 0 and 2")
    height, width = ((((side + 2 * padding - 4) // 2) - 4) // 2 for side in shape[1:])
    if height < 1 or width < 1:
        raise ValueError(f"model.padding = {padding}: images of {shape[1]}x{shape[2]} vanish in the network; use 2")
    return LeNet(shape[0], (height, width), num_classes, norm, padding, pooling, activation)


class LeNet(nn.Module):
    """Two of convolution, norm, activation, pooling; two of dense layer, norm, activation; the classifier.

    A rising activation and max-pooling can change places (the largest input has the largest output), so max-pooling
    comes first and the activation is computed for a quarter of the elements. A convolution's activation, as the probes
    see it, is what reaches the next layer.
    """

    def __init__(
        self,
        in_channels: int,
        final_size: tuple[int, int],
        num_classes: int,
        norm: Factory,
        padding: int,
        pooling: str,
        activation: str,
    ) -> None:
        super().__init__()
        act = ACTIVATIONS[activation]
        pool = POOLINGS[pooling]
        self.pool_first = pooling == "max"
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=padding)
        self.norm1 = norm(6, 2, "norm1")
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.norm2 = norm(16, 2, "norm2")
        for number in (1, 2):
            steps = (pool(2), act()) if self.pool_first else (act(), pool(2))
            setattr(self, f"squash{number}", nn.Sequential(*steps))
        self.dense1 = nn.Linear(16 * final_size[0] * final_size[1], 120)
        self.norm3 = norm(120, 0, "norm3")
        self.act3 = act()
        self.dense2 = nn.Linear(120, 84)
        self.norm4 = norm(84, 0, "norm4")
        self.act4 = act()
        self.classifier = nn.Linear(84, num_classes)
        self.layers = (
            Layer(1, "conv1", "conv", "squash1"),
            Layer(2, "conv2", "conv", "squash2"),
            Layer(3, "dense1", "linear", "act3"),
            Layer(4, "dense2", "linear", "act4"),
            Layer(5, "classifier", "linear", "classifier"),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.squash1(self.norm1(self.conv1(images_NCHW)))
        x = self.squash2(self.norm2(self.conv2(x)))
        x = self.act3(self.norm3(self.dense1(x.flatten(1))))
        x = self.act4(self.norm4(self.dense2(x)))
        logits: Tensor = self.classifier(x)
        return logits
