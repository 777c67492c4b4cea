"""What is told of runs is what the disk says, with an index or without; a retry makes what failed and nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from small_runs import config, job, launch_here, make, names, quadrants, torch_as_it_was, written

from bnstudy.config import compose, project
from bnstudy.config.schema import resolved
from bnstudy.data.sources import DataError
from bnstudy.store import devices, failures, index, locks, paths, publishing, weights
from bnstudy.store.cache import Cache
from bnstudy.store.index import Entry
from bnstudy.store.jobs import jobs, under_way
from bnstudy.store.locks import Holder
from bnstudy.store.runs import State, Store
from bnstudy.sweep import listing, pool, specs, study, survey
from bnstudy.sweep.specs import RunSpec, kind
from bnstudy.sweep.tally import Speeds, measured, tally


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _process(monkeypatch):
    monkeypatch.setattr(pool, "launch", launch_here)
    with torch_as_it_was():
        yield


def ended(results, name, status="completed", **facts):
    writer = Store(results).writer(name)
    writer.add("steps", {"step": "int64"}, {"step": [1, 2, 3]})
    writer.finish({"status": status, "wall_sec": 8.0, "provenance": {"num_runs": 2}, "sweep": "init", **facts})
    writer.clean()


def states(results, *ids):
    return [entry.state for entry in index.entries(results, ids).values()]


def file(results):
    return paths.cache(results)


def test_the_index_is_what_the_store_says_whatever_happens_to_a_run(tmp_path):
    store = Store(tmp_path)
    ended(tmp_path, "a")
    ended(tmp_path, "b", "failed", wall_sec=None)
    store.writer("c")
    ids = ("a", "b", "c", "d")

    def agree():
        found = index.entries(tmp_path, ids)
        assert [e.state for e in found.values()] == [store.state(name, verify=False) for name in ids]
        return found

    first, second = agree()["a"], agree()["b"]
    assert (first.state, first.sec, first.sweep) == (State.completed, 4.0, "init")
    assert (second.state, second.sec, second.sweep) == (State.failed, None, "init")
    ended(tmp_path, "b", "diverged")
    assert agree()["b"].state == State.diverged
    (paths.run(tmp_path, "a") / "steps.parquet").unlink()
    assert agree()["a"].state == State.damaged
    store.writer("a").restart()
    assert agree()["a"].state == State.partial
    ended(tmp_path, "c", "failed")
    store.retract_failure("c")
    assert agree()["c"].state == State.partial
    shutil.rmtree(paths.run(tmp_path, "b"))
    assert agree()["b"].state == State.absent
    (paths.run(tmp_path, "a") / paths.MANIFEST).write_text("{")
    assert agree()["a"].state == State.damaged


def test_what_did_not_change_is_not_opened_again(tmp_path, monkeypatch):
    for name in "abc":
        ended(tmp_path, name)
    index.entries(tmp_path, "abc")
    opened = []

    def look(store, name):
        opened.append(name)
        return Entry(State.failed)

    monkeypatch.setattr(index, "_read", look)
    assert states(tmp_path, *"abc") == ["completed"] * 3 and not opened
    ended(tmp_path, "b")
    assert states(tmp_path, *"abc") == ["completed", "failed", "completed"] and opened == ["b"]


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_cache_that_is_damaged_or_missing_is_begun_anew(tmp_path, content, monkeypatch):
    ended(tmp_path, "a")
    assert states(tmp_path, "a") == ["completed"]
    for damage in (lambda: file(tmp_path).write_bytes(content), file(tmp_path).unlink):
        damage()
        assert states(tmp_path, "a") == ["completed"]
        with monkeypatch.context() as patch:
            patch.setattr(index, "_read", lambda *_: pytest.fail("it is remembered"))
            assert states(tmp_path, "a") == ["completed"]


def test_a_cache_of_which_a_single_page_is_damaged_is_begun_anew(tmp_path, monkeypatch):
    cache, page = Cache(tmp_path), 4096
    for damaged in range(1, 12):
        cache.write("run", {f"other {number}": ("stamp", "x" * 100) for number in range(300)})
        ended(tmp_path, "a")
        states(tmp_path, "a")
        whole = bytearray(file(tmp_path).read_bytes())
        whole[damaged * page : (damaged + 1) * page] = b"\xff" * page
        file(tmp_path).write_bytes(whole)
        for _ in range(2):  # the second has it in a new file
            assert states(tmp_path, "a") == ["completed"]
        with monkeypatch.context() as patch:
            patch.setattr(index, "_read", lambda *_: pytest.fail("it is remembered"))
            assert states(tmp_path, "a") == ["completed"]


def test_values_of_another_version_are_read_anew(tmp_path):
    ended(tmp_path, "a")
    states(tmp_path, "a")
    stamp, _ = Cache(tmp_path).read("run")["a"]
    for value in ({"state": "fine"}, [1], None, {"state": "completed", "looks": [], "more": 1}):
        Cache(tmp_path).write("run", {"a": (stamp, value)})
        assert states(tmp_path, "a") == ["completed"]


def test_where_the_index_cannot_be_kept_it_is_done_without(tmp_path):
    ended(tmp_path, "a")
    paths.cache(tmp_path).parent.write_text("a file where a folder belongs")
    assert states(tmp_path, "a") == ["completed"]


@pytest.fixture
def sweep(tmp_path, data_root, monkeypatch):
    """The sweep `init`, which may be changed, and how often it was composed."""
    (tmp_path / "results").mkdir()  # without one nothing is remembered
    folder = tmp_path / "sweeps"
    shutil.copytree(project.SWEEPS, folder)
    monkeypatch.setattr(project, "SWEEPS", folder)
    composed, expand = [], compose.expand

    def counted(*asked):
        composed.append(asked)
        return expand(*asked)

    monkeypatch.setattr(compose, "expand", counted)

    def composed_or_not(preset="quick", root=data_root):
        return specs.of_sweep("init", preset, [f"runtime.data_root='{root}'"], tmp_path / "results")

    return folder / "init.yaml", composed, composed_or_not


@pytest.mark.slow
def test_a_sweep_is_composed_once_until_something_that_decides_it_changes(tmp_path, data_root, sweep, monkeypatch):
    path, composed, asked = sweep
    monkeypatch.setattr(specs, "_common", specs._common.__wrapped__)  # looks again each time
    fresh = asked()
    configs = compose.expand("init", "quick", [f"runtime.data_root='{data_root}'"])
    assert [run.run_id for run in fresh] == names(configs) and {run.work for run in fresh} == {1}
    assert asked() == fresh and len(composed) == 2
    full = asked("full")
    assert len(composed) == 3 and asked() == fresh and asked("full") == full and len(composed) == 3
    path.write_text(path.read_text() + "seed: 7\n")
    assert [run.run_id for run in asked()] and len(composed) == 4
    file(tmp_path / "results").write_text("{")
    assert asked() is not None and len(composed) == 5
    other = tmp_path / "other"
    shutil.copytree(data_root, other)
    there = asked(root=other)
    label = other / "cifar10" / "SOURCE.json"
    label.write_text(json.dumps({"source": "torchvision"}))  # another identity
    assert {run.run_id for run in asked(root=other)}.isdisjoint(run.run_id for run in there)
    shutil.rmtree(other / "cifar10")
    with pytest.raises(DataError, match="is not available"):
        specs.of_sweep(
            "init", "quick", [f"runtime.data_root='{other}'", "runtime.download=false"], tmp_path / "results"
        )


def test_the_components_defaults_have_a_say(monkeypatch, tmp_path):
    monkeypatch.setattr(specs, "_common", specs._common.__wrapped__)
    before = specs._deciding("init")
    assert before == specs._deciding("init") != specs._deciding("precision")
    package = tmp_path / "package"
    shutil.copytree(specs.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "data"))
    monkeypatch.setattr(specs, "PACKAGE", package)
    copied = specs._deciding("init")
    norm = package / "norms" / "batch.py"
    norm.write_text(norm.read_text().replace("1e-5", "1e-4"))
    assert specs._deciding("init") != copied


def test_how_far_and_how_long_still(tmp_path):
    def how_far(runs, entries, holders):
        return str(tally(runs, entries, measured(runs, entries, tmp_path), holders))

    def completed(sec, steps):
        facts = {"network": "lenet", "precision": "fp32", "data": "images", "norm": "batch", "batch_size": 10}
        return Entry(State.completed, sec, facts=facts | {"steps": steps})

    here, one = Holder("h", 1), kind("lenet", "fp32", "images", "batch", 10, (), 1)
    runs = [RunSpec(name, 10 * steps, one) for name, steps in zip("abcdefg", (1, 3, 2, 2, 2, 5, 1), strict=True)]
    entries = dict.fromkeys("abcdefg", Entry(State.absent)) | {
        "a": completed(30.0, 1),
        "b": Entry(State.diverged, 90.0),
        "c": Entry(State.failed),
        "d": Entry(State.partial),
        "e": Entry(State.partial),
    }
    counts = "   7 runs: 1 completed, 1 diverged, 1 failed, 2 interrupted, 2 pending; "
    assert how_far(runs, entries, {}) == counts + "about 6 min 0 s left for one process"
    counts = "   7 runs: 1 completed, 1 diverged, 1 failed, 2 running, 1 interrupted, 1 pending; "
    two = {"e": here, "f": Holder("h", 2)}
    assert how_far(runs, entries, two) == counts + "about 3 min 0 s left for 2 processes"
    nothing_done = {name: Entry(State.absent) for name in "abcdefg"}
    assert how_far(runs, nothing_done, {}) == "   7 runs: 7 pending"
    assert how_far(runs[:2], entries, {}) == "   2 runs: 1 completed, 1 diverged"


def test_a_kind_that_is_not_known_takes_what_the_most_similar_one_takes():
    speeds = Speeds()
    speeds.add(kind("lenet", "fp32", "images", "batch", 32, ["weights"], 9), 100, 50.0)
    speeds.add(kind("lenet", "fp32", "images", "batch", 32, (), 9), 100, 10.0)
    speeds.add(kind("lenet", "fp32", "images", "none", 64, (), 9), 100, 1.0)
    assert speeds.sec_per_image(kind("lenet", "fp32", "images", "batch", 32, ["weights"], 9)) == 0.5
    assert speeds.sec_per_image(kind("lenet", "fp32", "images", "batch", 64, (), 9)) == 0.3  # of BN, whatever looks
    assert speeds.sec_per_image(kind("lenet", "fp32", "images", "layer", 32, (), 9)) == pytest.approx(0.2033, abs=1e-4)
    assert speeds.sec_per_image(kind("lenet", "bf16", "images", "batch", 32, (), 9)) is None
    assert speeds.sec_per_image(kind("lenet", "fp32", "images", "batch", 32, (), 0)) is None  # looks alone
    assert speeds.sec_per_image(kind("lenet", "fp32", "images", "batch", 32, ["tails"], 9)) == 0.3


def test_what_a_probe_takes_says_nothing_of_runs_that_another_looks_at():
    speeds = Speeds()
    looked_at = kind("lenet", "fp32", "images", "batch", 32, ["jacobian"], 9)
    speeds.add(looked_at, 100, 50.0, probe_share=0.9)
    assert speeds.sec_per_image(looked_at) == 0.5
    for probes in ((), ["weights"]):
        of = kind("lenet", "fp32", "images", "batch", 32, probes, 9)
        assert speeds.sec_per_image(of) == pytest.approx(0.05)


def test_of_runs_published_without_their_looks_the_tables_tell_what_looked(tmp_path):
    folder = tmp_path / "tables" / "jacobians"
    shutil.copytree(project.ROOT / "results" / "tables" / "jacobians", folder)
    runs = pd.read_parquet(folder / "runs.parquet")
    runs.assign(looks=pd.Series(None, index=runs.index, dtype="string")).to_parquet(folder / "runs.parquet")
    rows = publishing.brief(tmp_path)["jacobians"]
    assert rows and {row["looks"] for row in rows.values()} == {'["jacobian_singular_values"]'}
    run_id, looked = next(iter(rows.items()))
    assert survey._has_looks(RunSpec(run_id, 1, (), ("jacobian_singular_values@1",)), looked)
    looked = looked | {"looks": '["jacobian_singular_values@1"]'}
    assert not survey._has_looks(RunSpec(run_id, 1, (), ("jacobian_singular_values@2",)), looked)
    shutil.copy(folder / "jacobian_singular_values.parquet", folder / "steps.parquet")
    assert publishing.brief(tmp_path)["jacobians"] == rows


@pytest.mark.parametrize("gpu", [False, True])
def test_the_speed_of_a_gpu_is_no_processors(gpu, monkeypatch):
    monkeypatch.setattr(devices, "on_gpu", lambda device: gpu)
    row = {"status": "completed", "wall_sec": 8.0, "num_steps": 2, "num_runs": 1, "looks": "[]", "probe_share": 0.0}
    row |= {"network": "lenet", "precision": "fp32", "data": "images", "norm": "batch", "batch_size": 4}
    rows = {"a": row | {"device": "NVIDIA H200", "wall_sec": 0.8}, "b": row | {"device": "cpu"}}
    speeds = survey._speeds({"sweep": rows})
    of = kind("lenet", "fp32", "images", "batch", 4, (), 2)
    assert speeds.sec_per_image(of) == pytest.approx(0.1 if gpu else 1.0)


def failed(configs, results):
    for one in jobs(configs):
        facts = {"config": resolved(one.config), "sweep": one.config.sweep.name}
        Store(results).writer(one.run_id).finish({"status": "failed", "error": "x"} | facts)


def test_a_retry_makes_what_failed_and_nothing_else(tmp_path, root, capsys):
    configs = [config(root, seed=seed, sweep__name="init" if seed else "precision") for seed in (0, 1, 2)]
    ids, results = names(configs), tmp_path / "results"
    how = [f"runtime.data_root='{root}'", "tracking.mode=off", "runtime.device=cpu", "runtime.threads=1"]
    assert study.retry(None, how, results, 1) == 0 and "no run has failed" in capsys.readouterr().out
    failed(configs[:2], results)
    Store(results).writer(ids[2])
    assert study.retry("jacobians", how, results, 1) == 0
    assert "no run of jacobians has failed" in capsys.readouterr().out
    assert study.retry("init", how, results, 1) == 0
    assert [Store(results).state(name) for name in ids] == [State.failed, State.completed, State.partial]
    capsys.readouterr()
    specs.remember(compose.AD_HOC, "quick", ["seed=0"], [job(configs[0])], results, "mine")
    assert study.retry(None, how, results, 1) == 0
    printed = capsys.readouterr().out
    assert f"for its tables: bnstudy sweep --name mine --results {results} seed=0\n" in printed
    assert [Store(results).state(name) for name in ids] == [State.completed, State.completed, State.partial]
    make(configs[:2], tmp_path / "whole")
    assert written(results, ids[:2]) == written(tmp_path / "whole", ids[:2])


def test_a_retry_finds_the_data_where_the_run_had_them_and_leaves_out_what_has_none(tmp_path, root, capsys):
    lost = tmp_path / "gone"
    shutil.copytree(root, lost)
    configs = [config(root, seed=0), config(lost, seed=1)]
    ids = names(configs)
    for one in configs:
        failures.record(job(one), tmp_path / "results", "the disk is full")
    shutil.rmtree(lost)
    how = [f"runtime.data_root='{tmp_path}'", "tracking.mode=off"]  # where there are none
    assert study.retry(None, how, tmp_path / "results", 1) == 1
    assert [Store(tmp_path / "results").state(name) for name in ids] == [State.completed, State.failed]
    told = capsys.readouterr().err
    assert f"{ids[1]}: cannot be trained (data set" in told and ids[0] not in told.partition("cannot")[0]
    how = [f"runtime.data_root='{root}'", "tracking.mode=off"]
    assert study.retry(None, how, tmp_path / "results", 1) == 0


def test_a_retry_of_what_is_no_longer_the_same_says_so(tmp_path, root, capsys):
    failed([config(root, seed=0), config(root, seed=1)], tmp_path / "results")
    shutil.copytree(root, tmp_path / "data")
    (tmp_path / "data" / "quadrants" / "SOURCE.json").write_text(json.dumps({"source": "torchvision"}))
    ids = Store(tmp_path / "results").run_ids()
    manifest = Store(tmp_path / "results").manifest(ids[1])
    manifest["config"]["optim"]["inertia"] = manifest["config"]["optim"].pop("momentum")
    Store(tmp_path / "results").writer(ids[1]).finish(manifest)
    how = [f"runtime.data_root='{tmp_path / 'data'}'", "tracking.mode=off"]
    assert study.retry(None, how, tmp_path / "results", 1) == 1
    told = capsys.readouterr().err
    assert f"{ids[0]}: cannot be trained (its data, or an option's default, have changed)" in told
    assert "(optim.inertia: there is no such key; there are: lr" in told and f"make clean-run ID={ids[1]}" in told
    for value in ("runtime.threads=0", "runtime.nope=1"):  # once, and not for every run
        with pytest.raises(ValueError, match=value.partition("=")[0]):
            study.retry(None, [value], tmp_path / "results", 1)
    assert not capsys.readouterr().err
    for wrong, words in ((["optim.lr=3"], "optim.lr=3: a retry trains the very runs"), ([], "no sweep 'x'")):
        with pytest.raises(ValueError, match=words):
            study.retry("x", wrong, tmp_path, 1)


def test_a_run_is_forgotten_whole_by_its_exact_name_and_not_while_it_is_made(tmp_path, root, capsys):
    configs = [config(root, optim__lr=lr, norm={"name": "none"}) for lr in (0.1, 0.2)]
    ids = names(configs)
    make(configs, tmp_path)
    group = paths.groups(tmp_path) / "123456789abc"  # as an interrupted group has it
    group.mkdir(parents=True)
    (group / paths.MEMBERS).write_text("\n".join(ids))
    before = states(tmp_path, *ids)
    for slip, hint in ((ids[0][:-3], f"did you mean {ids[0]}"), ("", "2 runs are in"), ("../runs", "2 runs are in")):
        with pytest.raises(ValueError, match=f"there is no run '{slip}'; {hint}"):
            listing.remove(slip, tmp_path)
        with pytest.raises(ValueError, match=f"there is no run '{slip}'; {hint}"):
            weights.export(slip, tmp_path / "w.pt", tmp_path)
    with locks.hold(tmp_path, ids[:1]), pytest.raises(locks.Locked, match="another process trains this run"):
        listing.remove(ids[0], tmp_path)
    assert states(tmp_path, *ids) == before == [State.completed] * 2
    assert listing.remove(ids[0], tmp_path) == 0
    assert states(tmp_path, *ids) == [State.absent, State.completed] and under_way(tmp_path) == {}
    told = capsys.readouterr().out
    assert f"{ids[1]}: to start again" in told and f"{ids[0]} is forgotten" in told


def test_a_retry_keeps_how_the_run_was_trained(tmp_path, root):
    one = job(config(root, runtime__threads=3, runtime__keep_weights=False))
    failures.record(one, tmp_path, "the disk is full")
    again = study._again(Store(tmp_path).manifest(one.run_id), ["runtime.threads=2"])
    assert again.runtime == replace(one.config.runtime, threads=2) and job(again).run_id == one.run_id


@pytest.fixture(scope="module")
def three(tmp_path_factory, root):
    """A completed run, one that failed, and one that was interrupted."""
    results = tmp_path_factory.mktemp("three")
    configs = [config(root, seed=seed, sweep__name="mine" if seed else None) for seed in (0, 1, 2)]
    with torch_as_it_was():
        make(configs[:1], results)
    failures.record(job(configs[1]), results, "ValueError: the disk is full", ValueError("here"))
    Store(results).writer(names(configs)[2])
    return results, names(configs)


def listed(results, capsys, *wanted, as_csv=False):
    assert listing.ls(wanted, results, as_csv=as_csv) == 0
    return capsys.readouterr().out.splitlines()


def test_runs_are_listed_and_chosen_by_column_or_name(three, capsys):
    results, ids = three
    lines = {line.split()[0]: line for line in listed(results, capsys)}
    assert lines.keys() == set(ids)
    accuracy = Store(results).manifest(ids[0])["final"]["test_accuracy"]
    assert f"completed    {100 * accuracy:.2f} %" in lines[ids[0]] and " ago" in lines[ids[0]]
    assert "failed" in lines[ids[1]] and lines[ids[1]].endswith("mine") and "interrupted" in lines[ids[2]]
    assert [line.split()[0] for line in listed(results, capsys, "state=failed,interrupted", "-s1-")] == [ids[1]]
    assert [line.split()[0] for line in listed(results, capsys, "norm=batch", "seed=0")] == [ids[0]]
    lr = Store(results).manifest(ids[0])["config"]["optim"]["lr"]
    assert listed(results, capsys, f"lr={lr:e},7") == listed(results, capsys, f"lr={lr}") != []
    head, *rows = listed(results, capsys, as_csv=True)
    assert {"run", "state", "norm", "lr", "seed", "test_accuracy", "error"} <= set(head.split(",")) and len(rows) == 3
    with pytest.raises(ValueError, match=r"^colour=red: .*there are: run, state"):
        listing.ls(["colour=red"], results)


def test_a_column_that_there_is_not_is_refused_and_columns_are_the_same_also_where_no_run_is_listed(
    three, tmp_path, capsys
):
    results, _ = three
    for wanted, folder in ((["state=none", "nrom=batch"], results), (["nrom=batch"], tmp_path / "fresh")):
        with pytest.raises(ValueError, match=r"^nrom=batch: .*there are: run, state, .*norm"):
            listing.ls(wanted, folder)
    head = listed(results, capsys, as_csv=True)[0]
    assert listed(results, capsys, "state=none", as_csv=True) == [head]
    assert listed(tmp_path / "fresh", capsys, as_csv=True) == [head]


def test_a_run_is_shown_by_the_beginning_of_its_name(three, capsys):
    results, ids = three
    assert listing.show(ids[0], results) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{ids[0]}: completed\n") and "  optim.lr = 0.5\n" in shown and "  steps = 9\n" in shown
    listing.show(ids[1][:-3], results)
    assert "the disk is full\nValueError: here" in capsys.readouterr().out
    with locks.hold(results, ids[2:]):
        listing.show(ids[2], results)
    assert "running (process" in capsys.readouterr().out
    for name, words in (("mlp", "more than one run 'mlp'; did you mean mlp"), ("x", "bnstudy ls")):
        with pytest.raises(ValueError, match=words):
            listing.show(name, results)
