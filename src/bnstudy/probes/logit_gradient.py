"""Does the gradient at the classifier's outputs depend on the image? (Bjorck et al. 2018, Figure 6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from bnstudy.probes.snapshot import Snapshot

READS = {"logits"}
COLUMNS = {"quantity": "string", "example": "int16", "label": "int16", "column": "int16", "value": "float64"}


def probe(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """The gradient g = (softmax - one-hot) / N of the mean loss with respect to the logits; -1 where a key does not
    apply.

    entry: g of each example and class (column), the heat map. top_column_share: share of the positive gradient in the
    column that has most of it. mean_max_softmax: the largest probability, averaged over examples. max_abs_column_sum:
    the largest absolute sum over examples, with its column. cosine: mean over pairs of examples of the cosine between
    their gradients; cosine_without_label: the same of softmax / N, the labels' own term -one-hot / N removed.
    """
    grad_NK, labels_N = snapshot.logit_gradient_NK, snapshot.labels_N.tolist()
    for example, (label, row_K) in enumerate(zip(labels_N, grad_NK.tolist(), strict=True)):
        for column, value in enumerate(row_K):
            yield {"quantity": "entry", "example": example, "label": label, "column": column, "value": value}
    probabilities_NK = snapshot.logits_NK.double().softmax(1)
    positive_K, sum_K = grad_NK.clamp(min=0).sum(0), grad_NK.sum(0).abs()
    for quantity, value, column in (
        ("top_column_share", positive_K.max() / positive_K.sum(), int(positive_K.argmax())),
        ("mean_max_softmax", probabilities_NK.max(1).values.mean(), -1),
        ("max_abs_column_sum", sum_K.max(), int(sum_K.argmax())),
        ("cosine", mean_pairwise_cosine(grad_NK), -1),
        ("cosine_without_label", mean_pairwise_cosine(probabilities_NK), -1),
    ):
        yield {"quantity": quantity, "example": -1, "label": -1, "column": column, "value": float(value)}


def mean_pairwise_cosine(rows_NK: Tensor) -> Tensor:
    """Mean cosine over pairs of rows: with unit rows u_i it is (|sum u_i|^2 - N) / (N (N - 1)). Rows of zeros, which
    have no direction, are left out; NaN where fewer than two remain.
    """
    scaled_NK = rows_NK / rows_NK.abs().amax(1, keepdim=True)  # squares of very small entries would vanish
    scaled_NK = scaled_NK[(rows_NK != 0).any(1)]
    unit_NK = scaled_NK / scaled_NK.norm(dim=1, keepdim=True)
    num = len(unit_NK)
    return (unit_NK.sum(0).square().sum() - num) / (num * (num - 1)) if num > 1 else unit_NK.new_tensor(float("nan"))
