"""Lanczos iteration: what a large symmetric matrix is like, from its products with vectors alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ASYMMETRY = 0.05  # of a product's size; rounding in float32 comes to a hundredth of this
AGAIN = 2  # passes of Gram-Schmidt: after the second nothing is left but rounding

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Krylov:
    """The matrix seen from the orthonormal basis of the space that k products have spanned.

    values_K and vectors_KK are the eigenvalues, rising, and eigenvectors (columns) of the k x k tridiagonal matrix
    V^T A V; `beside` is the size of what the last product has outside of the space. For an eigenvector s the residual
    |A V s - value V s| is |beside * s_k|: an eigenvalue of A lies at most that far away. The squared first components
    are weights of Gauss quadrature over A's eigenvalues, each of which counts as much as its eigenvector has of the
    start: the sum of weight * value^p is v^T A^p v for the start v of size 1 and p up to 2 k - 1.
    """

    values_K: Tensor
    vectors_KK: Tensor
    beside: float


class Asymmetric(ValueError):
    """Products that are not those of a symmetric matrix."""


def iterate(times: Product, start_N: Tensor) -> Iterator[Krylov]:
    """One after each product of the symmetric matrix and a vector, of float64, with full orthogonalization.

    It ends where the space cannot grow, or with NaN after a product that is not finite. Raises Asymmetric where the
    products are not those of a symmetric matrix: of derivatives, some are then missing, or all is rounding.
    """
    basis: list[Tensor] = []
    diagonal: list[float] = []
    beside: list[float] = []
    next_N = start_N / start_N.norm()
    while True:
        basis.append(next_N)
        product_N = times(next_N)
        if not product_N.isfinite().all():
            nan_K = torch.full((len(basis),), torch.nan, dtype=torch.float64)
            yield Krylov(nan_K, nan_K.expand(len(basis), -1), torch.nan)
            return
        diagonal.append((product_N @ next_N).item())
        basis_KN = torch.stack(basis)
        expected_K = torch.zeros(len(basis), dtype=torch.float64, device=product_N.device)
        expected_K[-1], expected_K[-2:-1] = diagonal[-1], beside[-1] if beside else 0.0
        if (basis_KN @ product_N - expected_K).abs().max() > ASYMMETRY * product_N.norm():
            raise Asymmetric(
                "the products with vectors are not those of a symmetric matrix: an operation of the network has "
                "derivatives that cannot be differentiated again; leave this probe out"
            )
        for _ in range(AGAIN):
            product_N = product_N - basis_KN.T @ (basis_KN @ product_N)
        size = product_N.norm().item()
        values_K, vectors_KK = torch.linalg.eigh(tridiagonal(diagonal, beside))
        yield Krylov(values_K, vectors_KK, size)
        if len(basis) == len(start_N) or size <= torch.finfo(torch.float64).eps * values_K.abs().max():
            return
        beside.append(size)
        next_N = product_N / size


def tridiagonal(diagonal: list[float], beside: list[float]) -> Tensor:
    """The symmetric matrix with this diagonal and these values on both sides of it, float64."""
    sides = torch.tensor(beside, dtype=torch.float64)
    return torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(sides, 1) + torch.diag(sides, -1)
