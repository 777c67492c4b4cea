"""What the tests of the interface for Python share: small networks of a user's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block as users write them: one ReLU for both places, and all in place where asked."""

    def __init__(self, num_channels: int, in_place: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_channels, num_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(num_channels)
        self.conv2 = nn.Conv2d(num_channels, num_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_channels)
        self.relu = nn.ReLU(inplace=in_place)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y = y.add_(x) if self.in_place else y + x
        return self.relu(y)


class Own(nn.Module):
    """A network of a user's own: plain torch, no list of layers, a part that is never used."""

    def __init__(self, in_place: bool = True, num_classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=in_place)
        self.layers = nn.ModuleList([Block(6, in_place), Block(6, in_place)])  # not what ours mean by that name
        self.unused = nn.Linear(6, 6)
        self.head = nn.Linear(6, num_classes)
        self.in_place = in_place

    def forward(self, images: Tensor) -> Tensor:
        x = images.mul_(0.5) if self.in_place else images * 0.5
        x = self.act(self.stem(x))
        for block in self.layers:
            x = block(x)
        return self.head(x.mean((2, 3)))


def own(in_place: bool = True, **options: int) -> Own:
    """The same weights, and running statistics, in place or not."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = Own(in_place, **options)
        with torch.no_grad():
            network(torch.randn(8, 3, 8, 8))
    return network


def batch(num: int = 12, num_classes: int = 5) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    images = torch.randn(num, 3, 8, 8, generator=source)
    return images, torch.randint(num_classes, (num,), generator=source)
