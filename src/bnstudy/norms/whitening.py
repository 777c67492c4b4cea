"""Whitening: channels are made uncorrelated, too, by the inverse root of their covariance (Huang et al., 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bnstudy.norms._checks import check, check_count


def build(num_features: int, ndim: int, *, eps: float = 1e-3, momentum: float = 0.1) -> nn.Module:
    """See `Whitening`. Raises ValueError for values of the options that make no norm."""
    check(eps, momentum)
    return Whitening(num_features, eps, momentum)


class Whitening(nn.Module):
    """y = gamma (cov + eps)^(-1/2) (x - mean) + beta, for images (N, C, H, W) and features (N, C).

    Mean and covariance over everything but the channel: in training those of the mini-batch, in evaluation the running
    ones (the unbiased covariance; `momentum` is the weight of the new value). The symmetric root (ZCA) is the
    whitening that changes the input least. eps is what keeps it defined where there are fewer values than channels.
    """

    running_mean: Tensor
    running_cov: Tensor

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))  # gamma
        self.bias = nn.Parameter(torch.zeros(num_features))  # beta
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_cov", torch.eye(num_features))

    def forward(self, x: Tensor) -> Tensor:
        mean_C, cov_CC = self._statistics(x) if self.training else (self.running_mean, self.running_cov)
        root_CC = InverseRoot.apply(cov_CC + self.eps * torch.eye(len(cov_CC), dtype=x.dtype, device=x.device))
        matrix_CC = self.weight[:, None] * root_CC
        shift_C = self.bias - matrix_CC @ mean_C
        if x.dim() == 2:
            return functional.linear(x, matrix_CC, shift_C)
        return functional.conv2d(x, matrix_CC[:, :, None, None], shift_C)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        count = x.numel() // x.shape[1]
        check_count(count)
        values_CM = x.transpose(0, 1).flatten(1)
        mean_C = values_CM.mean(1)
        centred_CM = values_CM - mean_C[:, None]
        cov_CC = centred_CM @ centred_CM.T / count
        with torch.no_grad():
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_cov.lerp_(cov_CC * count / (count - 1), self.momentum)
        return mean_C, cov_CC


class InverseRoot(torch.autograd.Function):
    """A^(-1/2) of a symmetric positive definite matrix, with a gradient that equal eigenvalues leave finite.

    The gradient of f(A) = U f(L) U' is U (D * (U' G U)) U' with the divided differences D_ij of f between the
    eigenvalues i and j (Daleckii and Krein; Higham 2008, theorem 3.11), here -1 / (s_i s_j (s_i + s_j)), s their roots.
    Through the eigenvectors, as autograd goes, it would divide by differences of eigenvalues.
    """

    @staticmethod
    def forward(ctx: Any, matrix_CC: Tensor) -> Tensor:
        values_C, vectors_CC = torch.linalg.eigh(matrix_CC)
        roots_C = values_C.sqrt()
        ctx.save_for_backward(roots_C, vectors_CC)
        return (vectors_CC / roots_C) @ vectors_CC.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_CC: Tensor) -> Tensor:
        roots_C, vectors_CC = ctx.saved_tensors
        differences_CC = -1 / (roots_C[:, None] * roots_C * (roots_C[:, None] + roots_C))
        turned_CC = vectors_CC.T @ (grad_CC + grad_CC.T) / 2 @ vectors_CC
        return vectors_CC @ (differences_CC * turned_CC) @ vectors_CC.T
