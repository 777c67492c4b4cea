"""Test accuracy on images from another source than the training images', by where the norms' statistics come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bnstudy.norms._statistics import keeping
from bnstudy.probes._evaluation import even, score, score_reestimated
from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {"inputs": "string", "statistics": "string", "loss": "float64", "accuracy": "float64"}
BATCH = 500


def _blurred(images: Tensor, width: int = 5) -> Tensor:
    """Box filter; beyond the border the border's pixels go on."""
    half = width // 2
    return functional.avg_pool2d(functional.pad(images, (half,) * 4, mode="replicate"), width, stride=1)


# Of pixels in [0, 1], which they stay in.
SHIFTS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "unchanged": None,
    "brighter": lambda images: (images + 0.3).clamp(max=1),
    "darker": lambda images: (images - 0.3).clamp(min=0),
    "less contrast": lambda images: 0.5 + 0.3 * (images - 0.5),
    "more contrast": lambda images: (0.5 + 3 * (images - 0.5)).clamp(0, 1),
    "blurred": _blurred,
    "inverted": lambda images: 1 - images,
}


def probe(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """A row a kind of test images (SHIFTS) and source of statistics.

    Statistics "stored" are the running statistics of training; "re-estimated" those over the very test images, which
    pass in equal mini-batches of up to 500, without their labels (adaptive batch normalization, Li et al. 2016), NaN
    for too few images. A network that keeps no statistics has "stored" rows alone.
    """
    network = snapshot.network().eval()
    with torch.random.fork_rng([]):  # what a norm draws
        for inputs, alter in SHIFTS.items():
            images_NCHW, labels_N = map(torch.cat, zip(*snapshot.test_batches(BATCH, alter), strict=True))
            batches = even(images_NCHW, labels_N, BATCH)
            scores = {"stored": score(network, batches)}
            if keeping(network):
                scores["re-estimated"] = score_reestimated(network, batches, batches)
            for statistics, result in scores.items():
                yield {"inputs": inputs, "statistics": statistics, **result._asdict()}
