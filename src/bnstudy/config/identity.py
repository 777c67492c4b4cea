"""A run's name: canonical text of what it trains, and a short hash of it, as in `resnet110-none-lr0.003-s0-1f3a9c2b`.

A name leaves out every value that equals its reference in `reference.json`. The reference is the default that the value
had when the key was introduced, and it never changes. So a key added later renames no earlier run, and where a default
changes, the new value enters the names: no run is ever served for one with another meaning. Probes leave no trace on
training and are no part of a name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from bnstudy.config import plugins
from bnstudy.config.schema import NOT_TRAINING, Config, ProbePlan, from_dict, model_options, resolved, to_dict

REFERENCE = Path(__file__).with_name("reference.json")
COMPONENTS = (("model", "models"), ("norm", "norms"))  # key of the configuration, kind of component
ABSENT = "absent"  # in the place of a value where there is no such key
Values = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """A key that has another value now than it had then; ABSENT where it is unknown."""

    key: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.then} then, {self.now} now"


def canonical(config: Config, data: dict[str, str]) -> str:
    """JSON of everything that distinguishes one run from another: each value that is not its reference.

    `data` is the source's identity (name, source, sha256): a run on other bytes has another name.
    """
    values = _unlike_reference(resolved(config))
    if config.train.steps is not None:
        values["train"].pop("epochs", None)  # a budget in steps takes its place
    values["data"] = values.get("data", {}) | data
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def run_id(config: Config, data: dict[str, str]) -> str:
    """`<network>-<norm>-lr<lr>-s<seed>-<hash>`: readable at a glance, distinct by the eight hex digits."""
    short = hashlib.sha256(canonical(config, data).encode()).hexdigest()[:8]
    return f"{network(config)}-{config.norm['name']}-lr{config.optim.lr:g}-s{config.seed}-{short}"


def digest(values: Values) -> str:
    """Eight hex digits that tell nested values from others."""
    return hashlib.sha256(json.dumps(flat(values), sort_keys=True).encode()).hexdigest()[:8]


def network(config: Config) -> str:
    """The network's name with its depth where it has one: resnet110, lenet."""
    return f"{config.model['name']}{model_options(config).get('depth', '')}"


def differences(then: Values, config: Config) -> list[Difference]:
    """The differences between the resolved configuration of a run that was trained `then` and that of `config`.

    A key that one of them does not know (it was introduced, or removed, in between) has its reference there.
    """
    then = {key: value for key, value in then.items() if key not in NOT_TRAINING}
    then, now, reference = flat(then), flat(resolved(config)), flat(_reference_of(config))
    ignored = {"train.epochs"} if config.train.steps is not None else set()  # a budget in steps takes its place
    differing = []
    for key in sorted((then.keys() | now.keys()) - ignored):
        was, is_ = (values.get(key, reference.get(key, ABSENT)) for values in (then, now))
        if was != is_:
            differing.append(Difference(key, was, is_))
    return differing


def changed_defaults(config: Config) -> list[Difference]:
    """The keys at which the configuration has a default that no longer equals its reference."""
    now, reference = flat(resolved(config)), flat(_reference_of(config))
    defaults = flat(resolved(Config(model={"name": config.model["name"]}, norm={"name": config.norm["name"]})))
    return [
        Difference(key, reference[key], value)
        for key, value in sorted(now.items())
        if key in reference and value == defaults.get(key) and value != reference[key]
    ]


def with_former_defaults(config: Config, changed: Iterable[Difference]) -> Config:
    """The configuration that the same overrides described before these defaults changed."""
    values = to_dict(config)
    for difference in changed:
        *path, leaf = difference.key.split(".")
        inner = values
        for name in path:
            inner = inner[name]
        inner[leaf] = difference.then
    return replace(from_dict(values), probes=config.probes)


@cache
def reference() -> Values:
    """The values that names leave out: {"run": ..., "plan": ..., "models": {name: ...}, "norms": ..., ...}.

    `run` is nested as the configuration is, `plan` is one probe's, a component's entry holds its options. `changed`
    lists, by dotted key, the defaults that have changed since: they enter names.
    """
    values: Values = json.loads(REFERENCE.read_text(encoding="utf-8"))
    return values


def _reference_of(config: Config) -> Values:
    """The reference of each key of this configuration, nested; a component without an entry has none."""
    values: Values = dict(reference()["run"])
    for key, kind in COMPONENTS:
        values[key] = _component_reference(kind, getattr(config, key)["name"])
    return values


def _component_reference(kind: str, name: str) -> Values:
    """The reference of a component's options; none, so that every option enters the name, for one of the user's own."""
    known: Values = reference()[kind].get(name, {})
    return known | ({"where": "*"} if kind == "norms" else {})


def _unlike_reference(values: Values) -> Values:
    left = dict(values)
    components = {key: left.pop(key) for key, _ in COMPONENTS}
    unlike = _unlike(left, reference()["run"])
    for key, kind in COMPONENTS:
        name = components[key]["name"]
        unlike[key] = {"name": name} | _unlike(
            {k: v for k, v in components[key].items() if k != "name"}, _component_reference(kind, name)
        )
    return unlike


def _unlike(values: Values, against: Values) -> Values:
    unlike = {}
    for key, value in values.items():
        if isinstance(value, dict):
            if nested := _unlike(value, against.get(key, {})):
                unlike[key] = nested
        elif key not in against or _plain(value) != _plain(against[key]):
            unlike[key] = _plain(value)
    return unlike


def flat(values: Values, above: str = "") -> Values:
    """Nested dictionaries by dotted key, each value in one spelling (1 and 1.0)."""
    result: Values = {}
    for key, value in values.items():
        result |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": _plain(value)}
    return result


def _plain(value: Any) -> Any:
    """Numbers that compare equal get one spelling (1 and 1.0), tuples become lists."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def current_defaults() -> Values:
    """The defaults as the schema and the components' files have them now, laid out as `reference`."""
    run = resolved(Config())
    for key, _ in COMPONENTS:
        run.pop(key)
    return {"run": run, "plan": dataclasses.asdict(ProbePlan())} | {
        kind: {name: plugins.defaults(kind, name) for name in plugins.names(kind)}
        for kind in ("models", "norms", "probes")
    }
