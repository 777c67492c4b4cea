"""How the singular values of large Jacobians are spread, without forming these (Bjorck et al. 2018, section 4).

Stochastic Lanczos quadrature: from a random vector, products with J J^T (or J^T J) build a small tridiagonal matrix
whose eigenvalues, weighted by the squared first components of its eigenvectors, stand for the squared singular values
of J (Golub & Meurant 2010, chapter 6; Ubaru, Chen & Saad 2017). One vector gives shares of N values to 1 / sqrt(N).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnstudy.probes._lanczos import Krylov, Product, iterate
from bnstudy.probes._twice import check_twice
from bnstudy.probes.jacobian_singular_values import frozen, passed, possible_starts
from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {
    "start": "int16", "example": "int16", "count": "int32", "num_zero": "int32", "share": "float32", "value": "float32",
    "residual": "float32",
}  # fmt: skip


def probe(
    snapshot: Snapshot, *, starts: Sequence[int] = (), num_examples: int = 4, num_steps: int = 80, num_shares: int = 33
) -> Iterator[dict[str, Any]]:
    """Singular values of the Jacobians of stretches `to_next` (see jacobian_singular_values), by their rank.

    From the activation of each of `starts` (none given: all there are) to the next at which a stretch can begin, one
    example at a time, norms with the mini-batch's statistics held constant, in float64. Of a Jacobian's `count` rows
    (columns, where these are fewer), `num_zero` are zero, as those that ReLU shuts are, and so are that many singular
    values. Of the others, `num_shares` by rank: `share` 0 is the largest, 1 the smallest; 0, all of them, where there
    are none. They are estimates from `num_steps` products; the largest is one from below, and a singular value lies
    within `residual` of it. NaN where the Jacobian has an entry that is not finite.

    Raises ValueError for starts that the network has not, for less than one example, or for too few steps or shares.
    """
    possible = possible_starts(snapshot)
    starts = starts or possible[:-1]
    if not set(starts) <= set(possible[:-1]):
        raise ValueError(f"jacobian_density: starts = {list(starts)}: give some of {possible[:-1]}")
    if num_examples < 1 or num_steps < 2 or num_shares < 2:
        raise ValueError(
            f"jacobian_density: num_examples = {num_examples}, num_steps = {num_steps}, num_shares = {num_shares}: "
            "give 1 or more examples, and 2 or more steps and shares"
        )
    network = frozen(snapshot, snapshot.images_NCHW)
    shares = np.linspace(0, 1, num_shares)
    for example, image_CHW in enumerate(snapshot.images_NCHW[:num_examples]):
        activations, _ = passed(network, snapshot, image_CHW.double()[None])
        draw = torch.Generator().manual_seed(example)
        for start in starts:
            before, after = activations[start], activations[possible[possible.index(start) + 1]]
            times, count = gram_product(after, before), min(after.numel(), before.numel())
            start_N = torch.randn(count, generator=draw, dtype=torch.float64).to(after)
            start_N = torch.where(times(start_N) == 0, 0.0, start_N)  # zero rows of J J^T are those of J
            others = int((start_N != 0).sum())
            *_, last = islice(iterate(times, start_N), min(num_steps, others)) if others else [None]
            values, residual = ranked(last, shares) if last else (np.zeros(num_shares), 0.0)
            where = {"start": start, "example": example, "count": count, "num_zero": count - others}
            for share, value in zip(shares.tolist(), values.tolist(), strict=True):
                yield {**where, "share": share, "value": value, "residual": residual}


def gram_product(after: Tensor, before: Tensor) -> Product:
    """The map u -> J J^T u for J = d after / d before, or v -> J^T J v where J has fewer columns; flat vectors.

    J^T u is a gradient; as it is linear in u, the gradient of its product with v in u is J v.
    """
    some = torch.zeros_like(after, requires_grad=True)
    with torch.enable_grad():
        (transposed,) = torch.autograd.grad(after, before, some, create_graph=True)
    check_twice("jacobian_density", [transposed])

    def back(vector_R: Tensor) -> Tensor:
        return torch.autograd.grad(after, before, vector_R.view_as(after), retain_graph=True)[0].flatten()

    def forth(vector_C: Tensor) -> Tensor:
        return torch.autograd.grad(transposed, some, vector_C.view_as(before), retain_graph=True)[0].flatten()

    return (lambda u: forth(back(u))) if after.numel() <= before.numel() else (lambda v: back(forth(v)))


def ranked(krylov: Krylov, shares: np.ndarray) -> tuple[np.ndarray, float]:
    """Singular values at these shares of their ranks, the largest first, and how far the largest may be off.

    Each node of the quadrature stands for the middle of its weight; between two the singular value is interpolated, and
    beyond the outermost it is theirs.
    """
    squares = krylov.values_K.flip(0).clamp(min=0).numpy()
    weights = krylov.vectors_KK[0].square().flip(0).numpy()
    values = np.interp(shares, np.cumsum(weights) - weights / 2, np.sqrt(squares))
    residual = abs(krylov.beside * krylov.vectors_KK[-1, -1].item())
    return values, float(np.sqrt(squares[0] + residual) - np.sqrt(squares[0]))
