"""Makes one group of runs: builds what it needs, resumes where it was, keeps its rows, ends with a manifest a run."""

from __future__ import annotations

import gc
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
from torch import Tensor

from bnstudy import checkpoint, engine, failures, lease, models, norms, provenance, sinks
from bnstudy.config import Config, model_options, norm_options, to_dict
from bnstudy.data import sources
from bnstudy.data.pipeline import Feed
from bnstudy.engine.stacked import unstack
from bnstudy.jobs import Group, Job, Seen, let_go
from bnstudy.observer import Observer, Rows
from bnstudy.sinks import Sink
from bnstudy.store import State, Store, Writer
from bnstudy.train import Position, Training

SCALARS = ("steps", "epochs", "throughput")  # tables whose rows are points of a curve
STALLED_BELOW = 0.3  # final train accuracy of a run that finished and did not train
Report = Callable[[int, int], None]  # steps done, steps in all


class Interrupted(BaseException):
    """Stopped on request, after a checkpoint."""


class Refused(ValueError):
    """What is asked for makes no run: bad input. The message names key, value and remedy."""


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


def run(
    group: Group, results: Path, *, threads: int, report: Report, stop: Stop, seen: Seen | None = None
) -> list[Ended]:
    """Makes the group's runs. An exception marks them failed, or, in a group of several, has each made for itself.

    They are this process's to make meanwhile; those that other processes ended, since they were `seen`, are left alone.
    Whatever is raised or marked, what a checkpoint holds stays: once the cause is gone the runs go on from there.
    Raises Refused (bad input; nothing was written), Interrupted (after a checkpoint), KeyboardInterrupt (where there
    was nothing to save), or OSError (the disk's fault and not a run's; lease.Taken: another process makes one of them).
    """
    seen = seen or Seen()
    with lease.claimed(results, [job.run_id for job in group.jobs], seen.expired) as claim:
        ended = _ended_elsewhere(group, results, seen)
        left = tuple(job for job in group.jobs if job.run_id not in {one.run_id for one in ended})
        if left and checkpoint.exists(results, group):  # it goes on whole
            left, ended = group.jobs, []
        if left:
            ended += _attempt(Group(left), results, _Work(threads, report, stop, claim))
        elif all(one.state.done for one in ended):
            checkpoint.forget(results, group)
        return ended


def _ended_elsewhere(group: Group, results: Path, seen: Seen) -> list[Ended]:
    """The group's runs that are done, or that failed in other hands than ours after they were seen."""
    store, ended = Store(results), []
    for job in group.jobs:
        state = store.state(job.run_id)
        failed_since = state == State.failed and job.run_id in seen.endings
        if state.done or (failed_since and store.ending(job.run_id) != seen.endings[job.run_id]):
            error = store.manifest(job.run_id)["error"]
            ended.append(Ended(job.run_id, state, f"{error} ({lease.MADE})" if error else lease.MADE))
    return ended


@dataclass(frozen=True)
class _Work:
    """How a group is made: on so many threads, telling whom, until asked to stop, while the claim holds."""

    threads: int
    report: Report
    stop: Stop
    claim: lease.Claim


def _attempt(group: Group, results: Path, work: _Work) -> list[Ended]:
    try:
        return _run(group, results, work)
    except (OSError, Refused):
        raise
    except Exception as error:
        if len(group.jobs) == 1:
            return [_fail(group.jobs[0], group, results, error)]
    # Past the handler, where the exception no longer keeps alive the memory that may have been too little.
    return _run_apart(group, results, work)


def _run(group: Group, results: Path, work: _Work) -> list[Ended]:
    saved = checkpoint.load(results, group)
    try:
        made = _Making(group, results, saved["threads"] if saved else work.threads)
    except ValueError as error:
        raise Refused(str(error)) from error
    work.claim.check()
    let_go(results, {job.run_id for job in group.jobs}, keep=group)  # what is there of them is written anew
    if saved is None or not made.resume(saved):
        made.begin()
    del saved  # its tensors have been copied
    with made.mirrored() as mirrors, work.stop.deferred(made.training.total_steps > 0):
        made.make(mirrors, work)
    work.claim.check()
    return made.end(mirrors)


def _run_apart(group: Group, results: Path, work: _Work) -> list[Ended]:
    """Makes the runs of a group that raised one by one, each from where the group's checkpoint has it.

    What raised may be one run's fault (a probe stumbles over its weights): then it is one run that fails. Or it was too
    much for the memory, of which a run alone needs a part. Nothing that was saved is lost; it is the group that is
    given up, and from here on the runs are rounded as runs alone are. Where not even one of them can be built, the
    cause lies elsewhere: the group stays as it is, to go on whole, and its runs are marked failed.
    """
    states = {job.run_id: Store(results).state(job.run_id) for job in group.jobs}
    done = [Ended(run_id, state) for run_id, state in states.items() if state.done]  # by a manifest written before
    left = [job for job in group.jobs if not states[job.run_id].done]
    gc.collect()  # what raised left its networks behind
    try:
        for job in left[:1]:
            _Making(Group((job,)), results, work.threads)
        work.claim.check()
        _take_apart(group, left, results)
    except OSError:
        raise
    except Exception as error:
        return done + [_fail(job, group, results, error) for job in left]
    alone = (_attempt(Group((job,)), results, work) for job in left)
    return done + [ended for each in alone for ended in each]


def _take_apart(group: Group, left: Sequence[Job], results: Path) -> None:
    """Makes of a group's checkpoint, if it has one, one for each of the runs that are `left`."""
    saved, num_runs = checkpoint.load(results, group), len(group.jobs)
    for run, job in enumerate(group.jobs):
        if saved is None or job not in left:
            continue
        part = {
            "engine": {name: unstack(values, run, num_runs).clone() for name, values in saved["engine"].items()},
            "position": {k: [v[run]] if isinstance(v, list) else v for k, v in saved["position"].items()},
            "writers": [saved["writers"][run]],
        }
        checkpoint.save(results, Group((job,)), saved | part)
    checkpoint.forget(results, group)


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
        self._store, self._writers = Store(results), list[Writer]()
        self._before_sec = 0.0
        self._commits = [provenance.code()["commit"]]
        self.training = Training(configs, self._engine, feed, Observer(self._config, feed, initial))

    def begin(self) -> None:
        """From the start; what there was of the runs is dropped."""
        self._writers = [self._store.writer(job.run_id) for job in self._group.jobs]
        for writer in self._writers:
            writer.restart()

    def resume(self, saved: dict[str, Any]) -> bool:
        """Goes on from a checkpoint, to the bit; False, with a sentence and nothing changed, where it is of no use.

        Of no use is one of other code, whose state is another, and one whose rows are damaged. Whatever else is raised
        is not the checkpoint's fault.
        """
        try:
            position = Position(**saved["position"])
            if _layout(saved["engine"]) != _layout(self._engine.state()):
                raise ValueError("its weights are those of another network")
            writers = [self._store.writer(job.run_id) for job in self._group.jobs]
            for writer, state in zip(writers, saved["writers"], strict=True):
                writer.restore(state)
        except (TypeError, ValueError) as error:
            checkpoint.of_no_use(self._group, str(error))
            checkpoint.forget(self._results, self._group)
            return False
        self._engine.load(saved["engine"])
        self.training.position, self._writers = position, writers
        self._before_sec = saved["wall_sec"]
        self._commits = list(dict.fromkeys([*saved["commits"], *self._commits]))
        torch.set_rng_state(saved["rng"])
        for job in self._group.jobs:
            self._store.retract_failure(job.run_id)
        return True

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

    def make(self, mirrors: Sequence[Sink], work: _Work) -> None:
        """Trains to the end of the budget, saving now and then. Raises Interrupted once asked to stop, after a save."""
        last_save = time.monotonic()

        def mark_due() -> bool:
            return work.stop.requested or time.monotonic() - last_save >= self._config.runtime.checkpoint_every_sec

        for event in self.training.rows(mark_due):
            if isinstance(event, Rows):
                self._writers[event.run].add(event.table, event.columns, event.values)
                _mirror(mirrors[event.run], event)
                continue
            work.report(event.step, self.training.total_steps)
            work.claim.check()
            if mark_due():
                self._save()
                last_save = time.monotonic()
            if work.stop.requested:
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
            told = {name: manifest[name] for name in ("outcome", "diverged_step", "num_steps")}
            mirrors[index].finish(manifest["status"], manifest["final"] | told)
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


def _layout(state: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (values.shape, values.dtype) for name, values in state.items()}


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
        num_test=data.num_test,
        balanced=data.balanced,
        input_size=models.input_size(job.config.model["name"]),
        device=device,
    )


def build_network(config: Config, feed: Feed) -> torch.nn.Module:
    """The configured network with its initial weights, on the CPU."""
    norm = norms.factory(config.norm["name"], norm_options(config), config.norm.get("where", "*"))
    return models.build(
        config.model["name"],
        model_options(config),
        norm,
        config.init,
        feed.shape,
        feed.num_classes,
        config.seed,
        init_scale=config.init_scale,
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


def _fail(job: Job, group: Group, results: Path, error: Exception) -> Ended:
    """Records a run that raised, and leaves its checkpoint and segments: when it is made again it goes on from them."""
    text = f"{type(error).__name__}: {error}"
    failures.record(job, results, text, "".join(traceback.format_exception(error)))
    kept = "; what was saved is kept" if checkpoint.exists(results, group) else ""
    return Ended(job.run_id, State.failed, f"{text}{kept}")
