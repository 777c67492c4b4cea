"""SGD with momentum and weight decay, for one run or for several side by side, and its schedule.

Shapes: R runs in lockstep; a parameter of R runs has them stacked along its first dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bnstudy.config import Optim


def lr_at(step: int, total_steps: int, optim: Optim) -> float:
    """The learning rate of update `step` (0-based) of `total_steps`: a pure function, so resuming needs no state."""
    passed = sum(step / total_steps >= milestone for milestone in optim.milestones)
    return optim.lr * optim.decay**passed


class SGD:
    """v <- momentum v + (g + weight_decay w); w <- w - lr v, with a learning rate a run (torch's SGD at one run).

    A run that is not alive keeps its weights and velocity, whatever its gradients are (also NaN).
    """

    def __init__(self, parameters: Sequence[Tensor], num_runs: int, optim: Optim) -> None:
        self._parameters = list(parameters)
        self._num_runs = num_runs
        self._momentum = optim.momentum
        self._weight_decay = optim.weight_decay
        self.velocities = [torch.zeros_like(p) for p in self._parameters] if optim.momentum else []

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor], lr_R: Tensor, alive_R: Tensor | None) -> None:
        """One update. `alive_R` None: all are. `lr_R`, `alive_R` live on the parameters' device."""
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
        """The same for one run, all tensors in one call a step of the rule: a ResNet-110 has hundreds of small ones."""
        steps = list(gradients)
        if self._weight_decay:
            steps = list(torch._foreach_add(steps, self._parameters, alpha=self._weight_decay))
        if self.velocities:
            torch._foreach_mul_(self.velocities, self._momentum)
            torch._foreach_add_(self.velocities, steps)
            steps = self.velocities
        torch._foreach_add_(self._parameters, steps, alpha=-lr)

    def _by_run(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (self._num_runs, -1)) if tensor.dim() else tensor.reshape(self._num_runs, 1)


def _shaped(per_run: Tensor, like: Tensor) -> Tensor:
    return per_run.reshape(-1, *[1] * (like.dim() - 1))
