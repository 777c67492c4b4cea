"""What a run is: the schema of its configuration, with defaults and checks. Plain Python: no Hydra, no torch."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from bnstudy.config import plugins

INITS = ("xavier_uniform", "xavier_normal", "kaiming_normal", "torch_default", "xavier_uniform_biased")
PRECISIONS = ("fp32", "tf32", "bf16")
ENGINES = ("auto", "plain", "stacked", "parallel")
TRACKING_MODES = ("offline", "online", "off")
OUTCOME_BY = ("accuracy", "losses")
DEVICE = re.compile(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?")


@dataclass(kw_only=True, slots=True)
class Data:
    """The images and how they reach the network."""

    name: str = "cifar10"  # cifar10, fashion_mnist, or a folder of arrays under the data root
    batch_size: int = 128
    normalise: str = "channel"  # channel: mean 0 and standard deviation 1 per channel; unit: [0, 1]
    augment: bool = True  # pad 4, random crop, horizontal flip
    num_train: int | None = None  # the first so many training images; null: all
    num_test: int | None = None  # the first so many test images; null: all
    balanced: bool = False  # the num_train training images are the first of each class, of every class as many


@dataclass(kw_only=True, slots=True)
class Optim:
    """SGD and its schedule: the learning rate is multiplied by `decay` at each fraction of training in `milestones`.

    Over the fraction `warmup` of training it first rises in equal steps to `lr`.
    """

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])
    decay: float = 0.1
    warmup: float = 0.0


@dataclass(kw_only=True, slots=True)
class Train:
    """The budget, and when a run counts as diverged."""

    epochs: int = 165
    steps: int | None = None  # a budget in steps; where given it takes the place of `epochs`
    evaluate_every_epochs: int = 1
    divergence_loss: float = 1e3  # a mini-batch loss above this, or not finite, ends the run (Bjorck et al., section 3)


@dataclass(kw_only=True, slots=True)
class ProbePlan:
    """When one probe looks, and at which mini-batch. Steps count updates already made: step 0 is initialisation."""

    at: list[int] = field(default_factory=list)
    every_steps: int | None = None
    every_epochs: int | None = None
    at_end: bool = False
    at_divergence: bool = False
    on: str = "probe_batch"  # probe_batch: fixed, not augmented; train_batch: the very mini-batch about to be used
    batch_size: int | None = None  # of the probe batch; null: data.batch_size
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Tracking:
    """The W&B mirror."""

    mode: str = "offline"
    project: str = "bnstudy"
    tags: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Search:
    """The value of `axis` up to which runs train: looked for beyond the grid, until it is known to within `factor`."""

    axis: str | None = None  # null: the grid is all there is
    factor: float = 1.25


@dataclass(kw_only=True, slots=True)
class Sweep:
    """The sweep a job belongs to: its name, what its presets change, what its reduction keeps, its search."""

    name: str | None = None
    presets: dict[str, list[str]] = field(default_factory=dict)  # preset -> Hydra overrides
    tables: list[str] | None = None  # null: every table
    rows: dict[str, str] = field(default_factory=dict)  # table -> which of its rows are kept, as pandas queries
    search: Search = field(default_factory=Search)
    outcome_by: str = "accuracy"  # accuracy: trained, stalled, diverged; losses: learns, at chance, diverged (outcomes)
    suites: dict[str, int] = field(default_factory=dict)  # suite it belongs to -> its place there
    minutes: dict[str, float] = field(default_factory=dict)  # preset -> about how long all of it takes on two CPU cores


@dataclass(kw_only=True, slots=True)
class Runtime:
    """Where and how a run is executed; nothing here is part of its identity."""

    device: str = "auto"  # auto: the GPU where there is one; cpu, cuda, cuda:N
    threads: int | None = None  # CPU threads of this job; null: the cores shared out among the jobs
    engine: str = "auto"  # auto: what suits the device; plain: every run alone, launch by launch; parallel: runs that
    # differ in the learning rate side by side, each its own network, with the bits it has alone; stacked: the same runs
    # as one network, or refused: their last digits depend on how many they are
    data_root: str = "data"
    results: str = "results"
    download: bool = True
    stand_in: bool = False  # whether made images may take the place of a data set that cannot be had
    keep_weights: bool = True  # whether a finished run keeps its last weights (ResNet-110: 7 MB)
    accept_code: bool = False  # whether a run counts as done though a component's file has changed since
    checkpoint_every_sec: float = 30.0
    hang_minutes: float = 60.0  # a sweep's process that makes no progress for so long is killed, its runs fail


@dataclass(kw_only=True, slots=True)
class Config:
    """One run. `model` and `norm` name a component and its options (see `plugins`)."""

    model: dict[str, Any] = field(default_factory=lambda: {"name": "resnet"})
    norm: dict[str, Any] = field(default_factory=lambda: {"name": "batch"})
    init: str = "xavier_uniform"
    init_scale: float = 1.0  # what the initial weights of convolutions and dense layers are multiplied by
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    probes: dict[str, ProbePlan] = field(default_factory=dict)
    precision: str = "fp32"
    seed: int = 0
    runtime: Runtime = field(default_factory=Runtime)
    tracking: Tracking = field(default_factory=Tracking)
    sweep: Sweep = field(default_factory=Sweep)


NOT_TRAINING = ("probes", "runtime", "tracking", "sweep")  # what looks, how, where and why; the rest is what is trained
INT32, INT64 = 2**31 - 1, 2**63 - 1  # the largest that a table's columns hold
FLOAT32 = (1.1754944e-38, 3.4e38)  # the smallest number that has all its digits, and about the largest
MAX_THREADS = 4096
TRAINED = {"steps", "epochs", "throughput"}  # tables that a run without an update does not have


def model_options(config: Config) -> dict[str, Any]:
    """The model's options, defaults filled in, without its name."""
    return plugins.defaults("models", config.model["name"]) | _without(config.model, "name")


def norm_options(config: Config) -> dict[str, Any]:
    """The norm's options, defaults filled in, without its name and without `where`."""
    return plugins.defaults("norms", config.norm["name"]) | _without(config.norm, "name", "where")


def resolved(config: Config) -> dict[str, Any]:
    """What a run trains, as nested dictionaries with every default filled in, those of network and norm too."""
    values = _without(dataclasses.asdict(config), *NOT_TRAINING)
    values["model"] = {"name": config.model["name"], **model_options(config)}
    values["norm"] = {"name": config.norm["name"], "where": config.norm.get("where", "*"), **norm_options(config)}
    return values


def resolved_plan(probe: str, plan: ProbePlan) -> dict[str, Any]:
    """When a probe looks, at which mini-batch and with which options, every default filled in."""
    return dataclasses.asdict(plan) | {"options": plugins.defaults("probes", probe) | plan.options}


def total_steps(config: Config, steps_per_epoch: int) -> int:
    """The budget in updates."""
    return config.train.epochs * steps_per_epoch if config.train.steps is None else config.train.steps


def from_dict(values: dict[str, Any]) -> Config:
    """A checked Config from nested dictionaries, as a manifest holds them. Raises ValueError naming the key."""
    config: Config = _build(Config, values, "")
    for kind, component in (("models", config.model), ("norms", config.norm)):
        _write_out(kind, component)
    validate(config)
    return config


def _write_out(kind: str, component: dict[str, Any]) -> None:
    """Turns whole numbers into text where an option is text: `model.hidden=256`, which a shell leaves of '256'."""
    if component.get("name") not in plugins.names(kind):
        return
    for option, default in plugins.defaults(kind, component["name"]).items():
        if isinstance(default, str) and type(component.get(option)) is int and component[option] <= INT64:
            component[option] = str(component[option])


def to_dict(config: Config) -> dict[str, Any]:
    """Nested dictionaries of plain values, from which `from_dict` builds the same Config."""
    return dataclasses.asdict(config)


def validate(config: Config) -> None:
    """Checks every value. Raises ValueError naming the key, the value and the remedy."""
    _check_component("model", "models", config.model, extra={})
    _check_component("norm", "norms", config.norm, extra={"where": "*"})
    _one_of("init", config.init, INITS)
    _float32("init_scale", config.init_scale)
    _one_of("precision", config.precision, PRECISIONS)
    _at_least("seed", config.seed, 0)  # up to what a table of the runs holds
    _check_data(config.data)
    _check_optim(config.optim)
    _check_train(config.train)
    for name, plan in config.probes.items():
        _check_probe(name, plan)
    _check_runtime(config.runtime)
    _one_of("sweep.outcome_by", config.sweep.outcome_by, OUTCOME_BY)
    _check_kept(config.sweep, config.train)
    _check_search(config)
    _one_of("tracking.mode", config.tracking.mode, TRACKING_MODES)
    if not config.tracking.project:
        raise ValueError("tracking.project = '': W&B needs a project's name; the default is bnstudy")


def _check_data(data: Data) -> None:
    if not data.name or any(c in data.name for c in "/\\\0") or data.name.startswith(".") or len(data.name) > 60:
        raise ValueError(f"data.name = {data.name!r}: give the name of a folder under the data root, such as cifar10")
    _at_least("data.batch_size", data.batch_size, 1)
    _one_of("data.normalise", data.normalise, ("channel", "unit"))
    if data.num_train is not None:
        _at_least("data.num_train", data.num_train, data.batch_size, "at least one mini-batch (data.batch_size)")
    if data.num_test is not None:
        _at_least("data.num_test", data.num_test, 1)
    if data.balanced and data.num_train is None:
        raise ValueError("data.balanced = True: give data.num_train, how many images of all classes together")


def _check_optim(optim: Optim) -> None:
    _float32("optim.lr", optim.lr)
    _float32("optim.momentum", optim.momentum)
    if optim.momentum > 1 - 2**-24:  # from where float32 has 1
        raise ValueError(f"optim.momentum = {optim.momentum}: a velocity decays only below 1; the study uses 0.9")
    _float32("optim.weight_decay", optim.weight_decay)
    _float32("optim.decay", optim.decay)
    lr = optim.lr
    for _ in optim.milestones:
        lr *= optim.decay
        if lr and not FLOAT32[0] <= lr <= FLOAT32[1]:
            raise ValueError(f"optim.decay = {optim.decay}: at a milestone optim.lr becomes {lr}, which is no float32")
    if not 0 <= optim.warmup < 1:
        raise ValueError(f"optim.warmup = {optim.warmup}: give a fraction of training from 0, no warm-up, to below 1")
    if any(not 0 < m < 1 for m in optim.milestones) or sorted(optim.milestones) != optim.milestones:
        raise ValueError(
            f"optim.milestones = {optim.milestones}: give rising fractions of training between 0 and 1, as [0.5, 0.75]"
        )


def _check_train(train: Train) -> None:
    _between("train.epochs", train.epochs, 0, INT32)
    if train.steps is not None:
        _at_least("train.steps", train.steps, 0)
    _at_least("train.evaluate_every_epochs", train.evaluate_every_epochs, 1)
    if not train.divergence_loss > 0:
        raise ValueError(f"train.divergence_loss = {train.divergence_loss}: give a positive loss; the paper uses 1e3")


def _check_probe(name: str, plan: ProbePlan) -> None:
    key = f"probes.{name}"
    if name not in plugins.names("probes"):
        raise ValueError(f"{key}: there is no such probe; there are {', '.join(plugins.names('probes'))}")
    for step in plan.at:
        _at_least(f"{key}.at", step, 0)
    for every in ("every_steps", "every_epochs", "batch_size"):
        value = getattr(plan, every)
        if value is not None:
            _at_least(f"{key}.{every}", value, 1)
    _one_of(f"{key}.on", plan.on, ("probe_batch", "train_batch"))
    _check_options(f"{key}.options", plan.options, plugins.defaults("probes", name))


def _check_runtime(runtime: Runtime) -> None:
    _one_of("runtime.engine", runtime.engine, ENGINES)
    if runtime.threads is not None:
        _between("runtime.threads", runtime.threads, 1, MAX_THREADS)
    if not DEVICE.fullmatch(runtime.device):
        raise ValueError(f"runtime.device = {runtime.device!r}: give auto, cpu, cuda or cuda:N, with N from 0")
    _finite("runtime.checkpoint_every_sec", runtime.checkpoint_every_sec, low=0.0)
    if not runtime.hang_minutes > 0:
        raise ValueError(f"runtime.hang_minutes = {runtime.hang_minutes}: give minutes above 0; .inf waits for ever")


def _check_kept(sweep: Sweep, train: Train) -> None:
    key, budget = ("epochs", train.epochs) if train.steps is None else ("steps", train.steps)
    if budget == 0 and (trained := set(sweep.tables or ()) & TRAINED):
        raise ValueError(
            f"train.{key} = 0: the sweep {sweep.name} keeps the table {min(trained)}, which only training has; "
            f"give train.{key} 1 or more"
        )
    if sweep.tables is not None and (unknown := sweep.rows.keys() - set(sweep.tables)):
        raise ValueError(f"sweep.rows.{min(unknown)}: no such table is kept; sweep.tables = {sweep.tables}")


def _check_search(config: Config) -> None:
    if (search := config.sweep.search).axis is None:
        return
    value: Any = to_dict(config)
    for key in search.axis.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, float) or value <= 0:
        raise ValueError(f"sweep.search.axis = {search.axis!r}: give a key whose value is a number above 0: optim.lr")
    if not 1.05 <= search.factor < math.inf:
        raise ValueError(f"sweep.search.factor = {search.factor}: give 1.05 or more; what is tried has three digits")


def _check_component(key: str, kind: str, values: dict[str, Any], *, extra: dict[str, Any]) -> None:
    if "name" not in values:
        raise ValueError(f"{key}.name is missing; there are {', '.join(plugins.names(kind))}")
    _one_of(f"{key}.name", values["name"], tuple(plugins.names(kind)))
    _check_options(key, _without(values, "name"), plugins.defaults(kind, values["name"]) | extra)


def _check_options(key: str, given: dict[str, Any], defaults: dict[str, Any]) -> None:
    for option, value in given.items():
        if option not in defaults:
            known = ", ".join(defaults) or "none"
            raise ValueError(f"{key}.{option} = {value!r}: there is no such option; there are: {known}")
        default = defaults[option]
        if any(isinstance(each, int) and abs(each) > INT64 for each in (value if isinstance(value, list) else [value])):
            raise ValueError(f"{key}.{option} = {_short(value)}: give whole numbers of up to {INT64}")
        kinds: tuple[type, ...] = (type(default),)
        if isinstance(default, float):
            kinds = (float, int)
        elif isinstance(default, list | tuple):
            kinds = (list, tuple)
        if default is not None and (
            not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool)
        ):
            named = NAMED.get(type(default), "a list")
            raise ValueError(f"{key}.{option} = {value!r}: give {named}, such as {default!r}")
        if kinds == (list, tuple) and not _alike(value, default):
            raise ValueError(f"{key}.{option} = {value!r}: give such values as {list(default)}")


def _alike(values: Collection[Any], defaults: Collection[Any]) -> bool:
    """Whether every value is of a type that a default is of, whole numbers among decimal ones. No defaults: any are."""
    kinds = {type(default) for default in defaults}
    kinds |= {int} if float in kinds else set()
    return not kinds or kinds.issuperset(map(type, values))


def _one_of(key: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{key} = {value!r}: choose one of {', '.join(allowed)}")


def _at_least(key: str, value: int, low: int, why: str | None = None) -> None:
    if value < low:
        raise ValueError(f"{key} = {value}: give {why or f'{low} or more'}")
    _between(key, value, low, INT64)


def _between(key: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{key} = {_short(value)}: give {low} to {high}")


def _float32(key: str, value: float) -> None:
    """A factor of float32 numbers: there, what is larger is infinite and what is smaller is 0."""
    _finite(key, value, low=0.0)
    if value and not FLOAT32[0] <= value <= FLOAT32[1]:
        raise ValueError(f"{key} = {value}: training computes in float32; give 0, or {FLOAT32[0]} to {FLOAT32[1]}")


def _short(value: object) -> str:
    """A value as a message shows it: all of it, or its beginning."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:40]}... ({len(text)} characters)"


def _finite(key: str, value: float, *, low: float) -> None:
    if not math.isfinite(value) or value < low:
        raise ValueError(f"{key} = {value}: give a finite number of {low} or more")


def _without(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in keys}


_hints = functools.cache(get_type_hints)
NAMED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _build(kind: Any, value: Any, key: str) -> Any:
    """`value` as the annotated type `kind`: dataclasses from dictionaries, numbers by lossless conversion only."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            known = ", ".join(f.name for f in dataclasses.fields(kind))
            raise ValueError(f"{key.rstrip('.')} = {_short(value)}: give a mapping of {known}")
        hints = _hints(kind)
        for name in value:
            if name not in hints:
                raise ValueError(f"{key}{name}: there is no such key; there are: {', '.join(hints)}")
        return kind(**{name: _build(hints[name], v, f"{key}{name}.") for name, v in value.items()})
    label = key.rstrip(".")
    arguments = get_args(kind)
    if type(None) in arguments:
        return None if value is None else _build(next(a for a in arguments if a is not type(None)), value, key)
    if get_origin(kind) is list:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{label} = {value!r}: give a list")
        return [_build(arguments[0], v, key) for v in value]
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{label} = {value!r}: give a mapping")
        return {str(k): v if arguments[1] is Any else _build(arguments[1], v, f"{key}{k}.") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{label} = {_short(value)}: give a number that is not as large") from None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{label} = {value!r}: give {NAMED[kind]}")
    return value
