"""Messages for errors in overrides and files, in the user's terms and with suggestions.

They are composed only after Hydra has refused, whose own messages are about its types and paths.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bnstudy.config.schema import RENAMED, from_dict

REFUSED = (HydraException, OmegaConfBaseException, ValueError, OverflowError)  # what composing raises for bad input

Groups = Mapping[str, Sequence[str]]  # what each group of the configuration can be set to


class ComposeError(ValueError):
    """An override or a file does not fit; the message names it, the value and the remedy."""


def in_overrides(
    given: Mapping[str, Any], groups: Groups, composed: Callable[[Sequence[str]], DictConfig]
) -> str | None:
    """The message for the first of these values by key that does not fit, or None.

    `groups` has the choices of each group; `composed` composes the configuration that some overrides describe.
    """
    given = {key: value for key, value in given.items() if value is not None or key not in groups}  # null: of none
    chosen = {key: value for key, value in given.items() if key in groups and not isinstance(value, dict)}
    for key, value in chosen.items():
        if value not in groups[key]:
            own = f"; images of your own: data.name={value}" if key == "data" else ""
            own = "; own ones: --components FOLDER" if key in ("model", "norm") else own
            return f"{key} = {value!r}: there is no such choice; {suggestions(value, groups[key])}{own}"
    try:
        chosen_alone = composed([f"{key}={value}" for key, value in chosen.items()])
    except REFUSED:
        return None
    rest = {key: value for key, value in given.items() if key not in chosen and "${" not in str(value)}
    return in_values(chosen_alone, rest, groups)


def in_values(composed: DictConfig, given: Mapping[str, Any], groups: Groups) -> str | None:
    """The message for the first value that a composed configuration cannot take, or drop (`~key`), or None."""
    try:
        values: Any = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException:
        return None
    for key, value in given.items():
        if (complaint := put(values, key, value, groups)) is not None:
            return complaint
    try:
        from_dict(values)  # all together: a value may fit only beside another one
    except ValueError as error:
        return str(error)
    return None


def suggestions(given: object, known: Iterable[str]) -> str:
    """The known names, after the one nearest to the given name."""
    known = list(known)
    near = difflib.get_close_matches(str(given), known, 1)
    return f"{f'did you mean {near[0]}? ' if near else ''}there are: {', '.join(known)}"


def first_line(error: Exception) -> str:
    """The first line of one of Hydra's messages with its file and key, without the types and paths that follow."""
    text = str(error).strip() or type(error).__name__
    file = re.match(r"In '([\w/]+)': \w+ raised while composing config:\s*", text)
    key = re.search(r"\n\s*full_key: (\S+)", text)
    line = text[file.end() if file else 0 :].splitlines()[0]
    known = [f"{file[1]}.yaml"] if file else []
    return ": ".join([*known, *([key[1]] if key and key[1] not in line else []), line])


def put(values: dict[str, Any], key: str, value: Any, groups: Groups) -> str | None:
    """Set the value, a mapping part by part, or return a message where there is no such key."""
    *path, leaf = key.lstrip("~").split(".")
    inner, above = values, ""
    for name in [*path, leaf]:
        if isinstance(inner, dict) and (above.endswith(".options") or above == "sweep.rows"):
            inner.setdefault(name, None)  # which options there are, their probe says; which tables, a later check
        if not isinstance(inner, dict) or name not in inner:
            return _no_such_key(key, values, inner, above, groups)
        holder, inner, above = inner, inner[name], f"{above}.{name}".lstrip(".")
    if key.startswith("~"):
        return f"{key}: only a probe can be dropped, as in ~probes.gradient_tails; give the key a value instead"
    if isinstance(value, dict) and isinstance(inner, dict) and inner and key != "probes":
        complaints = (put(values, f"{key}.{name}", part, groups) for name, part in value.items())
        return next(filter(None, complaints), None)
    holder[leaf] = value
    return None


def _no_such_key(key: str, values: Mapping[str, Any], inner: Any, above: str, groups: Groups) -> str:
    if key in RENAMED:
        return f"{key}: the key is {RENAMED[key]} now"
    every = [*_keys(values), *(group for group in groups if group not in values)]
    last = key.rpartition(".")[2]
    near = difflib.get_close_matches(key, every, 1, 0.75) or [known for known in every if known.endswith(f".{last}")]
    hint = f"did you mean {near[0]}? " if near else ""
    if not isinstance(inner, Mapping):
        return f"{key}: there is no such key; {hint}{above} is a single value"
    if not above:
        return f"{key}: there is no such key; {hint}there are: {', '.join(name for name in every if '.' not in name)}"
    named = f" ({inner['name']})" if isinstance(inner.get("name"), str) else ""
    return f"{key}: there is no such key; {hint}{above}{named} has: {', '.join(inner)}"


def _keys(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{above}{name}.")
