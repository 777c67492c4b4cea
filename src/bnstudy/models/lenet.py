"""LeNet in the variants of Dive into Deep Learning: padding, pooling and activation differ between its chapters."""

from __future__ import annotations

from torch import Tensor, nn

from bnstudy.models._choices import ACTIVATIONS, POOLINGS, one_of
from bnstudy.models.layers import Layer
from bnstudy.norms import Factory

INPUT_SIZE = None
STACKABLE = True  # channels stay apart: no operation but the weight layers mixes them
KERNEL = 5


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
    one_of("pooling", pooling, POOLINGS)
    one_of("activation", activation, ACTIVATIONS)
    if padding < 0:
        raise ValueError(f"model.padding = {padding}: give 0 or more; the textbook uses 0 and 2")
    shrink = KERNEL - 1
    height, width = ((((side + 2 * padding - shrink) // 2) - shrink) // 2 for side in shape[1:])
    if height < 1 or width < 1:
        need = 8 - min(shape[1:]) // 2  # a side of 16, padding included, leaves one pixel
        raise ValueError(
            f"model.padding = {padding}: images of {shape[1]}x{shape[2]} vanish in the network; use {need} or more"
        )
    return LeNet(shape[0], (height, width), num_classes, norm, padding, pooling, activation)


class LeNet(nn.Module):
    """Two of convolution, norm, activation, pooling; two of dense layer, norm, activation; the classifier.

    A convolution's activation, as the probes see it, is what reaches the next layer: pooled and squashed.
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
        self.conv1 = nn.Conv2d(in_channels, 6, KERNEL, padding=padding)
        self.norm1 = norm(6, 2, "norm1")
        self.squash1 = _squash(pooling, activation)
        self.conv2 = nn.Conv2d(6, 16, KERNEL)
        self.norm2 = norm(16, 2, "norm2")
        self.squash2 = _squash(pooling, activation)
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


def _squash(pooling: str, activation: str) -> nn.Sequential:
    """Activation and 2x2 pooling.

    A rising activation and max-pooling can change places (the largest input has the largest output), so max-pooling
    comes first and the activation is computed for a quarter of the elements.
    """
    act, pool = ACTIVATIONS[activation](), POOLINGS[pooling](2)
    return nn.Sequential(pool, act) if pooling == "max" else nn.Sequential(act, pool)
