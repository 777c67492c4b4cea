"""The second baseline: the loop of a careful PyTorch user, for speed to be measured against.

All images lie in memory as one tensor and are cropped and flipped a mini-batch at a time; `channels_last` where that is
faster; SGD over all tensors at once (`foreach`); bf16 by autocast where asked; nothing is copied to the host within an
epoch. The networks are the tutorial's. Left out is torch.compile, which is slower here on a CPU (docs: speed).
`python -m benchmarks.careful FOLDER RECIPE UPDATES` trains on the arrays in FOLDER and prints the peak memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import tutorial
from benchmarks.tutorial import Images, Recipe

EVALUATION_BATCH = 500
PAD = 4


class Loop:
    """One run: its images, its network, its optimizer."""

    def __init__(
        self,
        recipe: Recipe,
        train: Images,
        test: Images,
        *,
        channels_last: bool,
        bf16: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.recipe, self.device, self.bf16 = recipe, torch.device(device), bf16
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        mean, std = _moments(train) if recipe.standardise else (0.0, 1.0)
        (self.train_NCHW, self.train_labels_N), (self.test_NCHW, self.test_labels_N) = (
            (
                torch.from_numpy(((pixels / np.float32(255) - mean) / std).astype(np.float32).transpose(0, 3, 1, 2))
                .contiguous(memory_format=self.format)
                .to(self.device),
                torch.from_numpy(labels.astype(np.int64)).to(self.device),
            )
            for pixels, labels in (train, test)
        )
        network = tutorial.build(recipe, train)
        self.network = network.to(self.device, memory_format=self.format)  # type: ignore[call-overload]
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            foreach=True,
        )
        self._endless = self._batches_without_end()

    def step(self, images_NCHW: Tensor, labels_N: Tensor) -> Tensor:
        """One update; returns the loss, which stays on the device."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss: Tensor = self.criterion(self.network(images_NCHW), labels_N)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def epoch(self) -> float:
        """Trains on all images once; returns the mean loss of the updates."""
        self.network.train()
        return float(torch.stack([self.step(*batch) for batch in self._batches()]).mean())

    def updates(self, number: int) -> float:
        """The next `number` updates, wherever in an epoch."""
        self.network.train()
        return float(torch.stack([self.step(*next(self._endless)) for _ in range(number)]).mean())

    @torch.inference_mode()
    def evaluate(self) -> float:
        """Accuracy on the test images."""
        self.network.eval()
        correct = torch.zeros((), dtype=torch.long, device=self.device)
        parts = zip(self.test_NCHW.split(EVALUATION_BATCH), self.test_labels_N.split(EVALUATION_BATCH), strict=True)
        for images_NCHW, labels_N in parts:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                logits = self.network(images_NCHW)
            correct += (logits.argmax(1) == labels_N).sum()
        return float(correct) / len(self.test_labels_N)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.train_NCHW), device=self.device)
        for chosen in order.split(self.recipe.batch_size):
            images_NCHW = self.train_NCHW[chosen]
            if self.recipe.augment:
                images_NCHW = crop_and_flip(images_NCHW)
            yield images_NCHW.contiguous(memory_format=self.format), self.train_labels_N[chosen]

    def _batches_without_end(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self._batches()


def crop_and_flip(images_NCHW: Tensor, pad: int = PAD) -> Tensor:
    """Pad with zeros, cut out a window of the old size at random, flip half of the images: each image by itself."""
    n, _, height, width = images_NCHW.shape
    device = images_NCHW.device
    padded = nn.functional.pad(images_NCHW, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    rows = torch.randint(2 * pad + 1, (n, 1, 1), device=device) + torch.arange(height, device=device)[:, None]
    offsets = torch.arange(width, device=device)
    flipped = (torch.rand(n, 1, 1, device=device) < 0.5).expand(n, 1, width)
    columns = torch.randint(2 * pad + 1, (n, 1, 1), device=device) + torch.where(flipped, offsets.flip(0), offsets)
    return padded[torch.arange(n, device=device)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def _moments(train: Images) -> tuple[np.ndarray, np.ndarray]:
    pixels = train[0] / np.float32(255)
    return pixels.mean((0, 1, 2), dtype=np.float64), pixels.std((0, 1, 2), dtype=np.float64)


def main(folder: str, recipe: str, updates: str) -> None:
    """A script of one run, which prints its peak memory in MiB."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loop = Loop(Recipe(**json.loads(recipe)), *tutorial.read(Path(folder)), channels_last=True, device=device)
    loss = loop.updates(int(updates))
    print(f"loss {loss:.4f} peak_mib {tutorial.peak_mib():.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
