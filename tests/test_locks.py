"""One process holds a run at a time, and one that dies holds nothing."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys

import filelock
import pytest
from filelock import FileLock, Timeout

from bnstudy.store import locks, paths
from bnstudy.store.locks import UNKNOWN, Locked, hold, holder, holders

FORK = multiprocessing.get_context("fork")


def test_what_is_held_is_nobody_elses_and_free_afterwards(tmp_path):
    with hold(tmp_path, ["a", "b"]) as held:
        held.check()
        assert {run_id: who.pid for run_id, who in holders(tmp_path).items()} == dict.fromkeys("ab", os.getpid())
        with pytest.raises(Locked, match=rf"process {os.getpid()} on ") as caught, hold(tmp_path, ["a0", "b"]):
            pass
        assert caught.value.filename == "b"
        assert set(holders(tmp_path)) == {"a", "b"}  # all or nothing
    assert holders(tmp_path) == {} and not list(paths.locks(tmp_path).iterdir())


def hold_for_ever(results, ready):
    with hold(results, ["a"]):
        ready.set()
        signal.pause()


def test_a_killed_process_holds_nothing(tmp_path):
    ready = FORK.Event()
    process = FORK.Process(target=hold_for_ever, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(Locked), hold(tmp_path, ["a"]):
        pass
    assert (who := holder(tmp_path, "a")) is not None and who.pid == process.pid
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert paths.lock(tmp_path, "a").exists() and holder(tmp_path, "a") is None
    with hold(tmp_path, ["a"]):
        assert holders(tmp_path)["a"].pid == os.getpid()


def test_a_lock_that_another_machine_took_over_is_noticed_and_left_to_it(tmp_path):
    """A network's server gives a lock on where a machine was out of its sight for too long."""
    path = paths.lock(tmp_path, "a")
    with hold(tmp_path, ["a"]) as held:
        path.write_text("17 elsewhere 0123abcd")
        with pytest.raises(Locked, match="process 17 on elsewhere"):
            held.check()
    assert path.read_text() == "17 elsewhere 0123abcd"
    with hold(tmp_path, ["a"]) as held:
        path.unlink()
        with pytest.raises(Locked):
            held.check()


def test_a_lock_without_a_name_is_held_by_somebody(tmp_path):
    with hold(tmp_path, ["a"]):
        paths.lock(tmp_path, "a").write_text("")
        assert holders(tmp_path) == {"a": UNKNOWN}


def test_whose_lock_may_not_be_tried_is_named_by_its_file(tmp_path, monkeypatch):
    """As in another user's results, which one may read."""
    paths.lock(tmp_path, "run").parent.mkdir(parents=True)
    paths.lock(tmp_path, "run").write_text("7 there 1")

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", refused)
    assert locks.holder(tmp_path, "run") == locks.Holder("there", 7)


def test_a_lock_that_a_kill_left_on_a_copy_that_cannot_be_written_to_is_nobody_s(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    paths.lock(tmp_path, "run").parent.mkdir(parents=True)
    paths.lock(tmp_path, "run").write_text("7 there run")
    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert locks.holder(tmp_path, "run") is None


def test_one_process_at_a_time_is_alone(tmp_path):
    path = tmp_path / "new" / "submitting"
    with locks.alone(path), pytest.raises(Timeout), locks._locked(path, 0):
        pass
    with locks.alone(path):
        pass


def test_a_file_system_without_locks_is_refused_with_the_remedy(tmp_path, monkeypatch):
    def acquire(self, **options):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.raises(OSError, match=r"no locks.*--results"), hold(tmp_path, ["a"]):
        pass


CONTEND = """
import os, random, sys, time
from pathlib import Path
from bnstudy.store import locks
results, seed = Path(sys.argv[1]), int(sys.argv[2])
random.seed(seed)
locks.WAIT_SEC = 0.002
while not (results / "go").exists():
    time.sleep(0.001)
for _ in range(150):
    run = random.choice("abc")
    locks.holders(results)
    try:
        with locks.hold(results, [run]) as held:
            mark = results / f"{run}.mark"
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails where another is inside
            held.check()
            with open(results / f"{run}.log", "a") as log:
                log.write("x")
            mark.unlink()
            if random.random() < 0.05 and seed:
                os._exit(9)  # dies holding it
    except locks.Locked:
        time.sleep(0.0005)
"""


def test_many_processes_at_once_never_hold_the_same_run(tmp_path):
    command = [sys.executable, "-c", CONTEND, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE, text=True) for seed in range(4)]
    (tmp_path / "go").touch()
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert {code for _, code in ended} <= {0, 9} and ended[0][1] == 0, ended
    assert holders(tmp_path) == {}
    assert all((tmp_path / f"{run}.log").stat().st_size > 20 for run in "abc")
    with hold(tmp_path, "abc"):
        assert locks.holders(tmp_path).keys() == set("abc")
