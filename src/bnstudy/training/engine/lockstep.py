"""The engine: one network, or R of them stacked, driven by SGD; how it computes follows device and precision."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnstudy.config.schema import Optim
from bnstudy.models.layers import memory_format
from bnstudy.training.engine.base import Batch, StepResult
from bnstudy.training.engine.fuse import Fused
from bnstudy.training.engine.stacked import stack, unstack
from bnstudy.training.optim import SGD

VELOCITY, ALIVE = "velocity.", "alive"


class Lockstep:
    """Engine for R networks of one architecture (see `base.Engine`). R = 1 is the network as its file wrote it."""

    def __init__(
        self,
        networks: Sequence[nn.Module],
        optim: Optim,
        *,
        divergence_loss: float,
        device: torch.device,
        channels_last: bool = False,
        fuse: bool = False,
        half: torch.dtype | None = None,
        flat: bool = False,
    ) -> None:
        self.num_runs = len(networks)
        self._template = copy.deepcopy(networks[0]).cpu()
        layout = memory_format(networks[0]) if channels_last else torch.contiguous_format
        wide = copy.deepcopy(networks[0]) if self.num_runs == 1 else stack(networks)
        self._network = wide.to(device).to(memory_format=layout)
        self._forward = Fused(self._network, self.num_runs) if fuse else self._network
        self._layout, self._half = layout, half
        self._parameters = list(self._network.parameters())
        self._sgd = SGD(self._parameters, self.num_runs, optim, flat=flat)
        self._alive_R = torch.ones(self.num_runs, dtype=torch.bool, device=device)
        self._statistics = [each for each in self._network.buffers() if each.dim()]
        self._largest_loss = min(divergence_loss, torch.finfo(torch.float32).max)  # so that no infinity is below it
        self._device = device

    def step(self, batch: Batch, lrs: Sequence[float]) -> StepResult:
        return self.step_on_device(batch, torch.tensor(lrs, dtype=torch.float64, device=self._device))

    def step_on_device(self, batch: Batch, lr_R: Tensor) -> StepResult:
        """One update from what lies on the device alone: on a GPU nothing here looks at, or waits for, the host.

        On a CPU a run that is not alive keeps its running statistics, too, so that its kept weights do not depend on
        how long others train beside it.
        """
        if self._device.type == "cpu" and not self._alive_R.all():
            if not self._alive_R.any():
                nothing = torch.full((self.num_runs,), torch.nan)
                return StepResult(nothing, torch.zeros_like(nothing, dtype=torch.int64), nothing, self._alive_R.clone())
            before, was_alive_R = [each.clone() for each in self._statistics], self._alive_R.clone()
            result = self._update(batch, lr_R)
            for now, then in zip(self._statistics, before, strict=True):
                now_R, then_R = (each.unflatten(0, (self.num_runs, -1)) for each in (now, then))
                now_R[~was_alive_R] = then_R[~was_alive_R]
            return result
        return self._update(batch, lr_R)

    def _update(self, batch: Batch, lr_R: Tensor) -> StepResult:
        images_NCHW, labels_N = batch
        if not self._network.training:  # the walk through a small network's modules takes a few percent of a step
            self._network.train()
        logits_NRK = self._logits(images_NCHW)
        loss_R = self._loss(logits_NRK, labels_N)
        # The sum's gradient is each run's own: no run's loss depends on another's weights. Of what has no part it is 0.
        gradients = torch.autograd.grad(loss_R.sum(), self._parameters, materialize_grads=True)
        loss_R = loss_R.detach()
        self._alive_R.logical_and_(loss_R <= self._largest_loss)
        # Looking at the host costs nothing on the CPU and would stall a GPU, where the update is masked instead.
        all_alive = self._device.type == "cpu" and bool(self._alive_R.all())
        self._sgd.step(gradients, lr_R.to(loss_R.dtype), None if all_alive else self._alive_R)
        correct_R = (logits_NRK.detach().argmax(2) == labels_N[:, None]).sum(0)
        return StepResult(loss_R, correct_R, self._norm_by_run(gradients), self._alive_R.clone())

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        self._network.eval()
        loss_R = torch.zeros(self.num_runs, dtype=torch.float64, device=self._device)
        correct_R = torch.zeros_like(loss_R)
        count = 0
        for images_NCHW, labels_N in batches:
            logits_NRK = self._logits(images_NCHW)
            loss_R += self._loss(logits_NRK, labels_N).double() * len(labels_N)
            correct_R += (logits_NRK.argmax(2) == labels_N[:, None]).sum(0)
            count += len(labels_N)
        return loss_R / count, correct_R / count

    def network(self, run: int) -> nn.Module:
        network = copy.deepcopy(self._template)
        values = {k: unstack(v.detach(), run, self.num_runs) for k, v in self._network.state_dict().items()}
        network.load_state_dict(values)
        return network.to(self._device).float().train()

    def state(self) -> dict[str, Tensor]:
        velocities = {f"{VELOCITY}{i}": v for i, v in enumerate(self._sgd.velocities)}
        values = self._network.state_dict() | velocities | {ALIVE: self._alive_R}
        return {name: value.detach().cpu().clone() for name, value in values.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        weights = {k: v for k, v in state.items() if not k.startswith(VELOCITY) and k != ALIVE}
        self._network.load_state_dict(weights)
        for index, velocity in enumerate(self._sgd.velocities):
            velocity.copy_(state[f"{VELOCITY}{index}"])
        self._alive_R.copy_(state[ALIVE])

    def _logits(self, images_NCHW: Tensor) -> Tensor:
        """Weights, statistics and updates stay in float32; with `half`, products and activations are computed in it."""
        images_NCHW = images_NCHW.contiguous(memory_format=self._layout)
        with torch.autocast(self._device.type, self._half, enabled=self._half is not None):
            logits: Tensor = self._forward(images_NCHW)
        if self._half is not None:
            logits = logits.float()
        return logits.unflatten(1, (self.num_runs, -1))

    def _loss(self, logits_NRK: Tensor, labels_N: Tensor) -> Tensor:
        """Mean cross-entropy by run, at least in float32."""
        labels_NR = labels_N[:, None].expand(-1, self.num_runs)
        losses_NR = functional.cross_entropy(logits_NRK.transpose(1, 2), labels_NR, reduction="none")
        return losses_NR.mean(0)

    def _norm_by_run(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Norms in float64: squares leave float32 from 1e19 on, and a sum of millions of them loses the small ones."""
        if self.num_runs == 1:
            return torch.stack(torch._foreach_norm(gradients, 2, torch.float64)).norm().reshape(1)
        squares = [g.double().unflatten(0, (self.num_runs, -1)).flatten(1).square().sum(1) for g in gradients]
        return torch.stack(squares).sum(0).sqrt()
