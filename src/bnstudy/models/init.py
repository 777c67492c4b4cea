"""Initial weights: each layer's drawn from the seed and the layer's own name, so that no other layer changes them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn


def _torch_default(weight: Tensor, generator: torch.Generator) -> None:
    """The default of torch's layers: uniform in +-1/sqrt(fan_in)."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


def _kaiming_normal(weight: Tensor, generator: torch.Generator) -> None:
    """He et al. (2015): variance 2 / fan_in."""
    nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu", generator=generator)


SCHEMES: dict[str, Callable[[Tensor, torch.Generator], object]] = {
    # Glorot and Bengio (2010): variance 2 / (fan_in + fan_out)
    "xavier_uniform": lambda weight, generator: nn.init.xavier_uniform_(weight, generator=generator),
    "xavier_normal": lambda weight, generator: nn.init.xavier_normal_(weight, generator=generator),
    "kaiming_normal": _kaiming_normal,
    "torch_default": _torch_default,
    # Xavier on the weights alone, which leaves the biases, where there are any, as torch makes them
    "xavier_uniform_biased": lambda weight, generator: nn.init.xavier_uniform_(weight, generator=generator),
}
BIASED = ("torch_default", "xavier_uniform_biased")  # those that draw biases, too


@torch.no_grad()
def apply(
    network: nn.Module,
    scheme: str,
    seed: int,
    keep_torch_default: Collection[str] = (),
    scale: float = 1.0,
    factors: Mapping[str, float] | None = None,
) -> None:
    """Draw the weights of every convolution and dense layer, and multiply them by `scale`; biases start at zero.

    Under the schemes of BIASED, and in the layers of `keep_torch_default`, biases are uniform in +-1/sqrt(fan_in).
    Weights and biases of the layers named in `factors` are multiplied by the factors there. Draws are made in float32
    on the CPU, then converted: the weights are the same in every precision, on every device. Raises ValueError for an
    unknown scheme.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"init = {scheme!r}: choose one of {', '.join(SCHEMES)}")
    weighted = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert weighted.keys() >= {*keep_torch_default, *(factors or ())}, (keep_torch_default, factors)
    for name, module in weighted.items():
        generator = torch.Generator("cpu").manual_seed(_key(seed, name))
        chosen = "torch_default" if name in keep_torch_default else scheme
        weight = torch.empty(module.weight.shape, dtype=torch.float32, device="cpu")
        SCHEMES[chosen](weight, generator)
        factor = (factors or {}).get(name, 1.0)
        module.weight.copy_(weight * (scale * factor))
        if module.bias is None:
            continue
        bias = torch.zeros(module.bias.shape, dtype=torch.float32, device="cpu")
        if chosen in BIASED:
            bound = 1 / math.sqrt(weight[0].numel())
            bias.uniform_(-bound, bound, generator=generator)
        module.bias.copy_(bias * factor)


def _key(seed: int, name: str) -> int:
    """63 bits of a hash: neighbouring seeds and names give unrelated draws."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1
