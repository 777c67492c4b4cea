"""The largest eigenvalue of the loss's Hessian: how sharp is the minimum (Bjorck et al. 2018, section 2.1, text)?

Lanczos iteration on products of the Hessian with vectors, which are gradients of gradients, so that the Hessian itself
is never formed. In the space that k products span, the largest eigenvalue of a k x k tridiagonal matrix is the best
estimate of the Hessian's, from below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.probes._hessian import hessian_product
from bnstudy.probes._lanczos import Asymmetric, Product, iterate
from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {
    "eigenvalue": "float64", "residual": "float64", "num_iterations": "int32", "converged": "bool",
    "num_examples": "int32", "num_parameters": "int64", "loss": "float64",
}  # fmt: skip

TRIED = 8  # products that show whether derivatives are missing


def probe(snapshot: Snapshot, *, tolerance: float = 1e-3, max_iterations: int = 100) -> Iterator[dict[str, Any]]:
    """One row: the largest (not the largest absolute) eigenvalue of the Hessian of the mini-batch's mean loss in all
    parameters, without weight decay, in training mode: batch norm with the statistics of this mini-batch, which depend
    on the parameters, and are differentiated.

    residual is |H v - eigenvalue v| for the unit vector v that goes with it: an eigenvalue lies at most that far away.
    converged: the residual fell to `tolerance` times the eigenvalue within `max_iterations` products of Hessian and
    vector; num_iterations were made. NaN, and not converged, where the Hessian is not finite.

    Raises ValueError where an operation of the network cannot be differentiated twice.
    """
    if not 0 < tolerance < 1 or max_iterations < 1:
        raise ValueError(
            f"hessian_top_eigenvalue: tolerance = {tolerance}, max_iterations = {max_iterations}: give a tolerance "
            "between 0 and 1, and 1 or more iterations"
        )
    network = snapshot.network().requires_grad_()
    start_W = torch.cat([p.detach().flatten().double() for p in network.parameters()])
    start_W = torch.randn(len(start_W), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(start_W)
    eigenvalue, residual, num_iterations = top_eigenvalue(snapshot, network, start_W, tolerance, max_iterations)
    yield {
        "eigenvalue": eigenvalue, "residual": residual, "num_iterations": num_iterations,
        "converged": residual <= tolerance * abs(eigenvalue), "num_examples": len(snapshot.labels_N),
        "num_parameters": len(start_W), "loss": snapshot.loss,
    }  # fmt: skip


def top_eigenvalue(
    snapshot: Snapshot,
    network: nn.Module,
    start_W: Tensor,
    tolerance: float,
    max_iterations: int,
    scale_W: Tensor | None = None,
) -> tuple[float, float, int]:
    """`largest_eigenvalue` of the network's Hessian H, or of D H D with the diagonal D.

    NaN where its products are nothing but rounding, as in a network that has diverged or is dead: that is so if they
    are those of a symmetric matrix at other weights. Raises ValueError if not: derivatives are missing.
    """
    images_NCHW, labels_N = snapshot.images_NCHW, snapshot.labels_N
    with torch.enable_grad(), torch.random.fork_rng([start_W.device] if start_W.is_cuda else []):
        plain = hessian_product(network, images_NCHW, labels_N)
        times = plain if scale_W is None else lambda v: scale_W * plain(scale_W * v)
        try:
            return largest_eigenvalue(times, start_W, tolerance, max_iterations)
        except Asymmetric:
            sound = _drawn_afresh(network).double()
            largest_eigenvalue(hessian_product(sound, images_NCHW.double(), labels_N), start_W, tolerance, TRIED)
            return math.nan, math.nan, 0


def _drawn_afresh(network: nn.Module) -> nn.Module:
    """The network with weights drawn afresh, at which its layers pass their input on."""
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            weights = torch.randn(p.shape, generator=source) * p[0].numel() ** -0.5 if p.dim() > 1 else None
            p.copy_(torch.ones(p.shape) if weights is None else weights)
    return network


def largest_eigenvalue(
    times: Product, start_W: Tensor, tolerance: float, max_iterations: int
) -> tuple[float, float, int]:
    """Eigenvalue, residual and number of products, by Lanczos iteration."""
    eigenvalue = residual = math.nan
    num_iterations = 0
    for krylov in islice(iterate(times, start_W), max_iterations):
        num_iterations = len(krylov.values_K)
        eigenvalue, residual = krylov.values_K[-1].item(), abs(krylov.beside * krylov.vectors_KK[-1, -1].item())
        if residual <= tolerance * abs(eigenvalue):
            break
    return eigenvalue, residual, num_iterations
