"""Runs of a few updates on images of a few pixels, for the tests of what trains, saves and resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bnstudy.config.schema import Config, from_dict, to_dict
from bnstudy.store import paths, status
from bnstudy.store.jobs import Group, Job, jobs
from bnstudy.store.runs import RunEnded, Store
from bnstudy.store.status import looks
from bnstudy.sweep import pool
from bnstudy.sweep.plan import plan
from bnstudy.training import construct, engine, preflight, runner, signals
from bnstudy.training.engine.base import Engine
from bnstudy.training.observer import Observer, Rows
from bnstudy.training.train import Training

SIDE, CLASSES, TRAIN, TEST = 8, 4, 100, 40


def quadrants(root: Path) -> Path:
    """A data root with the set `quadrants`: the class is which quarter of the image is bright."""
    draw = np.random.default_rng(0)
    folder = root / "quadrants"
    folder.mkdir(parents=True)
    for split, count in (("train", TRAIN), ("test", TEST)):
        labels = np.arange(count, dtype=np.int64) % CLASSES
        images = draw.integers(0, 100, (count, SIDE, SIDE, 1), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            top, left = (label // 2) * SIDE // 2, (label % 2) * SIDE // 2
            image[top : top + SIDE // 2, left : left + SIDE // 2] += 120
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", labels)
    return root


def config(root: Path, **changes: Any) -> Config:
    """An MLP with BN, 4 updates an epoch (the last of 22 images), 9 updates; `changes` by dotted key, dots as `__`."""
    values: dict[str, Any] = to_dict(Config())
    given = {
        "model": {"name": "mlp", "hidden": "16"},
        "data__name": "quadrants",
        "data__batch_size": 26,
        "data__normalise": "unit",
        "data__augment": False,
        "optim__lr": 0.5,
        "optim__milestones": [0.5],
        "train__steps": 9,
        "runtime__data_root": str(root),
        "runtime__device": "cpu",
        "tracking__mode": "off",
    }
    for key, value in (given | changes).items():
        *path, leaf = key.split("__")
        inner = values
        for name in path:
            inner = inner[name]
        inner[leaf] = value
    return from_dict(values)


def training(configs: Sequence[Config]) -> tuple[Training, Engine]:
    """The loop of these runs, in lockstep, and its engine."""
    on = torch.device("cpu")
    loader = construct.make_loader(jobs(configs)[0], on)
    networks = [construct.build_network(each, loader.shape, loader.num_classes) for each in configs]
    made = engine.build_engine(configs, networks, on)
    initial = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    return Training(configs, made, loader, Observer(looks(configs[0]), configs[0], loader, initial)), made


def collect(loop: Training, mark_due: Callable[[], bool] = lambda: False) -> dict[tuple[int, str], dict[str, list]]:
    """Everything that the loop yields, by run and table; the rows that tell time are left out."""
    found: dict[tuple[int, str], dict[str, list]] = {}
    for event in loop.rows(mark_due):
        if isinstance(event, Rows) and event.table != "throughput":
            table = found.setdefault((event.run, event.table), {name: [] for name in event.columns})
            for name in event.columns:
                table[name] += list(event.values[name])
    return found


def make(
    configs: Sequence[Config],
    results: Path,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
    stop: signals.Stop | None = None,
) -> list[RunEnded]:
    """Makes what is pending of these runs, as a worker would."""
    return [
        ended
        for group in pending(configs, results)
        for ended in runner.train_group(group, results, threads=1, report=report, stop=stop or signals.Stop())
    ]


def pending(configs: Sequence[Config], results: Path) -> list[Group]:
    store, wanted = Store(results), jobs(configs)
    return plan(wanted, {job.run_id for job in wanted if not status.of(job, store).done}, results, workers=1)


def names(configs: Sequence[Config]) -> list[str]:
    return [job.run_id for job in jobs(configs)]


def job(config: Config) -> Job:
    return jobs([config])[0]


def written(results: Path, run_ids: Sequence[str]) -> dict[tuple[str, str], bytes]:
    """The bytes of every table of these runs, but for the one that tells time."""
    files = [file for name in run_ids for file in paths.run(results, name).glob("*.parquet")]
    return {(file.parent.name, file.stem): file.read_bytes() for file in files if file.stem != "throughput"}


def launch_here(groups: Sequence[Group], results: Path, **options: Any) -> list[RunEnded]:
    """`pool.launch` in this process, one group after another: it costs no import of torch."""
    preflight.check(job for group in groups for job in group.jobs)
    ended = []
    for index, group in enumerate(groups):
        told = pool._train(group, options.get("endings"), results, 1, lambda done, total: None, signals.Stop())
        ended += told
        options["report"](index, 0, 0, told)
    return ended


@contextmanager
def torch_as_it_was() -> Iterator[None]:
    """A run sets the process up; other tests should not find it so."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with torch.random.fork_rng():
        yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
