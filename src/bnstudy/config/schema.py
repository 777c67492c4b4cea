"""What a run is: the schema of its configuration, with defaults and checks. Plain Python: no Hydra, no torch.

The bounds of one value stand at its key; `_check_together` checks what depends on several values.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Strict, TypeAdapter, ValidationError

from bnstudy.config import component_files, plugins

PRECISIONS = ("fp32", "tf32", "bf16")
ENGINES = ("auto", "plain", "stacked", "parallel")
TRACKING_MODES = ("offline", "online", "off")
OUTCOME_BY = ("accuracy", "losses")
INT32, INT64 = 2**31 - 1, 2**63 - 1  # the largest that a table's columns hold
FLOAT32 = (1.1754944e-38, 3.4e38)  # the smallest number that has all its digits, and about the largest
MAX_THREADS = 4096


def _must(fit: Callable[[Any], bool], remedy: str) -> AfterValidator:
    """A check of one value; `from_dict` puts its key and the value before the remedy."""

    def check(value: Any) -> Any:
        if not fit(value):
            raise ValueError(remedy)
        return value

    return AfterValidator(check)


def _one_of(*allowed: str) -> AfterValidator:
    return _must(lambda value: value in allowed, f"choose one of {', '.join(allowed)}")


def _between(low: int, high: int = INT64) -> AfterValidator:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"give {low} or more" if high == INT64 and value < low else f"give {low} to {high}")
        return value

    return AfterValidator(check)


def _fits_float32(value: float) -> bool:
    return value == 0 or FLOAT32[0] <= value <= FLOAT32[1]


# Numbers are taken as they are: text is no number, 1.0 is no whole number, true is not 1.
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Switch = Annotated[bool, Strict()]
Index = Annotated[Whole, _between(0)]
Count = Annotated[Whole, _between(1)]
Finite = Annotated[Number, _must(lambda value: 0 <= value < math.inf, "give a finite number of 0.0 or more")]
Float32 = Annotated[  # there, what is larger is infinite and what is smaller is 0
    Finite, _must(_fits_float32, f"training computes in float32; give 0, or {FLOAT32[0]} to {FLOAT32[1]}")
]
Momentum = Annotated[  # from 1 - 2**-24 on float32 has 1
    Float32, _must(lambda value: value <= 1 - 2**-24, "a velocity decays only below 1; the study uses 0.9")
]
Milestones = Annotated[
    list[Number],
    _must(
        lambda values: all(0 < each < 1 for each in values) and sorted(values) == values,
        "give rising fractions of training between 0 and 1, as [0.5, 0.75]",
    ),
]
WarmUp = Annotated[
    Number, _must(lambda value: 0 <= value < 1, "give a fraction of training from 0, no warm-up, to below 1")
]
LossBound = Annotated[Number, _must(lambda value: value > 0, "give a positive loss; the paper uses 1e3")]
Minutes = Annotated[Number, _must(lambda value: value > 0, "give minutes above 0; .inf waits for ever")]
Factor = Annotated[
    Number, _must(lambda value: 1.05 <= value < math.inf, "give 1.05 or more; what is tried has three digits")
]
Project = Annotated[str, _must(bool, "W&B needs a project's name; the default is bnstudy")]
FolderName = Annotated[
    str,
    _must(
        lambda name: re.fullmatch(r"(?!\.)[^/\\\0]{1,60}", name) is not None,
        "give the name of a folder under the data root, such as cifar10",
    ),
]
Device = Annotated[
    str,
    _must(
        lambda name: re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?", name) is not None,
        "give auto, cpu, cuda or cuda:N, with N from 0",
    ),
]


class _Section:
    """A part of the configuration, in which only its own keys may be set."""

    __slots__ = ()
    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(kw_only=True, slots=True)
class Data(_Section):
    """The images and how they reach the network."""

    name: FolderName = "cifar10"  # cifar10, fashion_mnist, or a folder of arrays under the data root
    batch_size: Count = 128
    # channel: mean 0 and standard deviation 1 per channel; unit: [0, 1]
    normalise: Annotated[str, _one_of("channel", "unit")] = "channel"
    augment: Switch = True  # pad 4, random crop, horizontal flip
    num_train: Count | None = None  # this many training images, the first ones; null: all
    num_test: Count | None = None  # this many test images, the first ones; null: all
    balanced: Switch = False  # the num_train training images are the first of each class, of every class as many


@dataclass(kw_only=True, slots=True)
class Optim(_Section):
    """SGD and its schedule: the learning rate is multiplied by `decay` at each fraction of training in `milestones`.

    Over the fraction `warmup` of training it first rises in equal steps to `lr`.
    """

    lr: Float32 = 0.1
    momentum: Momentum = 0.9
    weight_decay: Float32 = 1e-4
    milestones: Milestones = field(default_factory=lambda: [0.5, 0.75])
    decay: Float32 = 0.1
    warmup: WarmUp = 0.0


@dataclass(kw_only=True, slots=True)
class Train(_Section):
    """The budget, and when a run counts as diverged."""

    epochs: Annotated[Whole, _between(0, INT32)] = 165
    steps: Index | None = None  # a budget in steps; where given it takes the place of `epochs`
    evaluate_every_epochs: Count = 1
    # A mini-batch loss above this, or not finite, ends the run (Bjorck et al., section 3).
    divergence_loss: LossBound = 1e3


@dataclass(kw_only=True, slots=True)
class ProbePlan(_Section):
    """When one probe looks, and at which mini-batch. Steps count updates already made: step 0 is initialisation."""

    at: list[Index] = field(default_factory=list)
    every_steps: Count | None = None
    every_epochs: Count | None = None
    at_end: Switch = False
    at_divergence: Switch = False
    # probe_batch: fixed, not augmented; train_batch: the very mini-batch about to be used
    on: Annotated[str, _one_of("probe_batch", "train_batch")] = "probe_batch"
    batch_size: Count | None = None  # of the probe batch; null: data.batch_size
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Tracking(_Section):
    """The W&B mirror."""

    mode: Annotated[str, _one_of(*TRACKING_MODES)] = "offline"
    project: Project = field(default_factory=lambda: os.environ.get("WANDB_PROJECT") or "bnstudy")
    tags: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Search(_Section):
    """Search beyond the grid for the value of `axis` up to which runs train, until it is known to within `factor`."""

    axis: str | None = None  # null: the grid is all there is
    factor: Factor = 1.25


@dataclass(kw_only=True, slots=True)
class Sweep(_Section):
    """The sweep a job belongs to: its name, what its presets change, what its reduction keeps, its search."""

    name: str | None = None
    presets: dict[str, list[str]] = field(default_factory=dict)  # preset -> Hydra overrides
    tables: list[str] | None = None  # null: every table
    rows: dict[str, str] = field(default_factory=dict)  # table -> which of its rows are kept, as pandas queries
    search: Search = field(default_factory=Search)
    # accuracy: trained, stalled, diverged; losses: learns, at chance, diverged (see store/outcomes.py)
    outcome_by: Annotated[str, _one_of(*OUTCOME_BY)] = "accuracy"
    runs_of: list[str] = field(default_factory=list)  # sweeps whose published runs are not trained again in this one
    suites: dict[str, Whole] = field(default_factory=dict)  # suite it belongs to -> its place there
    minutes: dict[str, Number] = field(default_factory=dict)  # preset -> about how long it takes on two CPU cores


@dataclass(kw_only=True, slots=True)
class Runtime(_Section):
    """Where and how a run is executed; nothing here is part of its identity."""

    device: Device = "auto"  # auto: the GPU where there is one; cpu, cuda, cuda:N
    # CPU threads of this job; null: the cores shared out among the jobs
    threads: Annotated[Whole, _between(1, MAX_THREADS)] | None = None
    # auto: what suits the device; plain: every run alone, launch by launch; parallel: runs that differ in the learning
    # rate side by side, each its own network, with the bits it has alone; stacked: the same runs as one network, or
    # refused: their last digits depend on how many they are
    engine: Annotated[str, _one_of(*ENGINES)] = "auto"
    data_root: str = "data"
    results: str = "results"
    download: Switch = True
    synthetic: Switch = False  # whether synthetic images may replace a data set that is not available
    keep_weights: Switch = True  # whether a finished run keeps its last weights (ResNet-110: 7 MB)
    accept_code: Switch = False  # whether a run counts as done though a component's file has changed since
    checkpoint_every_sec: Finite = 30.0
    # A sweep's process that makes no progress for this long is killed, and its runs fail.
    hang_minutes: Minutes = 60.0


@dataclass(kw_only=True, slots=True)
class Config(_Section):
    """One run. `model` and `norm` name a component and its options (see `plugins`)."""

    model: dict[str, Any] = field(default_factory=lambda: {"name": "resnet"})
    norm: dict[str, Any] = field(default_factory=lambda: {"name": "batch"})
    init: Annotated[str, _one_of(*plugins.initialisers())] = "xavier_uniform"
    init_scale: Float32 = 1.0  # what the initial weights of convolutions and dense layers are multiplied by
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    probes: dict[str, ProbePlan] = field(default_factory=dict)
    precision: Annotated[str, _one_of(*PRECISIONS)] = "fp32"
    seed: Index = 0
    runtime: Runtime = field(default_factory=Runtime)
    tracking: Tracking = field(default_factory=Tracking)
    sweep: Sweep = field(default_factory=Sweep)


NOT_TRAINING = ("probes", "runtime", "tracking", "sweep")  # what looks, how, where and why; the rest is what is trained
RENAMED = {"runtime.stand_in": "runtime.synthetic"}
TYPES = {  # pydantic's name of an error: what to give
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
}
NAMED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def model_options(config: Config) -> dict[str, Any]:
    """The model's options, defaults filled in, without its name; the caller's own, to be changed as it likes."""
    return plugins.defaults("models", config.model["name"]) | copy.deepcopy(_without(config.model, "name"))


def norm_options(config: Config) -> dict[str, Any]:
    """The norm's options, defaults filled in, without its name and without `where`."""
    return plugins.defaults("norms", config.norm["name"]) | copy.deepcopy(_without(config.norm, "name", "where"))


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
    """A checked Config from nested dictionaries, as a manifest holds them.

    Raises ValueError naming the key, the value and the remedy.
    """
    try:
        config = _schema().validate_python(values)
    except ValidationError as errors:
        raise ValueError(_message(errors.errors(include_url=False)[0])) from None
    for kind, component in (("models", config.model), ("norms", config.norm)):
        _write_out(kind, component)
    _check_together(config)
    return config


@functools.cache
def _schema() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


def _message(error: Any) -> str:
    """One of pydantic's errors as a sentence with key, value and remedy."""
    path = [name for name in error["loc"] if isinstance(name, str)]  # places in a list are left out
    key, kind = ".".join(path), error["type"]
    if kind == "unexpected_keyword_argument":
        if key in RENAMED:
            return f"{key}: the key is {RENAMED[key]} now"
        return f"{key}: there is no such key; there are: {_keys(path[:-1])}"
    if kind == "value_error":
        remedy = str(error["ctx"]["error"])
    elif kind == "dataclass_type":
        sgd = "SGD is the only optimiser; " if key == "optim" else ""
        remedy = f"{sgd}give a mapping of {_keys(path)}"
    else:
        remedy = f"give {TYPES.get(kind, error['msg'])}"
    return f"{key} = {_short(error['input'])}: {remedy}"


def _keys(path: list[str]) -> str:
    section = ProbePlan() if path[:1] == ["probes"] else functools.reduce(getattr, path, Config())
    return ", ".join(each.name for each in dataclasses.fields(section))


def _write_out(kind: str, component: dict[str, Any]) -> None:
    """Turn whole numbers into text where an option is text: `model.hidden=256`, which a shell leaves of '256'."""
    if component.get("name") not in plugins.names(kind):
        return
    for option, default in plugins.defaults(kind, component["name"]).items():
        if isinstance(default, str) and type(component.get(option)) is int and component[option] <= INT64:
            component[option] = str(component[option])


def to_dict(config: Config) -> dict[str, Any]:
    """Nested dictionaries of plain values, from which `from_dict` builds the same Config."""
    return dataclasses.asdict(config)


def validate(config: Config) -> None:
    """Raise ValueError naming the key, the value and the remedy where `from_dict` would not take the values."""
    from_dict(to_dict(config))


def _check_together(config: Config) -> None:
    """Check what depends on several values, or on the available components."""
    _check_component("model", "models", config.model, extra={})
    _check_component("norm", "norms", config.norm, extra={"where": "*"})
    data, optim = config.data, config.optim
    if data.num_train is not None and data.num_train < data.batch_size:
        raise ValueError(f"data.num_train = {data.num_train}: give at least one mini-batch (data.batch_size)")
    if data.balanced and data.num_train is None:
        raise ValueError("data.balanced = True: give data.num_train, how many images of all classes together")
    lr = optim.lr
    for _ in optim.milestones:
        lr *= optim.decay
        if not _fits_float32(lr):
            raise ValueError(f"optim.decay = {optim.decay}: at a milestone optim.lr becomes {lr}, which is no float32")
    for name, plan in config.probes.items():
        if name not in plugins.names("probes"):
            raise ValueError(f"probes.{name}: there is no such probe; there are {', '.join(plugins.names('probes'))}")
        _check_options(f"probes.{name}.options", plan.options, plugins.defaults("probes", name))
    _check_kept(config.sweep, config.train)
    _check_search(config)


def _check_kept(sweep: Sweep, train: Train) -> None:
    key, budget = ("epochs", train.epochs) if train.steps is None else ("steps", train.steps)
    if budget == 0 and (trained := set(sweep.tables or ()).intersection(component_files.OF_TRAINING)):
        raise ValueError(
            f"train.{key} = 0: the sweep {sweep.name} keeps the table {min(trained)}, which only training has; "
            f"give train.{key} 1 or more"
        )
    known = {*component_files.OF_TRAINING, *plugins.names("probes")}
    if strangers := [name for name in sweep.tables or () if name not in known]:
        there = ", ".join(sorted(known))
        raise ValueError(f"sweep.tables = {sweep.tables}: no run has {strangers[0]!r}; there are {there}")
    kept = known if sweep.tables is None else set(sweep.tables)
    if unknown := sweep.rows.keys() - kept:
        there = f"there are {', '.join(sorted(known))}" if sweep.tables is None else f"sweep.tables = {sweep.tables}"
        raise ValueError(f"sweep.rows.{min(unknown)}: no such table is kept; {there}")


def _check_search(config: Config) -> None:
    if (search := config.sweep.search).axis is None:
        return
    value: Any = to_dict(config)
    for key in search.axis.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, float) or value <= 0:
        raise ValueError(f"sweep.search.axis = {search.axis!r}: give a key whose value is a number above 0: optim.lr")


def _check_component(key: str, kind: str, values: dict[str, Any], *, extra: dict[str, Any]) -> None:
    if "name" not in values:
        raise ValueError(f"{key}.name is missing; there are {', '.join(plugins.names(kind))}")
    if values["name"] not in plugins.names(kind):
        own = "; own ones: --components FOLDER, in Python bnstudy.use_components(FOLDER)"
        raise ValueError(f"{key}.name = {values['name']!r}: choose one of {', '.join(plugins.names(kind))}{own}")
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
    """Whether every value has a type of the defaults, whole numbers among decimal ones; any type without defaults."""
    kinds = {type(default) for default in defaults}
    kinds |= {int} if float in kinds else set()
    return not kinds or kinds.issuperset(map(type, values))


def _short(value: object) -> str:
    """A value as a message shows it: all of it, or its beginning."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:40]}... ({len(text)} characters)"


def _without(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in keys}
