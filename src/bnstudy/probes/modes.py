"""Test accuracy in the modes a norm has: evaluation, and training, which is what a forgotten `eval()` leaves it in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

from bnstudy.norms._statistics import keeping
from bnstudy.probes._evaluation import Batch, Score, even, score, score_reestimated
from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {"mode": "string", "order": "string", "batch_size": "int32", "loss": "float64", "accuracy": "float64"}
BATCH = 500


def probe(
    snapshot: Snapshot, *, batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 64, 256, 1000), num_training: int = 20
) -> Iterator[dict[str, Any]]:
    """Rows (mode, order, batch_size, loss, accuracy), each on the whole test set.

    mode "eval": with the running statistics. "accumulated": with those over `num_training` mini-batches of 500 training
    images (as many as there are; NaN below 500 images), at the final weights. "train": `eval()` was forgotten, every
    batch is normalized by itself; NaN where the norms refuse it. "after": it was forgotten for one pass in batches of
    256 (equal ones where 256 do not divide the test set), which moved the running statistics, and then remembered.
    order "mixed": the test set in an order that knows nothing of the labels; "sorted": by label. With "eval" and
    "accumulated" order and batch size do not matter. Raises ValueError for a batch size or number below 1.
    """
    if min((*batch_sizes, num_training)) < 1:
        raise ValueError(f"batch_sizes = {list(batch_sizes)}, num_training = {num_training}: give 1 or more")
    network = snapshot.network()
    images_NCHW, labels_N = (torch.cat(parts) for parts in zip(*snapshot.test_batches(BATCH), strict=True))
    mixed = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(0)).to(labels_N.device)
    orders = {"mixed": mixed, "sorted": labels_N.argsort(stable=True)}

    def batches(order: str, size: int) -> Iterator[Batch]:
        for part in orders[order].split(size):
            yield images_NCHW[part], labels_N[part]

    def row(mode: str, order: str, size: int, result: Score) -> dict[str, Any]:
        return {"mode": mode, "order": order, "batch_size": size, **result._asdict()}

    with torch.random.fork_rng([]):  # what a norm draws
        yield row("eval", "mixed", BATCH, score(copy.deepcopy(network).eval(), batches("mixed", BATCH)))
        if not keeping(network):
            return
        training = snapshot.batches(BATCH, num_training)
        yield row("accumulated", "mixed", BATCH, score_reestimated(network, training, batches("mixed", BATCH)))
        for order in orders:
            for size in batch_sizes:
                yield row("train", order, size, score(copy.deepcopy(network).train(), batches(order, size)))
            forgetful = copy.deepcopy(network).train()
            score(forgetful, even(images_NCHW[orders[order]], labels_N[orders[order]], 256))
            yield row("after", order, 256, score(forgetful.eval(), batches(order, 256)))
