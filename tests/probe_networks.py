"""Small networks and mini-batches that the tests of snapshot and probes look at."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn

from bnstudy import probes
from bnstudy.probes.snapshot import READABLE, observe


@dataclass(frozen=True)
class Layer:
    depth: int
    name: str
    kind: str
    activation: str
    stage: int = 1
    block_output: bool = False


class Block(nn.Module):
    def __init__(self, num_in, num_out, stride, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
        self.norm1, self.relu1 = norm(num_out), nn.ReLU()
        self.conv2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False)
        self.norm2, self.relu2 = norm(num_out), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride, bias=False), norm(num_out))

    def forward(self, x):
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class ResidualNetwork(nn.Module):
    """Stem, `num_blocks` blocks in each stage of the given widths, global average pool, classifier."""

    def __init__(self, norm, widths=(4, 6), num_blocks=1, num_classes=5):
        super().__init__()
        self.stem, self.stem_norm, self.stem_relu = nn.Conv2d(3, widths[0], 3, 1, 1), norm(widths[0]), nn.ReLU()
        self.blocks = nn.Sequential()
        layers, width = [Layer(1, "stem", "conv", "stem_relu")], widths[0]
        for stage, wider in enumerate(widths):
            for index in range(num_blocks):
                path = f"blocks.{len(self.blocks)}"
                self.blocks.append(Block(width, wider, 2 if stage and not index else 1, norm))
                layers.append(Layer(len(layers) + 1, f"{path}.conv1", "conv", f"{path}.relu1", stage + 1))
                layers.append(Layer(len(layers) + 1, f"{path}.conv2", "conv", f"{path}.relu2", stage + 1, True))
                width = wider
        self.classifier = nn.Linear(width, num_classes)
        self.layers = (*layers, Layer(len(layers) + 1, "classifier", "linear", "classifier"))

    def forward(self, x):
        x = self.stem_relu(self.stem_norm(self.stem(x)))
        return self.classifier(self.blocks(x).mean((2, 3)))


class Loader:
    """Random images, or the given ones, as disjoint mini-batches in their order; the test set is the same images."""

    def __init__(self, images, labels):
        self.images, self.labels, self.num_train = images, labels, len(labels)

    def probe_batch(self, size, index=0):
        if (index + 1) * size > self.num_train:
            raise ValueError("beyond the set")
        return self.images[index * size : (index + 1) * size], self.labels[index * size : (index + 1) * size]

    def split_batches(self, split, size):
        part = slice(self.num_train // 2) if split == "train" else slice(self.num_train // 2, None)
        yield from zip(self.images[part].split(size), self.labels[part].split(size), strict=True)

    def test_batches(self, size, alter=None):
        for images, labels in zip(self.images.split(size), self.labels.split(size), strict=True):
            yield images if alter is None else alter(images), labels


NORMS = {"none": lambda num_channels: nn.Identity(), "batch": nn.BatchNorm2d}


def make_network(norm="batch", seed=0, **options):
    """A network with its weights (and the running statistics after one batch) drawn from the seed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = ResidualNetwork(NORMS[norm], **options)
        with torch.no_grad():
            network.train()(torch.randn(8, 3, 8, 8))
    return network


def make_loader(num=24, size=8, num_classes=5, seed=1):
    source = torch.Generator().manual_seed(seed)
    images = torch.randn(num, 3, size, size, generator=source)
    return Loader(images, torch.randint(num_classes, (num,), generator=source))


def look(network, loader, reads=READABLE, batch_size=6, **options):
    """A snapshot of the network on the loader's first mini-batch."""
    return observe(network, *loader.probe_batch(batch_size), reads=reads, loader=loader, **options)


def rows_by(columns, probe, seen, options):
    """A probe's rows, in their order, by their values in these columns."""
    found = defaultdict(list)
    for row in probes.rows(probe, options, seen):
        found[tuple(row[column] for column in columns)].append(row)
    return found


def features_of(network, images):
    """The classifier's input."""
    kept = []
    hook = network.classifier.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    network(images)
    hook.remove()
    return kept[0]
