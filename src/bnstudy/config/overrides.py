"""The grammar of overrides: how Hydra reads one, the keys that it sets, and the earlier ones that it replaces."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from bnstudy.config import errors
from bnstudy.config.errors import ComposeError
from bnstudy.config.groups import COMPONENT_OF, choices_by_group
from bnstudy.config.schema import Config

MAX_VALUES = 10_000  # of an axis


def keys(overrides: Sequence[str]) -> set[str]:
    """The keys that the overrides set, those of their mappings one by one."""
    return {override.key_or_group for override in parse_all(overrides)}


def parse_all(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them, a mapping's keys one by one: `optim={lr: 0.1}` is `optim.lr=0.1`.

    A `+` before a key changes nothing: what may be added may be set.
    """
    return [part for text in overrides for part in _parts(parse(text.lstrip("+")))]


def _parts(override: Override) -> list[Override]:
    key = override.key_or_group
    if override.is_sweep_override() or not isinstance(value := override.value(), dict) or not value:
        return [override]
    if key.endswith(".options"):
        return [override]
    return [part for name, value in value.items() for part in _parts(parse(f"{key}.{name}={_written(value)}"))]


def _written(value: Any) -> str:
    """A value as an override has it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    return "null" if value is None else str(value)


@functools.lru_cache(maxsize=1000)  # a grid's runs have their values from a few texts
def parse(text: str) -> Override:
    """The override as Hydra reads it. Raises ComposeError for one that it cannot read, or that changes nothing here."""
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except HydraException:
        if "=" not in text:
            raise ComposeError(f"{text!r}: give KEY=VALUE, as in optim.lr=0.1, without spaces around the =") from None
        raise ComposeError(
            f"{text!r}: the value cannot be read; a list is written [0.5,0.75], "
            f"""and text with brackets, quotes or spaces is quoted twice: "{text.partition("=")[0]}='...'\""""
        ) from None
    if not override.key_or_group or override.package is not None:
        raise ComposeError(f"{text!r}: give KEY=VALUE, as in optim.lr=0.1")
    key, _, below = override.key_or_group.partition(".")
    needed = key in {field.name for field in dataclasses.fields(Config)}
    if override.is_delete() and needed and not (key == "probes" and below):
        raise ComposeError(
            f"{text}: only a probe can be dropped, as in ~probes.gradient_tails; give the key a value instead"
        )
    if not override.is_delete() and key in (groups := choices_by_group()) and not below and override.value() is None:
        none = errors.suggestions("", groups[key]) if needed else f"~{key} chooses none"
        raise ComposeError(f"{text}: null is no choice; {none}")
    if override.key_or_group.replace("/", ".").split(".")[0] == "hydra":
        raise ComposeError(
            f"{text}: Hydra only composes here and launches nothing; --jobs says how many runs train at a time"
        )
    return override


def points_of(override: Override) -> list[str]:
    """The overrides that this one stands for: itself, or one for each value of an axis."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key = override.get_key_element()
    try:
        texts = [f"{key}={value}" for value in itertools.islice(override.sweep_string_iterator(), MAX_VALUES + 1)]
    except (HydraException, ValueError):
        raise ComposeError(f"{override.input_line}: list the values, separated by commas") from None
    if not 0 < len(texts) <= MAX_VALUES:
        count = "no value" if not texts else f"more than {MAX_VALUES} values"
        raise ComposeError(f"{override.input_line}: that is {count}; give some, as in {key}=1,2 or {key}=range(3)")
    return texts


def place(points: MutableMapping[str, list[str]], override: Override) -> None:
    """Add an override to the points, and remove the earlier ones that it replaces.

    It replaces those of its own key, of every key that its mappings set (`optim={lr: 0.1},{lr: 1}` replaces
    `optim.lr`), and those of a probe that it drops, or of all probes where it chooses others. Raises ComposeError where
    it would replace one in part: the name of a group's choice, or a key that only some of its values set.
    """
    key, texts = override.get_key_element().lstrip("~"), points_of(override)
    values = [parse(text).value() for text in texts]
    whole = override.is_delete() or key == "probes"
    for group in (*COMPONENT_OF, *(key for key in points if len(points[key]) > 1)):
        if any(f"{group}.name" in leaves(key, value) for value in values):
            raise ComposeError(f"{override.input_line}: choose {group}=NAME, with which its options come")
    for earlier in list(points):
        covered = {earlier in leaves(key, value) or (whole and is_below(earlier, key)) for value in values}
        if len(covered) > 1:
            raise ComposeError(f"{override.input_line}: some of its values set {earlier}, some do not; set it in each")
        if earlier != key and covered == {True}:
            del points[earlier]
    if any(is_below(other, key) or is_below(key, other) for other in points):
        points.pop(key, None)  # what sets a part of the other comes after it; else the axes keep their order
    points[key] = texts


def leaves(key: str, value: Any) -> list[str]:
    """The keys that a value sets: its own, or, as a mapping, those of its parts."""
    if isinstance(value, dict) and not key.endswith(".options"):
        return [leaf for name, part in value.items() for leaf in leaves(f"{key}.{name}", part)]
    return [key]


def is_below(key: str, above: str) -> bool:
    return key.startswith(f"{above}.")


def quoted(path: Path) -> str:
    """Quote a path for Hydra's grammar, whatever characters it has; OmegaConf then reads `${` in it as text."""
    text = str(path) if str(path) != "???" else "./???"  # which OmegaConf takes for no value
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return QuotedString(text, Quote.single).with_quotes()


def override(key: str, text: str) -> str:
    """An override that gives the key this very text, also where it reads as a number or has odd characters."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", text) and isinstance(yaml.safe_load(text), str)
    plain = plain and text.lower() not in ("nan", "inf", "null")
    return f"{key}={text if plain else quoted(Path(text))}"
