"""Sweeps in slices of time: the same bytes as in one go, seed by seed, and what is left with the time it takes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from small_runs import config, job, launch_here, names, quadrants, torch_as_it_was, written

from bnstudy import cli
from bnstudy.analysis import report
from bnstudy.config import compose, project
from bnstudy.store import devices, paths
from bnstudy.store.index import Entry
from bnstudy.store.jobs import Group
from bnstudy.store.runs import State, Store
from bnstudy.sweep import pool, rounds, specs
from bnstudy.sweep.specs import RunSpec, kind
from bnstudy.sweep.tally import measured, tally
from bnstudy.training import runner, signals

SWEEP: dict[str, Any] = {
    "defaults": ["config", {"override model": "mlp"}, {"override probes": "none"}, "_self_"],
    "data": {"name": "quadrants", "batch_size": 25, "augment": False, "normalise": "unit"},
    "train": {"epochs": 3},
    "tracking": {"mode": "off"},
    "runtime": {"device": "cpu", "checkpoint_every_sec": 1e9},
    "sweep": {"name": "tiny", "suites": {"little": 2}, "presets": {"full": [], "quick": ["seed=0"]}},
    "hydra": {"sweeper": {"params": {"norm": "batch,none", "seed": "1,0"}}},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The suite `little` of two sweeps, `brief` of one epoch and `tiny` of three, in a folder of their own."""
    folder = tmp_path / "sweeps"
    folder.mkdir()
    (folder / "tiny.yaml").write_text(f"# Tiny.\n{yaml.safe_dump(SWEEP)}")
    brief = SWEEP | {"train": {"epochs": 1}, "sweep": SWEEP["sweep"] | {"name": "brief", "suites": {"little": 1}}}
    (folder / "brief.yaml").write_text(f"# Brief.\n{yaml.safe_dump(brief)}")
    monkeypatch.setattr(project, "SWEEPS", folder)
    monkeypatch.setattr(report, "write", lambda workspace, **options: 0)


@pytest.fixture(autouse=True)
def _torch():
    with torch_as_it_was():
        yield


def sliced(marks):
    """`launch` in this process, that after so many signs of progress does what the alarm would: save, and Spent."""
    left = [marks]

    def launch_a_slice(groups, results, **options):
        ended = []
        for index, group in enumerate(groups):
            stop = signals.Stop()

            def report(done, total, stop=stop):
                left[0] -= 1
                stop.requested = left[0] <= 0

            try:
                made = runner.train_group(group, results, threads=1, report=report, stop=stop)
            except signals.Interrupted:
                raise signals.Spent from None
            ended += made
            options["report"](index, 0, 0, made)
        return ended

    return launch_a_slice


def suite(root, results, *options):
    """Whether it came to its end."""
    command = ["suite", "little", "--data-root", str(root), "--results", str(results), "--jobs", "1", *options]
    try:
        cli.main(command)
    except SystemExit as ended:
        assert not ended.code
        return True
    return False


@pytest.mark.slow
def test_slices_until_done_give_the_bytes_of_one_go(root, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pool, "launch", launch_here)
    assert suite(root, tmp_path / "whole", "--preset", "quick")
    assert "spent" not in capsys.readouterr().out
    slices, ended = 0, False
    while not ended and slices < 20:
        monkeypatch.setattr(pool, "launch", sliced(marks=6))
        ended = suite(root, tmp_path / "slices", "--preset", "quick", "--budget-min", "9")
        slices += 1
        assert ("the time is spent" in capsys.readouterr().out) != ended
    assert ended and slices > 1
    wanted = [name for sweep in ("brief", "tiny") for name in _names(sweep, root, "quick")]
    whole = written(tmp_path / "whole", wanted)
    assert written(tmp_path / "slices", wanted) == whole and len(whole) == 4 * 2


@pytest.mark.slow
def test_a_slice_goes_seed_by_seed_in_the_order_of_the_suite_and_says_what_is_left(
    root, tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(pool, "launch", sliced(marks=4))  # one for each run of `brief`, and the last is cut
    assert not suite(root, tmp_path / "r", "--preset", "full", "--budget-min", "9")
    store, told = Store(tmp_path / "r"), capsys.readouterr().out
    done = [name for name in store.run_ids() if store.state(name).done]
    assert all(name in _names("brief", root) for name in done)
    assert [name.split("-")[3] for name in done].count("s0") == 2 and len(done) == 3  # seed 0's arms, then seed 1's
    assert told.index("Brief.") < told.index("brief, seed 0: 2 runs") < told.index("brief, seed 1: 2 runs")
    assert "Tiny." not in told
    _, left = told.split("what was done is kept; the same command resumes.")
    assert re.search(r"\nbrief +4 runs: 3 completed, 1 interrupted; about .* left for one process\n", left)
    assert re.search(r"\ntiny +4 runs: 4 pending; about .* left for one process\n", left)


def _names(sweep, root, preset="full"):
    return names(compose.expand(sweep, preset, [f"runtime.data_root={root}"]))


def test_the_pace_is_that_of_finished_runs_and_of_checkpoints(tmp_path):
    one, other = (kind(network, "fp32", "images", "batch", 1, (), 9) for network in ("lenet", "mlp"))
    runs = [RunSpec(name, 9, one) for name in "abcd"] + [RunSpec("e", 9, other)]
    facts = {"network": "lenet", "precision": "fp32", "data": "images", "norm": "batch", "batch_size": 1, "steps": 9}
    entries = {run.run_id: Entry(State.absent) for run in runs} | {
        "a": Entry(State.completed, 9.0, facts=facts),
        "b": Entry(State.partial),
    }
    folder = paths.groups(tmp_path) / "group"
    folder.mkdir(parents=True)
    (folder / paths.CHECKPOINT).touch()
    (folder / paths.MEMBERS).write_text("b\n")
    (folder / paths.PACE).write_text(json.dumps({"step": 3, "wall_sec": 15.0}))
    found = measured(runs, entries, tmp_path)
    assert found.here.sec_per_image(one) == 24.0 / 12 and found.images_done == {"b": 3.0}
    text = "   5 runs: 1 completed, 1 interrupted, 3 pending; about {} left for {}, and 1 of a kind whose speed is not"
    assert str(tally(runs, entries, found, {})).startswith(text.format("48 s", "one process"))  # 2 s x (6 + 9 + 9)
    assert str(tally(runs, entries, found, {}, 2)).startswith(text.format("24 s", "2 processes"))
    assert str(tally(runs[4:], entries, found, {})) == "   1 runs: 1 pending"
    (folder / paths.PACE).write_text("{")
    assert measured(runs, entries, tmp_path).here.sec_per_image(one) == 1.0


def test_a_checkpoint_says_how_far_it_is(root, tmp_path):
    one = job(config(root, train__steps=40))
    stop = signals.Stop()

    def report(done, total):
        assert total == one.num_steps == 40
        stop.requested = done >= 8

    with pytest.raises(signals.Interrupted):
        runner.train_group(Group((one,)), tmp_path, threads=1, report=report, stop=stop)
    run = specs.of_job(one)
    found = measured([run], {one.run_id: Entry(State.partial)}, tmp_path)
    assert 8 * 26 <= found.images_done[one.run_id] < 40 * 26 == run.work and found.here.sec_per_image(run.kind)
    assert job(config(root, train__steps=None, train__epochs=2)).num_steps == 2 * 4  # the last of 22 images


def test_on_a_gpu_a_slice_has_all_arms_of_a_seed_go_on_together(root, tmp_path, monkeypatch):
    part = [job(config(root, norm={"name": norm})) for norm in ("batch", "none")]
    monkeypatch.setattr(devices, "on_gpu", lambda device: True)
    assert rounds.at_once(part, tmp_path) is None
    with signals.limit(9):
        assert rounds.at_once(part, tmp_path) == 2
        monkeypatch.setattr(devices, "on_gpu", lambda device: False)
        assert rounds.at_once(part, tmp_path) is None
