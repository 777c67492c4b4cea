"""Where a sweep's runs train: in processes of the command itself, or as jobs that a file of conf/launcher describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bnstudy.config import errors, groups
from bnstudy.config.errors import ComposeError

if TYPE_CHECKING:
    from submitit import AutoExecutor

CONF = groups.CONF / groups.LAUNCHERS
BASE = "slurm"  # the file whose values count where another one says nothing
PREFIX = "launcher."
# What submitit names alike for every cluster; its other names begin with the cluster's.
SHARED = frozenset(
    {"name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "stderr_to_stdout"}
)
RESTARTS = "max_num_timeout"
SEVERAL = ("setup", "args", "parameters")  # the ends of names whose values are lists, or names with values


@dataclass(frozen=True)
class Launcher:
    """How a sweep's runs are started: the launcher's name, values of its own, and whether their end is waited for."""

    name: str
    values: tuple[str, ...] = ()  # as in partition=gpu
    wait: bool = True

    def executor(self, folder: Path, cluster: str = BASE, **ours: Any) -> AutoExecutor:
        """Submitit's executor with the values of the launcher's file, then `ours`, then the command line's.

        Raises ComposeError for a value that submitit does not know.
        """
        import submitit  # takes a third of a second that no other command needs

        values = _file(BASE) | _file(self.name) | ours
        given = [_parts(text) for text in self.values]
        values |= {key: _typed(key, value) for key, value in given}
        executor = submitit.AutoExecutor(folder, cluster, slurm_max_num_timeout=values.pop(RESTARTS))
        for key, value in values.items():
            try:
                executor.update_parameters(**{key if key in SHARED else f"{BASE}_{key}": value})
            except (NameError, AssertionError) as error:
                known = sorted({*_file(BASE), *str(error).partition("Valid arguments: ")[2].split("\n")[0].split(", ")})
                unknown = f"there is no such key; {errors.suggestions(key, filter(None, known))}"
                why = unknown if isinstance(error, NameError) else str(error)
                raise ComposeError(f"{PREFIX}{key}={value}: {why}") from None
        return executor


LOCAL = Launcher("local")


def choose(name: str, overrides: Sequence[str], *, wait: bool = True) -> tuple[Launcher, list[str]]:
    """Part the launcher's own overrides from the others. Raises ValueError for values that it refuses."""
    own = tuple(text.removeprefix(PREFIX) for text in overrides if text.startswith(PREFIX))
    if name == LOCAL.name and (own or not wait):
        what = f"{PREFIX}{own[0]}" if own else "--no-wait"
        raise ValueError(f"{what}: without a launcher runs train in this command; choose one, as in --launcher slurm")
    launcher = Launcher(name, own, wait)
    if launcher != LOCAL:
        launcher.executor(Path("unused"), cluster="debug")  # refuses values before anything starts
    return launcher, [text for text in overrides if not text.startswith(PREFIX)]


def _file(name: str) -> dict[str, Any]:
    path = CONF / f"{name}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or "hydra" in values or "defaults" in values:
        remedy = "give submitit's parameters at its top level, as conf/launcher/slurm.yaml does, without hydra.launcher"
        raise ComposeError(f"{path}: {remedy}; of what it does not say, slurm.yaml's values count")
    return values


def _typed(key: str, text: str) -> Any:
    """A number where, written out again, that is the same text, and true, false or null; else the text.

    YAML would read 4:00:00 as 14,400 and an account's 012345 as an octal number. Raises ComposeError for a time limit
    that is not in minutes.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:  # as of a constraint [a100|h100]&nvme
        value = text
    number = type(value) in (int, float) and str(value) == text
    several = isinstance(value, list | dict) and key.rpartition("_")[2] in SEVERAL
    if not number and not several and text not in ("true", "false", "null"):
        value = text
    if key == "timeout_min" and type(value) is not int:
        raise ComposeError(f"{PREFIX}{key}={text}: give minutes, as in {PREFIX}{key}=240")
    return value


def _parts(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ComposeError(f"{PREFIX}{text}: give a value, as in {PREFIX}{key}=...")
    return key, value
