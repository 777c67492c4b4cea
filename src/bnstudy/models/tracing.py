"""A network's forward pass as a graph (torch.fx), and as a chain of functions of one tensor each."""

from __future__ import annotations

from torch import fx, nn


class Tracer(fx.Tracer):
    """Trace through containers of modules only; every other module is a leaf, as a norm's file may do anything."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not any(True for _ in module.children())


def chain(network: nn.Module) -> list[nn.Module]:
    """Modules that, one after the other, compute what the network does, as short as its graph allows.

    They share its modules and parameters. The network alone, where it cannot be traced: its forward pass asks for
    values, or has several inputs or outputs.
    """
    try:
        nodes = list(Tracer().trace(network).nodes)
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
