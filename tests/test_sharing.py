"""Launchers that meet on the same runs: each run is made once, by whoever; what one leaves behind another takes up."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from small_runs import config, launch_here, make, names, quadrants, torch_as_it_was, written
from waiting import found, wait_for

from bnstudy.config import compose
from bnstudy.config.schema import resolved
from bnstudy.store import checkpoint, locks, paths
from bnstudy.store.jobs import jobs
from bnstudy.store.runs import RunEnded, State, Store, Writer
from bnstudy.sweep import pool, rounds
from bnstudy.tracking.console import Progress

FORK = multiprocessing.get_context("fork")  # torch is imported already
PLAIN = {"runtime__engine": "plain", "train__steps": 20, "runtime__checkpoint_every_sec": 0.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _process(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(pool, "launch", launch_here)
    with torch_as_it_was():
        yield


def launcher(configs, results, told, slow_sec=0.0, meet=None):
    """A process that makes the runs as `make sweep-NAME` does; what it prints goes to a file, runs begun to a log.

    In its first run it waits for the others that are to `meet` at this barrier.
    """

    def work():
        sys.stdout = sys.stderr = told.open("a", buffering=1)
        restart, save, first = Writer.restart, checkpoint.save, [meet] if meet else []

        def log(self):
            with (results.parent / "begun.log").open("a") as file:
                file.write(f"{os.getpid()} {self.run_id}\n")
            if first:
                first.pop().wait(60)
            restart(self)

        def slowly(*arguments):
            time.sleep(slow_sec)
            save(*arguments)

        Writer.restart, checkpoint.save = log, slowly  # type: ignore[method-assign]
        code = rounds.train_pending("the sweep", jobs(configs), results, 1)
        print("exit", int(code))

    process = FORK.Process(target=work)
    process.start()
    return process


def ended(process):
    process.join(60)
    process.kill()
    return process.exitcode


def test_runs_under_way_side_by_side_are_not_counted_as_ended():
    """Two groups of two, one of them 90 % and then at its end, the other 60 %."""
    progress, shown = Progress("sweep", 5, "runs ended"), []
    shares = pool.Shares([2, 2], progress, 1, "")
    for signs in ((0, 90, 100, []), (1, 60, 100, []), (0, 0, 0, [RunEnded("a", "completed"), RunEnded("b", "failed")])):
        shares.show(*signs)
        shown.append((progress._done, progress._whole))
    assert shown == [(2.8, 1), (4.0, 1), (4.2, 3)]


@pytest.mark.parametrize("num_done", [1, 2])
def test_a_group_killed_while_its_runs_ended_one_by_one_is_resumed(tmp_path, root, num_done, monkeypatch, capsys):
    """Some of its runs are done, which the command that resumes it neither waits for nor counts."""
    how = {"norm": {"name": "none"}, "runtime__checkpoint_every_sec": 0.0}
    configs = [config(root, optim__lr=lr, **how) for lr in (0.1, 0.2, 0.3)]
    make(configs, tmp_path / "whole")
    results, finish, left = tmp_path / "cut", Writer.finish, num_done

    def killed(*arguments):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        finish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            make(configs, results)
    assert not rounds.train_pending("a sweep", jobs(configs), results, 1)
    told, wanted = capsys.readouterr(), 3 - num_done
    assert f"3 runs, {num_done} done, {wanted} to train" in told.out
    assert f"{wanted} of {wanted} runs ended, 100 %" in told.err
    assert written(results, names(configs)) == written(tmp_path / "whole", names(configs))


@pytest.mark.slow
def test_two_launchers_share_a_sweep_and_both_tell_of_all_of_it(tmp_path, root):
    configs = [config(root, seed=seed, **PLAIN) for seed in range(8)]
    make(configs, tmp_path / "alone")
    results = tmp_path / "results"
    told = [tmp_path / name for name in ("one.txt", "other.txt")]
    both = FORK.Barrier(2)
    processes = [launcher(configs, results, file, slow_sec=0.01, meet=both) for file in told]
    assert [ended(process) for process in processes] == [0, 0]
    begun = [line.split() for line in (tmp_path / "begun.log").read_text().splitlines()]
    assert sorted(run_id for _, run_id in begun) == sorted(names(configs)), "each once"
    assert {int(pid) for pid, _ in begun} == {process.pid for process in processes}, "both made some"
    made = []
    for file in told:
        text = file.read_text()
        assert "8 of 8 runs ended, 100 %" in text and "8 completed" in text and text.endswith("exit 0\n"), text
        counts = re.search(r"the sweep: (\d) of these were trained here, (\d) by other processes", text)
        assert counts is not None, text
        made.append(int(counts[1]))
        assert int(counts[1]) + int(counts[2]) == 8
    assert sum(made) == 8
    assert written(results, names(configs)) == written(tmp_path / "alone", names(configs))
    assert locks.holders(results) == {}


@pytest.mark.slow
@pytest.mark.parametrize("stacked", [False, True])
def test_what_a_killed_launcher_leaves_the_other_takes_up_from_its_checkpoint(tmp_path, root, stacked):
    how = PLAIN | {"runtime__engine": "auto" if stacked else "plain", "norm": {"name": "none"}}
    configs = [config(root, optim__lr=lr, **how) for lr in (0.1, 0.2, 0.3)]
    make(configs, tmp_path / "alone")
    results, told = tmp_path / "results", tmp_path / "told.txt"
    first = launcher(configs, results, tmp_path / "killed.txt", slow_sec=0.05)
    wait_for(lambda: found(results, paths.CHECKPOINT))
    second = launcher(configs, results, told)
    wait_for(lambda: told.exists() and "to train" in told.read_text())
    time.sleep(0.2)
    os.kill(first.pid or 0, signal.SIGKILL)
    assert ended(second) == 0 and told.read_text().endswith("exit 0\n"), told.read_text()
    begun = [line.split()[1] for line in (tmp_path / "begun.log").read_text().splitlines()]
    assert sorted(begun) == sorted(names(configs)), "taken up, not begun anew"
    assert written(results, names(configs)) == written(tmp_path / "alone", names(configs))
    first.join()


def test_a_run_that_failed_elsewhere_is_told_and_not_tried_again(tmp_path, root, monkeypatch, capsys):
    """It failed between our look and our turn; what had failed before we began is tried."""
    configs = [config(root, seed=seed, **PLAIN) for seed in range(3)]
    store, ids = Store(tmp_path), names(configs)
    for run_id in ids[:2]:
        store.writer(run_id).finish({"status": "failed", "error": "as before"})

    def others_first(groups, results, **options):
        store.writer(ids[1]).finish({"status": "failed", "error": "the disk is bad"})
        ended = {"status": "diverged", "error": None, "config": resolved(configs[2])}
        store.writer(ids[2]).finish(ended)
        return launch_here(groups, results, **options)

    monkeypatch.setattr(pool, "launch", others_first)
    assert rounds.train_pending("a sweep", jobs(configs), tmp_path, 1)
    told = capsys.readouterr()
    assert f"{ids[1]}: failed: the disk is bad (trained by another process)" in told.err
    assert "1 of these were trained here, 2 by other processes" in told.out
    assert [store.state(run_id) for run_id in ids] == [State.completed, State.failed, State.diverged]


def test_what_our_own_process_died_over_is_not_tried_twice_but_told_as_done_where_another_did_it(
    tmp_path, root, monkeypatch, capsys
):
    configs = [config(root, seed=seed, **PLAIN) for seed in range(2)]
    ids = names(configs)

    def dying(groups, results, **options):
        make(configs[1:], results)  # another launcher, meanwhile
        return [RunEnded(run_id, "partial", "its process died") for run_id in ids]

    monkeypatch.setattr(pool, "launch", dying)
    assert rounds.train_pending("a sweep", jobs(configs), tmp_path, 1)
    told = capsys.readouterr()
    assert told.err.splitlines()[-1] == f"{ids[0]}: partial: its process died"
    assert "1 completed, 1 partial" in told.err


COMMAND = [sys.executable, "-m", "bnstudy", "sweep", "lenet_lr_grid", "--preset", "quick", "--jobs", "1"]
OVERRIDES = [
    *("norm=batch", "seed=0,1,2", "optim.lr=0.5,3.0", "data.num_train=256", "data.batch_size=16", "train.epochs=30"),
    *("probes=none", "tracking.mode=off", "sweep.tables=null", "runtime.engine=plain"),
    *("runtime.checkpoint_every_sec=0.1", "runtime.threads=1", "runtime.device=cpu"),
]


@pytest.mark.soak
@pytest.mark.parametrize("killed", [False, True])
def test_two_real_launchers_of_the_command_line(tmp_path, data_root, killed):
    """Started at once in two terminals; where one is killed with its worker's parent, the other makes what is left."""
    configs = compose.expand("lenet_lr_grid", "quick", [*OVERRIDES, f"runtime.data_root='{data_root}'"])
    make(configs, tmp_path / "alone")
    results = tmp_path / "results"
    command = [*COMMAND, "--data-root", str(data_root), "--results", str(results), *OVERRIDES]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first, second = (subprocess.Popen(command, **options) for _ in range(2))  # type: ignore[call-overload]
    if killed:
        wait_for(lambda: found(results, paths.CHECKPOINT), 120)
        first.kill()
    told = [process.communicate(timeout=300) for process in (first, second)]
    codes = [process.returncode for process in (first, second)]
    assert codes == [-signal.SIGKILL if killed else 0, 0], told
    assert written(results, names(configs)) == written(tmp_path / "alone", names(configs))
    counted = [re.search(r"(\d) of these were trained here, (\d) by other processes", output) for output, _ in told]
    if not killed:
        assert [int(c[1]) + int(c[2]) if c else 0 for c in counted] == [6, 6], told
        assert sum(int(c[1]) if c else 0 for c in counted) == 6, told
    assert "6 completed" in told[1][1] and locks.holders(results) == {}
