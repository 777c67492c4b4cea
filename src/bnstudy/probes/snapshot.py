"""One observed forward and backward pass, on a private copy of the network, so that training is not affected.

Shapes: N examples, K classes, O outputs and I inputs of a layer, C channels. A layer's tensors are kept by its depth.
The copy is in training mode and computes in float32 or better, whatever precision training has chosen; every pass
starts from the same weights, running statistics and random state, which `drawing` makes one of the run's seed and step.
What a diverged network computes is kept as it is: NaN and infinity are data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from bnstudy.models.layers import memory_format

if TYPE_CHECKING:
    from bnstudy.models.layers import Layer

PER_LAYER = ("inputs", "preactivations", "activations", "output_gradients", "gradients")
READABLE = frozenset({*PER_LAYER, "logits"})
SEED_STRIDE = 1_000_003  # more than a run has steps, and odd, so that no two looks of a study share a random state


class Batches(Protocol):
    """A source of further mini-batches."""

    @property
    def num_train(self) -> int:
        """How many training images there are."""

    def probe_batch(self, size: int, index: int = 0) -> tuple[Tensor, Tensor]:
        """The index-th of disjoint, fixed mini-batches of training images: images_NCHW, labels_N."""

    def test_batches(
        self, size: int, alter: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The test set in its order, its images in [0, 1] altered before they are normalized."""

    def split_batches(self, split: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images of the training set, those that are trained on ("train") or that are not ("held_out")."""


@dataclass(frozen=True, eq=False, repr=False)
class Snapshot:
    """A network at one moment, with what it computes on one mini-batch. Made by `observe`, and never changed.

    `loss` is the mean cross-entropy over the mini-batch, so every gradient carries its factor 1/N. Reading what was not
    observed raises LookupError.
    """

    step: int
    epoch: int
    layers: tuple[Layer, ...]
    images_NCHW: Tensor
    labels_N: Tensor
    loss: float
    _replica: nn.Module
    _parameters: Mapping[str, Tensor]
    _values: Mapping[str, Mapping[Any, Tensor]]
    _loader: Batches | None
    _initial: Mapping[str, Tensor] | None
    _in_place: bool = False  # whether the network writes over what hooks have seen, which is then kept as a copy

    @property
    def inputs(self) -> Mapping[int, Tensor]:
        """What each weight layer is given: NCHW, of a dense layer NI."""
        return self._read("inputs")

    @property
    def preactivations(self) -> Mapping[int, Tensor]:
        """Each weight layer's own output, before norm, shortcut and non-linearity: NCHW or NO."""
        return self._read("preactivations")

    @property
    def activations(self) -> Mapping[int, Tensor]:
        """Each layer's output after norm, shortcut and non-linearity (`Layer.activation`): NCHW or NO."""
        return self._read("activations")

    @property
    def output_gradients(self) -> Mapping[int, Tensor]:
        """Gradient of the loss with respect to `preactivations`: NCHW or NO."""
        return self._read("output_gradients")

    @property
    def gradients(self) -> Mapping[int, Tensor]:
        """Gradient of the loss with respect to `weights`: OIHW or OI."""
        gradients = self._read("gradients")
        return {layer.depth: _weight(gradients, layer) for layer in self.layers}

    @property
    def weights(self) -> Mapping[int, Tensor]:
        """Each layer's weights: OIHW or OI."""
        return {layer.depth: _weight(self._parameters, layer) for layer in self.layers}

    @property
    def initial_weights(self) -> Mapping[int, Tensor] | None:
        """The weights that training began with; None where they are not known."""
        if self._initial is None:
            return None
        return {layer.depth: _weight(self._initial, layer) for layer in self.layers}

    @property
    def logits_NK(self) -> Tensor:
        """The classifier's outputs."""
        return self._read("logits")[0]

    @property
    def logit_gradient_NK(self) -> Tensor:
        """Gradient of the loss with respect to the logits, (softmax - one-hot) / N, in float64.

        The label's own entry is minus the sum of the others: 1 - p would round to 0 where p is close to 1.
        """
        probabilities_NK = self.logits_NK.double().softmax(1)
        own_NK = functional.one_hot(self.labels_N, probabilities_NK.shape[1]).bool()
        others_NK = probabilities_NK.masked_fill(own_NK, 0.0)
        return torch.where(own_NK, -others_NK.sum(1, keepdim=True), others_NK) / len(self.labels_N)

    def module(self, layer: Layer) -> nn.Module:
        """The layer's convolution or dense module, for its geometry (stride, padding)."""
        return self._replica.get_submodule(layer.name)

    def network(self) -> nn.Module:
        """A copy of the network at these weights, in training mode, for a probe to do with as it likes."""
        copied = copy.deepcopy(self._replica)
        copied.load_state_dict(dict(self._parameters), strict=False)  # the buffers are the copy's own
        return copied

    def displaced(self, step_size: float, reads: Collection[str] = ()) -> Snapshot:
        """The same network and mini-batch after the plain gradient step theta - step_size * gradient."""
        gradients = self._read("gradients")
        parameters = {name: p - step_size * gradients[name] for name, p in self._parameters.items()}
        return _look(self, parameters, reads)

    def at_start(self, reads: Collection[str]) -> Snapshot | None:
        """The same mini-batch at the parameters that training began with; None where they are not known."""
        if self._initial is None:
            return None
        return _look(self, {name: self._initial[name].to(p) for name, p in self._parameters.items()}, reads)

    def after(self, step_size: float, below: int, reads: Collection[str]) -> Snapshot:
        """As `displaced`, but only the parameters of what comes before the weight layer of depth `below` take the step.

        Those are all that the network registers before it, in the order in which it is computed. Raises ValueError
        where the weight layers themselves are not registered in that order.
        """
        gradients = self._read("gradients")
        end = weight_name(next(layer for layer in self.layers if layer.depth == below))
        names = list(self._parameters)
        places = [names.index(weight_name(layer)) for layer in self.layers]
        if places != sorted(places):
            raise ValueError(
                "layers: the network registers its weight layers in another order than it computes them, so what comes "
                "before a layer is not known; set its modules in the order in which its forward pass uses them"
            )
        moving = set(names[: names.index(end)])
        parameters = {n: p - step_size * gradients[n] if n in moving else p for n, p in self._parameters.items()}
        return _look(self, parameters, reads)

    def gradients_on(self, images_NCHW: Tensor, labels_N: Tensor) -> dict[int, Tensor]:
        """Gradients of the mean loss on other examples, at the same weights, by depth: OIHW or OI."""
        names = {layer.depth: weight_name(layer) for layer in self.layers}
        weights = {weight_name(layer): _weight(self._parameters, layer) for layer in self.layers}
        parameters = dict(self._parameters) | {name: w.detach().requires_grad_() for name, w in weights.items()}
        with torch.enable_grad(), _untouched(images_NCHW):
            loss = _loss(_logits(self._replica, parameters, images_NCHW), labels_N)
            gradients = torch.autograd.grad(loss, [parameters[n] for n in names.values()], materialize_grads=True)
        return dict(zip(names, gradients, strict=True))

    def batches(self, size: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Up to `count` disjoint mini-batches of training images, fewer where the training set ends before."""
        loader = self._further()
        for index in range(min(count, loader.num_train // size)):
            yield self._as_observed(*loader.probe_batch(size, index))

    def test_batches(
        self, size: int, alter: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The test set, `size` images at a time; `alter` is given images (N, C, H, W) with values in [0, 1]."""
        for images_NCHW, labels_N in self._further().test_batches(size, alter):
            yield self._as_observed(images_NCHW, labels_N)

    def split_batches(self, split: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The training set as it is, `size` images at a time: what is trained on ("train") or is not ("held_out")."""
        for images_NCHW, labels_N in self._further().split_batches(split, size):
            yield self._as_observed(images_NCHW, labels_N)

    def couples_examples(self) -> bool:
        """Whether one example's logits depend on the other examples of its mini-batch, as batch norm makes them.

        A property of the architecture, found by changing an example's neighbour. The weights are drawn afresh for it:
        in a diverged or dead network nothing would depend on anything.
        """
        source = torch.Generator().manual_seed(0)

        def draw(like: Tensor, shape: torch.Size, scale: float) -> Tensor:
            return (torch.randn(shape, generator=source) * scale).to(like)

        parameters = {
            name: draw(p, p.shape, p[0].numel() ** -0.5) if p.dim() > 1 else torch.ones_like(p)
            for name, p in self._parameters.items()
        }
        images = draw(self.images_NCHW, torch.Size((3, *self.images_NCHW.shape[1:])), 1.0)
        with torch.no_grad(), _untouched(images):
            first, again = (_logits(self._replica, parameters, images[pair])[0] for pair in ([0, 1], [0, 2]))
        return not torch.equal(first, again)

    def _further(self) -> Batches:
        if self._loader is None:
            raise LookupError("this snapshot was observed without a loader, so there are no further mini-batches")
        return self._loader

    def _as_observed(self, images_NCHW: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        return _laid_out(images_NCHW, self.images_NCHW.dtype, memory_format(self._replica)), labels_N

    def _read(self, name: str) -> Mapping[Any, Tensor]:
        if name not in self._values:
            observed = ", ".join(sorted(self._values)) or "nothing"
            raise LookupError(f"{name} was not observed, only {observed}: name it in the probe's READS")
        return self._values[name]


def observe(
    network: nn.Module,
    images_NCHW: Tensor,
    labels_N: Tensor,
    *,
    step: int = 0,
    epoch: int = 0,
    reads: Collection[str],
    loader: Batches | None = None,
    initial: Mapping[str, Tensor] | None = None,
    layers: tuple[Layer, ...] | None = None,
) -> Snapshot:
    """Run the network on one mini-batch and keep what `reads` names, of READABLE.

    `layers` are the network's own (`network.layers`) unless given; `initial` is its state dictionary from before
    training. Raises ValueError for an unknown read.
    """
    # Convolutions are a quarter faster with the channels innermost; nothing else depends on the layout.
    layout = memory_format(network)
    replica = copy.deepcopy(network).train().to(memory_format=layout)
    if next(replica.parameters()).dtype != torch.float64:
        replica.float()
    replica.register_forward_pre_hook(_on_a_copy)
    parameters = {name: p.detach() for name, p in replica.named_parameters()}
    images_NCHW = _laid_out(images_NCHW, next(iter(parameters.values())).dtype, layout)
    if layers is None:
        layers = network.layers  # type: ignore[assignment]
    assert layers is not None
    unseen = Snapshot(
        step, epoch, layers, images_NCHW, labels_N, float("nan"), replica, parameters, {}, loader, initial
    )  # fmt: skip
    return _look(unseen, parameters, reads)


def weight_name(layer: Layer) -> str:
    """A layer's weights in the network's state dictionary."""
    return f"{layer.name}.weight"


def _weight(tensors: Mapping[str, Tensor], layer: Layer) -> Tensor:
    """The layer's, of tensors by parameter. Raises ValueError where its weights are no parameter."""
    try:
        return tensors[weight_name(layer)]
    except KeyError:
        raise ValueError(
            f"{layer.name}: its weights are made of other parameters (by weight_norm or the like), so this probe "
            "cannot look at them or their gradient; leave the probe out"
        ) from None


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 means float32: convolutions and products in TF32 or bfloat16 are switched off, and back on afterwards."""
    backends: Any = torch.backends
    settings = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def _look(like: Snapshot, parameters: Mapping[str, Tensor], reads: Collection[str]) -> Snapshot:
    """The snapshot of `like`'s network and mini-batch at the given parameters."""
    recorder = _Recorder(reads, in_place=like._in_place)
    live = {name: p.detach().requires_grad_(recorder.differentiates) for name, p in parameters.items()}
    with (
        recorder.hooks(like._replica, like.layers),
        torch.set_grad_enabled(recorder.differentiates),
        _untouched(like.images_NCHW),
    ):
        logits_NK = _logits(like._replica, live, like.images_NCHW)
        overwritten = recorder.overwritten
        if not overwritten:
            recorder.check_all(like.layers)
            loss = _loss(logits_NK, like.labels_N)
            recorder.keep("logits", 0, logits_NK)
            recorder.differentiate(loss, live)
    if overwritten:
        return _look(replace(like, _in_place=True), parameters, reads)
    weights = {name: p.detach() for name, p in parameters.items()}
    return replace(like, loss=loss.item(), _parameters=weights, _values=recorder.values)


class _Recorder:
    """The tensors of one pass that are read, by name and depth.

    A network that computes in place is given copies to write over, so that what hooks have recorded stays.
    """

    def __init__(self, reads: Collection[str], *, in_place: bool) -> None:
        if not READABLE.issuperset(reads):
            raise ValueError(f"reads = {sorted(reads)}: a snapshot can keep {', '.join(sorted(READABLE))}")
        self.values: dict[str, dict[Any, Tensor]] = {name: {} for name in reads}
        self.differentiates = "gradients" in reads or "output_gradients" in reads
        self._in_place = in_place
        self._called: set[int] = set()  # the layers, by depth
        self._hooks: dict[int, Any] = {}  # on their outputs, by which the gradients are found
        self._found: dict[int, Tensor] = {}
        self._zeros: dict[int, Callable[[], Tensor]] = {}  # of the outputs' shapes, in their order
        self._versions: list[tuple[Tensor, int]] = []  # how often each tensor had been written to when it was recorded

    @property
    def overwritten(self) -> bool:
        """Whether the network has written over what was recorded."""
        return not self._in_place and any(value._version != version for value, version in self._versions)

    @contextmanager
    def hooks(self, network: nn.Module, layers: tuple[Layer, ...]) -> Iterator[None]:
        """Within, a pass of the network is recorded."""
        with ExitStack() as stack:
            for layer in layers:
                module = network.get_submodule(layer.name)
                stack.callback(module.register_forward_hook(partial(self._ends, layer)).remove)
                stack.enter_context(after_activation(network, layer, self._activation))
            yield

    def check_all(self, layers: tuple[Layer, ...]) -> None:
        """Raises ValueError where the pass left out what is read of a layer."""
        at_layers = not self.values.keys().isdisjoint(("inputs", "preactivations", "output_gradients"))
        for layer in layers:
            missing = layer.name if at_layers and layer.depth not in self._called else ""
            if "activations" in self.values and layer.depth not in self.values["activations"]:
                missing = missing or layer.activation
            if missing:
                raise ValueError(
                    f"{missing}: `layers` of the network names it, and the pass that was looked at did not call it; "
                    "name a module that every pass calls (a branch need not be skipped: multiply it by 0), or leave "
                    "out the probes that read layers"
                )

    def keep(self, name: str, key: int, value: Tensor) -> None:
        """Of what is read; nothing else of a pass needs to stay."""
        if name in self.values:
            self._versions.append((value, value._version))
            self.values[name][key] = value.detach()

    def differentiate(self, loss: Tensor, parameters: Mapping[str, Tensor]) -> None:
        """Keep the gradients that are read; zero for what has no part in the loss."""
        self._versions.clear()  # what is not read goes on the way back
        if not self.differentiates:
            return
        gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        if "gradients" in self.values:
            self.values["gradients"] = dict(zip(parameters, gradients, strict=True))
        if "output_gradients" in self.values:
            found = self._found | {depth: make() for depth, make in self._zeros.items() if depth not in self._found}
            self.values["output_gradients"] = {depth: found[depth] for depth in self._zeros}

    def _ends(self, layer: Layer, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        self.keep("inputs", layer.depth, inputs[0].clone() if self._in_place else inputs[0])
        self.keep("preactivations", layer.depth, output)
        self._called.add(layer.depth)
        if "output_gradients" in self.values:
            self._versions.append((output, output._version))
            # Not the output itself, with which its graph would stay to the end.
            self._zeros[layer.depth] = partial(torch.zeros, output.shape, dtype=output.dtype, device=output.device)
            if (before := self._hooks.get(layer.depth)) is not None:  # a pass that calls it twice: the last counts
                before.remove()
            self._hooks[layer.depth] = output.register_hook(partial(self._found.__setitem__, layer.depth))
        return output.clone() if self._in_place else None

    def _activation(self, layer: Layer, output: Tensor) -> Tensor | None:
        self.keep("activations", layer.depth, output)
        return output.clone() if self._in_place else None


@contextmanager
def after_activation(
    network: nn.Module, layer: Layer, act: Callable[[Layer, Tensor], Tensor | None]
) -> Iterator[None]:
    """Within, `act(layer, output)` is called once a pass, with the layer's activation; what it returns replaces that.

    A ReLU may serve several layers: the layer's activation is what the module gives when it first runs after the layer.
    """
    waiting = [False]

    def begin(_: nn.Module, __: tuple[Tensor, ...], ___: Tensor) -> None:
        waiting[0] = True

    def end(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not waiting[0]:
            return None
        waiting[0] = False
        return act(layer, output)

    handles = [
        network.get_submodule(layer.name).register_forward_hook(begin),
        network.get_submodule(layer.activation).register_forward_hook(end),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _on_a_copy(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give the network a copy of its images, which it may write over."""
    return (inputs[0].clone(), *inputs[1:])


def _laid_out(images_NCHW: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    if images_NCHW.dim() != 4:  # a network of dense layers may take vectors
        return images_NCHW.to(dtype)
    return images_NCHW.to(dtype).contiguous(memory_format=layout)


def _logits(replica: nn.Module, parameters: Mapping[str, Tensor], images_NCHW: Tensor) -> Tensor:
    # Training mode moves the running statistics: those of a copy, so that no pass depends on the one before.
    buffers = {name: buffer.clone() for name, buffer in replica.named_buffers()}
    logits_NK: Tensor = functional_call(replica, {**parameters, **buffers}, (images_NCHW,))
    return logits_NK


def _loss(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Mean cross-entropy, summed in float64."""
    return functional.cross_entropy(logits_NK.double(), labels_N)


@contextmanager
def _untouched(images_NCHW: Tensor) -> Iterator[None]:
    """Compute in full precision, and leave the random state as it was."""
    devices = [images_NCHW.device] if images_NCHW.is_cuda else []
    with torch.random.fork_rng(devices), full_precision():
        yield


@contextmanager
def drawing(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Seed what is drawn inside (by dropout, by noise) by the run's seed and the step; restore the state after."""
    state = (seed * SEED_STRIDE + step) % 2**63
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(state)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(state)
        yield
