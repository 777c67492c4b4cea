"""The largest eigenvalue of the loss's Hessian: how sharp is the minimum (Bjorck et al. 2018, section 2.1, text)?

Lanczos iteration on products of the Hessian with vectors, which are gradients of gradients, so that the Hessian itself
is never formed. In the space that k products span, the largest eigenvalue of a k x k tridiagonal matrix is the best
estimate of the Hessian's, from below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnstudy.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {
    "eigenvalue": "float64", "residual": "float64", "num_iterations": "int32", "converged": "bool",
    "num_examples": "int32", "num_parameters": "int64", "loss": "float64",
}  # fmt: skip
AGAIN = 2  # passes of Gram-Schmidt: after the second nothing is left but rounding

Product = Callable[[Tensor], Tensor]


def probe(snapshot: Snapshot, *, tolerance: float = 1e-3, max_iterations: int = 100) -> Iterator[dict[str, Any]]:
    """One row: the largest (not the largest absolute) eigenvalue of the Hessian of the mini-batch's mean loss in all
    parameters, without weight decay, in training mode: batch norm with the statistics of this mini-batch, which depend
    on the parameters, and are differentiated.

    residual is |H v - eigenvalue v| for the unit vector v that goes with it: an eigenvalue lies at most that far away.
    converged: the residual fell to `tolerance` times the eigenvalue within `max_iterations` products of Hessian and
    vector; num_iterations were made. NaN, and not converged, where the Hessian is not finite.
    """
    if not 0 < tolerance < 1 or max_iterations < 1:
        raise ValueError(
            f"hessian_top_eigenvalue: tolerance = {tolerance}, max_iterations = {max_iterations}: give a tolerance "
            "between 0 and 1, and 1 or more iterations"
        )
    network = snapshot.network().requires_grad_()
    start_W = torch.cat([p.detach().flatten().double() for p in network.parameters()])
    start_W = torch.randn(len(start_W), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(start_W)
    with torch.enable_grad(), torch.random.fork_rng([start_W.device] if start_W.is_cuda else []):
        times = hessian_product(network, snapshot.images_NCHW, snapshot.labels_N)
        eigenvalue, residual, num_iterations = largest_eigenvalue(times, start_W, tolerance, max_iterations)
    yield {
        "eigenvalue": eigenvalue, "residual": residual, "num_iterations": num_iterations,
        "converged": residual <= tolerance * abs(eigenvalue), "num_examples": len(snapshot.labels_N),
        "num_parameters": len(start_W), "loss": snapshot.loss,
    }  # fmt: skip


def hessian_product(network: nn.Module, images_NCHW: Tensor, labels_N: Tensor) -> Product:
    """The map v -> H v, both float64 over all parameters one after the other; its graph is made once."""
    parameters = list(network.parameters())
    loss = functional.cross_entropy(network(images_NCHW).double(), labels_N)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)

    def times(vector_W: Tensor) -> Tensor:
        parts = vector_W.split([p.numel() for p in parameters])
        shaped = [part.view(p.shape).to(p.dtype) for part, p in zip(parts, parameters, strict=True)]
        products = torch.autograd.grad(gradients, parameters, shaped, retain_graph=True, materialize_grads=True)
        return torch.cat([each.flatten().double() for each in products])

    return times


def largest_eigenvalue(
    times: Product, start_W: Tensor, tolerance: float, max_iterations: int
) -> tuple[float, float, int]:
    """Eigenvalue, residual and number of products, by Lanczos iteration with full orthogonalization.

    Of T = V^T H V, tridiagonal for the orthonormal V, an eigenvector s gives the residual |next off-diagonal * s_k|.
    """
    basis: list[Tensor] = []
    diagonal: list[float] = []
    beside: list[float] = []
    found = math.nan, math.nan
    next_W = start_W / start_W.norm()
    while len(basis) < min(max_iterations, len(start_W)):
        basis.append(next_W)
        product_W = times(next_W)
        if not product_W.isfinite().all():
            return math.nan, math.nan, len(basis)
        diagonal.append((product_W @ next_W).item())
        basis_KW = torch.stack(basis)
        for _ in range(AGAIN):
            product_W = product_W - basis_KW.T @ (basis_KW @ product_W)
        size = product_W.norm().item()
        values, vectors = torch.linalg.eigh(tridiagonal(diagonal, beside))
        found = values[-1].item(), abs(size * vectors[-1, -1].item())
        if found[1] <= tolerance * abs(found[0]):
            break
        beside.append(size)
        next_W = product_W / size
    return *found, len(basis)


def tridiagonal(diagonal: list[float], beside: list[float]) -> Tensor:
    """The symmetric matrix with this diagonal and these values on both sides of it, float64."""
    sides = torch.tensor(beside, dtype=torch.float64)
    return torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(sides, 1) + torch.diag(sides, -1)
