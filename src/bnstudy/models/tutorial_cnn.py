"""A PyTorch tutorial's network: two convolutions of 10 and 20, dense layers of 50 and 10; BN behind two of its layers.

The tutorial ends with ReLU and log-softmax. The log-softmax is part of the loss here (the loss of its outputs is the
cross-entropy), the ReLU on the classifier's outputs an option.
"""

from __future__ import annotations

from torch import Tensor, nn

from bnstudy.models.layers import Layer
from bnstudy.norms import Factory

INPUT_SIZE = None
STACKABLE = True  # channels stay apart: no operation but the weight layers mixes them
KERNEL, SMALLEST = 5, 16


def build(shape: tuple[int, int, int], num_classes: int, norm: Factory, *, rectified_outputs: bool = True) -> nn.Module:
    """Norms can stand at `norm2` (behind the second convolution) and `norm3` (behind the first dense layer).

    Raises ValueError for images too small for two convolutions and poolings.
    """
    if min(shape[1:]) < SMALLEST:
        raise ValueError(f"model.name = 'tutorial_cnn': images of {shape[1]}x{shape[2]} vanish in it; it takes 16x16")
    height, width = (((side - KERNEL + 1) // 2 - KERNEL + 1) // 2 for side in shape[1:])
    return TutorialCNN(shape[0], 20 * height * width, num_classes, norm, rectified_outputs)


class TutorialCNN(nn.Module):
    """Convolution, pooling, ReLU; the same with a norm; dense layer, norm, ReLU; the classifier."""

    def __init__(
        self, in_channels: int, num_flat: int, num_classes: int, norm: Factory, rectified_outputs: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 10, KERNEL)
        self.squash1 = nn.Sequential(nn.MaxPool2d(2), nn.ReLU())
        self.conv2 = nn.Conv2d(10, 20, KERNEL)
        self.norm2 = norm(20, 2, "norm2")
        self.squash2 = nn.Sequential(nn.MaxPool2d(2), nn.ReLU())
        self.dense1 = nn.Linear(num_flat, 50)
        self.norm3 = norm(50, 0, "norm3")
        self.act3 = nn.ReLU()
        self.classifier = nn.Linear(50, num_classes)
        self.act4 = nn.ReLU() if rectified_outputs else nn.Identity()
        self.layers = (
            Layer(1, "conv1", "conv", "squash1"),
            Layer(2, "conv2", "conv", "squash2"),
            Layer(3, "dense1", "linear", "act3"),
            Layer(4, "classifier", "linear", "act4"),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.squash1(self.conv1(images_NCHW))
        x = self.squash2(self.norm2(self.conv2(x)))
        x = self.act3(self.norm3(self.dense1(x.flatten(1))))
        logits: Tensor = self.act4(self.classifier(x))
        return logits
