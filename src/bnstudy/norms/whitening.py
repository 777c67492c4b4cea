"""Whitening: channels are made uncorrelated, too, by the inverse root of their covariance (Huang et al., 2018)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
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
        centred = x - mean_C.reshape(1, -1, *[1] * (x.dim() - 2))  # before the product, where large means would cancel
        if x.dim() == 2:
            return functional.linear(centred, matrix_CC, self.bias)
        return functional.conv2d(centred, matrix_CC[:, :, None, None], self.bias)

    def held(self, x: Tensor) -> Whitening:
        """The norm with mean and covariance of this mini-batch as constants."""
        fixed = copy.deepcopy(self).eval()
        fixed.running_mean, fixed.running_cov = (value.detach() for value in self._of_batch(x))
        return fixed

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The statistics of the mini-batch, which move the running ones."""
        count = x.numel() // x.shape[1]
        mean_C, cov_CC = self._of_batch(x)
        with torch.no_grad():
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_cov.lerp_(cov_CC * count / (count - 1), self.momentum)
        return mean_C, cov_CC

    def _of_batch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        count = x.numel() // x.shape[1]
        check_count(count)
        values_CM = x.transpose(0, 1).flatten(1)
        mean_C = values_CM.mean(1)
        centred_CM = values_CM - mean_C[:, None]
        centred_CM = centred_CM - centred_CM.mean(1, keepdim=True)  # what the mean's rounding left
        return mean_C, centred_CM @ centred_CM.T / count


class InverseRoot(torch.autograd.Function):
    """A^(-1/2) of a symmetric positive definite matrix, with derivatives that equal eigenvalues leave finite.

    The gradient of f(A) = U f(L) U' is U (D * (U' G U)) U' with the divided differences D_ij of f between the
    eigenvalues i and j (Daleckii and Krein; Higham 2008, theorem 3.11), here -1 / (s_i s_j (s_i + s_j)), s their roots.
    Through the eigenvectors, as autograd goes, it would divide by differences of eigenvalues. With R = A^(-1/2) and
    S = A^(1/2) = A R it is -X where S X + X S = R G R, which can be differentiated again, and again.
    """

    @staticmethod
    def forward(ctx: Any, matrix_CC: Tensor) -> Tensor:
        values_C, vectors_CC = torch.linalg.eigh(matrix_CC)
        roots_C = values_C.sqrt()
        found_CC: Tensor = (vectors_CC / roots_C) @ vectors_CC.T
        ctx.save_for_backward(matrix_CC, found_CC, roots_C, vectors_CC)
        return found_CC

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        matrix_CC, found_CC, roots_C, vectors_CC = ctx.saved_tensors
        grad_CC = (gradients[0] + gradients[0].T) / 2
        if torch.is_grad_enabled():  # the gradient is to be differentiated
            half_CC = matrix_CC @ found_CC
            solved: Tensor = Lyapunov.apply(half_CC, found_CC @ grad_CC @ found_CC, roots_C, vectors_CC)
            return -solved
        differences_CC = -1 / (roots_C[:, None] * roots_C * (roots_C[:, None] + roots_C))
        return vectors_CC @ (differences_CC * (vectors_CC.T @ grad_CC @ vectors_CC)) @ vectors_CC.T


class Lyapunov(torch.autograd.Function):
    """The X of S X + X S = Q for symmetric matrices, given the eigenvalues and eigenvectors of S.

    From S dX + dX S = dQ - dS X - X dS, and since the map from Q to X is its own adjoint, Q's gradient is Y with
    S Y + Y S = G, and that of S is -(Y X + X Y): the same map again, so that all derivatives are there.
    """

    @staticmethod
    def forward(ctx: Any, matrix_CC: Tensor, right_CC: Tensor, values_C: Tensor, vectors_CC: Tensor) -> Tensor:
        turned_CC = vectors_CC.T @ right_CC @ vectors_CC / (values_C[:, None] + values_C)
        found_CC = vectors_CC @ turned_CC @ vectors_CC.T
        ctx.save_for_backward(matrix_CC, found_CC, values_C, vectors_CC)
        return found_CC

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        matrix_CC, found_CC, values_C, vectors_CC = ctx.saved_tensors
        grad_CC = (gradients[0] + gradients[0].T) / 2
        solved_CC: Tensor = Lyapunov.apply(matrix_CC, grad_CC, values_C, vectors_CC)
        return -(solved_CC @ found_CC + found_CC @ solved_CC), solved_CC, None, None
