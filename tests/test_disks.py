"""Disks that are full or read-only, for real: told in words, nothing that was saved is lost, other runs unharmed."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
from contextlib import contextmanager, suppress

import pytest
from small_runs import config, launch_here, make, names, pending, quadrants, torch_as_it_was, written

from bnstudy.store import checkpoint, files, index, locks, paths
from bnstudy.store.jobs import jobs
from bnstudy.store.runs import State, Store
from bnstudy.sweep import pool, rounds
from bnstudy.tracking import wandb
from bnstudy.training import runner

LOOKS = {"probes": {"weights": {"at": [0], "every_steps": 2, "at_end": True}}, "runtime__checkpoint_every_sec": 0.0}


@pytest.fixture(autouse=True)
def _process(monkeypatch):
    monkeypatch.setattr(pool, "launch", launch_here)
    with torch_as_it_was():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


@contextmanager
def mounted(folder, options="size=8m"):
    """A small disk of its own at the folder; yields what mounts it anew with other options."""
    folder.mkdir(parents=True)

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no command mount here")
        if done.returncode:
            pytest.skip(f"this user may not mount a disk: {done.stderr.strip()}")

    mount(options)
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_stops_the_run_and_costs_nothing_that_was_saved(tmp_path, root, capsys):
    first, second = configs = [config(root, seed=seed, **LOOKS) for seed in (0, 1)]
    make(configs, tmp_path / "whole")
    wanted = written(tmp_path / "whole", names(configs))
    with mounted(tmp_path / "disk"):
        disk, store = tmp_path / "disk", Store(tmp_path / "disk")
        make([first], disk)
        with pytest.raises(OSError, match="No space left"):
            make([second], disk, report=lambda done, total: fill(disk) if done == 5 else None)
        assert [store.state(name) for name in names(configs)] == [State.completed, State.partial]
        (group,) = pending([second], disk)
        saved = checkpoint.load(disk, group)
        assert saved is not None and saved["position"]["step"] >= 4
        assert rounds.train_pending("a sweep", jobs(configs), disk, 1)  # still full
        told = capsys.readouterr()
        assert "No space left on device" in told.err and "what was saved is kept" in told.err
        assert "2 runs, 1 done, 1 to train" in told.out and "Traceback" not in told.err
        assert not list(disk.rglob("*.part")) and locks.holders(disk) == {}
        (disk / "filler").unlink()
        assert not rounds.train_pending("a sweep", jobs(configs), disk, 1)
        assert written(disk, names(configs)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("left_kb", [16, 40, 64, 100, 160, 300])
@pytest.mark.parametrize("count", [1, 3])
def test_a_nearly_full_disk_is_a_full_one(tmp_path, root, left_kb, count):
    """What is left takes a part of a checkpoint: no fault of the runs, and a stack of runs stays together."""
    wide = {"model": {"name": "mlp", "hidden": "512"}}
    configs = [config(root, optim__lr=rate, **wide, **LOOKS) for rate in (0.1, 0.2, 0.5)[:count]]
    whole = tmp_path / "whole"
    make(configs, whole)
    with mounted(tmp_path / "disk"):
        disk, store = tmp_path / "disk", Store(tmp_path / "disk")

        def fill_up(done, total):
            if done == 3 and not (disk / "filler").exists():
                fill(disk)
                os.truncate(disk / "filler", (disk / "filler").stat().st_size - left_kb * 1024)

        try:
            make(configs, disk, report=fill_up)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert {store.state(name) for name in names(configs)} <= {State.partial, State.completed, State.diverged}
            (disk / "filler").unlink()
            make(configs, disk)
        else:
            assert left_kb >= 300 or count == 1
        assert written(disk, names(configs)) == written(whole, names(configs))
        assert {store.manifest(name)["provenance"]["num_runs"] for name in names(configs)} == {count}


def test_an_error_that_a_full_disk_led_to_is_the_disks(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    for chain in ("cause", "context"):
        try:
            try:
                raise full
            except OSError as error:
                if chain == "cause":
                    raise RuntimeError("unexpected pos 64 vs 0") from error
                raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904
        except RuntimeError as error:
            assert files.fault_of_the_disk(error) is full
    assert files.fault_of_the_disk(RuntimeError("a bug")) is None
    assert files.fault_of_the_disk(FileNotFoundError(errno.ENOENT, "no such file")) is None


def test_a_group_that_is_taken_apart_says_so(tmp_path, root, monkeypatch, capsys):
    """Runs alone are rounded otherwise than side by side."""
    configs = [config(root, optim__lr=rate) for rate in (0.1, 0.2)]
    run = runner._run

    def stumble(group, results, work):
        if len(group.jobs) > 1:
            raise RuntimeError("too much for the memory")
        return run(group, results, work)

    monkeypatch.setattr(runner, "_run", stumble)
    assert [one.state for one in make(configs, tmp_path)] == [State.completed] * 2
    told = capsys.readouterr().out
    assert "RuntimeError: too much for the memory" in told and "by itself" in told


def test_a_read_only_results_folder_is_told_of_and_can_be_read(tmp_path, root):
    first, _ = configs = [config(root, seed=seed, **LOOKS) for seed in (0, 1)]
    with mounted(tmp_path / "disk") as again:
        disk = tmp_path / "disk"
        make([first], disk)
        before = written(disk, names(configs))
        again("ro")
        with pytest.raises(OSError, match="Read-only file system"):  # before a process is started
            rounds.train_pending("a sweep", jobs(configs), disk, 1)
        states = [entry.state for entry in index.entries(disk, names(configs)).values()]
        assert states == [State.completed, State.absent] and written(disk, names(configs)) == before
        again("rw")
        assert not rounds.train_pending("a sweep", jobs(configs), disk, 1)
        assert written(disk, names([first])) == before


@pytest.mark.parametrize("at", [0, 5])
def test_a_mirror_on_a_full_disk_stops_neither_training_nor_tables(tmp_path, root, at, capfd, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", True)
    wandb._warn.cache_clear()
    plain, mirrored = (config(root, **LOOKS, tracking__mode=mode) for mode in ("off", "offline"))
    make([plain], tmp_path / "plain")
    results = tmp_path / "results"
    with mounted(paths.wandb(results), "size=64k"):
        if at == 0:
            fill(paths.wandb(results))
        report = lambda done, total: fill(paths.wandb(results)) if done == at else None  # noqa: E731
        (ended,) = make([mirrored], results, report=report)
        assert ended.state == State.completed
        assert written(results, names([mirrored])) == written(tmp_path / "plain", names([plain]))
    told = capfd.readouterr().err
    assert told.count("W&B: the mirror stops") <= 1 and "Traceback" not in told, told
