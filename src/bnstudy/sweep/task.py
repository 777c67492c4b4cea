"""One group of runs as a job that something else starts: a file that describes it, and what is done with that.

It makes its runs as a sweep on one machine does, with one worker process. A cluster tells a job before it ends it:
SIGUSR2 (or SIGUSR1) ahead of its time limit and of preemption, after which the job is to be queued again; SIGTERM where
it is cancelled, and with some preemptions. Either way what was trained is saved. After SIGTERM alone the job goes on
until it is killed, since Slurm queues again what it preempts only if it has not ended by itself.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from bnstudy.config.schema import from_dict, to_dict
from bnstudy.data.sources import Source
from bnstudy.store import files, status
from bnstudy.store.jobs import Group, Job
from bnstudy.store.runs import State, Store
from bnstudy.sweep import sharing
from bnstudy.tracking.sinks.console import Progress

SAID = "bnstudy: "  # begins what a job says of itself at its end, among all that others write to its log
AGAIN = (signal.SIGUSR1, signal.SIGUSR2)


def write(path: Path, group: Group, threads: int) -> None:
    """Describes the group to be made with so many threads a run, in a file that can be read from any folder."""
    described = []
    for job in group.jobs:
        runtime = replace(job.config.runtime, threads=threads)
        source = asdict(job.source) | {"folder": str(job.source.folder.resolve())}
        described.append({"config": to_dict(replace(job.config, runtime=runtime)), "source": source})
    files.write_text(path, json.dumps(described))


def read(path: Path) -> Group:
    """What `write` described. Raises ValueError where the file holds something else."""
    return Group(tuple(_job(**each) for each in json.loads(path.read_text(encoding="utf-8"))))


def _job(config: dict[str, Any], source: dict[str, Any]) -> Job:
    whole = source | {"folder": Path(source["folder"]), "shape": tuple(source["shape"])}
    return Job(from_dict(config), Source(**whole))


def run(group: Group, results: Path) -> dict[str, str]:
    """Makes the runs that are not done. Says and returns, by run, what kept any from ending well; that raises nothing.

    On SIGUSR1 or SIGUSR2, once all is saved, calls the handler that one of them had: submitit's queues the job again.
    """
    store, kept = Store(results), dict[str, str]()
    queue_again = {number: handler for number in AGAIN if callable(handler := signal.getsignal(number))}
    with _listening() as told:
        while pending := {job.run_id for job in group.jobs if not status.of(job, store).done}:
            try:
                with Progress("job", len(pending), "runs ended") as progress:
                    ended = sharing.make(group.jobs, pending, results, 1, progress)
            except KeyboardInterrupt:
                if not told.again:
                    raise
                break
            except (ValueError, OSError) as error:
                print(f"{SAID}{error}", file=sys.stderr, flush=True)
                kept = dict.fromkeys(sorted(pending), str(error))
                break
            if not told.soon or all(state != State.partial for _, state, _ in ended):
                for run_id, state, note in ended:
                    if state not in (State.completed, State.diverged):
                        kept[run_id] = note
                        print(f"{SAID}{run_id}: {state}: {note}", file=sys.stderr, flush=True)
                break
            told.soon = False  # saved, and nobody ended us yet
    if told.again:
        for number, handler in queue_again.items():
            handler(number, None)
    return kept


@dataclass
class _Told:
    """What signals have said so far."""

    again: bool = False  # save, and be queued again
    soon: bool = False  # the end may be near


@contextmanager
def _listening() -> Iterator[_Told]:
    told = _Told()

    def hear(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            told.soon = True  # our worker has heard it too
            return
        told.again = True
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, *AGAIN)}
    for number in (signal.SIGTERM, *AGAIN):
        signal.signal(number, hear)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
