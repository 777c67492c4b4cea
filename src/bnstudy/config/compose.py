"""Hydra: from YAML files and overrides to checked configurations. Past this module there is no DictConfig."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bnstudy.config import errors, groups, plugins, project
from bnstudy.config.errors import ComposeError
from bnstudy.config.groups import COMPONENT_OF, COMPONENTS, choices_by_group, conf_folders
from bnstudy.config.overrides import is_below, leaves, parse, parse_all, place, points_of
from bnstudy.config.schema import Config, ProbePlan, Sweep, from_dict, to_dict

BUNDLES = ("recipe", "arm", "variant")  # groups whose files set values all over the configuration
AD_HOC = "adhoc"  # a sweep without a file: a single run's configuration, the axes from the overrides
VERSION = "1.3"
MAX_RUNS = 1_000_000  # of a sweep: ten times what `make soak` tries


class ConfOnSearchPath(SearchPathPlugin):
    """Let a sweep's file find conf/. An override would do, but Hydra's grammar would have to read the path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in conf_folders():
            search_path.append("bnstudy", f"file://{folder}")


def register() -> None:
    """Register the schema and every component with Hydra, so that `norm=NAME` and `model=NAME` need no YAML file."""
    Plugins.instance().register(ConfOnSearchPath)
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group, kind, extra in COMPONENTS:
        for name in plugins.names(kind):
            options: dict[str, Any] = {}
            with contextlib.suppress(ValueError):  # a broken file is an error for what uses it
                options = plugins.defaults(kind, name)
            store.store(group=group, name=name, node={"name": name, **extra, **options})


def one(overrides: Sequence[str]) -> Config:
    """The single run that the overrides describe. Raises ComposeError for overrides that do not fit, or for a sweep."""
    register()
    for override in (parsed := parse_all(overrides)):
        if override.is_sweep_override():
            raise ComposeError(
                f"{override.input_line}: one run takes one value; several make a sweep, as in `sweep NAME "
                f"{override.input_line}`; a list has brackets, [0.5,0.75]; text with commas is quoted twice: "
                f"""\"{override.key_or_group}='a,b'\""""
            )
    points: dict[str, list[str]] = {}
    for override in parsed:
        place(points, override)
    (config,) = _configs(groups.CONF, "config", [[text for texts in points.values() for text in texts]])
    _check_budget([config], parsed)
    return config


def sweeps() -> list[str]:
    """The names of all sweeps. Raises ValueError for a file with the name of a sweep that has none."""
    files = {path.stem: path for folder in project.sweep_folders() for path in folder.glob("*.yaml")}
    if AD_HOC in files:
        raise ValueError(f"{files[AD_HOC]}: a sweep without a file has the name {AD_HOC}: rename yours")
    return sorted(files)


def headers() -> dict[str, dict[str, Any]]:
    """The block `sweep` of every sweep's file: presets, suites, minutes, search. Nothing is composed."""
    return {name: header(name) for name in sweeps()}


def header(sweep: str) -> dict[str, Any]:
    """The block `sweep` of one sweep's file, as `headers` has it; empty for a sweep without a file, or a block."""
    if sweep not in sweeps():
        return {}
    try:
        content = OmegaConf.create(_file(sweep).read_text(encoding="utf-8"))  # 1e1 is a number, as to Hydra
        whole: Any = OmegaConf.to_container(content, resolve=False)
        return dict(whole.get("sweep") or {})
    except (yaml.YAMLError, OmegaConfBaseException, AttributeError, TypeError, ValueError) as error:
        raise ComposeError(f"sweeps/{sweep}.yaml: {_fault(sweep) or errors.first_line(error)}") from None


def describe(sweep: str) -> str:
    """The comment that opens a sweep's file: why it exists and what it costs."""
    if sweep == AD_HOC:
        return "A sweep of the values given."
    return project.opening_comment(_file(sweep))


def expand(sweep: str, preset: str, overrides: Sequence[str] = ()) -> list[Config]:
    """Every run of a sweep: the product of its axes, as the preset and then the overrides change them.

    An override of an axis replaces the axis; any other applies to every run. Raises ValueError for an unknown sweep or
    preset, ComposeError where Hydra refuses.
    """
    points = _sweep(sweep, preset, overrides)
    folder, primary = _primary(sweep)
    configs = _configs(folder, primary, (list(point.values()) for point in _product(points)))
    _check_choices(sweep, configs, points, parse_all(overrides))
    _check_budget(configs, parse_all(overrides))
    _check_runs_of(configs[0].sweep)
    return configs


def point(sweep: str, preset: str, overrides: Sequence[str]) -> Config:
    """The one run of a sweep's grid that the overrides select. Raises ComposeError where they select several."""
    configs = expand(sweep, preset, overrides)
    if len(configs) == 1:
        return configs[0]
    several = axes(sweep, preset, overrides)
    raise ComposeError(
        f"one run of the sweep {sweep} has one value of each of its axes; give {', '.join(several)}, as in "
        f"{next(iter(several.values()))[0]}"
    )


def axes(sweep: str, preset: str, overrides: Sequence[str] = ()) -> dict[str, list[str]]:
    """The axes of a sweep's grid, each with the overrides that are its points, as in norm: [norm=batch, norm=none]."""
    return {key: texts for key, texts in _sweep(sweep, preset, overrides).items() if len(texts) > 1}


def _sweep(sweep: str, preset: str, overrides: Sequence[str]) -> dict[str, list[str]]:
    """The overrides of each axis of a sweep, or the one where it is no axis, by key."""
    folder, primary = _primary(sweep)
    register()
    try:
        whole = _composed(folder, primary, (), _stamp(folder), with_hydra=True)
        swept = _entry(whole, "hydra.sweeper.params") or {}
        presets = _entry(whole, "sweep.presets") if sweep != AD_HOC else {preset: [f"sweep.name={AD_HOC}"]}
    except (*errors.REFUSED, yaml.YAMLError, KeyError) as error:
        raise ComposeError(f"sweeps/{sweep}.yaml: {_fault(sweep) or errors.first_line(error)}") from None
    named = _entry(whole, "sweep.name") if sweep != AD_HOC else sweep
    if named not in (None, sweep):  # a copied file, whose runs would count as the other's
        raise ComposeError(f"sweeps/{sweep}.yaml: sweep.name={named} is another name than its file's: give it {sweep}")
    if any(override.key_or_group == "sweep.name" for override in parse_all(overrides)):
        raise ComposeError("sweep.name: the name of a sweep is its file's; --name names its results")
    presets = presets or {preset: []}  # a file that names none is the same at each
    if preset not in presets:
        raise ValueError(f"sweep {sweep} has no preset {preset!r}; it has: {', '.join(presets)}")
    points: dict[str, list[str]] = {}
    params = [f"{key}={value}" for key, value in swept.items()] + ([f"sweep.name={sweep}"] if named is None else [])
    for override in parse_all([*params, *presets[preset], *overrides]):
        place(points, override)
    if (num_runs := math.prod(len(texts) for texts in points.values())) > MAX_RUNS:
        raise ComposeError(f"sweep {sweep}: {num_runs} runs are more than {MAX_RUNS}; give its axes fewer values")
    return points


def _primary(sweep: str) -> tuple[Path, str]:
    """The folder and the name of the file that a sweep is composed from: its own, or that of a single run."""
    if sweep == AD_HOC:
        sweeps()  # refuses a file of this name
        return groups.CONF, "config"
    return _file(sweep).parent, sweep


def choices(overrides: Sequence[str]) -> list[str]:
    """What each recipe, arm or variant among the overrides sets, as in `arm=batch sets norm=batch, optim.lr=0.1`."""
    lines = []
    for text in (text for override in parse_all(overrides) for text in points_of(override)):
        key, _, name = text.partition("=")
        if key in BUNDLES and (values := _set_by(conf_folders(), key, name)):
            lines.append(f"{text} sets {', '.join(f'{leaf}={value}' for leaf, value in values.items())}")
    return lines


def _check_runs_of(settings: Sweep) -> None:
    """Raise ComposeError where the sweep counts runs of a sweep that is none, or whose tables it would lack."""
    for name in sorted({*settings.runs_of} - {*sweeps()}):
        raise ComposeError(f"sweep.runs_of: there is no sweep {name!r}; {errors.suggestions(name, sweeps())}")
    if settings.runs_of and settings.tables != []:
        raise ComposeError(
            f"sweep.runs_of={settings.runs_of}: of other sweeps' runs there is the table `runs` alone, and "
            f"{settings.name} publishes more: give it sweep.tables=[], or take sweep.runs_of out"
        )


def _check_choices(
    sweep: str, configs: Sequence[Config], points: Mapping[str, Sequence[str]], overrides: Sequence[Override]
) -> None:
    """Raise ComposeError where the sweep sets a value otherwise than the file of a group that the user chose.

    The sweep's axes, its presets and its file come after the groups and would win in silence.
    """
    by_group = choices_by_group()
    given = {
        leaf
        for override in overrides
        for text in points_of(override)
        for leaf in leaves(override.key_or_group, parse(text).value())
    }
    chosen = sorted(given & by_group.keys() & points.keys())
    if not any(_set_by(conf_folders(), group, str(parse(text).value())) for group in chosen for text in points[group]):
        return
    for config, point in zip(configs, _product(points), strict=True):
        values = to_dict(config)
        settings = {group: _set_by(conf_folders(), group, str(parse(point[group]).value())) for group in chosen}
        for group in chosen:
            others = {leaf for other in chosen if other != group for leaf in settings[other]}
            for leaf, value in settings[group].items():
                if leaf in given | others or any(is_below(leaf, key) for key in given):
                    continue
                if leaf not in by_group:
                    actual = _at(values, leaf)
                elif leaf in point:
                    actual = parse(point[leaf]).value()
                else:
                    known = leaf in COMPONENT_OF and value in plugins.names(COMPONENT_OF[leaf])
                    actual = values[leaf]["name"] if known else value
                if actual != value:
                    raise ComposeError(
                        f"{point[group]} sets {leaf}={value}, but the sweep {sweep} sets {leaf}={actual}: "
                        f"say which, as in {point[group]} {leaf}={value}"
                    )


def _check_budget(configs: Sequence[Config], overrides: Sequence[Override]) -> None:
    """Raise ComposeError where the user gives epochs, but a budget in steps, set elsewhere, takes their place."""
    given = {override.key_or_group: override for override in overrides}
    steps = next((config.train.steps for config in configs if config.train.steps is not None), None)
    if steps is not None and "train.epochs" in given and "train.steps" not in given:
        text = given["train.epochs"].input_line
        raise ComposeError(f"{text}: train.steps={steps} takes its place; give train.steps, or train.steps=null {text}")


@functools.cache
def _set_by(confs: Sequence[Path], group: str, name: str) -> dict[str, Any]:
    """The values that a group's file sets, by key, and the choices it makes in other groups; none without a file."""
    paths = (conf / group / f"{name}.yaml" for conf in confs)
    if (path := next(filter(Path.is_file, paths), None)) is None:
        return {}
    text = path.read_text(encoding="utf-8")
    content: Any = OmegaConf.to_container(OmegaConf.create(text)) or {}
    values: dict[str, Any] = {}
    for part in content.pop("defaults", []):
        if isinstance(part, dict):
            values |= {key.removeprefix("override ").lstrip("/"): value for key, value in part.items()}
    if "@package _global_" not in text:
        content = {group: content}
    return values | {key: value for key, value in _flat(content).items() if "${" not in str(value)}


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return flat


def _at(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _product(points: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    return [dict(zip(points, texts, strict=True)) for texts in itertools.product(*points.values())]


def _configs(folder: Path, primary: str, points: Iterable[Sequence[str]]) -> list[Config]:
    """The runs that overrides, a list for each, make of a folder's primary file.

    Hydra takes a tenth of a second to compose. So it composes what is chosen in groups, once for all runs that choose
    the same, and a run's values are set afterwards. Those on a probe have to be: Hydra's schema refuses a new probe.
    """
    by_group, stamp = choices_by_group(), _stamp(folder)
    configs = []
    for overrides in points:
        parsed = [parse(text) for text in overrides]
        chosen = [each for each in parsed if each.key_or_group in by_group or each.is_delete()]
        try:
            composed = _composed(folder, primary, tuple(str(override.input_line) for override in chosen), stamp)
        except errors.REFUSED as error:
            given = {override.get_key_element(): override.value() for override in parse_all(overrides)}
            with _hydra(folder):
                raise ComposeError(_wrong(primary, given) or errors.first_line(error)) from None
        configs.append(_filled(composed, [each for each in parsed if each not in chosen], by_group))
    return configs


def _filled(composed: dict[str, Any], overrides: Iterable[Override], by_group: Mapping[str, Sequence[str]]) -> Config:
    """The configuration as composed, with the values of the overrides."""
    values = copy.deepcopy(composed)
    for override in overrides:
        if (key := override.key_or_group).startswith("probes."):
            _add_probe(values["probes"], key.split(".")[1])
        if complaint := errors.put(values, key, _converted(key, override.value()), by_group):
            raise ComposeError(complaint)
    try:
        config = from_dict(_resolved(values))
        _check_search(values, config.sweep.search.axis)
    except OmegaConfBaseException as error:
        raise ComposeError(errors.first_line(error)) from None
    except ValueError as error:
        raise ComposeError(str(error)) from None
    return config


def _check_search(values: dict[str, Any], axis: str | None) -> None:
    """Raise ComposeError where a value follows the axis of the search, as `${optim.lr}` does.

    The runs that a search adds are copies of composed ones with another value of the axis alone.
    """
    if axis is None or "${" not in str(values):
        return
    one, two = OmegaConf.create(values), OmegaConf.create(values)
    OmegaConf.update(one, axis, 1.0)
    OmegaConf.update(two, axis, 2.0)
    before, after = ({key: _at(whole, key) for key in _flat(values)} for whole in map(_container, (one, two)))
    for key in before:
        if before[key] != after[key] and key != axis and not is_below(key, "sweep"):
            raise ComposeError(
                f"{key}={_at(values, key)}: it follows {axis}, for which the sweep searches, and the runs that it adds "
                f"would keep a value of the grid: give {key} a number, or sweep.search.axis=null"
            )


def _container(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True)


def _converted(key: str, value: Any) -> Any:
    """The value in the type of its key, as Hydra converts it: text to a number, yes to true, a number to text.

    As it is where it does not fit, or where the schema leaves the type to a component; checking comes later.
    """
    if isinstance(value, dict):
        return {name: _converted(f"{key}.{name}", part) for name, part in value.items()}
    section, *below = key.split(".")
    if section in COMPONENT_OF or "${" in str(value) or value == "???":
        return value
    schema = _schema(ProbePlan if section == "probes" else Config)
    name = ".".join(below[1:]) if section == "probes" else key  # of probes each has the same keys
    try:
        OmegaConf.update(schema, name, value)
        converted = OmegaConf.select(schema, name)
    except errors.REFUSED:
        return value
    return OmegaConf.to_container(converted) if OmegaConf.is_config(converted) else converted


@functools.cache
def _schema(of: type) -> DictConfig:
    """The types of a part of the configuration, to convert values in one after the other."""
    schema: DictConfig = OmegaConf.structured(of)
    return schema


@functools.lru_cache(maxsize=200)
def _composed(
    folder: Path, primary: str, chosen: tuple[str, ...], stamp: Any, *, with_hydra: bool = False
) -> dict[str, Any]:
    """What Hydra composes of a primary file and choices in groups, `${...}` not yet resolved; not to be changed.

    The stamp is that of the folder.
    """
    with _hydra(folder):
        composed: Any = OmegaConf.to_container(compose(primary, list(chosen), return_hydra_config=with_hydra))
    return composed


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a file of configuration or of a component changes, comes or goes."""
    paths = [path for each in {*conf_folders(), folder} for path in each.rglob("*.yaml")]
    paths += [path for kind in COMPONENT_OF.values() for path in plugins.files(kind)]
    stamps = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # it links to nothing, as an editor's lock does
            stat = path.stat()
            stamps.append((str(path), stat.st_mtime_ns, stat.st_size))
    return tuple(sorted(stamps))


def _resolved(values: dict[str, Any]) -> dict[str, Any]:
    """The values, with those that refer to others, or to the environment, in the types of their keys."""
    if "${" not in str(values):
        return values  # OmegaConf would take ten milliseconds to copy them
    resolved: Any = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    for key, value in _flat(values).items():
        if "${" in str(value):
            errors.put(resolved, key, _converted(key, _at(resolved, key)), {})
    return resolved


def _entry(values: dict[str, Any], key: str) -> Any:
    """What stands at the key, `${...}` resolved there alone. Raises KeyError where there is nothing."""
    entry: Any = functools.reduce(operator.getitem, key.split("."), values)
    if "${" not in str(entry):
        return entry
    return OmegaConf.to_container(OmegaConf.select(OmegaConf.create(values), key), resolve=True)


def _add_probe(plans: MutableMapping[str, Any], name: str) -> None:
    """Add a plan for the probe that never looks, unless the run has one."""
    if name not in (known := plugins.names("probes")):
        raise ComposeError(f"probes.{name}: there is no such probe; {errors.suggestions(name, known)}")
    plans.setdefault(name, dataclasses.asdict(ProbePlan()))


def _hydra(folder: Path) -> Any:
    return initialize_config_dir(config_dir=str(folder), version_base=VERSION)


def _file(sweep: str) -> Path:
    if sweep not in sweeps() or (file := project.sweep_file(sweep)) is None:
        raise ValueError(f"there is no sweep {sweep!r}; {errors.suggestions(sweep, sweeps())}")
    return file


def _fault(sweep: str) -> str | None:
    """A message about what is wrong with a sweep's file, or None."""
    try:
        file = yaml.safe_load(_file(sweep).read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        return f"line {error.problem_mark.line + 1 if error.problem_mark else '?'}: {error.problem}"
    if not isinstance(file, dict) or "config" not in (defaults := file.pop("defaults", None) or []):
        return "it begins with: defaults: [config, _self_]"
    given = {
        key.removeprefix("override "): value
        for part in defaults
        if isinstance(part, dict)
        for key, value in part.items()
    }
    with _hydra(groups.CONF):
        return _wrong("config", given | {key: value for key, value in file.items() if key != "hydra"})


def _wrong(name: str, given: Mapping[str, Any]) -> str | None:
    return errors.in_overrides(given, choices_by_group(), lambda chosen: compose(name, overrides=list(chosen)))
