"""Worker processes: one that dies takes its group's turn with it and nothing else, and everything is told in words."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from small_runs import config, job, quadrants

from bnstudy.config.schema import resolved
from bnstudy.store import devices, locks, paths
from bnstudy.store.jobs import Group, under_way
from bnstudy.store.runs import RunEnded, State, Store
from bnstudy.sweep import pool


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


def nothing(*_):
    """No report."""


@pytest.mark.slow
def test_a_worker_killed_before_it_begins_costs_its_own_group_alone(tmp_path, root):
    """The others are made by a new worker, with progress, on the threads that were asked for."""
    groups = [Group((job(config(root, seed=seed)),)) for seed in (0, 1, 2)]
    killed = []

    def kill_the_first():
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        os.kill(children[0].pid or 0, signal.SIGKILL)
        killed.append(children[0].pid)

    thread = threading.Thread(target=kill_the_first)
    thread.start()
    seen = []
    before = os.environ.get("OMP_NUM_THREADS")
    ended = pool.launch(groups, tmp_path, workers=1, threads=2, report=lambda *told: seen.append(told))
    thread.join()
    assert os.environ.get("OMP_NUM_THREADS") == before
    ids = [group.jobs[0].run_id for group in groups]
    assert killed and [(end.run_id, end.state) for end in ended] == [
        (ids[0], "partial"),
        (ids[1], "completed"),
        (ids[2], "completed"),
    ]
    assert ended[0].note.startswith("its process died (SIGKILL: killed, or out of memory); ")
    store = Store(tmp_path)
    assert [store.state(name) for name in ids] == [State.absent, State.completed, State.completed]
    assert store.manifest(ids[1])["provenance"]["threads"] == 2
    assert (1, 9, 9, []) in seen and (2, 0, 0, [ended[2]]) in seen
    assert not multiprocessing.active_children()


def test_a_finished_run_that_hangs_when_it_is_trained_for_a_look_has_failed_and_stays(tmp_path, root, monkeypatch):
    """It has an ending, or the command would begin it again for ever."""
    group = Group((job(config(root, train__steps=2)),))
    (ended,) = pool.launch([group], tmp_path, workers=1, threads=1, report=lambda *_: None)
    assert ended.state == "completed"
    more = Group((job(config(root, train__steps=2, probes={"weights": {"every_steps": 1}})),))
    worker = pool._Worker(SimpleNamespace(exitcode=-9), multiprocessing.Pipe()[0], hung=True)
    (again,) = pool._fallen(worker, more, tmp_path)
    assert (again.run_id, again.state) == (ended.run_id, "failed")
    assert "runtime.hang_minutes" in again.note and "stays as it was" in again.note
    assert Store(tmp_path).state(again.run_id) == State.completed


def test_workers_do_not_hang_while_all_are_suspended(tmp_path, root, monkeypatch):
    """As by Ctrl-Z or a cluster: the clock goes on, and nothing else does."""
    asleep = [0.0]
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + asleep[0]))
    monkeypatch.setattr(pool, "_patience_sec", lambda group: 600.0)

    def suspend(group, done, total, ended):
        asleep[0] = 3600.0 if done >= 2 else asleep[0]

    group = Group((job(config(root, train__steps=6)),))
    (ended,) = pool.launch([group], tmp_path, workers=1, threads=1, report=suspend)
    assert (ended.state, ended.note) == ("completed", "") and asleep[0]


@pytest.mark.slow
def test_a_worker_that_hangs_is_killed_and_marked_and_the_rest_goes_on(tmp_path, root, monkeypatch):
    """It goes on from its checkpoint when it is made again."""
    long = config(root, train__steps=100_000, runtime__checkpoint_every_sec=0.0, runtime__hang_minutes=7.0)
    groups = [Group((job(long),)), Group((job(config(root)),))]
    patience = {groups[0].id: 1e9, groups[1].id: 1e9}
    monkeypatch.setattr(pool, "_patience_sec", lambda group: patience[group.id])

    def hang(group, done, total, ended):
        if group == 0 and done == 3:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGSTOP)
            patience[groups[0].id] = 0.1

    told = pool.launch(groups, tmp_path, workers=1, threads=1, report=hang)
    error = "no progress for 7 minutes (runtime.hang_minutes): its process was killed"
    hung, good = (group.jobs[0].run_id for group in groups)
    assert told == [RunEnded(hung, "failed", f"{error}; what was saved is kept"), RunEnded(good, "completed")]
    store = Store(tmp_path)
    assert store.state(hung) == State.failed and store.manifest(hung)["error"] == error
    assert list(under_way(tmp_path).values()) == [[hung]] and locks.holders(tmp_path) == {}


def test_patience_is_the_shortest_of_the_group(root):
    pair = [job(config(root, optim__lr=lr, runtime__hang_minutes=lr)) for lr in (0.5, 2.0)]
    assert pool._patience_sec(Group(tuple(pair))) == 30.0


@pytest.mark.slow
def test_what_cannot_be_written_is_told_in_words(tmp_path, root):
    (tmp_path / "runs").write_text("a file where a folder belongs")
    group = Group((job(config(root)),))
    (ended,) = pool.launch([group], tmp_path, workers=1, threads=1, report=nothing)
    assert (ended.run_id, ended.state) == (group.jobs[0].run_id, "partial")
    assert all(text in ended.note for text in ("Not a directory", "runs", "what was saved is kept"))


def test_a_value_that_makes_no_run_is_found_before_any_is_made(tmp_path, root):
    """By a worker: nobody else imports torch."""
    configs = [config(root), config(root, norm={"name": "batch", "eps": 0.0})]
    with pytest.raises(ValueError, match=r"^norm\.eps = 0\.0: added to the variance, it must be above 0"):
        pool.launch([Group((job(one),)) for one in configs], tmp_path, workers=2, threads=1, report=nothing)
    assert not list(tmp_path.iterdir()) and not multiprocessing.active_children()


@pytest.mark.slow
def test_what_only_the_images_tell_is_bad_input_too(tmp_path, root):
    """And what the others had made is kept."""
    shutil.copytree(root / "quadrants", tmp_path / "quadrants")
    np.save(tmp_path / "quadrants" / "train_images.npy", np.zeros((100, 8, 8, 1), np.uint8))
    constant = config(tmp_path, data__normalise="channel")
    seen, groups = [], [Group((job(one),)) for one in (config(root), constant)]
    with pytest.raises(ValueError, match=r"^data\.normalise = 'channel': channel 0 .* is constant; use 'unit'"):
        pool.launch(groups, tmp_path / "results", workers=1, threads=1, report=lambda *told: seen.append(told))
    store = Store(tmp_path / "results")
    assert store.run_ids() == [job(config(root)).run_id] and store.state(store.run_ids()[0]) == State.completed
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_on_ctrl_c_workers_save_and_end(tmp_path, root):
    long = config(root, train__steps=100_000, runtime__checkpoint_every_sec=1e9)

    def stop(*_):
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool.launch([Group((job(long),))], tmp_path, workers=1, threads=1, report=stop)
    assert time.monotonic() - began < 30
    assert not multiprocessing.active_children()
    assert list(under_way(tmp_path).values()) == [[job(long).run_id]]
    assert list(paths.groups(tmp_path).rglob(paths.CHECKPOINT))


def test_of_a_group_that_stopped_short_what_is_done_is_told_as_done(tmp_path, root):
    group = Group(tuple(job(config(root, optim__lr=lr)) for lr in (0.1, 0.2, 0.3)))
    done, failed, absent = (one.run_id for one in group.jobs)
    Store(tmp_path).writer(done).finish({"status": "diverged", "config": resolved(group.jobs[0].config)})
    Store(tmp_path).writer(failed).finish({"status": "failed"})
    told = [RunEnded(done, "diverged"), *(RunEnded(name, "partial", "a full disk") for name in (failed, absent))]
    assert pool._as_it_stands(group, tmp_path, "a full disk") == told


def test_no_work_needs_no_worker(tmp_path):
    assert pool.launch([], tmp_path, workers=2, threads=1, report=nothing) == []
    assert not multiprocessing.active_children()


def test_how_a_process_died():
    assert pool._cause(-15) == "SIGTERM" and pool._cause(3) == "exit 3" and pool._cause(None) == "exit None"
    assert devices.cores() >= 1


def test_a_check_that_hangs_is_ended_by_the_watchdog(tmp_path, root, monkeypatch):
    """The first message of a worker was awaited for ever."""
    monkeypatch.setattr(pool, "_patience_sec", lambda group: 0.01)  # less than importing torch takes
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"runtime\.hang_minutes"):
        pool.launch([Group((job(config(root)),))], tmp_path, workers=1, threads=1, report=nothing)
    assert time.monotonic() - began < 60 and not multiprocessing.active_children()
    assert not list(tmp_path.iterdir())
