"""The largest eigenvalue of the loss's Hessian with every weight in units of its tensor's norm: sharpness, scale-free.

With batch norm the loss does not depend on the scale of the weights before a norm, but the Hessian does: w -> c w
divides its block by c^2, so that the plain eigenvalue can be made anything. In units of the norm of their tensor the
weights do not change with c, and neither does this eigenvalue: that of D H D, where D is diagonal and holds the norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from bnstudy.probes.hessian_top_eigenvalue import top_eigenvalue
from bnstudy.probes.snapshot import Snapshot

READS: set[str] = set()
COLUMNS = {
    "eigenvalue": "float64", "residual": "float64", "num_iterations": "int32", "converged": "bool",
    "num_examples": "int32", "loss": "float64",
}  # fmt: skip


def probe(snapshot: Snapshot, *, tolerance: float = 1e-2, max_iterations: int = 100) -> Iterator[dict[str, Any]]:
    """One row, as that of `hessian_top_eigenvalue`, of D H D: in training mode, mean loss of the mini-batch, all
    parameters. A tensor of zeros, as an untrained shift is, has no unit and no direction. Raises ValueError as that."""
    if not 0 < tolerance < 1 or max_iterations < 1:
        raise ValueError(
            f"relative_sharpness: tolerance = {tolerance}, max_iterations = {max_iterations}: give a tolerance between "
            "0 and 1, and 1 or more iterations"
        )
    network = snapshot.network().requires_grad_()
    norms_W = torch.cat([p.detach().double().norm().expand(p.numel()) for p in network.parameters()])
    start_W = torch.randn(len(norms_W), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(norms_W)
    eigenvalue, residual, num_iterations = top_eigenvalue(
        snapshot, network, start_W, tolerance, max_iterations, norms_W
    )
    yield {
        "eigenvalue": eigenvalue, "residual": residual, "num_iterations": num_iterations,
        "converged": residual <= tolerance * abs(eigenvalue), "num_examples": len(snapshot.labels_N),
        "loss": snapshot.loss,
    }  # fmt: skip
