"""SGD with momentum and weight decay, for one run or for several side by side, and its schedule.

Shapes: R runs in lockstep; a parameter of R runs has them stacked along its first dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bnstudy.config.schema import Optim


def lr_at(step: int, total_steps: int, optim: Optim) -> float:
    """The learning rate of update `step` (0-based) of `total_steps`: a pure function, so resuming needs no state."""
    passed = sum(step / total_steps >= milestone for milestone in optim.milestones)
    lr = optim.lr * optim.decay**passed
    warming = step / total_steps < optim.warmup
    return lr * min(1.0, (step + 1) / (optim.warmup * total_steps)) if warming else lr


class SGD:
    """v <- momentum v + (g + weight_decay w); w <- w - lr v, with a learning rate per run (for one run: torch's SGD).

    A run that is not alive keeps its weights and velocity, whatever its gradients are (also NaN).

    `flat` moves the weights of one run into one block of memory, of which the parameters become views: an update is
    then a handful of kernels, whose launches a GPU would otherwise wait for (a ResNet-110 has hundreds of tensors).
    """

    def __init__(self, parameters: Sequence[Tensor], num_runs: int, optim: Optim, *, flat: bool = False) -> None:
        self._parameters = list(parameters)
        self._num_runs = num_runs
        self._momentum = optim.momentum
        self._weight_decay = optim.weight_decay
        self._flat = _Flat(self._parameters) if flat and num_runs == 1 else None
        if self._flat is None:
            self.velocities = [torch.zeros_like(p) for p in self._parameters] if optim.momentum else []
        else:
            self._velocity = torch.zeros_like(self._flat.weights)
            self.velocities = self._flat.views(self._velocity) if optim.momentum else []

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lr_R: Tensor, alive_R: Tensor | None) -> None:
        """One update. `alive_R` None: all are. `lr_R`, `alive_R` live on the parameters' device."""
        if self._flat is not None:
            self._update_flat(self._flat, gradients, lr_R, alive_R)
            return
        if self._num_runs == 1 and alive_R is None and not lr_R.is_cuda:  # there, float() would wait for the device
            self._update_one(gradients, float(lr_R))
            return
        for index, (parameter, gradient) in enumerate(zip(self._parameters, gradients, strict=True)):
            weight, step = self._by_run(parameter), self._by_run(gradient)
            if self._weight_decay:
                step = step.add(weight, alpha=self._weight_decay)
            if self.velocities:
                velocity = self._by_run(self.velocities[index])
                step = torch.add(step, velocity, alpha=self._momentum)
                velocity.copy_(step if alive_R is None else torch.where(_shaped(alive_R, step), step, velocity))
            scale = _shaped(lr_R, step)
            if alive_R is None:
                weight.addcmul_(step, scale, value=-1)
            else:
                weight.copy_(torch.where(_shaped(alive_R, step), torch.addcmul(weight, step, scale, value=-1), weight))

    def _update_one(self, gradients: Sequence[Tensor], lr: float) -> None:
        """The update of one run, all tensors in one call per step of the rule: a ResNet-110 has hundreds."""
        steps = list(gradients)
        if self._weight_decay:
            steps = list(torch._foreach_add(steps, self._parameters, alpha=self._weight_decay))
        if self.velocities:
            torch._foreach_mul_(self.velocities, self._momentum)
            torch._foreach_add_(self.velocities, steps)
            steps = self.velocities
        torch._foreach_add_(self._parameters, steps, alpha=-lr)

    def _update_flat(self, flat: _Flat, gradients: Sequence[Tensor], lr_R: Tensor, alive_R: Tensor | None) -> None:
        """The update of one run, all weights as one vector."""
        step = flat.gathered(gradients)
        if self._weight_decay:
            step = step.add(flat.weights, alpha=self._weight_decay)
        if self._momentum:
            step = torch.add(step, self._velocity, alpha=self._momentum)
            self._velocity.copy_(step if alive_R is None else torch.where(alive_R, step, self._velocity))
        moved = torch.addcmul(flat.weights, step, lr_R, value=-1)
        flat.weights.copy_(moved if alive_R is None else torch.where(alive_R, moved, flat.weights))

    def _by_run(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (self._num_runs, -1)) if tensor.dim() else tensor.reshape(self._num_runs, 1)


class _Flat:
    """Parameters as views of one vector, each with the strides it had: dense ones, whatever their order."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._layouts = [(p.shape, p.stride()) for p in parameters]
        like, size = parameters[0], sum(p.numel() for p in parameters)
        self.weights = torch.empty(size, dtype=like.dtype, device=like.device)
        self._gradients = torch.empty_like(self.weights)
        self._gradient_views = self.views(self._gradients)
        views = self.views(self.weights)
        torch._foreach_copy_(views, [p.detach() for p in parameters])
        for parameter, view in zip(parameters, views, strict=True):
            parameter.data = view

    def views(self, vector: Tensor) -> list[Tensor]:
        """Parts of `vector` that look like the parameters."""
        parts = vector.split([shape.numel() for shape, _ in self._layouts])
        return [part.as_strided(*layout) for part, layout in zip(parts, self._layouts, strict=True)]

    def gathered(self, gradients: Sequence[Tensor]) -> Tensor:
        """The gradients as one vector, which the next call overwrites."""
        torch._foreach_copy_(self._gradient_views, list(gradients))
        return self._gradients


def _shaped(per_run: Tensor, like: Tensor) -> Tensor:
    return per_run.reshape(-1, *[1] * (like.dim() - 1))
