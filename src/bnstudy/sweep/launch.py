"""Makes groups of runs in parallel processes of one machine; one that dies takes nothing with it but its group."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bnstudy.store import devices, failures, locks, status
from bnstudy.store.jobs import Group, Job
from bnstudy.store.runs import Ending, State, Store

INTERRUPTED = 130  # exit status of a worker that was asked to stop
CHECK, MAKE = "check", "make"  # what a worker is told to do with what comes
ELSEWHERE = "elsewhere"  # the state of a run that another process is making
LONGEST_SEC = 1e6  # that an operating system waits
LEAVE_SEC = 60.0  # for a worker that is asked to stop, or has nothing left to do
SAY_SEC = 5.0  # of them before a line says what is waited for
LOOK_SEC = 1.0  # between looks at workers that tell nothing
Ended = tuple[str, str, str]  # run id, state, note


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    group: int | None = None
    heard: float = 0.0  # when it last gave a sign of progress
    hung: bool = False  # killed, as it gave none for too long
    gpu: str | None = None  # its own, where there are several
    slot: int = 0  # its place among those that work at the same time


def cores() -> int:
    """CPU cores this process may use."""
    return devices.cores()


def prepare(threads: int) -> None:
    """This process is to compute with so many threads: to be called before what computes is imported."""
    _set(devices.for_threads(threads))


def launch(
    groups: Sequence[Group],
    results: Path,
    *,
    workers: int,
    threads: int,
    report: Callable[[int, int, int, list[Ended]], None],
    endings: Mapping[str, Ending | None] | None = None,
) -> list[Ended]:
    """Makes every group, `workers` at a time with `threads` CPU threads each; how each run ended, in order of ending.

    `report(group, steps done, steps in all, ended)` is called on every sign of progress. A worker that dies leaves its
    group as its last checkpoint has it: "partial", to go on when the sweep is run again. One that makes no progress for
    runtime.hang_minutes is killed, and its runs are marked failed. Runs that other processes make are "elsewhere". On
    Ctrl-C the workers save what they can; then KeyboardInterrupt is raised. So do they, and ValueError is raised, where
    a value makes no run: what can be seen then is seen before anything is made.
    """
    context = multiprocessing.get_context("spawn")
    todo = list(enumerate(groups))[::-1]
    ended: list[Ended] = []
    pool: list[_Worker] = []
    device = groups[0].jobs[0].config.runtime.device if groups else "cpu"

    def start() -> None:
        slot = next(i for i in range(len(pool) + 1) if i not in {worker.slot for worker in pool})
        pool.append(_start(context, results, threads, devices.one_of(device, [worker.gpu for worker in pool]), slot))

    try:
        for _ in range(min(workers, len(todo))):
            start()
        if pool:
            _check(pool[0], groups)
        while todo or pool:
            while todo and len(pool) < workers:
                start()
            for worker in pool:
                if worker.group is None and todo:
                    worker.group, group = todo.pop()
                    worker.heard = time.monotonic()
                    with contextlib.suppress(OSError):  # it died already, as its pipe is about to tell
                        worker.pipe.send((MAKE, (group, endings)))
            for worker in [w for w in pool if w.group is None]:
                _stop(worker)
                pool.remove(worker)
            for worker in pool:
                assert worker.group is not None
                if time.monotonic() - worker.heard > _patience_sec(groups[worker.group]):
                    worker.process.kill()  # as its pipe is about to tell
                    worker.hung = True
            for pipe in wait([w.pipe for w in pool], LOOK_SEC) if pool else ():
                worker = next(w for w in pool if w.pipe is pipe)
                assert worker.group is not None
                worker.heard = time.monotonic()
                try:
                    kind, *content = worker.pipe.recv()
                except (EOFError, OSError):
                    _await(worker)
                    fallen = _fallen(worker, groups[worker.group], results)
                    ended += fallen
                    report(worker.group, 0, 0, fallen)
                    pool.remove(worker)
                    continue
                if kind == "refused":
                    raise ValueError(content[0])
                if kind == "progress":
                    report(worker.group, content[0], content[1], [])
                else:
                    ended += content[0]
                    report(worker.group, 0, 0, content[0])
                    worker.group = None
    except BaseException:
        _interrupt(pool)
        raise
    return ended


def _start(context: Any, results: Path, threads: int, gpu: str | None, slot: int) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, results, threads), daemon=False)
    wanted = devices.for_threads(threads)
    wanted |= {} if gpu is None else {devices.VISIBLE: gpu}
    before = {name: os.environ.get(name) for name in wanted}
    _set(wanted)  # read by the libraries when the process starts
    # A cluster's signals to its job are for the process that waits here; one that does not know them would die of them.
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2))
    try:
        with _on(devices.share(slot, threads)):
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        _set(before)
        theirs.close()
    return _Worker(process, ours, gpu=gpu, slot=slot)


@contextlib.contextmanager
def _on(on: set[int] | None) -> Iterator[None]:
    """Within, this thread runs on these cores, and so does what it starts, before a library is loaded there."""
    if on is None:
        yield
        return
    before = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):  # a core that is no more
        os.sched_setaffinity(0, on)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _set(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _check(worker: _Worker, groups: Sequence[Group]) -> None:
    """Has one worker look at all that is to be made, while the others import what they need."""
    try:
        worker.pipe.send((CHECK, groups))
        patience_sec = min(map(_patience_sec, groups))
        if not worker.pipe.poll(min(patience_sec, LONGEST_SEC)):
            worker.process.kill()
            raise ValueError(
                f"the check of what is to be run made no progress for {patience_sec / 60:g} minutes "
                "(runtime.hang_minutes): its process was killed; see whether data and disks answer"
            )
        kind, *content = worker.pipe.recv()
    except (EOFError, OSError):  # it died, as its pipe is about to tell
        return
    if kind == "refused":
        raise ValueError(content[0])


def _patience_sec(group: Group) -> float:
    return min(job.config.runtime.hang_minutes for job in group.jobs) * 60


def _fallen(worker: _Worker, group: Group, results: Path) -> list[Ended]:
    """How the runs ended of a worker that is no more."""
    if not worker.hung:
        note = f"its process died ({_cause(worker.process.exitcode)}); run the sweep again to go on"
        return _as_it_stands(group, results, note)
    minutes = group.jobs[0].config.runtime.hang_minutes
    error = f"no progress for {minutes:g} minutes (runtime.hang_minutes): its process was killed"
    left = [job for job in group.jobs if not status.of(job, Store(results), verify=False).state.done]
    try:
        with locks.hold(results, [job.run_id for job in left]):
            for job in left:
                failures.record(job, results, error)
    except OSError as trouble:  # another launcher was faster to take over, or the disk is at fault
        return _as_it_stands(group, results, f"{error}; {trouble.strerror}")
    failed = [(job.run_id, str(State.failed), f"{error}; what was saved is kept") for job in left]
    return [told for told in _as_it_stands(group, results, "") if told[1] != State.partial] + failed


def _stop(worker: _Worker) -> None:
    worker.pipe.close()
    _await(worker)


def _await(worker: _Worker) -> None:
    """Waits for the process to end, which has nothing to do any more, and ends it where it does not."""
    worker.process.join(timeout=LEAVE_SEC)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _interrupt(pool: Sequence[_Worker]) -> None:
    """A terminal's Ctrl-C has reached the workers too; a signal to this process alone has not. A second one kills."""
    for worker in pool:
        if worker.process.is_alive():
            os.kill(worker.process.pid, signal.SIGTERM)
    until = time.monotonic() + LEAVE_SEC
    try:
        for worker in pool:
            worker.process.join(timeout=SAY_SEC)
        if left := sum(worker.process.is_alive() for worker in pool):
            print(f"\nwaiting up to {LEAVE_SEC:g} s for {left} processes to save what they have", file=sys.stderr)
        for worker in pool:
            worker.process.join(timeout=max(0.0, until - time.monotonic()))
    finally:
        for worker in pool:
            if worker.process.is_alive():
                worker.process.kill()


def _cause(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "SIGKILL: killed, or out of memory"
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit {code}"


def _work(pipe: Connection, results: Path, threads: int) -> None:
    """A worker: groups come in, progress and endings go out, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as long as there is nothing to save
    _die_with_parent()
    from bnstudy.training import preflight, runner  # torch is imported here, in the worker

    def tell(kind: str, *content: object) -> None:
        try:
            pipe.send((kind, *content))
        except OSError:
            os._exit(1)  # nobody listens any more; the next launch goes on from the checkpoint

    stop = runner.Stop(ends_process=True)
    with stop.listening():
        while True:
            try:
                try:
                    task, content = pipe.recv()
                except (EOFError, OSError):
                    return
                try:
                    if task == CHECK:
                        preflight.check(job for group in content for job in group.jobs)
                        tell("checked")
                    else:
                        report = functools.partial(tell, "progress")
                        group, endings = content
                        tell("ended", _make(group, endings, results, threads, report, stop))
                except ValueError as error:
                    tell("refused", str(error))
                if stop.requested:
                    os._exit(INTERRUPTED)
            except (KeyboardInterrupt, runner.Interrupted):
                os._exit(INTERRUPTED)


def _make(
    group: Group,
    endings: Mapping[str, Ending | None] | None,
    results: Path,
    threads: int,
    report: Callable[[int, int], None],
    stop: Any,
) -> list[Ended]:
    from bnstudy.training import runner

    try:
        ended = runner.run(group, results, threads=threads, report=report, stop=stop, endings=endings)
    except locks.Locked as locked:
        return [(job.run_id, ELSEWHERE, str(locked.strerror)) for job in group.jobs]
    except OSError as error:
        return _as_it_stands(group, results, f"{error}; what was saved is kept")
    return [(e.run_id, str(e.state), e.note) for e in ended]


def _as_it_stands(group: Group, results: Path, note: str) -> list[Ended]:
    """How the runs of a group ended whose making did not: some may have been done before."""
    found = {job.run_id: status.of(job, Store(results), verify=False) for job in group.jobs}
    return [(name, str(s.state), "") if s.done else (name, str(State.partial), note) for name, s in found.items()]


def ended(job: Job, store: Store, before: Ending | None) -> Ended | None:
    """How a run ended that is done as asked, or failed with another ending than `before`; None where it has not."""
    now = status.of(job, store, verify=False)
    if now.done:
        return job.run_id, str(now.state), ""
    if now.state == State.failed and store.ending(job.run_id) != before:
        return job.run_id, str(now.state), str(store.manifest(job.run_id)["error"])
    return None


def _die_with_parent() -> None:
    """A killed parent must not leave workers behind that a new launch would run against."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
