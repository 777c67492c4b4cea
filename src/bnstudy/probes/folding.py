"""What can be taken out of a network with BN: in evaluation BN itself, in training the biases before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from bnstudy.models.folding import fold_bn, normed, unbiased
from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {
    "change": "string",
    "mode": "string",
    "precision": "string",
    "num_layers": "int16",
    "difference": "float64",
}
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@torch.no_grad()
def probe(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """Rows (change, mode, precision, num_layers, difference), on the probe batch.

    difference: the largest change of a logit over the largest logit. num_layers: the convolutions and dense layers
    whose output goes to a BN alone; where there is none, nothing is changed. change "folded": they have taken their BN
    in, mode "evaluation". "unbiased": their biases are dropped, modes "training" and "evaluation".
    """
    for precision, dtype in PRECISIONS.items():
        whole, images_NCHW = snapshot.network().to(dtype), snapshot.images_NCHW.to(dtype)
        bare = unbiased(whole)
        pairs = [
            ("folded", "evaluation", fold_bn(whole)),
            ("unbiased", "evaluation", bare),
            ("unbiased", "training", bare),  # the last, as it moves the running statistics
        ]
        for change, mode, changed in pairs:
            before_NK, after_NK = (each.train(mode == "training")(images_NCHW).double() for each in (whole, changed))
            difference = (after_NK - before_NK).abs().max() / before_NK.abs().max()
            yield {
                "change": change,
                "mode": mode,
                "precision": precision,
                "num_layers": len(normed(whole)),
                "difference": difference.item(),
            }
