"""The CIFAR ResNet of He et al. (2016), post-activation: 6n + 2 layers in three stages (Bjorck et al., section 1.2).

Layers number as in the paper: stem 1, the convolutions of the blocks 2 to 6n + 1, classifier 6n + 2. Shortcuts that
change the shape are a 1x1 convolution (projection, option B; the study's default: it alone matches the paper's Figure 5
and Table 1) or subsampling with zero channels (identity, option A).
norm.where can name two places more, where no norm is otherwise: before_pooling, the output of the last block, and
after_classifier, the logits (section 3.1, appendix E).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnstudy.models._choices import one_of
from bnstudy.models.layers import Layer
from bnstudy.norms import Factory

INPUT_SIZE = 32
WIDTHS = (16, 32, 64)


def build(
    shape: tuple[int, int, int],
    num_classes: int,
    norm: Factory,
    *,
    depth: int = 110,
    shortcut: str = "projection",
    bias: bool = False,
) -> nn.Module:
    """Raises ValueError for a depth that is not 6n + 2 (n at least 1), or an unknown shortcut."""
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"model.depth = {depth}: a CIFAR ResNet has 6n + 2 layers, such as 20, 32, 44, 56 or 110")
    one_of("shortcut", shortcut, ("projection", "identity"))
    return ResNet(shape[0], num_classes, norm, (depth - 2) // 6, shortcut, bias)


class Shrink(nn.Module):
    """Shortcut of option A: every second row and column, with zeros for the channels that are new.

    Networks that lie side by side, each with its `in_channels`, get each their own zeros.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NRCHW = x_NCHW[:, :, ::2, ::2].unflatten(1, (-1, self.in_channels))
        return nn.functional.pad(x_NRCHW, (0, 0, 0, 0, self.before, self.after)).flatten(1, 2)


class Block(nn.Module):
    """conv, norm, ReLU, conv, norm, plus the shortcut, ReLU."""

    def __init__(self, channels: tuple[int, int], norm: Factory, path: str, shortcut: str, bias: bool) -> None:
        super().__init__()
        entering, leaving = channels
        stride = 1 if entering == leaving else 2
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride, padding=1, bias=bias)
        self.norm1 = norm(leaving, 2, f"{path}.norm1")
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(leaving, leaving, 3, padding=1, bias=bias)
        self.norm2 = norm(leaving, 2, f"{path}.norm2")
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if entering != leaving and shortcut == "projection":
            projection = nn.Conv2d(entering, leaving, 1, stride, bias=bias)
            self.shortcut = nn.Sequential(projection, norm(leaving, 2, f"{path}.shortcut.1"))
        elif entering != leaving:
            self.shortcut = Shrink(entering, leaving)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        residual = self.relu1(self.norm1(self.conv1(x_NCHW)))
        residual = self.norm2(self.conv2(residual))
        return self.relu2(residual + self.shortcut(x_NCHW))


class ResNet(nn.Module):
    """Stem, three stages of `num_blocks` blocks, global average pooling, classifier."""

    stage1: nn.Sequential
    stage2: nn.Sequential
    stage3: nn.Sequential
    torch_default_layers = ("classifier",)  # what the paper's Figure 5 shows of the classifier's output

    def __init__(
        self, in_channels: int, num_classes: int, norm: Factory, num_blocks: int, shortcut: str, bias: bool
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=bias)
        self.norm = norm(WIDTHS[0], 2, "norm")
        self.relu = nn.ReLU()
        entering = WIDTHS[0]
        layers = [Layer(1, "stem", "conv", "relu")]
        for stage, width in enumerate(WIDTHS, start=1):
            blocks = nn.Sequential()
            for index in range(num_blocks):
                path = f"stage{stage}.{index}"
                blocks.append(Block((entering, width), norm, path, shortcut, bias))
                entering = width
                depth = len(layers) + 1
                layers.append(Layer(depth, f"{path}.conv1", "conv", f"{path}.relu1", stage))
                layers.append(Layer(depth + 1, f"{path}.conv2", "conv", f"{path}.relu2", stage, block_output=True))
            setattr(self, f"stage{stage}", blocks)
        self.before_pooling = norm.extra(entering, 2, "before_pooling")
        self.classifier = nn.Linear(entering, num_classes)
        self.after_classifier = norm.extra(num_classes, 0, "after_classifier")
        self.layers = (*layers, Layer(len(layers) + 1, "classifier", "linear", "after_classifier"))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(images_NCHW)))
        for stage in (self.stage1, self.stage2, self.stage3):
            x = stage(x)
        logits: Tensor = self.after_classifier(self.classifier(torch.mean(self.before_pooling(x), (2, 3))))
        return logits
