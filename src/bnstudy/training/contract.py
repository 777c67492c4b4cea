"""What training and probes rely on in a network and its norms: each is tried on small inputs before a run starts."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from bnstudy import probes
from bnstudy.config import plugins
from bnstudy.config.schema import Config, norm_options
from bnstudy.data.sources import Source
from bnstudy.models import tracing
from bnstudy.models.layers import Layer
from bnstudy.probes.snapshot import after_activation
from bnstudy.training.construct import image_shape
from bnstudy.training.engine.stacked import side_by_side

OF_CALLS = frozenset({"inputs", "preactivations", "activations", "output_gradients"})  # kept of one call of a layer


def check_copies(network: nn.Module, file: str) -> None:
    try:
        copy.deepcopy(network)
    except Exception as error:
        raise ValueError(
            f"{file}: the network cannot be copied, as training and probes do ({error}); make weights out of others "
            "with torch.nn.utils.parametrizations, and keep no tensors that were computed"
        ) from None


def check_trained(config: Config, network: nn.Module) -> None:
    """Refuse parameters without a gradient: updates, their norm and their velocity are of all parameters."""
    who = f"models/{config.model['name']}.py or norms/{config.norm['name']}.py"
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            raise ValueError(f"{who}: the parameter {name} is not trained (requires_grad=False): make it a buffer")


def check_layers(network: nn.Module, file: str) -> tuple[Layer, ...]:
    """The network's layers. Raises ValueError for what is none: probes take each for what it says of itself."""
    if (layers := getattr(network, "layers", None)) is None:
        raise ValueError(f"{file}: the network has no `layers`: set self.layers, its weight layers in depth order")
    if not layers or not all(isinstance(layer, Layer) for layer in layers):
        raise ValueError(f"{file}: layers = {layers!r}: give a tuple of bnstudy.models.layers.Layer, one or more")
    for depth, layer in enumerate(layers, start=1):
        if layer.depth != depth:
            raise ValueError(f"{file}: layer {layer.name} has depth {layer.depth}: number them 1, 2, 3, in their order")
    probes.check_modules(layers, network, file)
    return tuple(layers)


@torch.no_grad()
def check_pass(
    config: Config, network: nn.Module, layers: Sequence[Layer], shape: tuple[int, ...], num_classes: int
) -> None:
    """Refuse an output that is no logits, and probes of what layers do not have: one call of a layer that runs several
    times, channels where dimension 1 is the token.
    """
    file, calls = f"models/{config.model['name']}.py", Counter[str]()
    values: dict[str, dict[int, Any]] = {"inputs": {}, "preactivations": {}, "activations": {}}

    def ends(layer: Layer, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.update([layer.name])
        values["inputs"][layer.depth], values["preactivations"][layer.depth] = next(iter(inputs), None), output

    def acts(layer: Layer, output: Any) -> None:
        values["activations"][layer.depth] = output

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(network.get_submodule(layer.name).register_forward_hook(partial(ends, layer)).remove)
            hooks.enter_context(after_activation(network, layer, acts))
        logits = network.eval()(torch.zeros(2, *shape))
    given = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if given != (2, num_classes):
        raise ValueError(
            f"{file}: of two images its output is {given}; give one tensor of logits, {(2, num_classes)}: an image a "
            "row, a class a column"
        )
    several = [name for name, number in calls.items() if number > 1]
    for name in config.probes if several else ():
        if not probes.reads([name]).isdisjoint(OF_CALLS):
            raise ValueError(
                f"probes.{name}: layer {several[0]} of {file} runs {calls[several[0]]} times in a pass, and the probe "
                f"would see only one of them: leave it out (~probes.{name}), or leave the layer out of `layers`"
            )
    for name, plan in config.probes.items():
        for layer_name, seen in probes.without_channels(name, plan.options, layers, values).items():
            raise ValueError(
                f"probes.{name}: it takes dimension 1 for the channels, and at layer {layer_name} of {file} it would "
                f"see {seen}: leave it out (~probes.{name}), or leave the layer out of `layers`"
            )


def check_batches(config: Config, source: Source, network: nn.Module, layers: Sequence[nn.Module]) -> None:
    """Check that the norms take every mini-batch size that occurs: each by itself, on planes of 2 x 2 at most.

    The last mini-batch of an epoch holds what is left. A norm may be content with two images and not with 256: ghost
    batches cut it into parts, of which the last may be of one.
    """
    size, num_train = config.data.batch_size, config.data.num_train or source.num_train
    left, per_epoch = num_train % size, num_train // size
    steps = config.train.epochs * -(-num_train // size) if config.train.steps is None else config.train.steps
    sizes = {}
    if steps > 0:
        sizes[size] = f"data.batch_size = {size}"
    if steps > per_epoch and left:
        images = "one image" if left == 1 else f"{left} images"
        sizes[left] = f"data.num_train = {num_train} in mini-batches of {size} leaves {images} for the last"
    for name, plan in config.probes.items():
        looks = plan.at or plan.every_steps or plan.every_epochs or plan.at_end or plan.at_divergence
        if looks and plan.on == "probe_batch":
            sizes.setdefault(plan.batch_size or size, f"probes.{name}.batch_size = {plan.batch_size or size}")
    file = f"norms/{config.norm['name']}.py"
    shapes = _input_shapes(network, layers, image_shape(config, source.shape), file)
    for examples, value in sizes.items():
        inputs = {
            layer: torch.zeros(examples, channels, *(min(side, 2) for side in sides))
            for layer, (channels, *sides) in shapes.items()
        }
        try:
            for layer, given in inputs.items():
                layer.train()(given)
        except ValueError as error:
            norm = config.norm["name"]
            options = "".join(f", norm.{key} = {value}" for key, value in norm_options(config).items() if key == "size")
            raise ValueError(f"{value}{options}: {norm} needs two or more in each ({error})") from None
        for given in inputs.values():
            _check_not_overwritten(given, 0, file)


@torch.no_grad()
def _input_shapes(
    network: nn.Module, layers: Sequence[nn.Module], shape: tuple[int, ...], file: str
) -> dict[nn.Module, tuple[int, ...]]:
    """The shapes of one example at the input of each of the layers, once for layers that are alike.

    Raises ValueError, naming the norm's file, where a layer returns another shape than it is given, or overwrites its
    input, which probes and the layer below still need.
    """
    shapes, versions = dict[nn.Module, tuple[int, ...]](), dict[nn.Module, int]()

    def enter(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        versions[layer] = inputs[0]._version

    def leave(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        given, returned = tuple(inputs[0].shape), tuple(output.shape)
        if given != returned:
            raise ValueError(f"{file}: its output is {returned} where its input is {given}; a norm keeps the shape")
        _check_not_overwritten(inputs[0], versions[layer], file)
        shapes[layer] = given[1:]

    hooks = [layer.register_forward_pre_hook(enter) for layer in layers]
    hooks += [layer.register_forward_hook(leave) for layer in layers]
    network.eval()(torch.zeros(2, *shape))
    for hook in hooks:
        hook.remove()
    alike = {(repr(layer), shape): layer for layer, shape in shapes.items()}
    return {layer: shape for (_, shape), layer in alike.items()}


def _check_not_overwritten(given: torch.Tensor, version: int, file: str) -> None:
    if given._version != version:  # torch counts the writes to a tensor
        raise ValueError(f"{file}: it overwrites its input; write x = x - mean in place of x -= mean")


@torch.no_grad()
def check_draws(config: Config, network: nn.Module, shape: tuple[int, ...]) -> None:
    """Refuse draws from generators that no run seeds or saves, draws of torch's that the files do not tell of, and
    state that no checkpoint has.
    """
    model, norm = config.model["name"], config.norm["name"]
    declares_draws = plugins.flag("models", model, "DRAWS") or plugins.flag("norms", norm, "DRAWS")
    before = torch.get_rng_state(), tracing.host_draws()
    try:
        network.train()(torch.zeros(2, *shape))
    except Exception:  # a mini-batch of two may be too small for a norm; the run itself says what is wrong
        return
    who = f"models/{model}.py or norms/{norm}.py"
    if tracing.host_draws() != before[1]:
        raise ValueError(
            f"{who}: it draws from Python's or numpy's random numbers, which are not of the run's seed nor in its "
            "checkpoints; draw from torch's"
        )
    if not declares_draws and not torch.equal(torch.get_rng_state(), before[0]):
        raise ValueError(
            f"{who}: it draws random numbers while training, and does not say so; write DRAWS = True in the file that "
            "draws, so that its runs train alone"
        )
    if declares_draws:
        return
    _check_saved(network, shape, who)


def _check_saved(network: nn.Module, shape: tuple[int, ...], who: str) -> None:
    """Refuse state that training changes, that what the network computes depends on, and that no checkpoint has."""
    images = torch.linspace(-1, 1, 2 * math.prod(shape)).view(2, *shape)
    resumed, before = copy.deepcopy(network), _unsaved(network)
    for _ in range(2):
        network.train()(images)
    changed = [name for name, value in _unsaved(network).items() if before.get(name) != value]
    if not changed:
        return
    resumed.load_state_dict(network.state_dict())
    for mode in (False, True):
        if not torch.equal(network.train(mode)(images), resumed.train(mode)(images)):
            raise ValueError(
                f"{who}: {' and '.join(changed)} changes while training, and is not saved with the network: keep it in "
                "a buffer (self.register_buffer), numbers too"
            )


def _unsaved(network: nn.Module) -> dict[str, object]:
    """What a state dictionary does not have: attributes of modules, and buffers that are not persistent."""
    values: dict[str, object] = {}
    for (path, module), attributes in zip(network.named_modules(), tracing.attributes(network), strict=True):
        unsaved = attributes | {key: getattr(module, key) for key in module._non_persistent_buffers_set}
        for key, value in unsaved.items():
            tensor = getattr(module, key, None)
            content = tensor.detach().clone().numpy().tobytes() if isinstance(tensor, torch.Tensor) else value
            values[f"{path}.{key}".lstrip(".")] = content
    return values


@torch.no_grad()
def check_stackable(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a norm that says it treats every channel by itself, and does not: stacked it would be another norm."""
    if not plugins.flag("norms", name, "STACKABLE") or plugins.flag("norms", name, "DRAWS"):
        return
    images = torch.linspace(-1, 2, 8 * 16 * 4).sin().view(8, 16, 2, 2)
    images[:, 8:] *= 3
    try:
        one = plugins.load("norms", name).build(8, 2, **copy.deepcopy(dict(options))).train()
        both = side_by_side([one, one], shared_input=False)(images.clone())
        parts = [copy.deepcopy(one)(part.clone()) for part in images.split(8, 1)]
    except Exception:  # it takes no such images, and says so where it is used
        return
    if not torch.allclose(both, torch.cat(parts, 1), rtol=1e-3, atol=1e-4, equal_nan=True):
        raise ValueError(
            f"norms/{name}.py: STACKABLE = True, and what it makes of a channel depends on the others: leave that out"
        )
