"""Train groups of runs in parallel processes of one machine, beside other commands that train the same runs.

A process that dies affects only its group. Runs that other processes hold are left to them, and awaited.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from bnstudy.config import plugins
from bnstudy.store import devices, failures, locks, status
from bnstudy.store.jobs import Group, Job
from bnstudy.store.locks import Holder
from bnstudy.store.runs import Ending, RunEnded, State, Store
from bnstudy.sweep.plan import plan
from bnstudy.tracking.console import Progress
from bnstudy.training import imports, signals

INTERRUPTED = 130  # exit status of a worker that was asked to stop
CHECK, TRAIN = "check", "train"  # what a worker does with what it receives
ELSEWHERE = "elsewhere"  # the state of a run that another process holds
POLL_SEC = 0.5  # between looks at what others train
LONGEST_SEC = 1e6  # that an operating system waits
LEAVE_SEC = 60.0  # for a worker that is asked to stop, or has nothing left to do
SAY_SEC = 5.0  # of them before a line says what the command waits for
LOOK_SEC = 1.0  # between looks at workers that send nothing
GroupProgressCallback = Callable[[int, int, int, list[RunEnded]], None]


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    group: int | None = None
    heard: float = 0.0  # when it last gave a sign of progress
    hung: bool = False  # killed, as it gave none for too long
    gpu: str | None = None  # its own, where there are several
    slot: int = 0  # its place among those that work at the same time


def use_threads(threads: int) -> None:
    """Set the number of threads of this process, before the libraries that compute are imported."""
    _set(devices.for_threads(threads))


def train_on_this_machine(
    jobs: Sequence[Job], pending: set[str], results: Path, workers: int, progress: Progress
) -> list[RunEnded]:
    """Train the pending runs, and report how each ended, here or in another process that trains them, too.

    Returns once every one has ended. A run whose process dies is resumed by the next command that looks at it; no
    command tries a run twice.
    """
    store = Store(results)
    runs = {job.run_id: _Run(job, store.ending(job.run_id)) for job in jobs if job.run_id in pending}
    # By the workers, and not by the runs that are left: a sweep that is resumed rounds as it did before.
    threads = jobs[0].config.runtime.threads or max(1, devices.cores() // workers)
    while True:
        waiting = [run for run in runs.values() if run.waits(store)]
        num_ended = len(runs) - len(waiting)
        if not waiting:
            progress.update(num_ended)
            return [run.end for run in runs.values() if run.end is not None]
        held = {run.job.run_id: run.holder for run in waiting if run.holder is not None}
        ours = {run.job.run_id for run in waiting if not run.died}
        groups = plan(jobs, ours, results, workers) if ours - held.keys() else []
        free = [group for group in groups if not any(job.run_id in held for job in group.jobs)]
        if not free:
            others = ", ".join(sorted(map(str, set(held.values()))))
            progress.update(num_ended, f"{len(held)} are trained by {others}")
            time.sleep(POLL_SEC)
            continue
        at_once = min(workers, len(free))
        # A group resumes whole, with runs that were done before a kill and that nobody waits for.
        sizes = [sum(job.run_id in ours for job in group.jobs) for group in free]
        show = Shares(sizes, progress, num_ended, f"{at_once} processes of {threads} threads").show
        endings = {run_id: run.before for run_id, run in runs.items()}
        for end in launch(free, results, workers=at_once, threads=threads, report=show, endings=endings):
            if end.run_id in runs:
                runs[end.run_id].note(end)


@dataclass
class _Run:
    """The state of a run that this command or another is to train."""

    job: Job
    before: Ending | None  # of its manifest, before this command began
    holder: Holder | None = None  # who trains it now
    died: str = ""  # how its process here died, after which it is left to others
    end: RunEnded | None = None

    def waits(self, store: Store) -> bool:
        """Look at the disk, and return whether the run has not ended yet."""
        if self.end is None:
            self.holder = locks.holder(store.results, self.job.run_id)
        if self.end is None and self.holder is None:  # a process that releases a run has ended it, or leaves it to us
            if (end := ended(self.job, store, self.before)) is not None:
                self.end = replace(end, note=f"{end.note} ({locks.ELSEWHERE})" if end.note else locks.ELSEWHERE)
            elif self.died:
                self.end = RunEnded(self.job.run_id, State.partial, self.died)
        return self.end is None

    def note(self, end: RunEnded) -> None:
        """Record how it ended in a worker of this command."""
        if end.state == State.partial:
            self.died = end.note
        elif end.state != ELSEWHERE:
            self.end = end


class Shares:
    """The trained share of each group, of so many runs, summed up on the console."""

    def __init__(self, sizes: Sequence[int], progress: Progress, before: int, note: str) -> None:
        self._sizes, self._progress, self._before, self._note = sizes, progress, before, note
        self._share: dict[int, float] = {}  # of the groups that have begun
        self._over = set[int]()

    def show(self, group: int, done: int, total: int, ended: list[RunEnded]) -> None:
        if ended and not any(end.state == ELSEWHERE for end in ended):
            self._over.add(group)
        now = 1.0 if group in self._over else done / max(total, 1)
        if group not in self._share and not ended:
            self._progress.resumed(now * self._sizes[group])
        self._share[group] = now
        trained = sum(share * self._sizes[index] for index, share in self._share.items())
        whole = self._before + sum(self._sizes[index] for index in self._over)
        self._progress.update(self._before + trained, self._note, whole=whole)


def launch(
    groups: Sequence[Group],
    results: Path,
    *,
    workers: int,
    threads: int,
    report: GroupProgressCallback,
    endings: Mapping[str, Ending | None] | None = None,
) -> list[RunEnded]:
    """Train every group, `workers` at a time with `threads` CPU threads each; how each run ended, in order of ending.

    `report(group, steps done, steps in all, ended)` is called on every sign of progress. A worker that dies leaves its
    group as its last checkpoint has it: "partial", to be resumed when the sweep is run again. One that makes no
    progress for runtime.hang_minutes is killed, and its runs are marked failed. Runs that other processes hold are
    "elsewhere". On Ctrl-C the workers save what they can; then KeyboardInterrupt is raised. They also save where a
    value is refused, and ValueError is raised: all that can be checked beforehand is checked before anything is
    trained.
    """
    pool = _Pool(groups, results, threads, report, endings)
    try:
        return pool.run(workers)
    except BaseException:
        _interrupt(pool.workers)
        raise


class _Pool:
    """Workers, and the groups that they are still to train."""

    def __init__(
        self,
        groups: Sequence[Group],
        results: Path,
        threads: int,
        report: GroupProgressCallback,
        endings: Mapping[str, Ending | None] | None,
    ) -> None:
        self.workers: list[_Worker] = []
        self._groups, self._results, self._threads = groups, results, threads
        self._report, self._endings = report, endings
        self._todo = list(range(len(groups)))[::-1]
        self._ended: list[RunEnded] = []
        self._context = multiprocessing.get_context("spawn")

    def run(self, at_once: int) -> list[RunEnded]:
        self._start(at_once)
        if self.workers:
            _check(self.workers[0], self._groups)
        looked = time.monotonic()
        while self._todo or self.workers:
            looked, gap = time.monotonic(), time.monotonic() - looked
            if gap > 10 * LOOK_SEC:  # this process slept (Ctrl-Z, a cluster's suspension), and so did they
                for worker in self.workers:
                    worker.heard += gap
            self._start(at_once)
            for worker in list(self.workers):
                self._hand_out(worker)
            self._kill_what_hangs()
            for pipe in wait([worker.pipe for worker in self.workers], LOOK_SEC) if self.workers else ():
                self._hear(next(worker for worker in self.workers if worker.pipe is pipe))
        return self._ended

    def _start(self, at_once: int) -> None:
        """Start as many workers as there are groups left for, up to `at_once`."""
        idle = sum(worker.group is None for worker in self.workers)
        while len(self.workers) < at_once and idle < len(self._todo):
            slots = {worker.slot for worker in self.workers}
            slot = next(slot for slot in range(len(slots) + 1) if slot not in slots)
            device = self._groups[0].jobs[0].config.runtime.device
            gpu = devices.choose_gpu(device, [worker.gpu for worker in self.workers])
            self.workers.append(_start(self._context, self._results, self._threads, gpu, slot))
            idle += 1

    def _hand_out(self, worker: _Worker) -> None:
        """Give an idle worker the next group, or, where none is left, let it go."""
        if worker.group is not None:
            return
        if not self._todo:
            _stop(worker)
            self.workers.remove(worker)
            return
        worker.group, worker.heard = self._todo.pop(), time.monotonic()
        with contextlib.suppress(OSError):  # it died already, as its pipe is about to tell
            worker.pipe.send((TRAIN, (self._groups[worker.group], self._endings)))

    def _kill_what_hangs(self) -> None:
        for worker in self.workers:
            assert worker.group is not None
            if time.monotonic() - worker.heard > _patience_sec(self._groups[worker.group]):
                worker.process.kill()  # as its pipe is about to tell
                worker.hung = True

    def _hear(self, worker: _Worker) -> None:
        """Receive what a worker sends. Raises ValueError where the worker refused a value."""
        assert worker.group is not None
        worker.heard = time.monotonic()
        try:
            kind, *content = worker.pipe.recv()
        except (EOFError, OSError):
            _await(worker)
            self._end(worker, _fallen(worker, self._groups[worker.group], self._results))
            self.workers.remove(worker)
            return
        if kind == "refused":
            raise ValueError(content[0])
        if kind == "progress":
            self._report(worker.group, content[0], content[1], [])
        else:
            self._end(worker, content[0])

    def _end(self, worker: _Worker, ended: list[RunEnded]) -> None:
        assert worker.group is not None
        self._ended += ended
        self._report(worker.group, 0, 0, ended)
        worker.group = None


def _start(context: Any, results: Path, threads: int, gpu: str | None, slot: int) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, results, threads), daemon=False)
    environment = devices.for_threads(threads)
    environment |= {} if gpu is None else {devices.VISIBLE: gpu}
    before = {name: os.environ.get(name) for name in environment}
    _set(environment)  # read by the libraries when the process starts
    try:
        with signals.cluster_signals_blocked(), _on(devices.share(slot, threads)):
            process.start()
    finally:
        _set(before)
        theirs.close()
    return _Worker(process, ours, gpu=gpu, slot=slot)


@contextlib.contextmanager
def _on(on: set[int] | None) -> Iterator[None]:
    """Run this thread, and the processes it starts, on these cores."""
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
    """Have one worker check all that is to train, while the others import what they need."""
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


def _fallen(worker: _Worker, group: Group, results: Path) -> list[RunEnded]:
    """The endings of the runs of a worker that died."""
    if not worker.hung:
        note = f"its process died ({_cause(worker.process.exitcode)}); run the sweep again to resume"
        return _as_it_stands(group, results, note)
    minutes = group.jobs[0].config.runtime.hang_minutes
    error = f"no progress for {minutes:g} minutes (runtime.hang_minutes): its process was killed"
    now = {job.run_id: status.of(job, Store(results), verify=False) for job in group.jobs}
    left = [job for job in group.jobs if not now[job.run_id].state.done]
    try:
        with locks.hold(results, [job.run_id for job in left]):
            for job in left:
                failures.record(job, results, error)
    except OSError as trouble:  # another command was faster to take over, or the disk is at fault
        return _as_it_stands(group, results, f"{error}; {trouble.strerror}")
    ended = [RunEnded(run_id, each.state) for run_id, each in now.items() if each.done]
    again = [run_id for run_id, each in now.items() if each.state.done and not each.done]  # trained again, for a look
    failed = [RunEnded(run_id, State.failed, f"{error}; the run stays as it was") for run_id in again]
    return ended + failed + [RunEnded(job.run_id, State.failed, f"{error}; what was saved is kept") for job in left]


def _stop(worker: _Worker) -> None:
    worker.pipe.close()
    _await(worker)


def _await(worker: _Worker) -> None:
    """Wait for an idle process to end, and kill it where it does not."""
    worker.process.join(timeout=LEAVE_SEC)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _interrupt(pool: Sequence[_Worker]) -> None:
    """Have the workers save and end, and wait for them; a second Ctrl-C kills them."""
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
    """Be a worker: groups come in, progress and endings go out, until the pipe is closed."""
    signals.end_on_interrupt()  # as long as there is nothing to save
    _die_with_parent()
    imports.load()  # torch is imported here, in the worker
    gc.freeze()  # what is imported stays: no search for garbage need look at it
    from bnstudy.training import preflight

    def tell(kind: str, *content: object) -> None:
        try:
            pipe.send((kind, *content))
        except OSError:
            os._exit(1)  # nobody listens any more; the next command resumes from the checkpoint

    stop = signals.Stop(ends_process=True)
    with stop.listening():
        while True:
            try:
                try:
                    task, content = pipe.recv()
                except (EOFError, OSError):
                    _leave()
                try:
                    if task == CHECK:
                        preflight.check(job for group in content for job in group.jobs)
                        tell("checked")
                    else:
                        report = functools.partial(tell, "progress")
                        group, endings = content
                        tell("ended", _train(group, endings, results, threads, report, stop))
                except ValueError as error:
                    if task == TRAIN and isinstance(error.__cause__, plugins.Changed):  # of these runs' files
                        tell("ended", _as_it_stands(content[0], results, str(error)))
                    else:
                        tell("refused", str(error))
                if stop.requested:
                    os._exit(INTERRUPTED)
            except (KeyboardInterrupt, signals.Interrupted):
                os._exit(INTERRUPTED)


def _leave() -> NoReturn:
    """End this worker with all that is registered for its end; to take its libraries apart takes most of a second."""
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(0)


def _train(
    group: Group,
    endings: Mapping[str, Ending | None] | None,
    results: Path,
    threads: int,
    report: Callable[[int, int], None],
    stop: signals.Stop,
) -> list[RunEnded]:
    from bnstudy.training import runner

    try:
        return runner.train_group(group, results, threads=threads, report=report, stop=stop, endings=endings)
    except locks.Locked as locked:
        return [RunEnded(job.run_id, ELSEWHERE, str(locked.strerror)) for job in group.jobs]
    except OSError as error:
        return _as_it_stands(group, results, f"{error}; what was saved is kept")


def _as_it_stands(group: Group, results: Path, note: str) -> list[RunEnded]:
    """The states of the runs of a group whose training broke off: some may have been done before."""
    statuses = {job.run_id: status.of(job, Store(results), verify=False) for job in group.jobs}
    return [
        RunEnded(run_id, now.state) if now.done else RunEnded(run_id, State.partial, note)
        for run_id, now in statuses.items()
    ]


def ended(job: Job, store: Store, before: Ending | None) -> RunEnded | None:
    """How the run ended if it is done as asked, or failed anew since its ending `before`; else None."""
    anew = store.ending(job.run_id) != before
    now = status.of(job, store, verify=not anew)  # one that ended before may be pending because it is damaged
    if now.done:
        return RunEnded(job.run_id, now.state)
    if now.state == State.failed and anew:
        return RunEnded(job.run_id, now.state, str(store.manifest(job.run_id)["error"]))
    return None


def _die_with_parent() -> None:
    """End this worker once its parent is gone, or a new command would run against it."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
