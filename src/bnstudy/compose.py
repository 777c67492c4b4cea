"""Hydra: from YAML files and overrides to checked configurations. Past this module there is no DictConfig."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bnstudy import plugins
from bnstudy.config import Config, from_dict

ROOT = Path(__file__).resolve().parents[2]
CONF, SWEEPS = ROOT / "conf", ROOT / "sweeps"
VERSION = "1.3"


class ComposeError(ValueError):
    """Hydra would not compose; the message is Hydra's own, which names the key and the value."""


def register() -> None:
    """Makes the schema and every component known to Hydra: `norm=NAME`, `model=NAME` need no YAML file."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group, kind, extra in (("model", "models", {}), ("norm", "norms", {"where": "*"})):
        for name in plugins.names(kind):
            store.store(group=group, name=name, node={"name": name, **extra, **plugins.defaults(kind, name)})


def to_config(composed: DictConfig) -> Config:
    """A checked Config from what Hydra composed. Raises ValueError naming key, value and remedy."""
    values: Any = OmegaConf.to_container(composed, resolve=True)
    return from_dict(values)


def one(overrides: Sequence[str]) -> Config:
    """The single run that the overrides describe."""
    register()
    with _hydra(CONF):
        return _with_values(_compose("config", overrides), ())


def sweeps() -> list[str]:
    """The names of all sweeps."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def describe(sweep: str) -> str:
    """The comment that opens a sweep's file: why it exists and what it costs."""
    lines = itertools.takewhile(
        lambda line: line.startswith("#"), _file(sweep).read_text(encoding="utf-8").splitlines()
    )
    return "\n".join(line.lstrip("# ").rstrip() for line in lines)


def expand(sweep: str, preset: str = "full", overrides: Sequence[str] = ()) -> list[Config]:
    """Every run of a sweep: the product of its axes, as the preset and then the overrides change them.

    An override of an axis replaces the axis; any other applies to every run. Raises ValueError for an unknown sweep or
    preset, ComposeError where Hydra refuses.
    """
    _file(sweep)
    register()
    with _hydra(SWEEPS):
        search = [f"hydra.searchpath=[file://{CONF}]"]
        try:
            whole = compose(sweep, overrides=search, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise ComposeError(f"sweeps/{sweep}.yaml: {_text(error)}") from None
        presets = whole.sweep.presets
        if preset not in presets:
            raise ValueError(f"sweep {sweep} has no preset {preset!r}; it has: {', '.join(presets)}")
        axes: dict[str, list[str]] = {}
        params = [f"{key}={value}" for key, value in (whole.hydra.sweeper.params or {}).items()]
        for key, values in _parse([*params, *presets[preset], *overrides]):
            axes[key] = values
        # Hydra takes a tenth of a second to compose; values that vary are set on a copy, just as Hydra would set them.
        values = [key for key, texts in axes.items() if len(texts) > 1 and _is_value(whole, key)]
        composed = functools.cache(lambda chosen: _compose(sweep, [*search, *chosen]))
        points = [dict(zip(axes, texts, strict=True)) for texts in itertools.product(*axes.values())]
        return [
            _with_values(
                composed(tuple(text for key, text in point.items() if key not in values)), [point[k] for k in values]
            )
            for point in points
        ]


def _parse(overrides: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each override's key and the overrides it stands for: one, or, where it sweeps, one a value."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ComposeError(_text(error)) from None
    found = []
    for override in parsed:
        key = override.get_key_element()
        values = (
            [f"{key}={v}" for v in override.sweep_string_iterator()]
            if override.is_sweep_override()
            else [str(override.input_line)]
        )
        found.append((key.lstrip("+~"), values))
    return found


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    try:
        return compose(name, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ComposeError(_text(error)) from None


def _is_value(composed: DictConfig, key: str) -> bool:
    """Whether the key holds a value, and names neither a group nor a part of the configuration."""
    found = OmegaConf.select(composed, key)
    return found is not None and not OmegaConf.is_config(found)


def _with_values(composed: DictConfig, overrides: Sequence[str]) -> Config:
    changed = copy.deepcopy(composed)
    try:
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            OmegaConf.update(changed, override.key_or_group, override.value())
        return to_config(changed)
    except OmegaConfBaseException as error:
        raise ComposeError(f"{', '.join(overrides)}: {_text(error)}") from None


def _hydra(folder: Path) -> Any:
    return initialize_config_dir(config_dir=str(folder), version_base=VERSION)


def _file(sweep: str) -> Path:
    path = SWEEPS / f"{sweep}.yaml"
    if sweep not in sweeps():
        raise ValueError(f"there is no sweep {sweep!r}; there are: {', '.join(sweeps())}")
    return path


def _text(error: Exception) -> str:
    """Hydra's message with that of its cause, which holds the key."""
    causes = [str(error)] + ([str(error.__cause__)] if error.__cause__ else [])
    return " ".join(dict.fromkeys(" ".join(causes).split("\n"))).strip()
