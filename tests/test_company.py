"""A run's bits are its own: whatever trains beside it, in how many processes, and whatever was done before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import config, launch_here, make, names, pending, quadrants, torch_as_it_was, written

from bnstudy import models, norms
from bnstudy.config import plugins
from bnstudy.config.schema import Config
from bnstudy.store import checkpoint, devices, reduction
from bnstudy.store.jobs import Group, jobs
from bnstudy.store.runs import Store
from bnstudy.sweep import pool, rounds
from bnstudy.sweep.plan import can_share_a_process, plan
from bnstudy.training import runner, signals, trainer
from bnstudy.training.engine.kernels import build, conv3x3, norm_relu, pointwise, pooled_conv

RATES = (0.01, 0.1, 0.5, 1e30, 1.0)  # as many as train side by side on a CPU; one of them diverges
TIME = {"wall_sec", "probe_share", "num_runs"}  # columns of `runs` that tell time, or who trained beside
LENETS = [{"model": {"name": "lenet", "padding": 4}, "norm": {"name": norm}} for norm in ("batch", "none")]
NETWORKS = [*LENETS, {"model": {"name": "mlp", "hidden": "16"}, "norm": {"name": "batch"}}]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _process():
    with torch_as_it_was():
        yield


def grid(root: Path, rates: Sequence[float] = RATES, seeds: Sequence[int] = (0,), **changes: Any) -> list[Config]:
    return [config(root, seed=seed, optim__lr=lr, **(LENETS[0] | changes)) for seed in seeds for lr in rates]


def sweep(configs: Sequence[Config], results: Path, workers: int = 1) -> None:
    """What is pending of the sweep, with so many processes, here one after another."""
    wanted, store = jobs(configs), Store(results)
    left = {job.run_id for job in wanted if not store.state(job.run_id).done}
    for group in plan(wanted, left, results, workers):
        runner.train_group(group, results, threads=1, report=lambda *_: None, stop=signals.Stop())


def interrupted(configs: Sequence[Config], results: Path, at: int) -> None:
    """The sweep's first group, stopped at an update and saved there."""
    stop = signals.Stop()

    def ask(done: int, total: int) -> None:
        stop.requested = done >= at

    with pytest.raises(signals.Interrupted):
        runner.train_group(pending(configs, results)[0], results, threads=1, report=ask, stop=stop)


def reduced(configs: Sequence[Config], results: Path) -> dict[str, object]:
    """The sweep's tables as bytes; `runs` without what tells time."""
    folder = results / "reduced"
    reduction.reduce(Store(results), names(configs), folder)
    found: dict[str, object] = {p.stem: p.read_bytes() for p in folder.glob("*.parquet") if p.stem != "throughput"}
    import pandas as pd

    runs = pd.read_parquet(folder / "runs.parquet")
    return found | {"runs": runs.drop(columns=list(TIME)).to_csv()}


def same(configs: Sequence[Config], ours: Path, theirs: Path) -> None:
    assert written(ours, names(configs)) == written(theirs, names(configs))
    assert reduced(configs, ours) == reduced(configs, theirs)


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory):
    """The grid in one process, all of its rates side by side."""
    results = tmp_path_factory.mktemp("undisturbed")
    with torch_as_it_was():
        sweep(grid(root), results)
    beside = {Store(results).manifest(name)["provenance"]["num_runs"] for name in names(grid(root))}
    assert beside == {len(RATES)}
    return results


@pytest.mark.parametrize("workers", [2, 4, 64])
def test_any_number_of_processes_ends_in_the_same_bytes(tmp_path, root, undisturbed, workers):
    sweep(grid(root), tmp_path, workers)
    same(grid(root), tmp_path, undisturbed)


def test_a_killed_and_resumed_sweep_ends_in_the_same_bytes(tmp_path, root, undisturbed):
    interrupted(grid(root), tmp_path, at=5)
    sweep(grid(root), tmp_path, workers=2)
    same(grid(root), tmp_path, undisturbed)


def test_half_its_runs_done_before_it_ends_in_the_same_bytes(tmp_path, root, undisturbed):
    """One by one, as `bnstudy run --sweep` and agents do, or in another sweep's company."""
    configs = grid(root)
    for alone in configs[:2]:
        sweep([alone], tmp_path)
    sweep([configs[4], config(root, optim__lr=0.7, **LENETS[0])], tmp_path)  # another sweep's grid
    sweep(configs, tmp_path)
    same(configs, tmp_path, undisturbed)


@pytest.mark.slow
def test_extended_by_a_rate_and_by_a_seed_it_ends_in_the_same_bytes(tmp_path, root, undisturbed):
    """By a rate at a time as a search does, too."""
    configs = grid(root)
    for stop in (3, 4, len(configs)):
        sweep(configs[:stop], tmp_path)
    same(configs, tmp_path, undisturbed)
    both = grid(root, seeds=(0, 1))
    sweep(both, tmp_path, workers=2)
    sweep(both, tmp_path / "at once")
    same(both, tmp_path, tmp_path / "at once")


@pytest.fixture
def kernels(request, monkeypatch):
    """Whether there are any; what was looked up before, and within, is forgotten."""
    monkeypatch.setenv(build.SWITCH, "1" if request.param else "0")
    cached = (build.compiler, norm_relu._library, pointwise._library, pooled_conv._library, conv3x3._compiled)
    for each in cached:
        each.cache_clear()
    yield request.param
    for each in cached:
        each.cache_clear()


@pytest.mark.parametrize("changes", NETWORKS, ids=lambda c: f"{c['model']['name']}-{c['norm']['name']}")
@pytest.mark.parametrize(
    "kernels, threads",
    [(True, 1), (False, 1), pytest.param(True, 2, marks=pytest.mark.slow)],
    indirect=["kernels"],
)
def test_whatever_trains_beside_it_a_run_is_the_run_alone(tmp_path, root, changes, kernels, threads):
    """Also beside one that diverges; each network, with the kernels and without."""
    if kernels and build.compiler() is None:
        pytest.skip("no C compiler")
    configs = grid(root, **changes)
    for size in (2, len(configs)):
        for group in [jobs(configs)[first : first + size] for first in range(0, len(configs), size)]:
            of = Group(tuple(group))
            runner.train_group(of, tmp_path / str(size), threads=threads, report=lambda *_: None, stop=signals.Stop())
    for job in jobs(configs):
        runner.train_group(Group((job,)), tmp_path / "1", threads=threads, report=lambda *_: None, stop=signals.Stop())
    alone = written(tmp_path / "1", names(configs))
    assert len(alone) >= len(configs)
    computed = Store(tmp_path / "1").manifest(names(configs)[0])["provenance"]["kernels"]
    assert computed is (kernels and changes["model"]["name"] != "mlp")  # for dense layers there are none
    for size in (2, len(configs)):
        assert written(tmp_path / str(size), names(configs)) == alone


def test_a_stack_is_what_the_bits_of_its_runs_depend_on(tmp_path, root):
    """The test above can fail: with runtime.engine=stacked it does. The manifest tells which runs those are."""
    stacked = grid(root, rates=RATES[:4], runtime__engine="stacked")
    for size in (2, 4):
        for first in range(0, 4, size):
            of = Group(tuple(jobs(stacked)[first : first + size]))
            runner.train_group(of, tmp_path / str(size), threads=1, report=lambda *_: None, stop=signals.Stop())
    assert written(tmp_path / "2", names(stacked)) != written(tmp_path / "4", names(stacked))
    said = Store(tmp_path / "4").manifest(names(stacked)[0])["provenance"]
    assert (said["engine"], said["num_runs"]) == ("stacked", 4)


def test_a_group_that_is_taken_apart_says_so_and_keeps_its_bits(tmp_path, root, undisturbed, monkeypatch, capsys):
    configs = grid(root)
    interrupted(configs, tmp_path, at=5)
    begin = trainer.Trainer.__init__

    def no_room(self, group, *rest):
        if len(group.jobs) > 1:
            raise RuntimeError("out of memory")
        begin(self, group, *rest)

    monkeypatch.setattr(trainer.Trainer, "__init__", no_room)
    sweep(configs, tmp_path)
    log = capsys.readouterr().out
    assert all(word in log for word in ("out of memory", names(configs)[-1], "by itself"))
    same(configs, tmp_path, undisturbed)
    groups = Store(tmp_path).manifest(names(configs)[0])["provenance"]["groups"]
    assert [(g["num_runs"], g["engine"]) for g in groups] == [(len(RATES), "parallel"), (1, "plain")]
    assert groups[0]["from_step"] == 0 < groups[1]["from_step"]


def test_a_checkpoint_of_stacked_runs_that_goes_on_as_networks_of_their_own_says_so(tmp_path, root):
    stacked = grid(root, runtime__engine="stacked")
    interrupted(stacked, tmp_path, at=5)
    sweep(grid(root), tmp_path)
    groups = Store(tmp_path).manifest(names(stacked)[0])["provenance"]["groups"]
    assert [g["engine"] for g in groups] == ["stacked", "parallel"] and groups[1]["from_step"] >= 5


def test_what_draws_random_numbers_trains_alone(root, monkeypatch):
    """Its draws would be its neighbours', too: the process has one source of them."""
    draws = []
    for name in plugins.names("norms"):
        factory = norms.Factory(name, plugins.defaults("norms", name))
        options = plugins.defaults("models", "mlp") | {"hidden": "16"}
        try:
            network = models.build("mlp", options, factory, "torch_default", (1, 8, 8), 4, 0).train()
        except ValueError:  # of images alone
            options = plugins.defaults("models", "lenet")
            network = models.build("lenet", options, factory, "torch_default", (1, 28, 28), 4, 0).train()
        before = torch.get_rng_state()
        side = 8 if type(network).__name__ == "MLP" else 28
        network(torch.rand(8, 1, side, side, generator=torch.Generator().manual_seed(0)))
        if not torch.equal(before, torch.get_rng_state()):
            draws.append(name)
    assert draws == [name for name in plugins.names("norms") if plugins.flag("norms", name, "DRAWS")] != []
    monkeypatch.setattr(devices, "on_gpu", lambda device: True)
    for name in draws:
        drawing = config(root, norm={"name": name})
        assert not can_share_a_process(drawing) and can_share_a_process(config(root))
        engine = replace(drawing, runtime=replace(drawing.runtime, engine="parallel"))
        with pytest.raises(ValueError, match=r"runtime\.engine = 'parallel'.*use auto"):
            can_share_a_process(engine)


def test_the_number_of_threads_does_not_depend_on_what_is_left(tmp_path, root, monkeypatch):
    """Bits depend on it: a sweep of which one run is left makes that with as many as the others had."""
    monkeypatch.setattr(devices, "cores", lambda: 8)
    threads = []

    def launched(groups, results, **options):
        threads.append(options["threads"])
        return launch_here(groups, results, **options)

    monkeypatch.setattr(pool, "launch", launched)
    configs = grid(root, rates=RATES[:4])
    for wanted, workers in (
        (rounds.with_threads(jobs(configs), tmp_path), None),  # eight cores for four runs
        (rounds.with_threads(jobs(configs), tmp_path, 2), 2),
        (jobs(configs), 2),  # as `retry` asks for them
    ):
        for left in (configs[:1], configs):
            part = [job for job in wanted if job.run_id in names(left)]
            rounds.train_pending("t", part, tmp_path / str(len(threads)), workers)
    assert threads == [2, 2, 4, 4, 4, 4]
    said = [replace(c, runtime=replace(c.runtime, threads=3)) for c in configs]
    assert {job.config.runtime.threads for job in rounds.with_threads(jobs(said), tmp_path)} == {3}


def test_a_checkpoint_of_another_version_is_dropped_aloud(tmp_path, root, monkeypatch, capsys):
    """Its runs were rounded otherwise: gone on with, they would be neither the old ones nor the new."""
    monkeypatch.setattr(checkpoint, "SCHEMA", checkpoint.SCHEMA - 1)
    interrupted(grid(root), tmp_path, at=5)
    monkeypatch.undo()
    make(grid(root), tmp_path)
    assert "another version" in capsys.readouterr().out
