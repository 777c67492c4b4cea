"""The rows of the bench: for each what this project does, and what a tutorial's and a careful user's loop do for it.

A side is a function of the setting; it is called in a process of its own, prepares, warms up, and returns the
measurement. What is ours is called as the commands call it; the baselines see the same images.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import careful, tutorial
from benchmarks.measure import OURS, Prepared, seconds
from benchmarks.tutorial import Images, Loop, Recipe
from bnstudy.config import component_files, compose
from bnstudy.config.schema import Config
from bnstudy.data import sources
from bnstudy.data.loader import Loader
from bnstudy.store import paths
from bnstudy.store.jobs import jobs
from bnstudy.store.runs import Store
from bnstudy.store.status import looks
from bnstudy.sweep import pool
from bnstudy.sweep.plan import plan
from bnstudy.training import construct, engine
from bnstudy.training.engine import host
from bnstudy.training.engine.base import Engine
from bnstudy.training.observer import Observer, Rows
from bnstudy.training.position import Mark
from bnstudy.training.train import EVALUATION_BATCH, Training

FOREVER = 10**6  # epochs: the measurement ends before the run does
Overrides = tuple[str, ...]
LENET = ("model=lenet", "data=fashion_mnist", "recipe=lenet")
RESNET = ("model=resnet110", "data=cifar10", "recipe=resnet")
RESNET20 = ("model=resnet20", *RESNET[1:])
WITH_BN = ("norm=batch",)
# Without BN nothing is learned at BN's rates, it only overflows; the work of an update does not depend on the rate.
WITHOUT_BN = ("norm=none", "optim.lr=1e-9", "train.divergence_loss=1e30")


@dataclass(frozen=True)
class Setting:
    """Where a side measures and how much: full size by default, tests use less."""

    data_root: Path
    scratch: Path  # for this row alone, removed afterwards
    threads: int
    synthetic: bool = True
    depth: int = 110
    batch_size: int = 128  # of the ResNet
    updates: int = 6  # of the ResNet in one measurement, which is to take a second
    trial_batches: int = 40  # of LeNet, to choose the tutorial's number of DataLoader workers
    test_images: int = 512  # that the ResNet is evaluated on
    at_once: int = 8  # learning rates of the ResNet that share a GPU
    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # of the grid
    grid_epochs: int = 2  # of each of its runs
    epochs: int = 10  # of the LeNet run whose probes are weighed


@dataclass(frozen=True)
class Row:
    """One line of the table. `tutorial`, `careful` None: there is no such baseline for it."""

    name: str
    what: str
    unit: str
    ours: Callable[[Setting], Prepared]
    tutorial: Callable[[Setting], Prepared] | None
    more_is_better: bool = True
    note: str = ""
    repeats: int = 3
    on_gpu_only: bool = False  # left out elsewhere, unless named
    careful: Callable[[Setting], Prepared] | None = None

    @property
    def sides(self) -> dict[str, Callable[[Setting], Prepared]]:
        """What is measured, in this order."""
        sides = {OURS: self.ours, "tutorial": self.tutorial, "careful": self.careful}
        return {name: side for name, side in sides.items() if side is not None}


def choose(names: Sequence[str] | None, on_gpu: bool) -> list[Row]:
    """The rows of these names, in the table's order. Raises ValueError for an unknown name."""
    known = {row.name: row for row in ROWS}
    for name in names or ():
        if name not in known:
            raise ValueError(f"--rows: there is no row {name!r}; there are: {', '.join(known)}")
    return [row for row in ROWS if (row.name in names if names is not None else on_gpu or not row.on_gpu_only)]


def locate(data_root: Path) -> dict[str, str]:
    """Locate both data sets; say where each is from. Where one is not available, synthetic images take as long."""
    return {name: sources.locate(name, data_root, allow_synthetic=True).kind for name in sources.NAMES}


def setting(data_root: Path, scratch: Path, threads: int, on_gpu: bool) -> Setting:
    """The full size; a GPU makes more updates in the same time."""
    full = Setting(data_root, scratch, threads)
    return replace(full, updates=100, test_images=10_000) if on_gpu else full


# -- training


def train_epoch(overrides: Overrides, setting: Setting) -> Prepared:
    """Images/s over an epoch of training with the evaluation after it."""
    ours = _make(setting, _config(setting, overrides, f"train.epochs={FOREVER}"))
    epoch = _epochs(ours.training)
    epoch()
    return Prepared(lambda: ours.loader.num_train / seconds(epoch))


def train_epoch_tutorial(overrides: Overrides, setting: Setting) -> Prepared:
    loop, facts = _fastest_loop(setting, _config(setting, overrides))
    num_train = _num_images(loop.train_loader)
    return Prepared(lambda: num_train / seconds(lambda: (loop.epoch(), loop.evaluate())), facts)


def train_updates(overrides: Overrides, setting: Setting) -> Prepared:
    """Images/s over some updates: an epoch here has so many, and no evaluation follows."""
    num_images = _num_updates(overrides, setting) * setting.batch_size
    short = (f"data.num_train={num_images}", f"train.epochs={FOREVER}", f"train.evaluate_every_epochs={FOREVER}")
    epoch = _epochs(_make(setting, _config(setting, overrides, *short)).training)
    epoch()
    return Prepared(lambda: num_images / seconds(epoch))


def _num_updates(overrides: Overrides, setting: Setting) -> int:
    """In one measurement: of a network of 20 layers as many more as it is faster, or a measurement is over too soon."""
    return setting.updates * (5 if RESNET20[0] in overrides else 1)


def train_updates_at_once(overrides: Overrides, setting: Setting) -> Prepared:
    """The same of several runs that share a device, their images added up."""
    num_images = setting.updates * setting.batch_size
    short = (f"data.num_train={num_images}", f"train.epochs={FOREVER}", f"train.evaluate_every_epochs={FOREVER}")
    rates = [f"optim.lr={0.01 * (1 + run)}" for run in range(setting.at_once)]
    epoch = _epochs(_make(setting, *(_config(setting, overrides, *short, rate) for rate in rates)).training)
    epoch()
    return Prepared(lambda: num_images * setting.at_once / seconds(epoch), {"runs": setting.at_once})


def train_updates_tutorial(overrides: Overrides, setting: Setting) -> Prepared:
    loop, facts = _fastest_loop(setting, _config(setting, overrides))
    number = _num_updates(overrides, setting)
    return Prepared(lambda: number * setting.batch_size / seconds(lambda: loop.updates(number)), facts)


def train_epoch_careful(overrides: Overrides, setting: Setting) -> Prepared:
    loop, facts = _careful_loop(setting, _config(setting, overrides))
    return Prepared(lambda: len(loop.train_NCHW) / seconds(lambda: (loop.epoch(), loop.evaluate())), facts)


def train_updates_careful(overrides: Overrides, setting: Setting) -> Prepared:
    loop, facts = _careful_loop(setting, _config(setting, overrides))
    number = _num_updates(overrides, setting)
    return Prepared(lambda: number * setting.batch_size / seconds(lambda: loop.updates(number)), facts)


# -- a learning-rate grid


def grid(setting: Setting) -> Prepared:
    """Runs an hour as a sweep makes them: worker processes that start, runs side by side, tables and manifests."""
    arms = [replace(arm, optim=replace(arm.optim, lr=lr)) for arm in _arms(setting) for lr in setting.rates]
    grid_jobs = jobs(arms)
    number = itertools.count()

    def sweep() -> None:
        results = setting.scratch / f"grid-{next(number)}"
        groups = plan(grid_jobs, {job.run_id for job in grid_jobs}, results, setting.threads)
        workers = min(setting.threads, len(groups))
        threads = max(1, setting.threads // workers)
        ended = pool.launch(groups, results, workers=workers, threads=threads, report=lambda *_: None)
        bad = [end for end in ended if not end.done]
        if bad or len(ended) != len(grid_jobs):
            raise RuntimeError(f"{len(ended)} of {len(grid_jobs)} runs ended, of these badly: {bad}")

    return Prepared(lambda: 3600 * len(grid_jobs) / seconds(sweep), {"num_runs": len(grid_jobs)})


def grid_tutorial(setting: Setting) -> Prepared:
    """Two runs of the grid, one with BN and one without: the others take as long, one after another."""
    arms = _arms(setting)
    _, facts = _fastest_loop(setting, arms[0])
    images = _images(setting, arms[0])

    def run(arm: Config) -> None:
        loop = _loop(setting, arm, images, facts["num_workers"])
        for _ in range(setting.grid_epochs):
            loop.epoch()
            loop.evaluate()

    return Prepared(lambda: 3600 * len(arms) / seconds(lambda: list(map(run, arms))), facts)


def grid_careful(setting: Setting) -> Prepared:
    """The same two runs by the careful loop."""
    arms = _arms(setting)
    _, facts = _careful_loop(setting, arms[0])
    images = _images(setting, arms[0])

    def run(arm: Config) -> None:
        loop = _careful(setting, arm, images, facts["channels_last"])
        for _ in range(setting.grid_epochs):
            loop.epoch()
            loop.evaluate()

    return Prepared(lambda: 3600 * len(arms) / seconds(lambda: list(map(run, arms))), facts)


def _arms(setting: Setting) -> list[Config]:
    """The grid's two arms."""
    epochs = f"train.epochs={setting.grid_epochs}"
    return [_config(setting, LENET, f"norm={norm}", epochs) for norm in ("batch", "none")]


# -- probes and evaluation


def probes(setting: Setting) -> Prepared:
    """Share (%) of a run that its probes take with their tables: they look at start and end of `epochs` epochs."""
    config = _config(setting, LENET, "norm=batch", "train.epochs=1", "probes=default")
    number = itertools.count()

    def share() -> float:
        training = _make(setting, config).training
        writer = Store(setting.scratch / f"probes-{next(number)}").writer("run")

        def run() -> None:
            for event in training.rows(lambda: False):
                if isinstance(event, Rows) and event.table not in component_files.OF_TRAINING:
                    writer.add(event.table, event.columns, event.values)
                    writer.flush()  # here the loop counts the time as the probes'

        whole_sec = seconds(run)
        probe_sec = training.position.probe_sec
        return 100 * probe_sec / (setting.epochs * (whole_sec - probe_sec) + probe_sec)

    share()
    return Prepared(share)


def evaluate(overrides: Overrides, setting: Setting) -> Prepared:
    """Images/s of an evaluation with running statistics."""
    config = _config(setting, overrides)
    ours = _make(setting, config)
    num_test = len(_images(setting, config)[1][1])
    size = min(EVALUATION_BATCH, num_test)

    def run() -> None:
        batches = itertools.islice(ours.loader.test_batches(size), -(-num_test // size))
        ours.engine.evaluate(batches)[0].tolist()  # waits for the device

    run()
    return Prepared(lambda: num_test / seconds(run))


def evaluate_tutorial(overrides: Overrides, setting: Setting) -> Prepared:
    loop, facts = _fastest_loop(setting, _config(setting, overrides), Loop.evaluate)
    num_test = _num_images(loop.test_loader)
    return Prepared(lambda: num_test / seconds(loop.evaluate), facts)


def evaluate_careful(overrides: Overrides, setting: Setting) -> Prepared:
    loop, facts = _careful_loop(setting, _config(setting, overrides))
    loop.evaluate()
    return Prepared(lambda: len(loop.test_NCHW) / seconds(loop.evaluate), facts)


# -- start-up and memory


def show_help(setting: Setting) -> Prepared:
    """Seconds until `bnstudy --help` has ended."""
    command = [sys.executable, "-m", "bnstudy", "--help"]
    return Prepared(lambda: seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)))


def first_step(setting: Setting) -> Prepared:
    """Seconds from the command to the first update, which it saves at once when told to save often."""
    number = itertools.count()

    def run() -> float:
        results = setting.scratch / f"first-step-{next(number)}"
        places = ["--data-root", str(setting.data_root), "--results", str(results)]
        more = ["runtime.checkpoint_every_sec=0", f"runtime.synthetic={setting.synthetic}", "runtime.download=false"]
        command = [sys.executable, "-m", "bnstudy", "run", *LENET, "norm=batch", *more, *places]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while not any(paths.groups(results).glob(f"*/{paths.CHECKPOINT}")):
                if process.poll() is not None:
                    assert process.stderr is not None
                    raise RuntimeError(f"{' '.join(command)}\n{process.stderr.read().decode()}")
                time.sleep(0.005)
            elapsed_sec = time.perf_counter() - began
            process.terminate()
            process.communicate()
        return elapsed_sec

    return Prepared(run)


def first_step_tutorial(setting: Setting) -> Prepared:
    command = _script(_config(setting, LENET, "norm=batch"), updates=1)

    def run() -> float:
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"{' '.join(command)} ended before its first update")
            return time.perf_counter() - began

    return Prepared(run, {"num_workers": 0})


def memory(overrides: Overrides, setting: Setting) -> Prepared:
    """Peak memory (MiB) of some updates on the whole data set, which is held in memory."""
    config = _config(setting, overrides)
    ours = _make(setting, config)

    def run() -> float:
        marks = (event for event in ours.training.rows(lambda: True) if isinstance(event, Mark))
        for _ in itertools.islice(marks, setting.updates):
            pass
        return tutorial.peak_mib()

    (job,) = jobs([config])
    arrays = (job.source.folder / f"{part}.npy" for part in sources.PARTS)
    return Prepared(run, {"data_set_mib": sum(path.stat().st_size for path in arrays) / 2**20})


def memory_tutorial(overrides: Overrides, setting: Setting) -> Prepared:
    """The same of the tutorial's script, without DataLoader workers, whose memory is not counted."""
    return _memory_of("benchmarks.tutorial", overrides, setting, {"num_workers": 0})


def memory_careful(overrides: Overrides, setting: Setting) -> Prepared:
    return _memory_of("benchmarks.careful", overrides, setting, {"channels_last": True})


def _memory_of(module: str, overrides: Overrides, setting: Setting, facts: dict[str, Any]) -> Prepared:
    command = _script(_config(setting, overrides), setting.updates, module)

    def run() -> float:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return float(done.stdout.split()[-1])

    return Prepared(run, facts)


# -- what the sides are made of


class _Made(NamedTuple):
    training: Training
    engine: Engine
    loader: Loader


def _make(setting: Setting, *configs: Config) -> _Made:
    """Our side, made as a run is, or several in lockstep."""
    host.prepare(setting.threads)
    device = engine.device(configs[0])
    loader = construct.make_loader(jobs(configs)[0], device)
    networks = [construct.build_network(config, loader.shape, loader.num_classes) for config in configs]
    initial = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
    lockstep = engine.build_engine(configs, networks, device)
    return _Made(
        Training(configs, lockstep, loader, Observer(looks(configs[0]), configs[0], loader, initial)), lockstep, loader
    )


def _epochs(training: Training) -> Callable[[], None]:
    """Trains one epoch further at each call."""
    rows = training.rows(lambda: False)

    def epoch() -> None:
        if not any(isinstance(event, Mark) for event in rows):
            raise RuntimeError("the run ended, or diverged, before the measurement did")

    return epoch


def _config(setting: Setting, overrides: Overrides, *more: str) -> Config:
    """A run without probes and mirror by default."""
    size = [f"data.batch_size={setting.batch_size}"] if RESNET[1] in overrides else []
    size += [f"model.depth={setting.depth}"] if RESNET[0] in overrides else []
    config = compose.one([*overrides, *size, "probes=none", "tracking.mode=off", *more])
    where = replace(config.runtime, data_root=str(setting.data_root), synthetic=setting.synthetic, download=False)
    return replace(config, runtime=where)


def _images(setting: Setting, config: Config) -> tuple[Images, Images]:
    """Training and test images; of the latter the ResNet sees a part."""
    (job,) = jobs([config])
    train, test = tutorial.read(job.source.folder)
    part = slice(setting.test_images if config.model["name"] == "resnet" else None)
    return train, (test[0][part], test[1][part])


def _fastest_loop(
    setting: Setting, config: Config, trial: Callable[[Loop], object] | None = None
) -> tuple[Loop, dict[str, Any]]:
    """The tutorial's loop with the number of DataLoader workers that is best here, warmed up."""

    def few_updates(loop: Loop) -> object:
        return loop.epoch(setting.trial_batches) if config.model["name"] == "lenet" else loop.updates(1)

    images = _images(setting, config)
    loop = tutorial.fastest(
        lambda num_workers: _loop(setting, config, images, num_workers),
        [number for number in (0, 2, 4, 8) if number <= max(2, setting.threads)],
        trial or few_updates,
    )
    return loop, {"num_workers": loop.train_loader.num_workers}


def _loop(setting: Setting, config: Config, images: tuple[Images, Images], num_workers: int) -> Loop:
    torch.set_num_threads(setting.threads)
    return Loop(_recipe(config), *images, num_workers=num_workers, device=engine.device(config))


def _careful_loop(setting: Setting, config: Config) -> tuple[careful.Loop, dict[str, Any]]:
    """The careful loop in the memory format that is faster here, warmed up."""
    images = _images(setting, config)
    number = setting.trial_batches if config.model["name"] == "lenet" else 1
    loop = tutorial.fastest(
        lambda channels_last: _careful(setting, config, images, bool(channels_last)),
        (True, False),
        lambda loop: loop.updates(number),
    )
    return loop, {"channels_last": loop.format == torch.channels_last, "bf16": loop.bf16}


def _careful(setting: Setting, config: Config, images: tuple[Images, Images], channels_last: bool) -> careful.Loop:
    torch.set_num_threads(setting.threads)
    return careful.Loop(
        _recipe(config),
        *images,
        channels_last=channels_last,
        bf16=config.precision == "bf16",
        device=engine.device(config),
    )


def _recipe(config: Config) -> Recipe:
    return Recipe(
        network=config.model["name"],
        norm=config.norm["name"] == "batch",
        batch_size=config.data.batch_size,
        lr=config.optim.lr,
        momentum=config.optim.momentum,
        weight_decay=config.optim.weight_decay,
        augment=config.data.augment,
        standardise=config.data.normalise == "channel",
        depth=config.model.get("depth", 0),
    )


def _script(config: Config, updates: int, module: str = "benchmarks.tutorial") -> list[str]:
    """The command of a baseline's script."""
    (job,) = jobs([config])
    recipe = json.dumps(asdict(_recipe(config)))
    return [sys.executable, "-m", module, str(job.source.folder), recipe, str(updates)]


def _num_images(loader: Any) -> int:
    return len(loader.dataset)


# -- the table

_SEEN = "Fashion-MNIST, batches of 256, all images; the tutorial loop reads them with torchvision's transforms."
_UPDATES = (
    "CIFAR-10, batches of 128, crops and flips; a few updates at a time, evaluation aside. In rows of bf16 the careful "
    "loop has bf16, too, the tutorial loop fp32."
)
_AT_ONCE = "As above, 8 learning rates in one process; the other loops have the device to themselves, for one run."
_GRID = (
    "10 learning rates with BN and without, two epochs each on Fashion-MNIST; the start of our worker processes "
    "is counted. Of the other loops' runs, which follow one another and take equally long, one of each arm is timed."
)
_PROBES = (
    "LeNet with BN on Fashion-MNIST, extrapolated: the looks at start and end as measured, ten times a measured epoch."
)
_FIRST_STEP = (
    "LeNet with BN, from the command to the first update; ours with its defaults, that is the checks of the data, the "
    "probes at step 0 and W&B's offline mirror."
)
_MEMORY = "ResNet-110 with BN at batch 128; the tutorial loop without DataLoader workers, whose memory is not counted."

ROWS = (
    Row(
        "lenet_bn",
        "LeNet with BN, epoch of training and evaluation",
        "images/s",
        partial(train_epoch, LENET + WITH_BN),
        partial(train_epoch_tutorial, LENET + WITH_BN),
        note=_SEEN,
        careful=partial(train_epoch_careful, LENET + WITH_BN),
    ),
    Row(
        "lenet",
        "LeNet without BN, epoch of training and evaluation",
        "images/s",
        partial(train_epoch, (*LENET, "norm=none")),
        partial(train_epoch_tutorial, (*LENET, "norm=none")),
        note=_SEEN,
        careful=partial(train_epoch_careful, (*LENET, "norm=none")),
    ),
    Row("lenet_grid", "LeNet, grid of 20 runs", "runs/h", grid, grid_tutorial, note=_GRID, careful=grid_careful),
    Row(
        "resnet110_bn",
        "ResNet-110 with BN, training",
        "images/s",
        partial(train_updates, RESNET + WITH_BN),
        partial(train_updates_tutorial, RESNET + WITH_BN),
        note=_UPDATES,
        careful=partial(train_updates_careful, RESNET + WITH_BN),
    ),
    Row(
        "resnet110",
        "ResNet-110 without BN, training",
        "images/s",
        partial(train_updates, RESNET + WITHOUT_BN),
        partial(train_updates_tutorial, RESNET + WITHOUT_BN),
        note=_UPDATES,
        careful=partial(train_updates_careful, RESNET + WITHOUT_BN),
    ),
    *(
        Row(
            f"resnet20{'' if arm == WITHOUT_BN else '_bn'}{'_bf16' if precision == 'bf16' else ''}",
            f"ResNet-20 {'without' if arm == WITHOUT_BN else 'with'} BN, training"
            f"{', bf16' if precision == 'bf16' else ''}",
            "images/s",
            partial(train_updates, (*RESNET20, *arm, f"precision={precision}")),
            partial(train_updates_tutorial, RESNET20 + arm),
            note=_UPDATES,
            careful=partial(train_updates_careful, (*RESNET20, *arm, f"precision={precision}")),
        )
        for precision in ("fp32", "bf16")
        for arm in (WITH_BN, WITHOUT_BN)
    ),
    Row(
        "resnet110_bn_bf16",
        "ResNet-110 with BN, training, bf16",
        "images/s",
        partial(train_updates, (*RESNET, *WITH_BN, "precision=bf16")),
        partial(train_updates_tutorial, RESNET + WITH_BN),
        note=_UPDATES,
        careful=partial(train_updates_careful, (*RESNET, *WITH_BN, "precision=bf16")),
    ),
    Row(
        "resnet110_bf16",
        "ResNet-110 without BN, training, bf16",
        "images/s",
        partial(train_updates, (*RESNET, *WITHOUT_BN, "precision=bf16")),
        partial(train_updates_tutorial, RESNET + WITHOUT_BN),
        note=_UPDATES,
        careful=partial(train_updates_careful, (*RESNET, *WITHOUT_BN, "precision=bf16")),
    ),
    *(
        Row(
            f"resnet110_bn_at_once_{precision}",
            f"ResNet-110 with BN, several runs at once, {precision}",
            "images/s",
            partial(train_updates_at_once, (*RESNET, *WITH_BN, f"precision={precision}", "runtime.engine=parallel")),
            partial(train_updates_tutorial, RESNET + WITH_BN),
            careful=partial(train_updates_careful, (*RESNET, *WITH_BN, f"precision={precision}")),
            note=_AT_ONCE,
            on_gpu_only=True,
        )
        for precision in ("fp32", "bf16")
    ),
    Row(
        "evaluation_lenet",
        "LeNet with BN, evaluation",
        "images/s",
        partial(evaluate, LENET + WITH_BN),
        partial(evaluate_tutorial, LENET + WITH_BN),
        careful=partial(evaluate_careful, LENET + WITH_BN),
    ),
    Row(
        "evaluation_resnet110",
        "ResNet-110 with BN, evaluation",
        "images/s",
        partial(evaluate, RESNET + WITH_BN),
        partial(evaluate_tutorial, RESNET + WITH_BN),
        careful=partial(evaluate_careful, RESNET + WITH_BN),
    ),
    Row(
        "probes",
        "Default probes, share of a run of 10 epochs",
        "% of its time",
        probes,
        None,
        more_is_better=False,
        note=_PROBES,
    ),
    Row("help", "`bnstudy --help`", "s", show_help, None, more_is_better=False, repeats=5),
    Row("first_step", "Start-up to the first update", "s", first_step, first_step_tutorial, False, _FIRST_STEP),
    Row(
        "memory",
        "ResNet-110, peak memory",
        "MiB",
        partial(memory, RESNET + WITH_BN),
        partial(memory_tutorial, RESNET + WITH_BN),
        more_is_better=False,
        note=_MEMORY,
        repeats=1,
        careful=partial(memory_careful, RESNET + WITH_BN),
    ),
)
