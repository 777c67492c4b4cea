"""What the study costs: images to train on, from the sweep files, over the speeds that `make bench` measured."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnstudy import bracket, compose, frames, paths, search
from bnstudy.config import Config, model_options, total_steps
from bnstudy.data.sources import KNOWN
from bnstudy.identity import canonical
from bnstudy.store import Store

Speeds = Mapping[str, float]  # row of the bench -> images a second in training
STEPS = {"step": "int64", **dict.fromkeys(("loss", "accuracy", "lr", "gradient_norm"), "float64")}
UNKNOWN = "not measured yet"


@dataclass(frozen=True)
class Work:
    """Runs by what distinguishes them: those of the grid, and those that its search asks for at most."""

    grid: Mapping[str, Config]
    searched: Mapping[str, Config]

    @property
    def runs(self) -> list[Config]:
        return [*self.grid.values(), *self.searched.values()]


@dataclass(frozen=True)
class Time:
    """Seconds of training on the machine whose speeds are taken: all runs one after another, and the longest alone."""

    sec: float
    longest_sec: float

    def on(self, num_machines: float) -> float:
        """On so many such machines, a run at a time each: never less than the longest run."""
        return max(self.longest_sec, self.sec / num_machines)


def of_sweep(name: str) -> Work:
    """What a sweep's preset `full` asks for."""
    configs = compose.expand(name, "full")
    grid = {canonical(config, {}): config for config in configs}
    asked = configs[0].sweep.search
    if asked.axis is None:
        return Work(grid, {})
    values = sorted({search.value_at(config, asked.axis) for config in configs})
    _, most = bracket.still(dict.fromkeys(values), asked.factor)
    cells = {key: config for key, config in grid.items() if search.value_at(config, asked.axis) == values[0]}
    return Work(grid, {f"{key} {n}": config for key, config in cells.items() for n in range(most)})


def union(works: Iterable[Work]) -> Work:
    """All of them, a run that several ask for once."""
    grid: dict[str, Config] = {}
    searched: dict[str, Config] = {}
    for work in works:
        grid |= work.grid
        searched |= work.searched
    return Work(grid, searched)


def num_images(config: Config) -> int:
    """Training images that the run sees, counted as often as it sees them."""
    data, train = config.data, config.train
    if train.steps is not None:
        return train.steps * data.batch_size
    return train.epochs * (data.num_train or KNOWN[data.name].num_train)


def num_steps(config: Config) -> int:
    """Updates that the run makes; the last mini-batch of an epoch is a smaller one."""
    data = config.data
    return total_steps(config, -(-(data.num_train or KNOWN[data.name].num_train) // data.batch_size))


def images_per_sec(config: Config, speeds: Speeds) -> float | None:
    """The speed of the bench's row for this network; other depths of ResNet in proportion to their blocks' layers.

    Networks without a row of their own (small ones) are taken for a LeNet, other norms for BN. None: not measured.
    """
    name = config.model["name"]
    row = "resnet110" if name == "resnet" else "lenet"
    row += "" if config.norm["name"] == "none" else "_bn"
    faster = f"{row}_bf16"
    speed = speeds.get(faster if config.precision == "bf16" and faster in speeds else row)
    if speed is None or name != "resnet":
        return speed
    return speed * (110 - 2) / (model_options(config)["depth"] - 2)


def training(work: Work, speeds: Speeds) -> Time | None:
    """Training alone, as though no run diverged: probes and evaluation come on top. None: a speed was not measured."""
    sec = []
    for config in work.runs:
        if (images := num_images(config)) == 0:
            continue
        if (speed := images_per_sec(config, speeds)) is None:
            return None
        sec.append(images / speed)
    return Time(sum(sec), max(sec, default=0.0))


def measured_sec(results: Path, sweep: str, num_runs: int) -> float | None:
    """Core seconds that so many of a sweep's runs take, probes included, by those published; None where none are."""
    try:
        runs = frames.runs(results, sweep)
    except frames.MissingTable:
        return None
    return float((frames.process_sec(runs) * runs["threads"]).mean() * num_runs)


def bytes_per_step(num_steps: int = 20_000) -> float:
    """Measured: what a step's row takes on the disk, with numbers as little alike as those of a real run."""
    draw = np.random.default_rng(0)
    rows = {name: np.arange(num_steps) if kind == "int64" else draw.random(num_steps) for name, kind in STEPS.items()}
    rows["lr"] = np.full(num_steps, 0.1)
    with tempfile.TemporaryDirectory(prefix="bnstudy-cost-") as folder:
        writer = Store(Path(folder)).writer("run")
        writer.add("steps", STEPS, rows)
        writer.finish({"status": "completed"})
        return (paths.run(Path(folder), "run") / "steps.parquet").stat().st_size / num_steps


def speeds(record: Mapping[str, Any]) -> dict[str, float]:
    """The rows of one machine's bench that say how fast a network trains."""
    rows = record["rows"].items()
    return {name: row["ours_median"] for name, row in rows if row["unit"] == "images/s" and "evaluation" not in name}


def machines(parts: Mapping[str, Work], cpu: Speeds, gpu: Speeds | None) -> str:
    """One line a machine, one column a part of the study: time, and GPU hours where there are GPUs."""
    on_cpu = [training(work, cpu) for work in parts.values()]
    on_gpu = [training(work, gpu) if gpu else None for work in parts.values()]
    hours = " | ".join(UNKNOWN if time is None else f"{time.sec / 3600:,.0f}" for time in on_gpu)
    lines = [f"| | {' | '.join(parts)} |", "|---" * (len(parts) + 1) + "|"]
    for machine, times, number in (
        ("a laptop (two CPU cores)", on_cpu, 1.0),
        ("one GPU", on_gpu, 1.0),
        ("eight GPUs", on_gpu, 8.0),
        ("a cluster, a GPU for every run", on_gpu, float("inf")),
    ):
        lines.append(f"| {machine} | {' | '.join(_on(number, time) for time in times)} |")
    return "\n".join([*lines, f"| GPU hours | {hours} |"] if gpu else lines)


def table(works: Mapping[str, Work], cpu: Speeds, gpu: Speeds | None, bytes_each: float, results: Path) -> str:
    """One line a sweep: its runs, what they train on, what their steps take on the disk, and how long they take."""
    heads = ["sweep", "runs", "images, millions", "steps' rows", "two CPU cores", *(["one GPU"] if gpu else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, work in {**works, "**all**, a run of several once": union(works.values())}.items():
        images = sum(map(num_images, work.runs))
        if images:
            times = [_on(1, training(work, each)) for each in (cpu, gpu) if each]
        else:
            took = measured_sec(results, name, len(work.grid))
            times = [UNKNOWN if took is None else f"{duration(took / 2)}, probes", *([UNKNOWN] if gpu else [])]
        runs = f"{len(work.grid):,}" + (f" + {len(work.searched)}" if work.searched else "")
        size = sum(map(num_steps, work.runs)) * bytes_each / 2**20
        lines.append(f"| {name} | {runs} | {images / 1e6:,.1f} | {size:,.1f} MiB | {' | '.join(times)} |")
    return "\n".join(lines)


def _on(num_machines: float, time: Time | None) -> str:
    return UNKNOWN if time is None else duration(time.on(num_machines))


def duration(sec: float) -> str:
    """As in 3.1 h."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if sec >= size:
            return f"{sec / size:,.1f} {unit}"
    return f"{sec:.0f} s"
