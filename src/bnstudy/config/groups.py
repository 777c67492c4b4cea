"""The groups of the configuration and the choices of each: the files of its folder, for components their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bnstudy.config import plugins, project

CONF = project.ROOT / "conf"
LAUNCHERS = "launcher"  # the folder for how runs are started, which is no part of what a run is
COMPONENTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("model", "models", {}),
    ("norm", "norms", {"where": "*"}),
)  # group, kind of component, further options
COMPONENT_OF = {group: kind for group, kind, _ in COMPONENTS}


def conf_folders() -> tuple[Path, ...]:
    """The project's conf/ and those of own components."""
    return CONF, *project.own("conf")


def choices_by_group() -> dict[str, list[str]]:
    """The choices that each group of the configuration has."""
    choices: dict[str, set[str]] = {}
    for conf in conf_folders():
        for folder in (each for each in conf.iterdir() if each.is_dir() and each.name != LAUNCHERS):
            choices.setdefault(folder.name, set()).update(path.stem for path in folder.glob("*.yaml"))
    for group, kind, _ in COMPONENTS:
        choices.setdefault(group, set()).update(plugins.names(kind))
    return {group: sorted(choices[group]) for group in sorted(choices)}
