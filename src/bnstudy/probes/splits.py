"""How well the network does in evaluation mode on the images it trains on, as they are, and on those held out.

Accuracy during an epoch is that of a network in training mode, of changing weights and altered images; whether a
network fits its training set is asked here. The training images that a run does not train on (data.num_train) are held
out: a learning rate can be chosen by them, so that the test set is looked at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from bnstudy.probes._evaluation import Batch, score
from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {"split": "string", "num_examples": "int64", "loss": "float64", "accuracy": "float64"}
BATCH = 500


def probe(snapshot: Snapshot, *, num_held_out: int = 5000) -> Iterator[dict[str, Any]]:
    """A row per split: "train" and, where there are such images, "held_out", at least the first `num_held_out` of
    them in batches of 500. Loss: mean cross-entropy. Raises ValueError for a number below 1."""
    if num_held_out < 1:
        raise ValueError(f"splits: num_held_out = {num_held_out}: give 1 or more")
    network = snapshot.network().eval()
    with torch.random.fork_rng([]):  # what a norm draws
        for split in ("train", "held_out"):
            sizes: list[int] = []
            if next(snapshot.split_batches(split, 1), None) is not None:
                batches = snapshot.split_batches(split, BATCH)
                if split == "held_out":
                    batches = itertools.islice(batches, -(-num_held_out // BATCH))
                result = score(network, _counting(batches, sizes))
                yield {"split": split, "num_examples": sum(sizes), **result._asdict()}


def _counting(batches: Iterator[Batch], sizes: list[int]) -> Iterator[Batch]:
    for images_NCHW, labels_N in batches:
        sizes.append(len(labels_N))
        yield images_NCHW, labels_N
