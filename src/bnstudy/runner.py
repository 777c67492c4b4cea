"""Makes one group of runs: builds what it needs, resumes where it was, keeps its rows, ends with a manifest a run."""

from __future__ import annotations

import math
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from bnstudy import checkpoint, engine, models, norms, provenance, sinks
from bnstudy.config import Config, model_options, norm_options, to_dict
from bnstudy.data import sources
from bnstudy.data.pipeline import Feed
from bnstudy.jobs import Group, Job
from bnstudy.observer import Observer, Rows
from bnstudy.sinks import Sink
from bnstudy.store import State, Store
from bnstudy.train import Position, Training

SCALARS = ("steps", "epochs", "throughput")  # tables whose rows are points of a curve
STALLED_BELOW = 0.3  # final train accuracy of a run that finished and did not train
Report = Callable[[int, int], None]  # steps done, steps in all


class Interrupted(BaseException):
    """Stopped on request, after a checkpoint."""


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    run_id: str
    state: State
    note: str = ""


class Stop:
    """Ctrl-C and SIGTERM: honoured at once, or, while something can be saved, at the next mark."""

    def __init__(self) -> None:
        self.requested = False
        self._deferring = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Installs the handlers (in the main thread; elsewhere signals are the caller's business)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self, worthwhile: bool = True) -> Iterator[None]:
        """Within, a request waits for the next mark, unless there is nothing `worthwhile` to save."""
        self._deferring = worthwhile
        try:
            yield
        finally:
            self._deferring = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._deferring or (self.requested and number == signal.SIGINT):
            raise KeyboardInterrupt
        self.requested = True  # a second Ctrl-C does not wait


def run(group: Group, results: Path, *, threads: int, report: Report, stop: Stop) -> list[Ended]:
    """Makes the group's runs. An exception marks them failed, or, in a group of several, has each made for itself.

    Raises Interrupted (after a checkpoint), KeyboardInterrupt (where there was nothing to save), or OSError (the disk's
    fault and not a run's): then the group is as its last checkpoint has it.
    """
    try:
        return _run(group, results, threads=threads, report=report, stop=stop)
    except OSError:
        raise
    except Exception as error:
        checkpoint.forget(results, group)
        if len(group.jobs) > 1:
            alone = (Group((job,)) for job in group.jobs)
            return [e for one in alone for e in run(one, results, threads=threads, report=report, stop=stop)]
        return [_fail(group.jobs[0], results, error)]


def _run(group: Group, results: Path, *, threads: int, report: Report, stop: Stop) -> list[Ended]:
    made = _resumed(group, results)
    if made is None:
        checkpoint.claim(results, group)
        made = _Making(group, results, threads)
        made.begin()
    with made.mirrored() as mirrors, stop.deferred(made.training.total_steps > 0):
        made.make(mirrors, report, stop)
    return made.end(mirrors)


def _resumed(group: Group, results: Path) -> _Making | None:
    """The group as its checkpoint has it; None where there is none, or what it names is not there any more."""
    saved = checkpoint.load(results, group)
    if saved is None:
        return None
    made = _Making(group, results, saved["threads"])
    try:
        made.resume(saved)
    except Exception as error:  # whatever a checkpoint of other code or other files provokes
        print(f"the checkpoint of {group.jobs[0].run_id} is of no use ({error}); its runs start again", flush=True)
        checkpoint.forget(results, group)
        return None
    return made


class _Making:
    """A group of runs in the making: its network, its data, its tables, and the time they took."""

    def __init__(self, group: Group, results: Path, threads: int) -> None:
        self._began = time.perf_counter()
        self._group, self._results, self._threads = group, results, threads
        configs = [job.config for job in group.jobs]
        self._config = configs[0]
        engine.prepare_host(threads)
        torch.manual_seed(self._config.seed)
        self._device = engine.device(self._config)
        feed = make_feed(group.jobs[0], self._device)
        networks = [build_network(config, feed) for config in configs]
        initial = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
        self._engine = engine.make(configs, networks, self._device)
        self._writers = [Store(results).writer(job.run_id) for job in group.jobs]
        self._before_sec = 0.0
        self._commits = [provenance.code()["commit"]]
        self.training = Training(configs, self._engine, feed, Observer(self._config, feed, initial))

    def begin(self) -> None:
        for writer in self._writers:
            writer.restart()

    def resume(self, saved: dict[str, Any]) -> None:
        """Goes on from a checkpoint, to the bit."""
        self._engine.load(saved["engine"])
        self.training.position = Position(**saved["position"])
        self._before_sec = saved["wall_sec"]
        self._commits = list(dict.fromkeys([*saved["commits"], *self._commits]))
        torch.set_rng_state(saved["rng"])
        for writer, state in zip(self._writers, saved["writers"], strict=True):
            writer.restore(state)

    @contextmanager
    def mirrored(self) -> Iterator[list[Sink]]:
        """The runs' mirrors; where the making stops short they are closed with the reason."""
        mirrors = [sinks.make(job.config, job.run_id, self._results, _facts(job)) for job in self._group.jobs]
        try:
            yield mirrors
        except BaseException as error:
            for mirror in mirrors:
                mirror.finish("failed" if isinstance(error, Exception) else "interrupted", {})
            raise

    def make(self, mirrors: Sequence[Sink], report: Report, stop: Stop) -> None:
        """Trains to the end of the budget, saving now and then. Raises Interrupted once asked to stop, after a save."""
        last_save = time.monotonic()

        def mark_due() -> bool:
            return stop.requested or time.monotonic() - last_save >= self._config.runtime.checkpoint_every_sec

        for event in self.training.rows(mark_due):
            if isinstance(event, Rows):
                self._writers[event.run].add(event.table, event.columns, event.values)
                _mirror(mirrors[event.run], event)
                continue
            report(event.step, self.training.total_steps)
            if mark_due():
                self._save()
                last_save = time.monotonic()
            if stop.requested:
                raise Interrupted
        if self.training.total_steps:  # from here on a kill finds the group trained to its end
            self._save()

    def end(self, mirrors: Sequence[Sink]) -> list[Ended]:
        """Writes the runs' final tables and manifests; only then is the checkpoint dropped."""
        facts = {
            **provenance.code(),
            "commits": self._commits,
            **provenance.machine(),
            "threads": self._threads,
            **engine.facts(self._device),
            "num_runs": len(self._group.jobs),
            "group": self._group.id,
        }
        ended = []
        for index, job in enumerate(self._group.jobs):
            manifest = _manifest(job, self.training, index, facts, self._wall_sec())
            self._writers[index].finish(manifest)
            mirrors[index].finish(manifest["status"], manifest["final"])
            ended.append(Ended(job.run_id, State(manifest["status"])))
        checkpoint.forget(self._results, self._group)
        for writer in self._writers:
            writer.clean()
        return ended

    def _save(self) -> None:
        state = {
            "engine": self._engine.state(),
            "position": asdict(self.training.position),
            "writers": [writer.flush() for writer in self._writers],
            "rng": torch.get_rng_state(),
            "threads": self._threads,
            "wall_sec": self._wall_sec(),
            "commits": self._commits,
        }
        checkpoint.save(self._results, self._group, state)

    def _wall_sec(self) -> float:
        return self._before_sec + time.perf_counter() - self._began


def make_feed(job: Job, device: torch.device) -> Feed:
    """The job's batches on its device."""
    data = job.config.data
    return Feed(
        sources.load(job.source),
        batch_size=data.batch_size,
        seed=job.config.seed,
        augment=data.augment,
        normalise=data.normalise,
        num_train=data.num_train,
        input_size=models.input_size(job.config.model["name"]),
        device=device,
    )


def build_network(config: Config, feed: Feed) -> torch.nn.Module:
    """The configured network with its initial weights, on the CPU."""
    norm = norms.factory(config.norm["name"], norm_options(config), config.norm.get("where", "*"))
    return models.build(
        config.model["name"], model_options(config), norm, config.init, feed.shape, feed.num_classes, config.seed
    )


def _facts(job: Job) -> dict[str, Any]:
    """What identifies the run, for its W&B mirror: the configuration and the bytes it sees."""
    return to_dict(job.config, identity_only=True) | {"data_source": job.source.record}


def _mirror(sink: Sink, rows: Rows) -> None:
    columns = [name for name in rows.columns if name != "step"]
    found = [dict(zip(columns, values, strict=True)) for values in zip(*(rows.values[c] for c in columns), strict=True)]
    if rows.table in SCALARS:
        steps = rows.values.get("step", [rows.step] * len(found))
        for step, values in zip(steps, found, strict=True):
            sink.scalars(step, {f"{rows.table}/{name}": value for name, value in values.items()})
    else:
        sink.table(rows.table, rows.step, found)


def _manifest(job: Job, training: Training, run: int, facts: dict[str, Any], wall_sec: float) -> dict[str, Any]:
    position = training.position
    diverged_step = position.diverged_step[run]
    final = position.final[run]
    if diverged_step is not None:
        outcome = "diverged"
    elif training.total_steps == 0:
        outcome = None
    else:
        outcome = "stalled" if final["train_accuracy"] < STALLED_BELOW else "trained"
    busy_sec = position.train_sec + position.probe_sec
    return {
        "status": "completed" if diverged_step is None else "diverged",
        "outcome": outcome,
        "diverged_step": diverged_step,
        "error": None,
        "config": to_dict(job.config, identity_only=True),
        "sweep": job.config.sweep.name,
        "data": job.source.record,
        "provenance": facts,
        "num_steps": position.step if diverged_step is None else diverged_step,
        "final": {name: value if math.isfinite(value) else None for name, value in final.items()},
        "wall_sec": wall_sec,
        "probe_share": position.probe_sec / busy_sec if busy_sec else None,
    }


def _fail(job: Job, results: Path, error: Exception) -> Ended:
    """Records a run that raised. Its text is kept; the run is made again when its sweep is."""
    text = f"{type(error).__name__}: {error}"
    writer = Store(results).writer(job.run_id)
    writer.restart()
    writer.finish(
        {
            "status": "failed",
            "outcome": None,
            "diverged_step": None,
            "error": text,
            "traceback": "".join(traceback.format_exception(error)),
            "config": to_dict(job.config, identity_only=True),
            "sweep": job.config.sweep.name,
            "data": job.source.record,
            "provenance": {**provenance.code(), **provenance.machine()},
            "num_steps": None,
            "final": {},
            "wall_sec": None,
            "probe_share": None,
        }
    )
    return Ended(job.run_id, State.failed, text)
