"""A run stopped at any moment and made again ends with the same bytes; what fails or is damaged is named and redone."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import (
    config,
    job,
    launch_here,
    make,
    names,
    pending,
    quadrants,
    torch_as_it_was,
    written,
)
from waiting import found, modified, wait_for

from bnstudy import models, probes
from bnstudy.config import compose
from bnstudy.data import sources
from bnstudy.data.sources import DataError
from bnstudy.store import checkpoint, locks, paths
from bnstudy.store.jobs import Group, jobs, under_way
from bnstudy.store.runs import State, Store, Writer
from bnstudy.sweep import pool, rounds
from bnstudy.training import engine, runner, signals
from bnstudy.training.engine.lockstep import Lockstep
from bnstudy.training.engine.parallel import Parallel

LOOKS = {"at": [0], "every_steps": 2, "at_end": True, "at_divergence": True}
PROBES = {"weights": LOOKS, "logit_gradient": LOOKS | {"on": "train_batch"}}


class Killed(BaseException):
    """Stands for the moment a process is killed: nothing after it is done."""


@pytest.fixture(autouse=True)
def _process(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # nothing here pulls the plug, and it costs most of the time
    with torch_as_it_was():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


def alone(root, **changes):
    return [config(root, **{"probes": PROBES, "runtime__checkpoint_every_sec": 0.0} | changes)]


def stacked(root, **changes):
    """Three runs in lockstep, one of which diverges on the way."""
    wild = {"norm": {"name": "none"}, "optim__momentum": 0.0}
    return [each for lr in (0.1, 1e9, 0.3) for each in alone(root, **wild | changes, optim__lr=lr)]


def resnet(root):
    model = {"name": "resnet", "depth": 8}
    small = {"data__num_train": 32, "data__batch_size": 16, "data__augment": True, "train__steps": 3}
    return alone(root, model=model, **small)


def undisturbed(configs, folder):
    make(configs, folder)
    tables = written(folder, names(configs))
    assert {table for _, table in tables} >= {"steps", *configs[0].probes}
    return tables


@pytest.mark.parametrize("configs", [alone, pytest.param(stacked, marks=pytest.mark.slow), resnet])
def test_stopped_at_every_step_and_resumed_is_undisturbed(tmp_path, root, configs):
    configs = configs(root)
    wanted = undisturbed(configs, tmp_path / "whole")
    stops = 0
    while pending(configs, tmp_path / "cut"):
        stop = signals.Stop()

        def ask(done, total, stop=stop):
            stop.requested = True

        try:
            make(configs, tmp_path / "cut", report=ask, stop=stop)
        except signals.Interrupted:
            stops += 1
            assert len(under_way(tmp_path / "cut")) == 1
    assert stops == configs[0].train.steps
    assert written(tmp_path / "cut", names(configs)) == wanted
    whole, cut = (Store(tmp_path / name).manifest(names(configs)[0]) for name in ("whole", "cut"))
    assert all(whole[key] == cut[key] for key in ("status", "outcome", "diverged_step", "num_steps", "final", "config"))
    assert not under_way(tmp_path / "cut") and not list((tmp_path / "cut").rglob("segments"))


@pytest.mark.parametrize("configs", [alone, stacked])
def test_killed_between_rows_and_checkpoint(tmp_path, root, configs, monkeypatch):
    """Rows that no checkpoint knows of are dropped and made again."""
    configs = configs(root)
    wanted = undisturbed(configs, tmp_path / "whole")
    save = checkpoint.save
    calls = 0

    def killed_every_third_time(*arguments):
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise Killed
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", killed_every_third_time)
    while pending(configs, tmp_path / "cut"):
        try:
            make(configs, tmp_path / "cut")
        except Killed:
            continue
    assert calls > 4
    assert written(tmp_path / "cut", names(configs)) == wanted


@pytest.mark.parametrize("configs", [alone, pytest.param(stacked, marks=pytest.mark.slow)])
@pytest.mark.parametrize("steps", [0, 9])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_the_last_manifest(tmp_path, root, configs, steps, moment, monkeypatch):
    """The group's other runs are done by then, or there is no run done and only the manifest lacks."""
    configs = configs(root, train__steps=steps)
    make(configs, tmp_path / "whole")
    wanted = written(tmp_path / "whole", names(configs))
    finish, left = Writer.finish, len(configs)

    def killed(self, manifest):
        nonlocal left
        left -= 1
        if left == 0 and moment == "before":
            raise Killed
        finish(self, manifest)
        if left == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "finish", killed)
        with pytest.raises(Killed):
            make(configs, tmp_path / "cut")
    make(configs, tmp_path / "cut")
    assert written(tmp_path / "cut", names(configs)) == wanted
    assert not pending(configs, tmp_path / "cut")


def test_a_request_to_stop_waits_for_a_checkpoint_and_a_second_ctrl_c_does_not(tmp_path, root):
    configs = alone(root, runtime__checkpoint_every_sec=1e9)
    stop = signals.Stop()
    with stop.listening():
        with pytest.raises(signals.Interrupted):
            make(configs, tmp_path, report=lambda done, total: os.kill(os.getpid(), signal.SIGTERM), stop=stop)
        (group,) = pending(configs, tmp_path)
        saved = checkpoint.load(tmp_path, group)
        assert saved is not None and saved["position"]["step"] == 4  # the first epoch's end
    with pytest.raises(KeyboardInterrupt), stop.listening():  # nothing is under way: at once
        os.kill(os.getpid(), signal.SIGINT)
    stop = signals.Stop()
    with stop.listening(), stop.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # a parent's, that comes with a terminal's Ctrl-C
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_resuming_keeps_the_number_of_threads(tmp_path, root):
    """Results depend on it."""
    (one,) = configs = alone(root)
    stop = signals.Stop()
    stop.requested = True
    with pytest.raises(signals.Interrupted):
        runner.train_group(Group((job(one),)), tmp_path, threads=2, report=lambda done, total: None, stop=stop)
    make(configs, tmp_path)  # asks for one thread
    assert Store(tmp_path).manifest(names(configs)[0])["provenance"]["threads"] == 2


def test_two_groups_never_share_a_run(tmp_path, root, capsys):
    """The sweep was interrupted with one choice of rates and run on with another: rows of both would be mixed."""
    first, second, third = stacked(root, train__steps=9)
    for configs, at in (((first, third), 6), ((third, second), 2)):
        stop = signals.Stop()

        def ask(done, total, stop=stop, at=at):
            stop.requested = done >= at

        with pytest.raises(signals.Interrupted):
            make(configs, tmp_path / "cut", report=ask, stop=stop)
    assert list(under_way(tmp_path / "cut").values()) == [names([third, second])]
    assert capsys.readouterr().out.startswith(f"{names([first])[0]}: to start again, ")
    everything = [first, second, third]
    make(everything, tmp_path / "cut")
    make([first], tmp_path / "whole")
    make([third, second], tmp_path / "whole")
    assert written(tmp_path / "cut", names(everything)) == written(tmp_path / "whole", names(everything))


def damage_manifest(results, run_id):
    (paths.run(results, run_id) / paths.MANIFEST).write_text("{")


def damage_table(results, run_id):
    path = paths.run(results, run_id) / "weights.parquet"
    path.write_bytes(path.read_bytes()[:-1])


def damage_bit(results, run_id):
    flip(paths.run(results, run_id) / "steps.parquet")


def remove_table(results, run_id):
    (paths.run(results, run_id) / "epochs.parquet").unlink()


@pytest.fixture
def here(monkeypatch):
    """Sweeps make their runs in this process."""
    monkeypatch.setattr(pool, "launch", launch_here)


@pytest.mark.parametrize("damage", [damage_manifest, damage_table, damage_bit, remove_table])
def test_a_damaged_run_is_named_and_made_again(tmp_path, root, damage, here, capsys):
    configs = alone(root) + alone(root, norm={"name": "none"})
    wanted = undisturbed(configs, tmp_path)
    first, second = names(configs)
    damage(tmp_path, first)
    assert Store(tmp_path).state(first) == State.damaged
    assert not rounds.train_pending("a sweep", jobs(configs), tmp_path, 1)
    printed = capsys.readouterr().out
    assert f"{first}: its files are not what was written; it is trained again" in printed
    assert second not in printed and "2 runs, 1 done, 1 to train" in printed
    assert written(tmp_path, [first, second]) == wanted


DAMAGE = {
    "foreign": lambda folder: next(folder.rglob(paths.CHECKPOINT)).write_bytes(b"not a checkpoint"),
    "truncated": lambda folder: truncate(next(folder.rglob(paths.CHECKPOINT))),
    "segment truncated": lambda folder: truncate(sorted(folder.rglob("segments/*"))[0]),
    "segment missing": lambda folder: sorted(folder.rglob("segments/*"))[-1].unlink(),
    "members": lambda folder: next(folder.rglob(paths.MEMBERS)).write_bytes(b"\xff\x00"),
    "other code": lambda folder: old_checkpoint(next(folder.rglob(paths.CHECKPOINT))),
    "a bit": lambda folder: flip(next(folder.rglob(paths.CHECKPOINT))),
    "a bit of a segment": lambda folder: flip(sorted(folder.rglob("segments/*"))[0]),
    "empty": lambda folder: next(folder.rglob(paths.CHECKPOINT)).write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("configs", [alone, pytest.param(stacked, marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_named_and_the_run_starts_again(tmp_path, root, configs, damage, capsys):
    configs = configs(root)
    wanted = undisturbed(configs, tmp_path / "whole")
    stop = signals.Stop()

    def ask(done, total):
        stop.requested = done >= 2  # once there are rows to be damaged

    with pytest.raises(signals.Interrupted):
        make(configs, tmp_path / "cut", stop=stop, report=ask)
    kept = names(configs)
    DAMAGE[damage](tmp_path / "cut")
    ended = make(configs, tmp_path / "cut")
    assert [one.done for one in ended] == [True] * len(configs)
    assert written(tmp_path / "cut", kept) == wanted
    printed = capsys.readouterr().out
    assert ("start again" in printed) == (damage != "members")  # a damaged list of members loses nothing


def flip(path):
    """One bit of what the file holds, which its format does not notice by itself."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def old_checkpoint(path):
    """Readable, but of a network whose layers had other names."""
    state = torch.load(io.BytesIO(path.read_bytes().partition(b"\n")[2]), weights_only=True)
    state["engine"] = {f"old.{name}": value for name, value in state["engine"].items()}
    checkpoint._write(path, state)


def test_a_failed_write_keeps_the_last_checkpoint(tmp_path, root):
    """A full disk, as the file system would tell of it: the run is not failed, and what was saved stays."""
    configs = alone(root)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(done, total):
        if done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))

    try:
        with pytest.raises(OSError, match="large"):
            make(configs, tmp_path, report=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    (group,) = pending(configs, tmp_path)
    saved = checkpoint.load(tmp_path, group)
    assert saved is not None and saved["position"]["step"] == 2
    assert not list(tmp_path.rglob("*.part"))
    make(configs, tmp_path)
    assert written(tmp_path, names(configs)) == undisturbed(configs, tmp_path / "whole")


def test_a_results_folder_that_cannot_be_written(tmp_path, root):
    (tmp_path / "runs").write_text("a file where a folder belongs")
    with pytest.raises(OSError, match="runs"):
        make(alone(root), tmp_path)


def test_data_that_vanish_are_told_of_in_words_and_nothing_is_written(tmp_path, root):
    copied = tmp_path / "data"
    shutil.copytree(root, copied)
    one = job(config(copied))
    shutil.rmtree(copied)
    with pytest.raises(runner.Refused, match=r"train_images\.npy cannot be read"):
        runner.train_group(Group((one,)), tmp_path / "cut", threads=1, report=lambda *_: None, stop=signals.Stop())
    assert not [path for path in (tmp_path / "cut").rglob("*") if path != paths.locks(tmp_path / "cut")]


def half_made(configs, results, step=5):
    """Stopped after so many updates; the checkpoint's bytes."""
    stop = signals.Stop()

    def ask(done, total):
        stop.requested = done == step

    with pytest.raises(signals.Interrupted):
        make(configs, results, report=ask, stop=stop)
    return saved_bytes(results)


def saved_bytes(results):
    return {path: path.read_bytes() for path in paths.groups(results).rglob("*") if path.is_file()}


@contextmanager
def raising_step(error, at, *, when=lambda engine: True):
    """Within, the update `at` raises, counted from the entrance; yields how many were made."""
    made = list[int]()

    def stumbling(step):
        def stumble(self, batch, lrs):
            if when(self) and len(made) == at:
                raise error
            made.append(self.num_runs)
            return step(self, batch, lrs)

        return stumble

    with pytest.MonkeyPatch.context() as patch:
        for engine_of_runs in (Lockstep, Parallel):
            patch.setattr(engine_of_runs, "step", stumbling(engine_of_runs.step))
        yield made


@pytest.mark.parametrize("error", [MemoryError("no more"), RuntimeError("CUDA error"), ValueError("a row is bad")])
@pytest.mark.parametrize(("configs", "at"), [(alone, 5), (resnet, 2), (alone, 0)])
def test_a_run_that_failed_goes_on_from_its_checkpoint(tmp_path, root, configs, at, error):
    configs = configs(root)
    wanted = undisturbed(configs, tmp_path / "whole")
    with raising_step(error, at):
        (ended,) = make(configs, tmp_path / "cut")
    store, (name,) = Store(tmp_path / "cut"), names(configs)
    assert store.state(name) == State.failed and store.manifest(name)["error"] == f"{type(error).__name__}: {error}"
    assert ended.note.startswith(store.manifest(name)["error"] + ("; what was saved is kept" if at else ""))
    assert str(paths.run(tmp_path / "cut", name) / "traceback.txt") in ended.note
    assert len(under_way(tmp_path / "cut")) == (1 if at else 0)
    with raising_step(error, 0):
        make(configs, tmp_path / "cut")
    with raising_step(None, -1) as made:
        (ended,) = make(configs, tmp_path / "cut")
    assert ended.state == State.completed and len(made) == configs[0].train.steps - at
    assert written(tmp_path / "cut", [name]) == wanted
    assert not under_way(tmp_path / "cut") and store.manifest(name)["error"] is None


def test_a_failed_run_that_is_stopped_on_its_way_is_under_way(tmp_path, root):
    configs = alone(root)
    with raising_step(MemoryError(), 5):
        make(configs, tmp_path)
    half_made(configs, tmp_path, 7)
    assert Store(tmp_path).state(names(configs)[0]) == State.partial


def out_of_memory(*arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory")


def too_little(*arguments, **options):
    raise MemoryError


def no_data(source):
    raise DataError("train_images.npy cannot be read")


@pytest.mark.parametrize("configs", [alone, stacked])
@pytest.mark.parametrize(
    ("module", "name", "stumble"),
    [
        (engine, "build_engine", out_of_memory),
        (models, "build", too_little),
        (sources, "load", no_data),
        (torch, "load", too_little),
    ],
    ids=["device full", "memory full", "no data", "checkpoint larger than memory"],
)
def test_what_cannot_be_resumed_now_is_resumed_later(
    tmp_path, root, configs, module, name, stumble, monkeypatch, capsys
):
    """Nothing of these is a checkpoint's fault."""
    configs = configs(root)
    wanted = undisturbed(configs, tmp_path / "whole")
    half_made(configs, tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, stumble)
        try:
            ended = make(configs, tmp_path / "cut")
        except runner.Refused as error:
            assert "train_images.npy cannot be read" in str(error)
        else:
            assert {one.state for one in ended} == {State.failed} and len(ended) == len(configs)
            assert all("what was saved is kept" in one.note for one in ended)
    assert "start" not in capsys.readouterr().out
    assert len(under_way(tmp_path / "cut")) == 1
    with raising_step(None, -1) as made:
        make(configs, tmp_path / "cut")
    assert made == [len(configs)] * (9 - 5)
    assert written(tmp_path / "cut", names(configs)) == wanted


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_costs_nothing(tmp_path, root, device, monkeypatch):
    configs = alone(root)
    wanted = undisturbed(configs, tmp_path / "whole")
    before = half_made(configs, tmp_path / "cut")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=rf"runtime\.device = '{device}': torch sees no GPU here"):
        make(alone(root, runtime__device=device), tmp_path / "cut")
    assert saved_bytes(tmp_path / "cut") == before
    make(configs, tmp_path / "cut")
    assert written(tmp_path / "cut", names(configs)) == wanted


def test_a_group_too_large_for_the_memory_goes_on_run_by_run(tmp_path, root):
    """From its last checkpoint: what was made side by side stays to the bit, the rest is rounded as alone."""
    configs = stacked(root)
    make(configs, tmp_path / "whole")
    with raising_step(MemoryError(), 6, when=lambda engine: engine.num_runs > 1) as made:
        ended = make(configs, tmp_path / "cut")
    assert [one.state for one in ended] == [State.completed, State.diverged, State.completed]
    assert made == [3] * 6 + [1] * 3 + [1] * 3  # the one that diverged had done so before
    assert not under_way(tmp_path / "cut")
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    for name in names(configs):
        for table in whole.manifest(name)["tables"].keys() - {"throughput"}:
            ours, theirs = cut.table(name, table), whole.table(name, table)
            early, step = ours["step"] < 6, ours["step"]
            pd.testing.assert_frame_equal(ours[early], theirs[theirs["step"] < 6])
            assert step.tolist() == theirs["step"].tolist()
            values = ours.select_dtypes("number").columns
            np.testing.assert_allclose(ours[values], theirs[values], rtol=1e-3, atol=1e-5)


def test_a_kill_while_a_group_is_taken_apart(tmp_path, root, monkeypatch):
    """It is there whole and in part: it goes on whole."""
    configs = stacked(root)
    wanted = undisturbed(configs, tmp_path / "whole")
    half_made(configs, tmp_path / "cut")
    with monkeypatch.context() as patch, raising_step(MemoryError(), 0):
        patch.setattr(checkpoint, "remove", killed)
        with pytest.raises(Killed):
            make(configs, tmp_path / "cut")
    assert sorted(map(len, under_way(tmp_path / "cut").values())) == [1, 1, 1, 3]
    assert [len(group.jobs) for group in pending(configs, tmp_path / "cut")] == [3]
    make(configs, tmp_path / "cut")
    assert written(tmp_path / "cut", names(configs)) == wanted
    assert not under_way(tmp_path / "cut")


def killed(*arguments):
    raise Killed


def test_a_group_whose_last_manifest_raises_keeps_the_others(tmp_path, root, monkeypatch):
    configs = stacked(root)
    wanted = undisturbed(configs, tmp_path / "whole")
    finish, calls = Writer.finish, []

    def stumble(self, manifest, weights=None):
        calls.append(self.run_id)
        if len(calls) == 3:
            raise RuntimeError("a table cannot be joined")
        finish(self, manifest, weights)

    monkeypatch.setattr(Writer, "finish", stumble)
    ended = make(configs, tmp_path / "cut")
    assert calls == [*names(configs), names(configs)[2]]
    assert [one.state for one in ended] == [State.completed, State.diverged, State.completed]
    assert written(tmp_path / "cut", names(configs)) == wanted and not under_way(tmp_path / "cut")


def test_two_processes_never_make_the_same_run(tmp_path, root):
    configs = alone(root)
    before = half_made(configs, tmp_path)
    with (
        locks.hold(tmp_path, names(configs)),
        pytest.raises(locks.Locked, match=rf"another process trains this run \(process {os.getpid()} on "),
    ):
        make(configs, tmp_path)
    assert saved_bytes(tmp_path) == before
    assert make(configs, tmp_path)[0].state == State.completed


@pytest.fixture
def raising(monkeypatch):
    """A probe that raises for the run that does not learn, until it is put right."""
    run = probes.rows

    def raise_where_nothing_is_learnt(name, options, seen):
        if name == "weights" and seen.step > 5 and seen.loss > 1.0:
            raise RuntimeError("the probe stumbled")
        return run(name, options, seen)

    monkeypatch.setattr(probes, "rows", raise_where_nothing_is_learnt)
    return lambda: monkeypatch.setattr(probes, "rows", run)


def test_a_probe_that_raises_fails_its_run_alone_and_is_tried_again(tmp_path, root, raising, here, capsys):
    rates = (0.5, 0.0, 0.3)  # of one stack
    configs = [config(root, optim__lr=lr, train__steps=20, probes={"weights": {"at_end": True}}) for lr in rates]
    good, bad, other = names(configs)
    assert rounds.train_pending("a sweep", jobs(configs), tmp_path, 1)
    captured = capsys.readouterr()
    store = Store(tmp_path)
    assert [store.state(name) for name in (good, bad, other)] == [State.completed, State.failed, State.completed]
    assert f"{bad}: failed: RuntimeError: the probe stumbled" in captured.err
    manifest = store.manifest(bad)
    assert manifest["error"] == "RuntimeError: the probe stumbled" and "Traceback" in manifest["traceback"]
    assert not under_way(tmp_path)
    raising()
    assert not rounds.train_pending("a sweep", jobs(configs), tmp_path, 1)
    assert "3 runs, 2 done, 1 to train" in capsys.readouterr().out
    assert store.state(bad) == State.completed


COMMAND = [sys.executable, "-m", "bnstudy"]
OVERRIDES = [
    *("norm=batch", "seed=0", "optim.lr=0.5,3.0", "data.num_train=256", "data.batch_size=16", "train.epochs=60"),
    *("probes=default", "~probes.gradient_tails", "probes.activation_moments.every_steps=40"),
    *("tracking.mode=off", "sweep.tables=null"),
    *("runtime.checkpoint_every_sec=0.1", "runtime.threads=1", "runtime.device=cpu"),
]


def tables_of_a_sweep(results):
    """Every table of every run but the one that tells time, by run and name."""
    return written(results, Store(results).run_ids())


@pytest.mark.soak
def test_a_real_sweep_killed_at_random_moments_ends_with_the_same_bytes(tmp_path, data_root, record_property):
    """A SIGINT to the parent alone, the end of a slice of time, then kill -9 twice; the last run goes to its end.

    The sweep starts with SIGINT ignored, as what a script runs in its background does.
    """
    configs = compose.expand("lenet_lr_grid", "quick", [*OVERRIDES, f"runtime.data_root='{data_root}'"])
    assert len(configs) == 2
    make(configs, tmp_path / "whole")
    wanted = tables_of_a_sweep(tmp_path / "whole")
    results = tmp_path / "cut"
    places = ["--data-root", str(data_root), "--results", str(results)]
    command = [*COMMAND, "sweep", "lenet_lr_grid", "--preset", "quick", "--jobs", "1", *places, *OVERRIDES]
    command += ["--budget-min", "60"]
    ends = (signal.SIGINT, signal.SIGALRM, signal.SIGKILL, signal.SIGKILL)
    checkpoints = paths.groups(results)
    seed = random.randrange(10**6)
    record_property("seed", seed)
    draw, moments, ended = random.Random(seed), [], False
    for attempt, end in enumerate(ends):
        deaf = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
        process = subprocess.Popen(deaf, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            before = modified(checkpoints, paths.CHECKPOINT)
            if attempt < 3:  # the last one is killed at any moment, imports included
                wait_for(partial(moved_on, process, checkpoints, before))
                moments.append(draw.uniform(0, 0.5))
            else:
                moments.append(draw.uniform(0, 4))
            time.sleep(moments[-1])
            workers = [int(pid) for pid in children(process.pid)]
            process.send_signal(end)
            told, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        wait_for(partial(none_alive, workers))  # no worker outlives its parent
        ended = ended or "tables: " in told
        if end == signal.SIGINT:
            assert process.returncode == 130 and "the same command resumes" in errors, errors
        if end == signal.SIGALRM:
            assert "the same command resumes. lenet_lr_grid, seed 0: 0 of 2 runs done\n" in told
            assert "\nlenet_lr_grid               2 runs: 2 interrupted; about " in told
            assert process.returncode == 0, errors
        if end != signal.SIGKILL:
            assert "Traceback" not in errors and found(checkpoints, paths.CHECKPOINT)
        assert process.returncode in (-signal.SIGKILL, 130, 0), errors
    assert not ended, f"seed {seed}: the runs are too short to be killed on the way"
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert tables_of_a_sweep(results) == wanted, (seed, moments)
    assert (paths.tables(paths.workspace(results, paths.CUSTOM), "lenet_lr_grid") / "steps.parquet").exists()
    assert not under_way(results)


def moved_on(process, checkpoints, before):
    return process.poll() is not None or modified(checkpoints, paths.CHECKPOINT) != before


def none_alive(workers):
    return not any(map(alive, workers))


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return file.read().split()
    except OSError:
        return []


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_ctrl_c_saves_a_real_run_and_the_same_command_goes_on(tmp_path, root):
    overrides = ["model=mlp", "model.hidden='16'", "data.name=quadrants", "data.batch_size=10", "train.steps=1500"]
    overrides += ["data.augment=false", "probes=none", "tracking.mode=off", "runtime.threads=1", "runtime.device=cpu"]
    overrides += ["runtime.checkpoint_every_sec=1000"]
    results = tmp_path / "it's here"
    places = ["--data-root", str(root), "--results", str(results)]
    command = [*COMMAND, "run", *overrides, *places]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: found(results, "segments"))
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert "the same command resumes there" in errors
    one = compose.one([*overrides, f"runtime.data_root='{root}'"])
    (group,) = pending([one], results)
    saved = checkpoint.load(results, group)
    assert saved is not None and 0 < saved["position"]["step"] < 1500
    ((name, state),) = [(ended.run_id, ended.state) for ended in make([one], results)]
    assert state == "completed"
    make([one], tmp_path / "whole")
    assert written(results, [name]) == written(tmp_path / "whole", [name])
    commits = json.loads((paths.run(results, name) / paths.MANIFEST).read_text())["provenance"]["commits"]
    assert len(commits) == 1


def test_a_run_resumed_otherwise_than_it_began_records_both(tmp_path, root, monkeypatch):
    (one,) = alone(root)
    half_made([one], tmp_path)
    plain = engine.facts
    monkeypatch.setattr(engine, "facts", lambda *on: plain(*on) | {"kernels_missed": ["norm_relu"]})
    make([one], tmp_path)
    facts = Store(tmp_path).manifest(names([one])[0])["provenance"]
    assert facts["kernels_missed"] == ["norm_relu"]
    assert [each["kernels_missed"] for each in facts["earlier"]] == [[]]
