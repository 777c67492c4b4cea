"""Probes on any network: find its layers by running it, check the arguments, return the rows as a DataFrame."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bnstudy import probes
from bnstudy.api import _places
from bnstudy.api._values import plain
from bnstudy.config import plugins
from bnstudy.config.schema import from_dict
from bnstudy.models.layers import Layer
from bnstudy.probes.snapshot import READABLE, Batches, Snapshot, drawing, full_precision, observe, weight_name
from bnstudy.store.runs import ARROW, by_column
from bnstudy.training.engine import host

Pair = tuple[Tensor, Tensor]  # images (N, C, H, W) and labels (N,)
State = Mapping[str, Tensor]
Probe = Callable[..., Iterable[Mapping[str, Any]]]  # given a Snapshot and options: a dictionary per row
NOT_GIVEN: Any = object()
# torch's modules that may stand between a weight layer and the input of the next: norms and non-linearities.
FOLLOWING = {f"torch.nn.modules.{name}" for name in ("activation", "batchnorm", "instancenorm", "normalization")}


@host.by_default()
def probe(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str | Probe,
    *,
    layers: Iterable[str] | Iterable[Layer] | None = None,
    train: Pair | None = None,
    test: Pair | None = None,
    initial: State | None = NOT_GIVEN,
    **options: Any,
) -> pd.DataFrame:
    """The rows of a probe for a network, any torch module that maps images to logits, on one mini-batch.

    `images` (N, C, H, W), floating point, normalised as the network takes them, and `labels` (N,), int64 from 0 to
    K - 1 for logits (N, K), lie on the module's device. Every probe computes in training mode (batch norm takes the
    mini-batch's statistics), in float32 or better, on a copy: module, gradients, buffers and random state stay as they
    are. The loss is the mean cross-entropy.

    `name` is a file in src/bnstudy/probes, `options` are the parameters of its function, whose docstring explains the
    columns. A function in its place is given a `bnstudy.probes.snapshot.Snapshot` with all that one can read, and the
    options, whose names are none of the arguments here, and gives a dictionary per row. Tables have one row per layer,
    channel or the like; `depth` counts the layers from 1.

    `layers` are those of `bnstudy.layers(module, images)` by default. Otherwise give paths of convolutions and dense
    layers in the module, in the order in which they are to be numbered, or `bnstudy.Layer` objects, numbered upwards.

    Some probes look at more than the mini-batch. Those that draw further mini-batches need `train`, those that evaluate
    need `test`: a pair of images and labels each, as above. (shifted_inputs changes pixels before they are normalised:
    its test images have values in [0, 1], and the module normalises them itself.) Those that compare with the
    weights that training began with need `initial`, a copy of the module's state_dict from then; with None the result
    is NaN.

    It is computed by torch's defaults, as `bnstudy.fit` is, whatever autocast or precision is set in this process.

    Raises ValueError naming what to pass instead: for an unknown probe, option or layer, for images or labels of
    another shape, type or device than the module takes, for a module without layers or that runs one of them twice in a
    pass, and for anything that the probe needs and was not given.
    """
    options = checked_options(name, options, probe)
    images, labels, train, test = (_for_gradients(given) for given in (images, labels, train, test))
    _check_batch(module, images, labels)
    chosen_layers, num_classes = _chosen(module, images, layers)
    _check_range(labels, num_classes)
    for key, pair in (("train", train), ("test", test)):
        if pair is not None:
            _check_pair(module, key, pair, num_classes, len(images))
    if initial is not NOT_GIVEN and initial is not None:
        _check_initial(module, initial, {weight_name(layer) for layer in chosen_layers})
    called = name if isinstance(name, str) else getattr(name, "__name__", repr(name))
    loader = _Given(called, train, test)
    known: State | None = _NoInitial(called) if initial is NOT_GIVEN else initial
    return look(module, images, labels, name, options, loader=loader, initial=known, layers=chosen_layers)


def _for_gradients(given: Any) -> Any:
    """A tensor, or each of a pair, that gradients may be taken through: a copy of one of `torch.inference_mode`."""
    if isinstance(given, tuple | list):
        return tuple(map(_for_gradients, given))
    return given.clone() if isinstance(given, Tensor) and given.is_inference() else given


@host.by_default()
def layers(module: nn.Module, images: Tensor) -> tuple[Layer, ...]:
    """The layers of a network as probes number them, found by running a copy of it on images (N, C, H, W).

    A network of this project lists them itself; it only has to take the images. In any other they are the convolutions
    (Conv2d) and dense layers (Linear) in the order in which a forward pass runs them, including the projections of
    shortcuts. A layer's `activation` is the last of the torch modules for norms and non-linearities that directly
    follow it, each applied to the output of the one before. Where none follows (a pooling, an addition or a function
    comes first) it is the layer's own output. Where such a module serves several layers, its output right after the
    layer is meant.

    `block_output` marks, in a network with shortcuts, the layers whose activation is all that later layers receive; in
    a network without shortcuts, where that holds for every layer, none is marked.

    Raises ValueError for a module without such layers, for images that do not fit it, and for a layer that runs twice
    in a pass, or has no weights of its own (tied, or computed from others).
    """
    images = _for_gradients(images)
    _check_batch(module, images, torch.zeros(len(images), dtype=torch.int64, device=images.device))
    own = _own(module)
    if own is None:
        return _find_layers(module, images)[0]
    _run(module, images)  # it has to take them
    return own


def checked_options(name: str | Probe, options: Mapping[str, Any], caller: Callable[..., Any]) -> dict[str, Any]:
    """The options of a probe as Python's own numbers and lists; those of a function as they are.

    Raises ValueError, as the command line does, for an unknown probe, or for options that it does not have; for a
    function, where `caller` has an argument of an option's name and so takes it for itself.
    """
    if callable(name):
        _check_names(name, caller)
        return dict(options)
    if name not in (known := plugins.names("probes")):
        raise _places.unknown("probe", name, known)
    plugins.check_current("probes", name)
    values: dict[str, Any] = plain(dict(options))
    from_dict({"probes": {name: {"options": values}}})
    return values


def _check_names(function: Probe, caller: Callable[..., Any]) -> None:
    try:
        _, *parameters = inspect.signature(function).parameters.values()  # the first is the snapshot
    except (TypeError, ValueError):  # of a builtin, or without parameters, which calling it says
        return
    own = inspect.signature(caller).parameters.values()
    taken = {each.name for each in own if each.name != "self" and each.kind is not each.VAR_KEYWORD}
    bound = getattr(function, "keywords", {})  # by functools.partial
    for parameter in parameters:
        named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if named and parameter.name in taken and parameter.name not in bound:
            raise ValueError(
                f"{getattr(function, '__name__', function)}: its option {parameter.name} has the name of an argument "
                f"of bnstudy.{caller.__qualname__}, which would take the value; rename it"
            )


@host.by_default()
@sdpa_kernel(SDPBackend.MATH)  # the other kernels of attention have no second derivatives
def look(
    module: nn.Module,
    images_NCHW: Tensor,
    labels_N: Tensor,
    name: str | Probe,
    options: Mapping[str, Any],
    *,
    loader: Batches,
    initial: State | None,
    layers: tuple[Layer, ...] | None = None,
    step: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """The probe's rows, with the types of its columns, for a network and a mini-batch that were checked before.

    The random numbers of layers follow from `seed` and `step`, as in a run.
    """
    reads = READABLE if callable(name) else probes.reads([name]).union(probes.OF_CHANNELS.get(name, ()))
    with drawing(seed, step, images_NCHW.device):
        shown = observe(
            module, images_NCHW, labels_N, step=step, reads=reads, loader=loader, initial=initial, layers=layers
        )
    if callable(name):
        with drawing(seed, step, images_NCHW.device), full_precision():
            return pd.DataFrame(list(name(shown, **options)))
    _check_channels(name, options, shown)
    columns = probes.columns(name)
    with drawing(seed, step, images_NCHW.device):
        rows = by_column(probes.rows(name, options, shown), columns)
    typed = {column: pa.array(rows[column], type=ARROW[kind], from_pandas=False) for column, kind in columns.items()}
    frame: pd.DataFrame = pa.table(typed).to_pandas()
    return frame


@dataclass(frozen=True)
class _Given:
    """Further batches from what the user passed; asking for what was not passed raises ValueError."""

    name: str
    train: Pair | None
    test: Pair | None

    @property
    def num_train(self) -> int:
        """How many training images there are."""
        return len(self._of("train", "draws further mini-batches")[1])

    def probe_batch(self, size: int, index: int = 0) -> Pair:
        """The index-th of disjoint mini-batches of the training images, in their order."""
        images, labels = self._of("train", "draws further mini-batches")
        part = slice(index * size, (index + 1) * size)
        return images[part], labels[part]

    def split_batches(self, split: str, size: int) -> Iterator[Pair]:
        """Refuse: which images were trained on is not known."""
        raise ValueError(
            f"{self.name} looks at the images that were trained on and at those held out, which only a run knows: "
            "open it with bnstudy.run(ID) and use its probe"
        )

    def test_batches(self, size: int, alter: Callable[[Tensor], Tensor] | None = None) -> Iterator[Pair]:
        """The test images in their order."""
        images, labels = self._of("test", "evaluates")
        if alter is not None and bool(images.min() < 0 or images.max() > 1):
            raise ValueError(
                f"test: {self.name} changes pixels before they are normalised; pass images with values in [0, 1] and a "
                "module that normalises them itself, as in torch.nn.Sequential(normalise, module)"
            )
        for part in (slice(start, start + size) for start in range(0, len(labels), size)):
            yield images[part] if alter is None else alter(images[part]), labels[part]

    def _of(self, key: str, why: str) -> Pair:
        pair: Pair | None = getattr(self, key)
        if pair is None:
            raise ValueError(
                f"{key}: the probe {self.name} {why}, and there are none; pass {key}=(images, labels), such as "
                f"those of the {'training' if key == 'train' else 'test'} set"
            )
        return pair


@dataclass(frozen=True)
class _NoInitial(Mapping[str, Tensor]):
    """A placeholder for initial weights that were not passed: reading one raises ValueError."""

    name: str

    def __getitem__(self, key: str) -> Tensor:
        raise ValueError(
            f"initial: the probe {self.name} compares with the weights that training began with; pass initial=, a "
            "copy of the module's state_dict from then, or initial=None, for NaN in the columns that compare"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _check_batch(module: nn.Module, images: Tensor, labels: Tensor, of: str = "") -> None:
    """Raises ValueError for images that the module cannot take, or labels that are not theirs; `of` names them."""
    if not isinstance(module, nn.Module):
        raise ValueError(f"module = {type(module).__name__}: give a torch.nn.Module that maps images to logits")
    for name, parameter in module.named_parameters():
        if parameter.is_complex():
            raise ValueError(
                f"module: its parameter {name} is {parameter.dtype}, and probes compute with real numbers; keep real "
                "and imaginary part as a parameter each, and join them in the forward pass (torch.complex)"
            )
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.dim() < 2 or not len(images):
        raise ValueError(
            f"{of}images = {_described(images)}: give a tensor (N, C, H, W) of floats, one image or more, normalised "
            "as the network takes them; of raw pixels, images.float() / 255"
        )
    places = {tensor.device for tensor in [*module.parameters(), *module.buffers()]}
    if len(places) > 1:
        names = ", ".join(sorted(map(str, places)))
        raise ValueError(f"module: its weights are on several devices ({names}); move all to one: module.to('cpu')")
    if places and images.device not in places:
        place = str(*places)
        raise ValueError(f"{of}images are on {images.device}, the module is on {place}: pass images.to({place!r})")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (len(images),):
        raise ValueError(
            f"{of}labels = {_described(labels)}: give a tensor ({len(images)},) of int64, the class of each image "
            "from 0"
        )
    if labels.device != images.device:
        place = str(images.device)
        raise ValueError(f"{of}labels are on {labels.device}, the images on {place}: pass labels.to({place!r})")


def _check_range(labels: Tensor, num_classes: int, of: str = "") -> None:
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < num_classes:
        raise ValueError(
            f"{of}labels go from {low} to {high}: give 0 to {num_classes - 1}, as the module has {num_classes} outputs"
        )


def _check_pair(module: nn.Module, key: str, pair: Any, num_classes: int, batch_size: int) -> None:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"{key}: give a pair of tensors, images and labels, as in {key}=(images, labels)")
    images, labels = pair
    _check_batch(module, images, labels, f"{key}: ")
    _check_range(labels, num_classes, f"{key}: ")
    training = key == "train"  # where a norm may need more than one image
    _run(module, images[: batch_size if training else 1], f"{key}: ", training=training)


def _check_initial(module: nn.Module, initial: Any, needed: Container[str]) -> None:
    """Raises ValueError unless `initial` has the needed parameters, and all that it has as the module has them."""
    remedy = "give what copy.deepcopy(module.state_dict()) was before training, or None"
    if not isinstance(initial, Mapping):
        raise ValueError(f"initial = {type(initial).__name__}: {remedy}")
    tensors = [*module.parameters(), *module.buffers()]
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    for name, parameter in module.named_parameters():
        if name not in initial and name not in needed:
            continue
        value = initial.get(name)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != parameter.shape:
            given = _described(value) if name in initial else "missing"
            raise ValueError(f"initial: {name} is {given}, and in the module it is {_described(parameter)}; {remedy}")
        if value.numel() and value.untyped_storage().data_ptr() in own:
            raise ValueError(
                f"initial: {name} is the module's own tensor, which training changes; copy the state dictionary before "
                "training: copy.deepcopy(module.state_dict())"
            )


def _described(value: Any) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _own(module: nn.Module) -> tuple[Layer, ...] | None:
    """The layers that a network of this project names itself; another may have an attribute of that name, too."""
    own = getattr(module, "layers", None)
    ours = isinstance(own, tuple) and bool(own) and all(isinstance(layer, Layer) for layer in own)
    return own if ours else None


def _chosen(
    module: nn.Module, images: Tensor, given: Iterable[str] | Iterable[Layer] | None
) -> tuple[tuple[Layer, ...], int]:
    """The layers to look at, and the number of classes; the module has taken the images."""
    if given is None and (own := _own(module)) is not None:
        _check_given(module, own)
        return own, _run(module, images)[1].shape[1]
    if given is None:
        return _find_layers(module, images)
    if isinstance(given, str | Layer):
        raise ValueError(f"layers = {given!r}: give a list, as in layers=[{given!r}]")
    listed = list(given)
    if not listed:
        raise ValueError("layers = []: name one or more, or leave it out for all that the module has")
    whole = tuple(each for each in listed if isinstance(each, Layer))
    if not whole:
        return _find_layers(module, images, [str(name) for name in listed])
    if len(whole) < len(listed):
        raise ValueError(f"layers = {listed}: give names, or bnstudy.Layer objects, and not both")
    _check_given(module, whole)
    return whole, _find_layers(module, images, [layer.name for layer in whole])[1]


def _check_given(module: nn.Module, layers: Sequence[Layer]) -> None:
    depths = [layer.depth for layer in layers]
    if depths != sorted(set(depths)) or depths[0] < 1:
        raise ValueError(f"layers: they have the depths {depths}; number them upwards from 1, each once")
    probes.check_modules(layers, module, "layers")


@dataclass
class _Call:
    """One call of a module within a pass: its input and output tensors.

    How often each had been written to tells whether something else, an addition in place, came between two modules.
    """

    name: str
    module: nn.Module
    given: Any
    given_version: int
    gave: Any = None
    gave_version: int = 0
    node: Any = None  # of autograd's graph, as it was then

    def feeds(self, other: _Call) -> bool:
        """Whether the input of the other is exactly the output of this one."""
        return other.given is self.gave and other.given_version == self.gave_version


def _run(module: nn.Module, images: Tensor, of: str = "", *, training: bool = True) -> tuple[list[_Call], Tensor]:
    """One pass of a copy, in training mode as most probes make it: the calls of layers, norms and such, and the logits.

    `of` names the images.
    """
    try:
        replica = copy.deepcopy(module).train(training).requires_grad_(False)
    except Exception as error:
        raise ValueError(f"module: it cannot be copied ({error}), and probes only look at copies") from None
    if next(replica.parameters(), torch.empty(0)).dtype != torch.float64:
        replica.float()
    calls: list[_Call] = []
    under_way: list[_Call] = []

    def note(name: str, module: nn.Module) -> None:
        def begin(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            given = inputs[0] if inputs else None
            calls.append(_Call(name, module, given, getattr(given, "_version", 0)))
            under_way.append(calls[-1])

        def end(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            call = under_way.pop()
            call.gave, call.gave_version = output, getattr(output, "_version", 0)
            call.node = getattr(output, "grad_fn", None)

        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)

    for name, each in replica.named_modules():
        weighed = isinstance(each, tuple(probes.LAYERS.values()))
        if name and (weighed or not any(True for _ in each.children())):
            note(name, each)
    kind = next(replica.parameters(), images).dtype
    inputs = images.detach().to(kind).clone().requires_grad_()
    devices = [images.device] if images.is_cuda else []
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices):
            logits = replica(inputs * 1)  # a result and no leaf, so that a network may write over it
    except Exception as error:
        mode = "training" if training else "evaluation"
        raise ValueError(
            f"{of}images of shape {tuple(images.shape)} do not pass the module in {mode} mode "
            f"({type(error).__name__}: {error}); give images as it takes them in {mode}"
        ) from None
    real = isinstance(logits, Tensor) and logits.is_floating_point()
    if not real or logits.dim() != 2 or len(logits) != len(images):
        raise ValueError(
            f"module: of {len(images)} images it gives {_described(logits)}; wrap it in a module that gives logits "
            f"({len(images)}, K) of floats"
        )
    return calls, logits


def _find_layers(
    module: nn.Module, images: Tensor, names: Sequence[str] | None = None
) -> tuple[tuple[Layer, ...], int]:
    """The module's layers, all or those named in their order, and its number of classes."""
    calls, logits = _run(module, images)
    kinds = {call.name: kind for call in calls for kind, of in probes.LAYERS.items() if isinstance(call.module, of)}
    if not kinds:
        raise ValueError(
            "module: its forward pass runs no torch.nn.Conv2d or torch.nn.Linear inside of it, which are what probes "
            "look at; a single one is given as torch.nn.Sequential(module)"
        )
    selection = list(kinds if names is None else names)
    for name in selection:
        if name not in kinds:
            raise _places.unknown("layers", name, kinds)
    if len(set(selection)) < len(selection):
        raise ValueError(f"layers = {selection}: name each once")
    own, counts = dict(module.named_parameters()), Counter(call.name for call in calls)
    places = {name: next(index for index, call in enumerate(calls) if call.name == name) for name in kinds}
    unfit = {name: why for name, place in places.items() if (why := _unfit(calls[place], counts[name], own))}
    for name in selection:
        if name in unfit:
            raise ValueError(f"layers: {name} {unfit[name]}; {_without(unfit, kinds)}")
    ends = [calls[_activation(calls, places[name])] for name in selection]
    # The last, the classifier, has no block.
    alone = [not _reached(logits.grad_fn, avoiding=end.node) for end in ends[:-1]]
    marks = [*alone, False] if not all(alone) else [False] * len(ends)
    layers = [
        Layer(depth, name, kinds[name], end.name, block_output=mark)
        for depth, (name, end, mark) in enumerate(zip(selection, ends, marks, strict=True), start=1)
    ]
    return tuple(layers), logits.shape[1]


def _unfit(call: _Call, count: int, own: Mapping[str, Tensor]) -> str | None:
    """Why no probe can look at the layer."""
    if count > 1:
        return f"runs {count} times in a pass, and which is meant is not clear"
    if weight_name(Layer(0, call.name, "", "")) not in own:
        return (
            "has no weight that is its own parameter (it is tied to another's, or computed from others as by "
            "torch.nn.utils.parametrizations)"
        )
    if not isinstance(call.gave, Tensor) or (isinstance(call.module, nn.Conv2d) and call.gave.dim() != 4):
        return f"gives {_described(call.gave)}; probes read (N, C, H, W) of a convolution, a tensor of a dense layer"
    return None


def _without(unfit: Container[str], names: Iterable[str]) -> str:
    """The remedy for layers that do not fit."""
    fit = [name for name in names if name not in unfit]
    return f"give bnstudy.probe layers={fit}" if fit else "there is no other that the probe could look at"


def _check_channels(name: str, options: Mapping[str, Any], snapshot: Snapshot) -> None:
    values = {kind: getattr(snapshot, kind) for kind in probes.OF_CHANNELS.get(name, ())}
    unfit = probes.without_channels(name, options, snapshot.layers, values)
    for layer, seen in unfit.items():
        raise ValueError(
            f"layers: {name} takes dimension 1 for the channels, and at {layer} it would see {seen}, which is neither "
            "(N, C, H, W) of a convolution nor (N, O) of a dense layer; "
            + _without(unfit, (each.name for each in snapshot.layers))
        )


def _activation(calls: Sequence[_Call], place: int) -> int:
    """Where among the calls the layer's activation is: the last of the norms and non-linearities right behind it."""
    end = place
    for index in range(place + 1, len(calls)):
        call = calls[index]
        if isinstance(call.module, nn.Identity):
            continue
        first = all(calls[between].name != call.name for between in range(place + 1, index))
        if not (first and calls[end].feeds(call) and _follows(call) and isinstance(call.gave, Tensor)):
            break
        end = index
    return end


def _follows(call: _Call) -> bool:
    kinds = {kind.__module__ for kind in type(call.module).__mro__}
    return bool(kinds & FOLLOWING) or any(kind.startswith("bnstudy.norms") for kind in kinds)


def _reached(node: Any, avoiding: Any) -> bool:
    """Whether a way leads from the output's node of autograd's graph to a leaf without passing the other node."""
    stack, visited = [node], {avoiding}
    while stack:
        each = stack.pop()
        if each is None or each in visited:
            continue
        visited.add(each)
        if hasattr(each, "variable"):  # the images: nothing else requires a gradient
            return True
        stack += [following for following, _ in each.next_functions]
    return False
