"""Which probes there are, when each is due, and what may come out of one.

A probe is a file here: READS (what it needs of a snapshot), COLUMNS (its table) and `probe(snapshot, *, options)`, a
pure function that yields rows. File name, configuration key and table name are one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from bnstudy.config import plugins
from bnstudy.probes.snapshot import READABLE, Snapshot, full_precision

if TYPE_CHECKING:
    from bnstudy.config.schema import ProbePlan
    from bnstudy.models.layers import Layer

INTEGERS = {name: np.iinfo(name) for name in ("int16", "int32", "int64")}
OTHERS: dict[str, type] = {"float32": float, "float64": float, "string": str, "bool": bool}
KINDS = OTHERS | dict.fromkeys(INTEGERS, int)


def due(plan: ProbePlan, step: int, steps_per_epoch: int, last: bool) -> bool:
    """Whether the plan asks for a look after `step` updates, which may be the last.

    `every_steps` and `every_epochs` begin with step 0, the untrained network.
    """
    if step in plan.at or (last and plan.at_end):
        return True
    periods = (plan.every_steps, plan.every_epochs and plan.every_epochs * steps_per_epoch)
    return any(period is not None and step % period == 0 for period in periods)


def reads(names: Collection[str]) -> frozenset[str]:
    """What a snapshot must keep for these probes together. Raises ValueError for an unknown read."""
    needed = frozenset[str]()
    for name in names:
        needed |= plugins.load("probes", name).READS
        if not needed <= READABLE:
            raise ValueError(f"probes/{name}.py: READS = {sorted(needed - READABLE)}; there are {sorted(READABLE)}")
    return needed


def columns(name: str) -> dict[str, str]:
    """The probe's columns and their types, without `step`."""
    types: dict[str, str] = plugins.load("probes", name).COLUMNS
    return types


def rows(name: str, options: Mapping[str, Any], snapshot: Snapshot) -> list[dict[str, Any]]:
    """The probe's rows. Raises ValueError for options it refuses, and for a row that does not fit its columns."""
    table = columns(name)
    probe: Callable[..., Any] = plugins.load("probes", name).probe
    if TAKES.get(name) and isinstance(snapshot, Snapshot):
        check_layers(name, snapshot.layers, snapshot.network().get_submodule)
    with full_precision():
        yielded = probe(snapshot, **(plugins.defaults("probes", name) | copy.deepcopy(dict(options))))
        if not isinstance(yielded, Iterable):
            raise ValueError(f"probes/{name}.py: probe gave {yielded!r} and no rows: yield a dictionary for each")
        rows = list(yielded)
    for row in rows:
        _check(name, row, table)
    return rows


# What a probe's formula is of, by probe; here and not in the probes' files, whose checksums published looks bear.
PLAIN, UNGROUPED, UNPOOLED = "a plain convolution", "a convolution without groups", "an activation that is not averaged"
TAKES = {
    "conv_gradient_sums": (PLAIN,),
    "conv_gradient_entries": (PLAIN,),
    "channel_pair_gradients": (PLAIN, UNGROUPED),
    "linear_region": (UNPOOLED,),
    "saturation": (UNPOOLED,),
}


def check_layers(name: str, layers: Sequence[Layer], module_at: Callable[[str], nn.Module]) -> None:
    """Raises ValueError for a layer of which the probe's numbers would be wrong. `module_at` gives a path's module."""
    wanted = TAKES.get(name, ())
    for layer in layers if wanted else ():
        conv = module if isinstance(module := module_at(layer.name), nn.Conv2d) else None
        padded = conv is None or (conv.padding_mode == "zeros" and not isinstance(conv.padding, str))
        plain = padded and (conv is None or type(conv) is nn.Conv2d)
        averaged = UNPOOLED in wanted and any(
            isinstance(each, nn.AvgPool2d) for each in module_at(layer.activation).modules()
        )
        fits = {PLAIN: plain, UNGROUPED: conv is None or conv.groups == 1, UNPOOLED: not averaged}
        if missing := [what for what in wanted if not fits[what]]:
            raise ValueError(
                f"probes.{name}: its formula is that of {missing[0]}, which layer {layer.name} is not or has not: "
                f"leave the probe out (~probes.{name}), or take another network"
            )


# Probes that take dimension 1 for the channels, and of what: of a transformer's (N, T, C) that would be the tokens.
OF_CHANNELS = {
    "activation_moments": ("preactivations", "activations"),
    "covariate_shift": ("inputs",),
    "moments_along_step": ("preactivations",),
    "saturation": ("activations",),
}


def without_channels(
    name: str, options: Mapping[str, Any], layers: Sequence[Layer], values: Mapping[str, Mapping[int, Any]]
) -> dict[str, tuple[int, ...]]:
    """The layers in which the probe would take something else for the channels, by name, with the shape it would see.

    `values` are tensors by what is read and by depth. They have channels where those of a convolution are (N, C, H, W)
    and those of a dense layer (N, O).
    """
    sites = options.get("sites")  # of what the probe looks at, where it has the option
    return {
        layer.name: tuple(value.shape)
        for kind in OF_CHANNELS.get(name, ())
        if sites is None or kind.removesuffix("s") in sites
        for layer in layers
        if isinstance(value := values[kind].get(layer.depth), Tensor)
        and (value.dim() != 2 if layer.kind == "linear" else value.dim() == 2)
    }


LAYERS = {"conv": nn.Conv2d, "linear": nn.Linear}  # a layer's kind, and of which class its module then is


def check_modules(layers: Sequence[Layer], network: nn.Module, who: str) -> None:
    """Raises ValueError, which begins with `who`, for layers that are not what they say of themselves."""
    modules = {name: module for name, module in network.named_modules(remove_duplicate=False) if name}
    for layer in layers:
        if lacking := [name for name in (layer.name, layer.activation) if name not in modules]:
            from bnstudy.config.errors import suggestions  # here, because it loads Hydra

            raise ValueError(
                f"{who}: layer {layer.depth} names {lacking[0]!r}, and the network has no such module; "
                f"{suggestions(lacking[0], modules)}"
            )
        kind = next((kind for kind, of in LAYERS.items() if isinstance(modules[layer.name], of)), None)
        if kind is not None and layer.kind != kind:
            raise ValueError(f"{who}: layer {layer.name} is of kind {layer.kind!r}, and its module is a {kind}")
    if len({id(modules[layer.name]) for layer in layers}) < len(layers):
        raise ValueError(f"{who}: two layers name one module; a module that serves twice is one layer")


def check_options(
    name: str, options: Mapping[str, Any], layers: tuple[Layer, ...], *, examples: int, num_train: int
) -> None:
    """Raises ValueError for options that the probe refuses, before there is anything to look at.

    A probe checks its options first: it is started, and left where it reads more of a snapshot than its layers, the
    size of its mini-batch (`examples`) and the number of others that the `num_train` training images make.
    """
    probe: Callable[..., Any] = plugins.load("probes", name).probe
    try:
        unobserved = _Unobserved(layers, examples, num_train)
        next(iter(probe(unobserved, **(plugins.defaults("probes", name) | dict(options)))), None)
    except (_NotYet, TypeError):  # the other where torch is given what is not there yet
        pass
    except ValueError as error:
        raise ValueError(f"probes.{name}.options: {str(error).removeprefix(f'{name}: ')}") from None


class _NotYet(Exception):
    """There is nothing to read."""


class _Unobserved:
    """A placeholder for a snapshot before there is one."""

    def __init__(self, layers: tuple[Layer, ...], examples: int, num_train: int) -> None:
        self.layers, self._num_train = layers, num_train
        self.images_NCHW = self.labels_N = _Counted(examples)

    def batches(self, size: int, count: int) -> Iterator[tuple[_Counted, _Counted]]:
        for _ in range(min(count, self._num_train // size)):
            yield _Counted(size), _Counted(size)

    def __getattr__(self, name: str) -> Any:
        raise _NotYet


class _Counted:
    """A placeholder for a tensor of which only the length is known."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, _: Any) -> Any:
        raise _NotYet

    def __getattr__(self, name: str) -> Any:
        raise _NotYet


def _check(name: str, row: Mapping[str, Any], table: Mapping[str, str]) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"probe {name}: it yields {row!r}; yield a dictionary, with a value for each of its COLUMNS")
    if row.keys() != table.keys():
        raise ValueError(f"probe {name}: a row has {', '.join(row)}; its COLUMNS are {', '.join(table)}")
    for column, dtype in table.items():
        value, limits = row[column], INTEGERS.get(dtype)
        kinds = (float, int) if KINDS[dtype] is float else KINDS[dtype]
        fits = isinstance(value, kinds) and (dtype == "bool" or not isinstance(value, bool))
        if not fits or (limits and not limits.min <= value <= limits.max):
            remedy = "; write .item() behind it" if hasattr(value, "item") else ""
            raise ValueError(f"probe {name}: {column} = {value!r} is no {dtype}{remedy}")
