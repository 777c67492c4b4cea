"""Initial weights: each layer's drawn from the seed and the layer's own name, so that no other layer changes them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn


def _torch_default(weight: Tensor, generator: torch.Generator) -> None:
    """What torch's layers do of themselves: uniform in +-1/sqrt(fan_in)."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


SCHEMES: dict[str, Callable[[Tensor, torch.Generator], object]] = {
    # Glorot and Bengio (2010): variance 2 / (fan_in + fan_out)
    "xavier_uniform": lambda weight, generator: nn.init.xavier_uniform_(weight, generator=generator),
    "xavier_normal": lambda weight, generator: nn.init.xavier_normal_(weight, generator=generator),
    # He et al. (2015): variance 2 / fan_in
    "kaiming_normal": lambda weight, generator: nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator),
    "torch_default": _torch_default,
}


@torch.no_grad()
def apply(network: nn.Module, scheme: str, seed: int, keep_torch_default: Collection[str] = ()) -> None:
    """Draws the weights of every convolution and dense layer; biases start at zero.

    Under torch_default, and in the layers named in `keep_torch_default`, biases are uniform in +-1/sqrt(fan_in) too.
    """
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        generator = torch.Generator().manual_seed(_key(seed, name))
        chosen = "torch_default" if name in keep_torch_default else scheme
        SCHEMES[chosen](module.weight, generator)
        if module.bias is None:
            continue
        if chosen == "torch_default":
            bound = 1 / math.sqrt(module.weight[0].numel())
            module.bias.uniform_(-bound, bound, generator=generator)
        else:
            module.bias.zero_()


def _key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1
