"""Hydra's launcher for Slurm, configured by a file of conf/launcher: it starts one job a group of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher as Plugin
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from bnstudy.config import compose, errors
from bnstudy.config.compose import ComposeError
from bnstudy.store import paths, status
from bnstudy.store.jobs import Group, Job
from bnstudy.store.runs import Ending, State, Store
from bnstudy.sweep import launch, task
from bnstudy.sweep.launch import Ended

CONF = compose.CONF / compose.LAUNCHERS
PREFIX = "launcher."
AT_A_TIME = "array_parallelism"  # what Slurm's launcher calls the number of jobs at a time


@dataclass(frozen=True)
class Launcher:
    """How a sweep's runs are started: the launcher's name, values of its own, and whether their end is waited for."""

    name: str
    values: tuple[str, ...] = ()  # as in partition=gpu
    wait: bool = True


LOCAL = Launcher("local")  # none of Hydra's: processes of the command itself, see `sharing`


def chosen(name: str, overrides: Sequence[str], *, wait: bool = True) -> tuple[Launcher, list[str]]:
    """The launcher, with those of the overrides that are its own, and the other overrides. Raises ValueError."""
    own = tuple(text.removeprefix(PREFIX) for text in overrides if text.startswith(PREFIX))
    if name == LOCAL.name and (own or not wait):
        what = f"{PREFIX}{own[0]}" if own else "--no-wait"
        raise ValueError(f"{what}: this command makes the runs itself; choose who else is to, as in --launcher slurm")
    return Launcher(name, own, wait), [text for text in overrides if not text.startswith(PREFIX)]


def check(launcher: Launcher, results: Path) -> None:
    """Raises ComposeError for a value that the launcher does not have, and where its jobs are no Slurm cluster's."""
    with _composed(launcher, {}, results) as (_, config):
        if AT_A_TIME not in config.hydra.launcher:
            raise ComposeError(
                f"--launcher {launcher.name}: conf/launcher/{launcher.name}.yaml is no launcher of a Slurm cluster; it "
                "begins with defaults: [slurm, _self_]; on this machine --jobs runs several at a time without one"
            )


def ended(store: Store, job: Job, before: Ending | None) -> Ended | None:
    """How a pending run ended; None where it has not. `before`: its ending when it was waited for first.

    A run that is done as asked has ended, also where it was done before we began to wait.
    """
    now = status.of(job, store, verify=False)
    if now.done:
        return job.run_id, str(now.state), ""
    if now.state == State.failed and store.ending(job.run_id) != before:
        return job.run_id, str(now.state), str(store.manifest(job.run_id)["error"])
    return None


def start(
    launcher: Launcher, groups: Sequence[Group], results: Path, *, title: str = "", at_a_time: int | None = None
) -> list[Any]:
    """Has Hydra's launcher make each group in a job; what it returns of each. Raises ComposeError as `check`."""
    described = paths.cluster(results) / "groups"
    with _composed(launcher, {"name": title, AT_A_TIME: at_a_time}, results) as (context, config):
        threads = config.hydra.launcher.get("cpus_per_task") or launch.cores()
        for group in groups:
            task.write(described / f"{group.id}.json", group, group.jobs[0].config.runtime.threads or threads)
        work = partial(_work, described.resolve(), results.resolve())
        plugin: Plugin = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=work, config=config
        )
        returned = plugin.launch([[f"+group='{group.id}'"] for group in groups], initial_job_idx=0)
    return list(returned)


def _work(described: Path, results: Path, composed: DictConfig) -> dict[str, str]:
    """What a job does, in a process of the launcher's; returns what kept runs from ending well."""
    return task.make(task.read(described / f"{composed.group}.json"), results)


@contextmanager
def _composed(
    launcher: Launcher, ours: Mapping[str, object], results: Path
) -> Iterator[tuple[HydraContext, DictConfig]]:
    """The launcher's configuration, its own values last. Of `ours` those count that it has and that are given."""
    with initialize_config_dir(config_dir=str(CONF), version_base=compose.VERSION):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None

        def composed(overrides: Sequence[str]) -> DictConfig:
            return hydra.compose_config(launcher.name, list(overrides), RunMode.MULTIRUN, from_shell=False)

        folder = paths.cluster(results).resolve()
        given = [f"hydra.sweep.dir={compose.quoted(folder)}"]
        known = composed(given).hydra.launcher
        if "submitit_folder" in known:
            given.append(f"hydra.launcher.submitit_folder={compose.quoted(folder / '%j')}")
        for name, value in ours.items():
            if name in known and value:
                given.append(f"hydra.launcher.{name}={value}")
        for text in launcher.values:
            if text.partition("=")[0].partition(".")[0] not in known:
                raise ComposeError(f"{PREFIX}{text}: there is no such key; {launcher.name} has: {', '.join(known)}")
            given.append(f"++hydra.launcher.{text}")
            try:
                composed(given)
            except errors.REFUSED as error:
                cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
                raise ComposeError(f"{PREFIX}{text}: {errors.first_line(cause)}") from None
        config = composed(given)
        yield HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config)), config
