"""Makes groups of runs in parallel processes of one machine; one that dies takes nothing with it but its group."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bnstudy.jobs import Group

INTERRUPTED = 130  # exit status of a worker that was asked to stop
Ended = tuple[str, str, str]  # run id, state, note


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    group: int | None = None


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launch(
    groups: Sequence[Group],
    results: Path,
    *,
    workers: int,
    threads: int,
    report: Callable[[int, int, int, list[Ended]], None],
) -> list[Ended]:
    """Makes every group, `workers` at a time with `threads` CPU threads each; how each run ended, in order of ending.

    `report(group, steps done, steps in all, ended)` is called on every sign of progress. A worker that dies leaves its
    group as its last checkpoint has it: "partial", to go on when the sweep is run again. On Ctrl-C the workers save
    what they can; then KeyboardInterrupt is raised.
    """
    context = multiprocessing.get_context("spawn")
    todo = list(enumerate(groups))[::-1]
    ended: list[Ended] = []
    pool: list[_Worker] = []
    try:
        while todo or pool:
            while todo and len(pool) < workers:
                pool.append(_start(context, results, threads))
            for worker in pool:
                if worker.group is None and todo:
                    worker.group, group = todo.pop()
                    with contextlib.suppress(OSError):  # it died already, as its pipe is about to tell
                        worker.pipe.send(group)
            for worker in [w for w in pool if w.group is None]:
                _stop(worker)
                pool.remove(worker)
            for pipe in wait([w.pipe for w in pool]) if pool else ():
                worker = next(w for w in pool if w.pipe is pipe)
                assert worker.group is not None
                try:
                    kind, *content = worker.pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    note = f"its process died ({_cause(worker.process.exitcode)}); run the sweep again to go on"
                    fallen = [(job.run_id, "partial", note) for job in groups[worker.group].jobs]
                    ended += fallen
                    report(worker.group, 0, 0, fallen)
                    pool.remove(worker)
                    continue
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


def _start(context: Any, results: Path, threads: int) -> _Worker:
    ours, theirs = context.Pipe()
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, str(threads)))  # read by the libraries when the process starts
    process = context.Process(target=_work, args=(theirs, results, threads), daemon=False)
    process.start()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    theirs.close()
    return _Worker(process, ours)


def _stop(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.join()


def _interrupt(pool: Sequence[_Worker]) -> None:
    """A terminal's Ctrl-C has reached the workers too; a signal to this process alone has not."""
    for worker in pool:
        if worker.process.is_alive():
            os.kill(worker.process.pid, signal.SIGTERM)
    for worker in pool:
        worker.process.join(timeout=60)
        if worker.process.is_alive():
            worker.process.kill()


def _cause(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit {code}"


def _work(pipe: Connection, results: Path, threads: int) -> None:
    """A worker: groups come in, progress and endings go out, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as long as there is nothing to save
    _die_with_parent()
    from bnstudy import runner  # torch is imported here, in the worker

    def tell(kind: str, *content: object) -> None:
        try:
            pipe.send((kind, *content))
        except OSError:
            os._exit(1)  # nobody listens any more; the next launch goes on from the checkpoint

    stop = runner.Stop()
    with stop.listening():
        while True:
            try:
                try:
                    group = pipe.recv()
                except (EOFError, OSError):
                    return
                tell("ended", _make(group, results, threads, lambda done, total: tell("progress", done, total), stop))
                if stop.requested:
                    os._exit(INTERRUPTED)
            except (KeyboardInterrupt, runner.Interrupted):
                os._exit(INTERRUPTED)


def _make(group: Group, results: Path, threads: int, report: Callable[[int, int], None], stop: Any) -> list[Ended]:
    from bnstudy import runner

    try:
        ended = runner.run(group, results, threads=threads, report=report, stop=stop)
    except OSError as error:
        return [(job.run_id, "partial", f"{error}; what was saved is kept") for job in group.jobs]
    return [(e.run_id, str(e.state), e.note) for e in ended]


def _die_with_parent() -> None:
    """A killed parent must not leave workers behind that a new launch would run against."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
