"""Configurations composed and trained in this process; finished runs opened: their tables, networks and images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from bnstudy.api import _places
from bnstudy.api._values import plain
from bnstudy.config.schema import Config, from_dict, to_dict
from bnstudy.store import paths

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor, nn

    from bnstudy.api.looking import Probe
    from bnstudy.data.loader import Loader
    from bnstudy.data.sources import Source

Folder = str | PathLike[str]
SPLITS = ("train", "test")
EVALUATION_BATCH = 1000
Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def configure(*overrides: str, sweep: str | None = None, preset: str = paths.QUICK) -> Config:
    """The configuration of one run, from overrides as `bnstudy run` takes them.

    Each override is a text `KEY=VALUE`, as in `configure("model=lenet", "data=fashion_mnist", "recipe=lenet",
    "norm=batch", "optim.lr=0.1")`; without any it is the paper's ResNet-110 with BN. With `sweep` it is a run of that
    sweep at `preset`: the overrides give one value of each axis of its grid.

    Images are in the project's `data` (`runtime.data_root`) and results go to its `results` (`runtime.results`),
    wherever Python was started, unless the variables BNSTUDY_DATA_ROOT and BNSTUDY_RESULTS name other folders. Unlike
    on the command line nothing is mirrored to W&B, which would affect this process (`tracking.mode=off`). Overrides
    change all of this.

    Raises ValueError naming key, value and remedy for an override that does not fit.
    """
    from bnstudy.config import compose
    from bnstudy.config.overrides import quoted

    if strangers := [value for value in overrides if not isinstance(value, str)]:
        raise ValueError(f"{strangers[0]!r}: give texts KEY=VALUE, as in configure('model=lenet', 'optim.lr=0.1')")
    given = [
        f"runtime.data_root={quoted(_places.data_root())}",
        f"runtime.results={quoted(_places.results())}",
        "tracking.mode=off",
        *overrides,
    ]
    return compose.one(given) if sweep is None else compose.point(sweep, preset, given)


def fit(config: Config, results: Folder | None = None, *, progress: bool = True) -> Run:
    """Train the run in this process and return it; a finished run is opened, not trained again.

    `results` is the folder where the run is kept (default: the configuration's `runtime.results`); it is the same run,
    to the bit, that `bnstudy run` would train there. A run that was interrupted resumes from its last checkpoint.
    `progress` shows a line on stderr: the share of the updates, and the time left.

    Ctrl-C, or a notebook's stop button, saves a checkpoint after the current update; KeyboardInterrupt then says how
    to resume. The run is computed by torch's defaults, whatever precision, type, device or autocast is set in this
    process; afterwards these, threads, determinism, random state and signal handlers are what they were.
    (Outside of the main thread there are no signals; there only the periodic checkpoints are kept.)

    Raises ValueError, before anything is trained, for what cannot be trained here: a value that `configure` refuses (a
    `dataclasses.replace` does not), an option that a component refuses, missing data, a missing GPU; OSError where the
    disk is at fault or another process trains the run; and RuntimeError where training itself raised, with its message.
    """
    from bnstudy.store import devices, publishing, status
    from bnstudy.store.jobs import jobs
    from bnstudy.store.runs import State, Store
    from bnstudy.sweep.plan import plan
    from bnstudy.tracking.console import Progress

    if not isinstance(config, Config):
        raise ValueError(f"config = {config!r}: give one that bnstudy.configure('model=lenet', 'optim.lr=0.1') makes")
    config = from_dict(plain(to_dict(config)))
    folder = _places.results(config.runtime.results if results is None else results).absolute()
    images = Path(config.runtime.data_root).absolute()  # the run that is returned outlives an os.chdir
    config = replace(config, runtime=replace(config.runtime, results=str(folder), data_root=str(images)))
    (job,) = jobs([config])
    name, store = job.run_id, Store(folder)
    trained = Run(name, folder, images)
    now = status.of(job, store)
    if now.done:
        return trained
    if now.state == State.damaged:
        print(f"{name}: its files are not what was written; it is trained again", file=sys.stderr)
    elif reason := now.reason or publishing.missed(job, store, publishing.NOTHING):
        print(f"{name}: {reason}", file=sys.stderr)
    (group,) = plan([job], {name}, folder, workers=1)

    from bnstudy.store import checkpoint
    from bnstudy.training import imports

    imports.load()
    from bnstudy.training import preflight, runner, signals
    from bnstudy.training.engine import host

    threads = config.runtime.threads or devices.cores()
    live = True if "ipykernel" in sys.modules else None  # a notebook's output is no terminal, but a line can move there
    stop = signals.Stop()
    try:
        with (
            host.as_it_was(),
            stop.listening(),
            Progress(name, live=live) if progress else nullcontext() as shown,
        ):
            preflight.check([job])
            report = shown.step if shown is not None else lambda done, total: None
            (ended,) = runner.train_group(group, folder, threads=threads, report=report, stop=stop)
            if shown is not None:
                if ended.done:  # without an update, or before the last one
                    shown.update(1)
                shown.close(ended.state)
    except (signals.Interrupted, KeyboardInterrupt):
        saved = checkpoint.exists(folder, group)
        how = "what was trained is saved, and the run resumes" if saved else "nothing was saved, and the run starts"
        then = f"when bnstudy.fit is called with this configuration and results = {str(folder)!r}"
        raise KeyboardInterrupt(f"{name} was interrupted: {how} {then}") from None
    if not ended.done:
        raise RuntimeError(f"{name} failed: {ended.note}; bnstudy.fit tries it once more")
    return trained


def run(run_id: str, results: Folder | None = None, *, data_root: Folder | None = None) -> Run:
    """Open a finished run by its name, as `bnstudy.runs()` and the tables' column `run_id` have it.

    `results` is the folder that holds it (default: the project's). `data_root` is where its images are (default:
    BNSTUDY_DATA_ROOT, else the project's `data`). Published tables also name runs whose raw files are not in the
    repository: those have to be trained first.

    Raises ValueError for a run that does not exist, is not finished, failed, or whose files are damaged.
    """
    from bnstudy.store.runs import State, Store

    folder = _places.results(results).absolute()
    store = Store(folder)
    no_name = run_id in ("", ".", "..") or "/" in run_id  # a folder, but none of a run
    state = State.absent if no_name else store.state(run_id)
    if state == State.absent:
        known = store.run_ids()
        if not known:
            raise ValueError(
                f"run_id = {run_id!r}: there are no runs in {folder}; bnstudy.fit or make sweep-NAME trains some, "
                "results= names another folder"
            )
        raise _places.unknown(f"run_id (in {folder})", run_id, known)
    if state == State.failed:
        raise ValueError(f"run_id = {run_id!r}: it failed ({store.manifest(run_id)['error']}); bnstudy.fit tries again")
    if not state.done:
        how = "has not ended" if state == State.partial else "has files that are not what was written"
        raise ValueError(f"run_id = {run_id!r}: it {how}; bnstudy.fit with its configuration, or its sweep, trains it")
    return Run(run_id, folder, _places.data_root(data_root).absolute())


def _by_default(method: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """As `host.by_default`, without importing torch before the method is called."""

    @wraps(method)
    def called(*arguments: Parameters.args, **options: Parameters.kwargs) -> Returned:
        from bnstudy.training.engine import host

        with host.by_default():
            return method(*arguments, **options)

    return called


@dataclass(frozen=True)
class Run:
    """A finished run: `bnstudy.run` opens one, `bnstudy.fit` trains one."""

    id: str
    results: Path  # the folder that holds it
    data_root: Path  # the folder with its images

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """All that is recorded of the run: configuration, data, code, machine, checksums. Raises ValueError."""
        from bnstudy.store.runs import Store

        return Store(self.results).manifest(self.id)

    @property
    def config(self) -> Config:
        """What was trained. How and where (`runtime`) is not recorded and has its defaults; `tracking` is off."""
        from bnstudy.store.runs import looks_of
        from bnstudy.store.status import Look

        config = from_dict({**self.manifest["config"], "probes": {}})
        runtime = replace(config.runtime, data_root=str(self.data_root), results=str(self.results))
        looks = [Look.of(record) for record in looks_of(self.manifest).values()]
        tracking = replace(config.tracking, mode="off")
        return replace(config, runtime=runtime, tracking=tracking, probes={look.probe: look.plan for look in looks})

    @property
    def status(self) -> str:
        """`completed`, or `diverged`: a mini-batch's loss exceeded `train.divergence_loss` or was not finite."""
        return str(self.manifest["status"])

    @property
    def outcome(self) -> str | None:
        """`trained`, `stalled` (see `docs/runs.md`) or `diverged`; None without updates."""
        outcome: str | None = self.manifest["outcome"]
        return outcome

    @property
    def final(self) -> dict[str, float | None]:
        """`train_loss`, `train_accuracy`, `test_loss`, `test_accuracy` of the last epoch; accuracies as shares of 1.

        None where a run diverged or made no update.
        """
        return dict(self.manifest["final"])

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of its tables: `steps` and `epochs` where it trained, and one a probe."""
        return tuple(self.manifest["tables"])

    def table(self, name: str) -> pd.DataFrame:
        """One of its tables; steps count updates already made, step 0 is the untrained network.

        Raises ValueError for a table that the run does not have, or whose file is damaged.
        """
        from bnstudy.store.runs import Store

        if name not in self.tables:
            raise _places.unknown(f"table of {self.id}", name, self.tables)
        return Store(self.results).table(self.id, name)

    @_by_default
    def network(self, device: str | torch.device = "cpu") -> nn.Module:
        """The trained network in evaluation mode: a plain torch module on `device` (cpu, cuda, cuda:N or auto).

        It takes images (N, C, H, W) as `images` gives them, in float32, to logits (N, K). Of a run that diverged it has
        the weights at which the loss exceeded its bound. A line on stderr names code that has changed since. Raises
        ValueError where the weights were not kept, or no longer fit the network's code.
        """
        from bnstudy.store.runs import Store

        on = self._device(device)
        network = self._untrained()
        if changed := self._changed():
            print(f"{self.id}: {', '.join(changed)} changed since it was trained; this network is of the code as it is "
                  "now", file=sys.stderr)  # fmt: skip
        if self.manifest["num_steps"]:
            weights = Store(self.results).weights(self.id)
            try:
                network.load_state_dict(weights)
            except RuntimeError as error:
                config = self.config
                raise ValueError(
                    f"{self.id}: its weights are not those of {config.model['name']} with norm {config.norm['name']} "
                    f"as the code has them now ({' '.join(str(error).split())}); train it anew, or go back to commit "
                    f"{self.manifest['provenance'].get('commit')}"
                ) from None
        return network.to(on).eval()

    @_by_default
    def images(
        self, split: str = "test", num: int | None = None, *, device: str | torch.device = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W), float32, normalised as the network saw them, and labels (N,), int64 from 0.

        `test`: the test images in their order. `train`: training images without augmentation, in the order from which
        probes take their mini-batches: `images("train", n)` is the mini-batch that a probe with `batch_size=n` looked
        at. `num` is how many (default: all that the run used), `device` as for `network`. Raises ValueError for an
        unknown split or device, for more images than there are, and where the data are missing or not those of the run.
        """
        import torch

        loader, num = self._sized(split, num, device)
        if split == "train":
            return loader.probe_batch(num)
        parts = []
        for images_NCHW, labels_N in loader.test_batches(min(num, EVALUATION_BATCH)):
            parts.append((images_NCHW, labels_N))
            if sum(len(labels_N) for _, labels_N in parts) >= num:
                break
        images_NCHW, labels_N = (torch.cat(each)[:num] for each in zip(*parts, strict=True))
        return images_NCHW, labels_N

    def batches(
        self, split: str = "test", size: int = EVALUATION_BATCH, *, device: str | torch.device = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The images and labels of `images`, `size` at a time; the last ones may be fewer. Raises ValueError as it
        does.
        """
        if size < 1:
            raise ValueError(f"size = {size}: give 1 or more")
        loader, num = self._sized(split, None, device)
        if split == "test":
            return loader.test_batches(size)
        images_NCHW, labels_N = loader.probe_batch(num)
        return zip(images_NCHW.split(size), labels_N.split(size), strict=True)

    @_by_default
    def probe(
        self, name: str | Probe, *, batch_size: int | None = None, device: str | torch.device = "cpu", **options: Any
    ) -> pd.DataFrame:
        """The rows of the probe `name`, or of your function, for the trained network, as at the end of training.

        It looks at the mini-batch `images("train", batch_size)`, by default of `data.batch_size` images, with the run's
        other images and its initial weights at hand. `options` are the probe's own, and its docstring explains the
        columns. Raises ValueError as `network`, `images` and `bnstudy.probe` do.
        """
        from bnstudy.api import looking

        options = looking.checked_options(name, options, Run.probe)
        loader, size = self._sized("train", self.config.data.batch_size if batch_size is None else batch_size, device)
        network, initial = self.network(device), self._untrained().state_dict()
        moment = {"step": self.manifest["num_steps"], "seed": self.config.seed}
        return looking.look(network, *loader.probe_batch(size), name, options, loader=loader, initial=initial, **moment)

    def _untrained(self) -> nn.Module:
        """The network before its first update, as the seed has it."""
        from bnstudy.data.sources import KNOWN
        from bnstudy.training import construct

        known = KNOWN.get(self.config.data.name) or self._source()
        return construct.build_network(self.config, construct.image_shape(self.config, known.shape), known.num_classes)

    def _changed(self) -> list[str]:
        """The files that define the network and have changed since it was trained, as far as that is recorded."""
        from bnstudy.store import status

        then, now = self.manifest.get("code") or {}, status.component_code(self.config)
        return [file for file, checksum in then.items() if now.get(file, checksum) != checksum]

    def _device(self, device: str | torch.device) -> torch.device:
        """Raises ValueError for what is no device, and for a missing GPU."""
        from bnstudy.config.schema import validate
        from bnstudy.training import engine

        config = replace(self.config, runtime=replace(self.config.runtime, device=str(device)))
        validate(config)
        return engine.device(config)

    def _source(self) -> Source:
        from bnstudy.data import sources

        saw = self.manifest["data"]
        synthetic = saw["source"] == sources.SYNTHETIC
        source = sources.locate(self.config.data.name, self.data_root, allow_synthetic=synthetic, download=False)
        if source.sha256 != saw["sha256"]:
            raise ValueError(
                f"data_root = {str(self.data_root)!r}: {source.name} there (sha256 {source.sha256[:12]}) is not what "
                f"{self.id} saw (sha256 {saw['sha256'][:12]}); name the folder that has those images"
            )
        return source

    def _sized(self, split: str, num: int | None, device: str | torch.device) -> tuple[Loader, int]:
        """The run's images on the device, and how many of the split are asked for."""
        from bnstudy.store.jobs import Job
        from bnstudy.training.construct import make_loader

        if split not in SPLITS:
            raise _places.unknown("split", split, SPLITS)
        source, data = self._source(), self.config.data
        available = (data.num_train or source.num_train) if split == "train" else (data.num_test or source.num_test)
        if num is not None and not 1 <= num <= available:
            raise ValueError(f"num = {num}: give 1 to {available}, the {split} images of {self.id}")
        loader = make_loader(Job(self.config, source), self._device(device))
        return loader, available if num is None else num
