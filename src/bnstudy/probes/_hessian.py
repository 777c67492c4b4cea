"""Products of the loss's Hessian with vectors: gradients of gradients, so that the Hessian itself is never formed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnstudy.models import tracing
from bnstudy.probes._lanczos import Product
from bnstudy.probes._twice import REFUSED, check_twice

GRAPHS = 4  # bytes that the graph of a gradient's gradient takes, for each that a forward pass saves: 2 to 3.5 seen
MEMORY = 2 * 2**30  # bytes that this graph may take


def hessian_product(network: nn.Module, images_NCHW: Tensor, labels_N: Tensor) -> Product:
    """The map v -> H v, both float64 over all parameters one after the other.

    Its graph is made once and kept; where that would take too much memory, it is made in parts, anew for each product.
    Raises ValueError where the network, or an operation of it, has no second derivatives.
    """
    for name, module in network.named_modules():
        if getattr(module, "stops_gradient", False):
            raise ValueError(
                f"hessian_top_eigenvalue: {name} is {type(module).__name__}, which holds a part of what depends on the "
                "weights constant in its gradient: there is no Hessian; take another norm, or leave the probe out"
            )
    if _bytes_saved(network, images_NCHW) * GRAPHS > MEMORY and len(links := tracing.chain(network)) > 1:
        return _Parts(network, links, images_NCHW, labels_N)
    names, parameters = zip(*network.named_parameters(), strict=True)
    loss = functional.cross_entropy(network(images_NCHW.clone()).double(), labels_N)
    every = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    used = [i for i, gradient in enumerate(every) if gradient is not None]  # a user's network may have idle parameters
    gradients = [every[i] for i in used]
    check_twice("hessian_top_eigenvalue", gradients)

    def times(vector_W: Tensor) -> Tensor:
        shaped = _shaped(vector_W, parameters)
        along = [shaped[i] for i in used]
        products = torch.autograd.grad(gradients, parameters, along, retain_graph=True, allow_unused=True)
        for i in used:
            if products[i] is None:
                raise ValueError(
                    f"hessian_top_eigenvalue: no gradient depends on {names[i]}, which the loss depends on: an "
                    "operation there cuts second derivatives off; leave the probe out"
                )
        whole = [torch.zeros_like(p) if h is None else h for p, h in zip(parameters, products, strict=True)]
        return torch.cat([each.flatten().double() for each in whole])

    return times


class _Parts:
    """Products of Hessian and vector of a network that is a chain of functions, with the graph of one at a time.

    h_k enters function k, which has the weights W_k; the loss is the last. l_k is the loss's gradient in h_k. With the
    vector v, the scalar v . dL/dW is a function of the weights whose gradient is H v. It is computed by the forward
    pass h and then the backward pass l; so its own derivatives run through these in reverse: m_k, in l_k, forwards,
    then n_k, in h_k, backwards. Kept are the tensors between the functions, h, l, and m's share of n.
    """

    def __init__(self, network: nn.Module, links: list[nn.Module], images_NCHW: Tensor, labels_N: Tensor) -> None:
        self._parameters = list(network.parameters())
        self._functions: list[nn.Module] = []
        # Statistics that a norm tracks, and random draws: each run of a function begins as its first one did.
        self._buffers: list[dict[str, Tensor]] = []
        self._random: list[Tensor] = []
        self._h = [images_NCHW.detach()]
        waiting: list[nn.Module] = []
        with torch.no_grad():
            for link in [*links, _Loss(labels_N)]:
                waiting.append(link)
                function = nn.Sequential(*waiting)
                buffers = {name: buffer.clone() for name, buffer in function.named_buffers()}
                random = self._random_state()
                y = function(self._h[-1].clone())  # an operation in place may be its first
                if not isinstance(y, Tensor) or not y.is_floating_point():
                    self._restore(function, buffers, random)
                    continue  # there are no gradients of it: together with what makes a tensor of it
                self._functions.append(function)
                self._buffers.append(buffers)
                self._random.append(random)
                self._h.append(y)
                waiting = []
        self._weights = [list(function.parameters()) for function in self._functions]
        self._l: list[Tensor] = [torch.ones_like(self._h[-1])]
        for k in reversed(range(1, len(self._functions))):
            h, y = self._run(k)
            found = torch.autograd.grad(y, h, self._l[0], allow_unused=True) if y.requires_grad else (None,)
            self._l.insert(0, torch.zeros_like(h) if found[0] is None else found[0])
        self._l.insert(0, torch.zeros(()))  # of the images none is asked for

    def __call__(self, vector_W: Tensor) -> Tensor:
        along = dict(zip(self._parameters, _shaped(vector_W, self._parameters), strict=True))
        products = {p: torch.zeros_like(p) for p in self._parameters}
        m: Tensor | None = None
        shares: list[Tensor | None] = []
        for k in range(len(self._functions)):
            m, share, of_weights = self._forwards(k, m, along)
            shares.append(share)
            for p, product in zip(self._weights[k], of_weights, strict=True):
                products[p] += 0 if product is None else product
        n = shares[-1]
        for k in reversed(range(len(self._functions) - 1)):
            h, y = self._run(k)
            inputs = [*([h] if k else []), *self._weights[k]]
            found: list[Tensor | None] = [None] * len(inputs)
            if n is not None and inputs and y.requires_grad:
                found = list(torch.autograd.grad(y, inputs, n, allow_unused=True))
            n = _sum(shares[k], found.pop(0)) if k else None
            for p, product in zip(self._weights[k], found, strict=True):
                products[p] += 0 if product is None else product
        return torch.cat([products[p].flatten().double() for p in self._parameters])

    def _forwards(
        self, k: int, m: Tensor | None, along: Mapping[nn.Parameter, Tensor]
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
        """m of the next function; this one's share of n, and of the products of its weights."""
        h, y = self._run(k)
        inputs = [*([h] if k else []), *self._weights[k]]
        if not inputs or not y.requires_grad:
            return None, None, [None] * len(self._weights[k])
        l_next = self._l[k + 1].clone().requires_grad_()
        first = torch.autograd.grad(y, inputs, l_next, create_graph=True, allow_unused=True)
        each = [*([m] if k else []), *(along[p] for p in self._weights[k])]
        pairs = [(g, v) for g, v in zip(first, each, strict=True) if g is not None and v is not None]
        if not pairs:
            return None, None, [None] * len(self._weights[k])
        check_twice("hessian_top_eigenvalue", [g for g, _ in pairs])
        gradients, vectors = zip(*pairs, strict=True)
        found: list[Tensor | None] = list(
            torch.autograd.grad(gradients, [l_next, *inputs], vectors, allow_unused=True)
        )
        if found[0] is None:
            raise ValueError(f"hessian_top_eigenvalue: {REFUSED}")
        return found[0], found[1] if k else None, found[2 if k else 1 :]

    def _run(self, k: int) -> tuple[Tensor, Tensor]:
        """What enters function k, and what leaves it."""
        h = self._h[k].detach().requires_grad_(k > 0)
        now = self._random_state()
        self._restore(self._functions[k], self._buffers[k], self._random[k])
        y = self._functions[k](h.clone())
        self._set_random_state(now)
        return h, y

    def _restore(self, function: nn.Module, buffers: Mapping[str, Tensor], random: Tensor) -> None:
        _restore_buffers(function, buffers)
        self._set_random_state(random)

    def _random_state(self) -> Tensor:
        images = self._h[0]
        return torch.cuda.get_rng_state(images.device) if images.is_cuda else torch.get_rng_state()

    def _set_random_state(self, state: Tensor) -> None:
        images = self._h[0]
        if images.is_cuda:
            torch.cuda.set_rng_state(state, images.device)
        else:
            torch.set_rng_state(state)


def _restore_buffers(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    for name, buffer in module.named_buffers():  # the module may have made a new one of that name, or another one
        if name in before:
            buffer.data.copy_(before[name])


class _Loss(nn.Module):
    def __init__(self, labels_N: Tensor) -> None:
        super().__init__()
        self._labels_N = labels_N

    def forward(self, logits_NK: Tensor) -> Tensor:
        return functional.cross_entropy(logits_NK.double(), self._labels_N)


def _sum(*terms: Tensor | None) -> Tensor | None:
    present = [term for term in terms if term is not None]
    return sum(present[1:], start=present[0]) if present else None


def _shaped(vector_W: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """A vector over all parameters, cut into their shapes."""
    parts = vector_W.split([p.numel() for p in parameters])
    return [part.view(p.shape).to(p.dtype) for part, p in zip(parts, parameters, strict=True)]


def _bytes_saved(network: nn.Module, images_NCHW: Tensor) -> int:
    """What the operations of a forward pass keep for the backward pass, each for itself; nothing is kept here."""
    nothing, sizes = torch.empty(0), list[int]()

    def count(saved: Tensor) -> None:
        sizes.append(saved.nbytes)

    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with (
        torch.random.fork_rng([images_NCHW.device] if images_NCHW.is_cuda else []),
        torch.autograd.graph.saved_tensors_hooks(count, lambda _: nothing),
    ):
        network(images_NCHW.clone())  # an operation in place may be its first
    _restore_buffers(network, before)
    return sum(sizes)
