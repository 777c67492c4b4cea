"""The baseline: the training loop of a tutorial, for speed to be measured against.

Images go through torchvision's transforms one by one, as PIL images, in a DataLoader; the network is eager float32 in
torch's default layout; torch's SGD; one run at a time, with all threads. Nothing here uses the rest of the project.
`python -m benchmarks.tutorial FOLDER RECIPE UPDATES` is the script of somebody who works so: it trains on the arrays
in FOLDER and prints a line an update.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Array = np.ndarray[Any, Any]
Option = TypeVar("Option")
L = TypeVar("L")
Batch = tuple[Tensor, Tensor]
Images = tuple[Array, Array]  # uint8 (N, H, W, C), labels (N,)


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how. `network`: "lenet", or "resnet" of 6n + 2 = `depth` layers; `norm`: with BN."""

    network: str
    norm: bool
    batch_size: int
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    augment: bool = False  # pad 4, random crop, horizontal flip
    standardise: bool = False  # mean 0 and standard deviation 1 per channel; otherwise [0, 1]
    depth: int = 110


class PilImages(Dataset[tuple[Tensor, int]]):
    """Does what torchvision's CIFAR10 and FashionMNIST do with the images they hold: one at a time, by way of PIL."""

    def __init__(self, images: Images, transform: Callable[[Any], Tensor]) -> None:
        pixels, labels = images
        self.data = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        self.targets: list[int] = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def transform(recipe: Recipe, train: Images, *, training: bool) -> Callable[[Any], Tensor]:
    """torchvision's transforms for the recipe. Mean and standard deviation come from the training images."""
    from torchvision import transforms

    steps: list[Any] = []
    if training and recipe.augment:
        steps += [transforms.RandomCrop(train[0].shape[1], padding=4), transforms.RandomHorizontalFlip()]
    steps.append(transforms.ToTensor())
    if recipe.standardise:
        pixels = train[0] / np.float32(255)
        mean, std = (s((0, 1, 2), dtype=np.float64) for s in (pixels.mean, pixels.std))
        steps.append(transforms.Normalize(mean.tolist(), std.tolist()))
    composed: Callable[[Any], Tensor] = transforms.Compose(steps)
    return composed


def lenet(in_channels: int, size: int, num_classes: int, norm: bool) -> nn.Module:
    """LeNet with or without BN, as Dive into Deep Learning writes it (section 8.5), with max-pooling."""

    def bn(layer: type[nn.Module], channels: int) -> list[nn.Module]:
        return [layer(channels)] if norm else []

    side = ((size - 4) // 2 - 4) // 2
    return nn.Sequential(
        *[nn.Conv2d(in_channels, 6, 5), *bn(nn.BatchNorm2d, 6), nn.Sigmoid(), nn.MaxPool2d(2, 2)],
        *[nn.Conv2d(6, 16, 5), *bn(nn.BatchNorm2d, 16), nn.Sigmoid(), nn.MaxPool2d(2, 2), nn.Flatten()],
        *[nn.Linear(16 * side * side, 120), *bn(nn.BatchNorm1d, 120), nn.Sigmoid()],
        *[nn.Linear(120, 84), *bn(nn.BatchNorm1d, 84), nn.Sigmoid(), nn.Linear(84, num_classes)],
    )


class BasicBlock(nn.Module):
    """The block of a CIFAR ResNet, as the common PyTorch implementations write it."""

    def __init__(self, in_planes: int, planes: int, norm: bool) -> None:
        super().__init__()
        stride = 1 if in_planes == planes else 2
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes) if norm else nn.Identity()
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut.append(nn.Conv2d(in_planes, planes, 1, stride, bias=False))
            if norm:
                self.shortcut.append(nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return nn.functional.relu(out)


def resnet(in_channels: int, num_classes: int, norm: bool, depth: int) -> nn.Module:
    """The CIFAR ResNet of He et al. (2016), of 6n + 2 layers, with projections."""
    widths = [width for width in (16, 32, 64) for _ in range((depth - 2) // 6)]
    blocks = [BasicBlock(before, width, norm) for before, width in itertools.pairwise([16, *widths])]
    stem = [nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), *([nn.BatchNorm2d(16)] if norm else []), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))


def initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)


def build(recipe: Recipe, train: Images) -> nn.Module:
    """The recipe's network for images of this size, initialised."""
    _, size, _, channels = train[0].shape
    num_classes = int(train[1].max()) + 1
    if recipe.network == "lenet":
        network = lenet(channels, size, num_classes, recipe.norm)
    else:
        network = resnet(channels, num_classes, recipe.norm, recipe.depth)
    return network.apply(initialise)


class Loop:
    """One run: its loaders, its network, its optimizer."""

    def __init__(
        self, recipe: Recipe, train: Images, test: Images, *, num_workers: int, device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.train_loader, self.test_loader = (
            DataLoader(
                PilImages(images, transform(recipe, train, training=training)),
                batch_size=recipe.batch_size,
                shuffle=training,
                num_workers=num_workers,
                pin_memory=self.device.type == "cuda",
            )
            for images, training in ((train, True), (test, False))
        )
        self.network = build(recipe, train).to(self.device)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self._endless = itertools.chain.from_iterable(itertools.repeat(self.train_loader))

    def step(self, images: Tensor, labels: Tensor) -> tuple[float, int]:
        """One update: the loss, and how many images were classified correctly."""
        images, labels = images.to(self.device), labels.to(self.device)
        logits = self.network(images)
        loss = self.criterion(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item(), int((logits.argmax(1) == labels).sum().item())

    def epoch(self, num_batches: int | None = None) -> tuple[float, float]:
        """Trains on all images once, or on the first so many mini-batches: mean loss and accuracy."""
        return self._over(itertools.islice(self.train_loader, num_batches))

    def updates(self, number: int) -> tuple[float, float]:
        """The next so many updates, wherever in an epoch: the loaders' start-up is paid for once."""
        return self._over(itertools.islice(self._endless, number))

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Mean loss and accuracy on the test images."""
        self.network.eval()
        loss, correct, count = 0.0, 0, 0
        for images, labels in self.test_loader:
            images, labels = images.to(self.device), labels.to(self.device)
            logits = self.network(images)
            loss += self.criterion(logits, labels).item() * len(labels)
            correct += int((logits.argmax(1) == labels).sum().item())
            count += len(labels)
        return loss / count, correct / count

    def _over(self, batches: Iterator[Batch]) -> tuple[float, float]:
        self.network.train()
        loss_sum, correct_sum, count = 0.0, 0, 0
        for images, labels in batches:
            loss, correct = self.step(images, labels)
            loss_sum += loss * len(labels)
            correct_sum += correct
            count += len(labels)
        return loss_sum / count, correct_sum / count


def fastest(
    make: Callable[[Option], L],
    options: Sequence[Option],
    trial: Callable[[L], object],
    clock: Callable[[], float] = time.perf_counter,
) -> L:
    """The loop made with that option with which the trial, run twice, takes least the second time."""
    times: list[tuple[float, L]] = []
    for option in options:
        loop = make(option)
        trial(loop)
        began = clock()
        trial(loop)
        times.append((clock() - began, loop))
    return min(times, key=lambda timed: timed[0])[1]


def read(folder: Path) -> tuple[Images, Images]:
    """Training and test images, as the arrays in a folder."""
    train, test = (
        (np.load(folder / f"{s}_images.npy"), np.load(folder / f"{s}_labels.npy")) for s in ("train", "test")
    )
    return train, test


def peak_mib() -> float:
    """Peak memory of this process, of the GPU where that is used. Linux's own record: `ru_maxrss` keeps a parent's."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main(folder: str, recipe: str, updates: str) -> None:
    """A script of one run: an update a line, with the peak memory so far in MiB."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loop = Loop(Recipe(**json.loads(recipe)), *read(Path(folder)), num_workers=0, device=device)
    for update in range(1, int(updates) + 1):
        loss, _ = loop.updates(1)
        print(f"update {update} loss {loss:.4f} peak_mib {peak_mib():.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
