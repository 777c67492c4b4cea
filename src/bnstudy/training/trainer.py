"""A group of runs while it trains: built or resumed, saved now and then, and ended with a manifest for each run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from bnstudy.config import component_files, identity, plugins
from bnstudy.config.schema import Config, resolved, resolved_plan
from bnstudy.store import checkpoint, locks, outcomes, provenance, status
from bnstudy.store.jobs import Group, Job
from bnstudy.store.runs import State, Store, Writer
from bnstudy.store.status import Look
from bnstudy.tracking.tracker import Tracker, tracker_of
from bnstudy.training import engine
from bnstudy.training.construct import build_network, make_loader
from bnstudy.training.engine import host
from bnstudy.training.observer import Observer, Rows
from bnstudy.training.position import Position
from bnstudy.training.signals import Interrupted, Left, Stop
from bnstudy.training.train import Training

ProgressCallback = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Work:
    """What training a group shares: the number of threads, the report of progress, the stop, the locks."""

    threads: int
    report: ProgressCallback
    stop: Stop
    held: locks.Locks


class Trainer:
    """A group of runs while it trains: its network, data and tables, and the time they took."""

    def __init__(self, group: Group, results: Path, threads: int, looks: dict[str, Look]) -> None:
        self._began = time.perf_counter()
        self._group, self._results, self._threads, self._looks = group, results, threads, looks
        configs = [job.config for job in group.jobs]
        self._config = configs[0]
        _check_current(self._config, looks.values())
        host.prepare(threads)
        torch.manual_seed(self._config.seed)
        self._device = engine.device(self._config)
        loader = make_loader(group.jobs[0], self._device)
        networks = [build_network(config, loader.shape, loader.num_classes) for config in configs]
        initial = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
        self._engine = engine.build_engine(configs, networks, self._device)
        self._store, self._writers = Store(results), list[Writer]()
        self._before_sec = 0.0
        self._commits = [provenance.code()["commit"]]
        how = engine.facts(self._config, len(configs), self._device)["engine"]
        self._groups = [{"id": group.id, "num_runs": len(configs), "engine": how, "from_step": 0}]
        self._earlier: list[dict[str, Any]] = []  # facts of processes that trained a part of the runs before
        self.training = Training(configs, self._engine, loader, Observer(looks, self._config, loader, initial))
        self._before = {job.run_id: _ended_with(job, self._store) for job in group.jobs}
        self._lacked = {job.run_id for job in group.jobs if status.of(job, self._store, verify=False).lacking}

    def begin(self) -> None:
        """Start. A run that has ended and is trained again for a look stays until its new files replace it."""
        self._writers = [self._store.writer(job.run_id) for job in self._group.jobs]
        for job, writer in zip(self._group.jobs, self._writers, strict=True):
            writer.restart() if self._before[job.run_id] is None else writer.again()

    def resume(self, saved: dict[str, Any]) -> bool:
        """Resume from a checkpoint, to the bit; False, after saying why and changing nothing, where it is of no use.

        Of no use is a checkpoint of other code, with another state, or with damaged rows. Any other exception is not
        the checkpoint's fault.
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
            checkpoint.remove(self._results, self._group)
            return False
        self._engine.load(saved["engine"])
        self.training.position, self._writers = position, writers
        self._before_sec = saved["wall_sec"]
        self._commits = list(dict.fromkeys([*saved["commits"], *self._commits]))
        now = self._groups[0] | {"from_step": position.step}
        as_before = all(saved["groups"][-1][key] == now[key] for key in ("id", "engine"))
        self._groups = saved["groups"] + ([] if as_before else [now])
        self._earlier = saved["facts"]
        torch.set_rng_state(saved["rng"])
        for job in self._group.jobs:
            self._store.retract_failure(job.run_id)
        return True

    @contextmanager
    def mirrored(self) -> Iterator[list[Tracker]]:
        """The runs' mirrors at the tracker; where training stops short they are closed with the reason."""
        mirrors = [tracker_of(job.config, job.run_id, self._results, _facts(job)) for job in self._group.jobs]
        try:
            yield mirrors
        except BaseException as error:
            for mirror in mirrors:
                mirror.finish("failed" if isinstance(error, Exception) else "interrupted", {})
            raise

    def train(self, mirrors: Sequence[Tracker], work: Work) -> None:
        """Train to the end of the budget, saving now and then; on a request to stop save, and raise Interrupted."""
        try:
            self._train_and_save(mirrors, work)
        except Left:  # the look is repeated when the runs resume
            self._save()
            raise Interrupted from None

    def _train_and_save(self, mirrors: Sequence[Tracker], work: Work) -> None:
        last_save = time.monotonic()

        def mark_due() -> bool:
            return work.stop.requested or time.monotonic() - last_save >= self._config.runtime.checkpoint_every_sec

        for event in self.training.rows(mark_due, work.stop.leavable):
            if isinstance(event, Rows):
                self._writers[event.run].add(event.table, event.columns, event.values)
                _mirror(mirrors[event.run], event)
                continue
            work.report(event.step, self.training.total_steps)
            work.held.check()
            if mark_due():
                self._save()
                last_save = time.monotonic()
            if work.stop.requested:
                raise Interrupted
        if self.training.total_steps:  # from here on a kill finds the group trained to its end
            self._save()

    def end(self, mirrors: Sequence[Tracker]) -> dict[str, State]:
        """Write the runs' final tables and manifests, then remove the checkpoint; return their states."""
        *earlier, last = self._facts()
        facts = {
            **provenance.code(),
            "commits": self._commits,
            **last,
            "earlier": earlier,  # how parts were trained that were trained otherwise
            "num_runs": len(self._group.jobs),
            "group": self._group.id,
            "groups": self._groups,  # several: taken apart, or resumed with another engine
        }
        states = {}
        for index, job in enumerate(self._group.jobs):
            manifest = _manifest(job, self.training, index, facts, self._wall_sec())
            manifest["looks"] = {table: look.record for table, look in self._looks.items()}
            self._writers[index].finish(manifest, self._weights(job, index))
            self._compare(job)
            summary = {name: manifest[name] for name in ("outcome", "diverged_step", "num_steps")}
            mirrors[index].finish(manifest["status"], manifest["final"] | summary)
            states[job.run_id] = State(manifest["status"])
        checkpoint.remove(self._results, self._group)
        for writer in self._writers:
            writer.clean()
        return states

    def _weights(self, job: Job, run: int) -> bytes | None:
        """The run's last parameters and running statistics, as a file of safetensors."""
        if not job.config.runtime.keep_weights:
            return None
        state = self._engine.network(run).state_dict()
        values = {name: value.cpu().contiguous().clone() for name, value in state.items()}  # none of them shared
        return save(values, {"run": job.run_id})

    def _compare(self, job: Job) -> None:
        """Print whether a run that was trained again ended in the same bits."""
        before = self._before[job.run_id]
        if before is None or job.run_id not in self._lacked:
            return
        after = _ended_with(job, self._store) or {}
        differ = [name for name in before if before[name] != after.get(name)]
        how = f"in other bits than before ({', '.join(differ)}): all its tables are of this training" if differ else (
            "in the same bits as before"
        )  # fmt: skip
        print(f"{job.run_id}: trained again for what had not been looked at, it ended {how}", flush=True)

    def _save(self) -> None:
        state = {
            "engine": self._engine.state(),
            "position": asdict(self.training.position),
            "writers": [writer.flush() for writer in self._writers],
            "rng": torch.get_rng_state(),
            "threads": self._threads,
            "wall_sec": self._wall_sec(),
            "commits": self._commits,
            "looks": {table: look.record for table, look in self._looks.items()},
            "code": status.component_code(self._config),
            "groups": self._groups,
            "facts": self._facts(),
        }
        checkpoint.save(self._results, self._group, state)

    def _facts(self) -> list[dict[str, Any]]:
        """The machines and settings that trained the runs so far, this process last, each once."""
        computed = engine.facts(self._config, len(self._group.jobs), self._device)
        ours = {**provenance.machine(), "threads": self._threads, **computed}
        return [*(each for each in self._earlier if each != ours), ours]

    def _wall_sec(self) -> float:
        return self._before_sec + time.perf_counter() - self._began


def _check_current(config: Config, looks: Iterable[Look]) -> None:
    """Import what the runs use. Raises ValueError where a file of it has changed since this process imported it."""
    used = [(kind, getattr(config, key)["name"]) for key, kind in identity.COMPONENTS]
    for kind, name in dict.fromkeys([*used, *(("probes", look.probe) for look in looks)]):
        plugins.check_current(kind, name)


def _ended_with(job: Job, store: Store) -> dict[str, str] | None:
    """Checksums of what the run's training ended in, to be compared after it is trained again; None: start afresh."""
    now = status.of(job, store)
    if not now.state.done or now.changed:
        return None
    manifest = store.manifest(job.run_id)
    checksums = {name: manifest["tables"][name]["sha256"] for name in ("steps", "epochs") if name in manifest["tables"]}
    return checksums | ({"weights": manifest["weights"]["sha256"]} if manifest.get("weights") else {})


def _layout(state: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (values.shape, values.dtype) for name, values in state.items()}


def _facts(job: Job) -> dict[str, Any]:
    """What identifies the run, for its W&B mirror: the configuration and the bytes it sees."""
    plans = {name: resolved_plan(name, plan) for name, plan in job.config.probes.items()}
    return resolved(job.config) | {"probes": plans, "data_source": job.source.record}


def _mirror(tracker: Tracker, rows: Rows) -> None:
    columns = [name for name in rows.columns if name != "step"]
    lines = zip(*(rows.values[name] for name in columns), strict=True)
    records = [dict(zip(columns, values, strict=True)) for values in lines]
    if rows.table in component_files.OF_TRAINING:
        steps = rows.values.get("step", [rows.step] * len(records))
        for step, values in zip(steps, records, strict=True):
            tracker.scalars(step, {f"{rows.table}/{name}": value for name, value in values.items()})
    else:
        tracker.table(rows.table.partition("@")[0], rows.step, records)


def _manifest(job: Job, training: Training, run: int, facts: dict[str, Any], wall_sec: float) -> dict[str, Any]:
    position = training.position
    diverged_step = position.diverged_step[run]
    final = position.final[run]
    if diverged_step is not None:
        outcome = "diverged"
    elif training.total_steps == 0:
        outcome = None
    else:
        outcome = "stalled" if final["train_accuracy"] < outcomes.stalled_below(job.source.num_classes) else "trained"
    busy_sec = position.train_sec + position.probe_sec
    return {
        "status": "completed" if diverged_step is None else "diverged",
        "outcome": outcome,
        "diverged_step": diverged_step,
        "error": None,
        "config": resolved(job.config),
        "code": status.component_code(job.config),
        "sweep": job.config.sweep.name,
        "data": job.source.record,
        "provenance": facts,
        "num_steps": position.step if diverged_step is None else diverged_step,
        "final": {name: value if math.isfinite(value) else None for name, value in final.items()},
        "wall_sec": wall_sec,
        "probe_share": position.probe_sec / busy_sec if busy_sec else None,
    }
