"""A run's name: canonical text of what it is, and a short hash of it, as in `resnet110-none-lr0.003-s0-1f3a9c2b`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass
from typing import Any

from bnstudy import plugins
from bnstudy.config import NOT_IDENTITY, Config, ProbePlan, model_options


def canonical(config: Config, data: dict[str, str]) -> str:
    """JSON of everything that distinguishes one run from another: each value that is not the schema's default.

    Leaving defaults out means that a knob added later, at its default, renames no earlier run. `data` is the source's
    identity (name, source, sha256), so that a run on other bytes, made images above all, has another name.
    """
    values = _non_default(config, Config())
    for key in NOT_IDENTITY:
        values.pop(key, None)
    values["model"] = _component(config.model, "models")
    values["norm"] = _component(config.norm, "norms")
    if config.train.steps is not None:
        values["train"].pop("epochs", None)  # a budget in steps takes its place
    if config.probes:
        values["probes"] = {name: _plan(name, plan) for name, plan in config.probes.items()}
    values["data"] = values.get("data", {}) | data
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def run_id(config: Config, data: dict[str, str]) -> str:
    """`<network>-<norm>-lr<lr>-s<seed>-<hash>`: readable at a glance, distinct by the eight hex digits."""
    digest = hashlib.sha256(canonical(config, data).encode()).hexdigest()[:8]
    return f"{network(config)}-{config.norm['name']}-lr{config.optim.lr:g}-s{config.seed}-{digest}"


def network(config: Config) -> str:
    """The network's name with its depth where it has one: resnet110, lenet."""
    return f"{config.model['name']}{model_options(config).get('depth', '')}"


def _component(values: dict[str, Any], kind: str) -> dict[str, Any]:
    defaults = plugins.defaults(kind, values["name"]) | ({"where": "*"} if kind == "norms" else {})
    return {k: _plain(v) for k, v in values.items() if k == "name" or _plain(v) != _plain(defaults[k])}


def _plan(name: str, plan: ProbePlan) -> dict[str, Any]:
    values = _non_default(plan, ProbePlan())
    defaults = plugins.defaults("probes", name)
    options = {k: _plain(v) for k, v in plan.options.items() if _plain(v) != _plain(defaults[k])}
    return {k: v for k, v in (values | {"options": options}).items() if v != {}}


def _non_default(value: Any, default: Any) -> dict[str, Any]:
    out = {}
    for f in fields(value):
        mine, theirs = getattr(value, f.name), getattr(default, f.name)
        if is_dataclass(mine):
            nested = _non_default(mine, theirs)
            if nested:
                out[f.name] = nested
        elif mine != theirs:
            out[f.name] = _plain(mine)
    return out


def _plain(value: Any) -> Any:
    """Numbers that compare equal get one spelling (1 and 1.0), tuples become lists."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
