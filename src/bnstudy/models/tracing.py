"""A network's forward pass as a graph (torch.fx), and as a chain of functions of one tensor each."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode


def traced(network: nn.Module) -> fx.Graph:
    """The graph of the network's forward pass, in the mode (training or evaluation) that it is in.

    Raises an error, of whatever class, where the forward pass asks for values of the images, or does what a graph would
    not repeat in each pass: it draws random numbers on its own, computes with other tensors than the images and
    parameters, counts its calls, or switches gradients or autocast off or on.
    """
    replica = copy.deepcopy(network)  # which may count its calls
    before, draws_before = attributes(replica), host_draws()
    draws = random.getstate(), np.random.get_state(legacy=False)
    try:
        with _NoComputation():
            graph = _Tracer().trace(replica)
        drawn = host_draws() != draws_before
    finally:
        random.setstate(draws[0])
        np.random.set_state(draws[1])
    if drawn or attributes(replica) != before:
        raise fx.proxy.TraceError("its forward pass draws random numbers, or changes the network")
    return graph


def host_draws() -> bytes:
    """The state of Python's and of numpy's generator: another one once a number was drawn."""
    return pickle.dumps((random.getstate(), np.random.get_state(legacy=False)))


class _Tracer(fx.Tracer):
    """Traces through containers of modules only; every other module is a leaf, as a norm's file may do anything."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not any(True for _ in module.children())

    def trace(self, *args: Any, **kwargs: Any) -> fx.Graph:
        self._modes = _modes()
        return super().trace(*args, **kwargs)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _modes() != self._modes:
            raise fx.proxy.TraceError("its forward pass switches gradients or autocast off or on")
        return super().create_node(*args, **kwargs)


class _NoComputation(TorchDispatchMode):
    """No operation on tensors: what stands for the images is none, so a graph would hold the result as a constant."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise fx.proxy.TraceError(f"its forward pass computes {func} without the images")


def _modes() -> tuple[object, ...]:
    autocast = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")]
    return torch.is_grad_enabled(), *autocast


def attributes(network: nn.Module) -> list[dict[str, object]]:
    """What the files of its modules keep there, besides parameters, buffers and modules."""
    torchs = vars(nn.Module())
    return [
        {key: _content(value) for key, value in vars(module).items() if key not in torchs}
        for module in network.modules()
    ]


def _content(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return id(value)
    try:
        return pickle.dumps(value)
    except Exception:  # what cannot be pickled raises errors of many classes
        return id(value)


def chain(network: nn.Module) -> list[nn.Module]:
    """Modules that, one after the other, compute what the network does, as short as its graph allows.

    They share its modules and parameters. The network alone, where it cannot be traced (see `traced`), or has several
    inputs or outputs.
    """
    try:
        nodes = list(traced(network).nodes)
    except Exception:  # whatever the forward pass provokes, the network itself can still be called
        return [network]
    entering, *inner, end = nodes
    leaving = end.args[0] if end.op == "output" else None
    if not isinstance(leaving, fx.Node) or any(node.op == "placeholder" for node in inner):
        return [network]
    place = {node: i for i, node in enumerate(nodes)}
    last_use = {node: max((place[user] for user in node.users), default=-1) for node in nodes}
    links, first = list[nn.Module](), 0
    for i, node in enumerate(inner):
        live = [n for n in (entering, *inner[: i + 1]) if last_use[n] > place[node] and n.op != "get_attr"]
        if len(live) == 1 and live[0] is not entering:
            links.append(_link(network, entering, inner[first : i + 1], live[0]))
            entering, first = live[0], i + 1
    if links and first < len(inner):  # the result is computed, but an operation in place may follow
        links.append(_link(network, entering, inner[first:], leaving))
    return links or [network]


def _link(network: nn.Module, entering: fx.Node, nodes: list[fx.Node], leaving: fx.Node) -> nn.Module:
    graph = fx.Graph()
    copies = {entering: graph.placeholder("x")}

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:  # a parameter of the network's own, wherever it was first named
            copies[node] = graph.node_copy(node, copied)
        return copies[node]

    for node in nodes:
        copied(node)
    graph.output(copies[leaving])
    return fx.GraphModule(network, graph)
