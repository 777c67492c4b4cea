"""Replace operations of a network by fused kernels; the network's file need not know of them.

The forward pass is traced (torch.fx), once for training and once for evaluation, and in it
    convolution, norm, 2x2 max-pool  become one (kernels.pooled_conv), and so do
    norm, addition, ReLU, or two of them, and a ReLU by itself (kernels.norm_relu);
    a convolution of 3x3, with an addition and a ReLU after it, has a kernel (kernels.conv3x3), and its
        gradient is added there to that of a shortcut around it;
    one of 1x1 at stride 2 reads and writes only what it needs (kernels.pointwise);
    any other, in bf16, is computed in float32 where the processor cannot do better (kernels.bf16).
Parameters and statistics stay those of the network. A network that cannot be traced, or has hooks, computes as its file
says, and so does what another operation may write over before it would be read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from bnstudy.models import tracing
from bnstudy.training.engine.kernels.bf16 import RoundedConv
from bnstudy.training.engine.kernels.conv3x3 import Conv3x3
from bnstudy.training.engine.kernels.norm_relu import NormReLU
from bnstudy.training.engine.kernels.pointwise import PointwiseConv
from bnstudy.training.engine.kernels.pooled_conv import PooledConv

Forward = Callable[[Tensor], Tensor]
# Python's operators that write in place, as functions and as methods.
_OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
IN_PLACE = {"setitem", "__setitem__", *(f"i{name}" for name in _OPERATORS), *(f"__i{name}__" for name in _OPERATORS)}


class Fused:
    """A network's forward pass with the kernels in their places."""

    def __init__(self, network: nn.Module, num_runs: int) -> None:
        self._network = network
        was_training = network.training
        self._training, self._evaluation = (_fused(network.train(mode), num_runs) for mode in (True, False))
        network.train(was_training)

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        forward = self._training if self._network.training else self._evaluation
        # Called as a module, a graph that raises would print lines of torch's own.
        traced = forward.forward if isinstance(forward, fx.GraphModule) else forward
        try:
            return traced(images_NCHW)
        except Exception as error:
            raised = error
        self._network(images_NCHW)  # raises where the network's file is at fault, with the line of that file
        raise raised


def _fused(network: nn.Module, num_runs: int) -> Forward:
    if any(map(_hooked, network.modules())):  # as spectral_norm's, which makes a convolution's weights
        return network
    try:
        graph = tracing.traced(network)
    except Exception:  # whatever the forward pass provokes, the network itself can still be called
        return network
    fused = fx.GraphModule(network, graph)
    modules = dict(fused.named_modules())
    if any(_writes(node, modules) and not node.users for node in graph.nodes):  # which would be dropped as dead code
        return network
    for node in list(graph.nodes):
        if node.op == "call_module":
            module = modules[node.target]
            if type(module) is nn.Identity:
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
    for node in list(graph.nodes):
        if fusion := _pooled_conv(node, modules, num_runs) or _norm_relu(node, modules):
            _replace(fused, *fusion)
    graph.eliminate_dead_code()
    modules = dict(fused.named_modules())
    for node in list(graph.nodes):  # of the convolutions that are left, and of ReLUs that none of them takes along
        if fusion := _conv3x3(node, modules) or _relu(node, modules) or _other(node, modules):
            _replace(fused, *fusion)
    graph.eliminate_dead_code()
    _pass_on(graph, dict(fused.named_modules()))
    fused.recompile()
    return fused


Found = tuple[nn.Module, tuple[fx.Node, ...], fx.Node]  # what takes its place, what it is called with, the last of it


def _replace(fused: fx.GraphModule, module: nn.Module, inputs: tuple[fx.Node, ...], last: fx.Node) -> None:
    name = f"fused_{last.name}"
    fused.add_submodule(name, module)
    with fused.graph.inserting_before(last):
        last.replace_all_uses_with(fused.graph.call_module(name, inputs))
    fused.graph.erase_node(last)


def _pooled_conv(pool: fx.Node, modules: dict[str, nn.Module], num_runs: int) -> Found | None:
    before = _input(pool, nn.MaxPool2d, modules)
    if before is None:
        return None
    normed = _is(before, nn.BatchNorm2d, modules)
    norm, conv = (modules[str(before.target)], before.args[0]) if normed else (None, before)
    if not isinstance(conv, fx.Node) or not _is(conv, nn.Conv2d, modules) or not _once(before, conv):
        return None
    layer = modules[str(conv.target)]
    if not PooledConv.applies(layer, norm, modules[str(pool.target)], num_runs):
        return None
    assert isinstance(layer, nn.Conv2d) and (norm is None or isinstance(norm, nn.BatchNorm2d))
    (entering,) = conv.args
    assert isinstance(entering, fx.Node)
    return (PooledConv(layer, norm, num_runs), (entering,), pool) if _kept((entering,), pool, modules) else None


def _norm_relu(relu: fx.Node, modules: dict[str, nn.Module]) -> Found | None:
    before = _input(relu, nn.ReLU, modules)
    if before is None or not _once(before):
        return None
    if before.op == "call_function" and before.target in (operator.add, torch.add) and not before.kwargs:
        terms = [term for term in before.args if isinstance(term, fx.Node)]
        if len(terms) != 2 or terms[0] is terms[1]:
            return None
    elif _is(before, nn.BatchNorm2d, modules):
        terms = [before]
    else:
        return None
    normed = next((term for term in terms if _is(term, nn.BatchNorm2d, modules) and _once(term)), None)
    norm = None if normed is None else modules[str(normed.target)]
    if not NormReLU.applies(norm):
        return None
    assert norm is None or isinstance(norm, nn.BatchNorm2d)
    first = terms[0] if normed is None else normed.args[0]
    assert isinstance(first, fx.Node)
    others = terms[1:] if normed is None else [term for term in terms if term is not normed]
    inputs = (first, *others)
    return (NormReLU(norm), inputs, relu) if _kept(inputs, relu, modules) else None


def _conv3x3(conv: fx.Node, modules: dict[str, nn.Module]) -> Found | None:
    entering = _input(conv, nn.Conv2d, modules)
    if entering is None or not Conv3x3.applies(layer := modules[str(conv.target)]):
        return None
    assert isinstance(layer, nn.Conv2d)
    user = next(iter(conv.users))
    added = _added(user, conv, modules) if _once(conv) and layer.stride == (1, 1) else None
    if added is not None and _kept((entering, added), user, modules):
        return Conv3x3(layer, relu=True), (entering, added), user
    relu = _once(conv) and _input(user, nn.ReLU, modules) is conv and _kept((entering,), user, modules)
    return Conv3x3(layer, relu), (entering,), user if relu else conv


def _added(node: fx.Node, conv: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """What an addition without a norm, rectified, adds to the convolution's output; None where `node` is none."""
    if not _is(node, NormReLU, modules) or modules[str(node.target)].norm is not None or len(node.args) != 2:
        return None
    others = [term for term in node.args if isinstance(term, fx.Node) and term is not conv]
    return others[0] if len(others) == 1 else None


def _relu(relu: fx.Node, modules: dict[str, nn.Module]) -> Found | None:
    before = _input(relu, nn.ReLU, modules)
    return None if before is None or not _once(before) else (NormReLU(None), (before,), relu)


def _other(conv: fx.Node, modules: dict[str, nn.Module]) -> Found | None:
    entering = _input(conv, nn.Conv2d, modules)
    layer = modules.get(str(conv.target))
    if entering is None or not isinstance(layer, nn.Conv2d):
        return None
    return PointwiseConv(layer) if PointwiseConv.applies(layer) else RoundedConv(layer), (entering,), conv


def _pass_on(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Where a convolution and a later addition share an input, have the convolution return it for the addition.

    Their gradients are then summed within the convolution (see `Conv3x3`).
    """
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in order:
        shared = _input(node, Conv3x3, modules)
        others = [] if shared is None else [user for user in shared.users if user is not node]
        adding = modules.get(str(others[0].target)) if len(others) == 1 else None
        if not isinstance(adding, NormReLU | Conv3x3) or order[others[0]] < order[node]:
            continue
        (addition,) = others
        if addition.args[1:] != (shared,) or addition.args[0] is shared:
            continue
        conv = modules[str(node.target)]
        assert isinstance(conv, Conv3x3)
        conv.passes_on = True
        with graph.inserting_after(node):
            output, passed = (graph.call_function(operator.getitem, (node, index)) for index in range(2))
        parts = output, passed
        node.replace_all_uses_with(output, delete_user_cb=lambda user, parts=parts: user not in parts)
        addition.args = (addition.args[0], passed)


def _input(node: fx.Node, kind: type[nn.Module], modules: dict[str, nn.Module]) -> fx.Node | None:
    """The argument of the module at `node` if it is of this kind, else None."""
    argument = node.args[0] if _is(node, kind, modules) and len(node.args) == 1 and not node.kwargs else None
    return argument if isinstance(argument, fx.Node) else None


def _is(node: fx.Node, kind: type[nn.Module], modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and type(modules.get(str(node.target))) is kind


def _kept(inputs: tuple[fx.Node, ...], last: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether nothing is written in place from the first of the inputs on, so that they can be read at `last`."""
    left, node = set(inputs), last.prev
    while left:
        left.discard(node)
        if left and _writes(node, modules):
            return False
        node = node.prev
    return True


def _writes(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the operation may change a tensor that was there before."""
    if node.op == "call_module":
        return bool(getattr(modules.get(str(node.target)), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    flagged = bool(node.kwargs.get("inplace")) or "out" in node.kwargs or any(value is True for value in node.args)
    return flagged or name in IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def _hooked(module: nn.Module) -> bool:
    kinds = "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"
    return any(getattr(module, kind) for kind in kinds)


def _once(*nodes: fx.Node) -> bool:
    """Whether each node's result is used only once."""
    return all(len(node.users) == 1 for node in nodes)
