"""Published tables grow by whole seeds: rows that are there stay, bytes follow from the runs, a kill leaves one set."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from small_runs import config, quadrants

from bnstudy.analysis import frames, readme, report
from bnstudy.config import compose, plugins
from bnstudy.config.schema import Config, Optim, ProbePlan, Search, Sweep, resolved
from bnstudy.store import files, paths, publishing, reduction
from bnstudy.store.jobs import Job, jobs
from bnstudy.store.runs import RunEnded, Store
from bnstudy.store.status import component_code, looks
from bnstudy.sweep import preview, rounds, search, study, tables
from bnstudy.sweep.specs import of_job
from bnstudy.sweep.survey import Survey

NAME = "grown"
COLUMNS = {"step": "int64", "value": "float64", "name": "string"}
COMMITTED = readme.README.parent / "results"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return quadrants(tmp_path_factory.mktemp("data"))


def grid(root: Path, seeds: Iterable[int], rates: Iterable[float] = (0.1,), **sweep: Any) -> list[Config]:
    """Both arms at these seeds and rates."""
    made = [
        config(root, norm={"name": norm}, seed=seed, optim__lr=lr)
        for seed in seeds
        for norm in ("batch", "none")
        for lr in rates
    ]
    return [replace(each, sweep=Sweep(name=NAME, **sweep)) for each in made]


def finish(
    results: Path,
    wanted: Iterable[Job],
    shift: float = 0.0,
    *,
    columns: dict[str, str] | None = None,
    outcome: str = "trained",
    commit: str = "0" * 40,
    table: str = "looks",
    values: Sequence[object] | None = None,
    num_steps: int = 9,
) -> None:
    """Raw runs as though they had been trained: numbers that follow from the seed, moved by `shift`."""
    for job in wanted:
        writer, kinds, seed = Store(results).writer(job.run_id), columns or COLUMNS, job.config.seed
        numbers = values or [seed + shift, float("nan"), float("inf")]
        rows = {"step": [2, 0, 0], "value": numbers, "name": ["a", "b", "b"], "loss": numbers}
        if len(numbers) != 3:
            rows["step"] = list(range(len(numbers)))
        writer.add(table, kinds, {name: rows.get(name, [1, 2, 3]) for name in kinds})
        writer.finish(
            {
                "status": "completed",
                "outcome": outcome,
                "diverged_step": None,
                "error": None,
                "config": resolved(job.config),
                "code": component_code(job.config),
                "looks": {name: look.record for name, look in looks(job.config).items() if name == table},
                "sweep": NAME,
                "data": job.source.record,
                "provenance": {"commit": commit, "dirty": "", "device": "cpu", "threads": 1, "num_runs": 1},
                "num_steps": num_steps,
                "final": {"test_accuracy": 0.5 + shift},
                "wall_sec": 1.0 + len(commit.strip("0")),
                "probe_share": 0.1,
            }
        )


def forget(results: Path) -> None:
    """The raw runs are gone, as they are from a fresh clone."""
    shutil.rmtree(paths.runs(results), ignore_errors=True)


@pytest.fixture
def publish(monkeypatch):
    """`tables.publish` of a sweep that consists of these configurations; nothing is drawn."""
    monkeypatch.setattr(report, "write", lambda *_, **__: 0)

    def act(results: Path, configs: Sequence[Config], **options: Any) -> int:
        monkeypatch.setattr(compose, "expand", lambda name, preset, overrides: list(configs))
        return tables.publish(NAME, [], results, **options)

    return act


def published(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.tables(results, NAME).iterdir()}


def test_seed_by_seed_gives_the_bytes_of_all_at_once(tmp_path, root, publish):
    """Also where the raw runs of the earlier seeds are gone, and the later ones are published first."""
    everything = grid(root, (0, 1, 2))
    finish(tmp_path / "once", jobs(everything))
    publish(tmp_path / "once", everything)
    wanted = published(tmp_path / "once")
    assert set(wanted) == {"runs.parquet", "looks.parquet"}
    for results, order in ((tmp_path / "up", (0, 1, 2)), (tmp_path / "down", (2, 0, 1))):
        for count, seed in enumerate(order, 1):
            forget(results)
            finish(results, jobs(grid(root, (seed,))))
            publish(results, grid(root, sorted(order[:count])))
        assert published(results) == wanted


def test_a_sweep_that_keeps_fewer_rows_publishes_as_though_it_always_had(tmp_path, root, publish):
    few: dict[str, Any] = {"rows": {"looks": "step == 0"}}
    finish(tmp_path / "once", jobs(grid(root, (0, 1))))
    publish(tmp_path / "once", grid(root, (0, 1), **few))
    finish(tmp_path / "grown", jobs(grid(root, (0,))))
    publish(tmp_path / "grown", grid(root, (0,)))
    publish(tmp_path / "grown", grid(root, (0,), **few))  # with the raw runs, which have more
    forget(tmp_path / "grown")
    finish(tmp_path / "grown", jobs(grid(root, (1,))))
    publish(tmp_path / "grown", grid(root, (0, 1), **few))
    assert published(tmp_path / "grown") == published(tmp_path / "once")
    assert set(frames.load(tmp_path / "grown", NAME, "looks")["step"]) == {0}


def test_it_says_which_seeds_are_in_and_which_are_missing(tmp_path, root, publish, capsys):
    """A seed of which one arm is not done is not in, not even by its other arm."""
    everything = grid(root, (0, 1, 2))
    finish(tmp_path, jobs(everything)[:3])  # of seed 1 one arm
    assert publish(tmp_path, everything) == 0
    log = capsys.readouterr().out
    assert "published seeds: 0 (n = 1), 2 runs of them new" in log and "1 (1 runs), 2 (2 runs)" in log
    assert set(frames.runs(tmp_path, NAME)["seed"]) == {0}
    forget(tmp_path)
    with pytest.raises(ValueError, match=rf"{NAME} is not finished .*make sweep-{NAME}"):
        publish(tmp_path / "none", everything)


def test_what_is_published_stays_as_it_is(tmp_path, root, publish):
    """A run that was trained again to the same bits elsewhere is no other run: its row keeps its commit."""
    finish(tmp_path, jobs(grid(root, (0,))))
    publish(tmp_path, grid(root, (0,)))
    finish(tmp_path, jobs(grid(root, (0, 1))), commit="f" * 40)
    publish(tmp_path, grid(root, (0, 1)))
    runs = frames.runs(tmp_path, NAME)
    assert {seed: set(part["commit"]) for seed, part in runs.groupby("seed")} == {0: {"0" * 40}, 1: {"f" * 40}}
    assert frames.commits(runs) == ("00000000", "ffffffff")


def test_a_raw_run_that_is_another_is_named_and_refused_unless_it_replaces(tmp_path, root, publish):
    seeds = grid(root, (0,))
    finish(tmp_path, jobs(seeds))
    publish(tmp_path, seeds)
    before = published(tmp_path)
    finish(tmp_path, jobs(seeds)[:1], shift=1e-15)  # of which only the table's value is another
    with pytest.raises(ValueError, match=r"REPLACE=1") as refused:
        publish(tmp_path, seeds)
    assert jobs(seeds)[0].run_id in str(refused.value) and jobs(seeds)[1].run_id not in str(refused.value)
    assert published(tmp_path) == before
    finish(tmp_path, jobs(seeds)[:1], shift=0.25)
    with pytest.raises(ValueError, match=r"final_test_accuracy: 0\.5 published, 0\.75 now"):
        publish(tmp_path, seeds)
    publish(tmp_path, seeds, replace=True)
    assert sorted(frames.runs(tmp_path, NAME)["final_test_accuracy"]) == [0.5, 0.75]


def test_what_the_preset_does_not_ask_for_is_not_mixed_in(tmp_path, root, publish):
    finish(tmp_path, jobs(grid(root, (0,))))
    publish(tmp_path, grid(root, (0,)))
    other = grid(root, (0,), rates=(0.3,))
    finish(tmp_path, jobs(other))
    with pytest.raises(ValueError, match=r"2 published runs, .* are not asked for .*REPLACE=1"):
        publish(tmp_path, other)
    publish(tmp_path, other, replace=True)
    assert set(frames.runs(tmp_path, NAME)["lr"]) == {0.3}


@pytest.fixture
def changed_batch(monkeypatch):
    """From the call on norms/batch.py says something else, in a process that has not imported it yet."""
    before = plugins.sources

    def sources(kind, name):
        return {file: "changed" if file == "norms/batch.py" else each for file, each in before(kind, name).items()}

    def act():
        monkeypatch.setattr(plugins, "sources", sources)
        monkeypatch.setattr(plugins, "_at_import", {})

    return act


def test_rows_of_other_code_stay_when_a_seed_is_added(tmp_path, root, publish, changed_batch, capsys):
    """Their raw runs are gone: dropped, they would be lost. What the sweep would train anew is named with the file."""
    finish(tmp_path, jobs(grid(root, (0, 1))))
    publish(tmp_path, grid(root, (0, 1)))
    before = frames.load(tmp_path, NAME, "looks")
    forget(tmp_path)
    changed_batch()
    finish(tmp_path, jobs(grid(root, (2,))))
    capsys.readouterr()
    publish(tmp_path, grid(root, (0, 1, 2)))
    log = capsys.readouterr().out
    assert "published seeds: 0, 1, 2 (n = 3), 2 runs of them new" in log
    assert "2 runs stay as they are published: norms/batch.py" in log
    after = frames.load(tmp_path, NAME, "looks")
    pd.testing.assert_frame_equal(after[after["seed"] < 2].reset_index(drop=True), before, check_categorical=False)
    assert sorted(frames.runs(tmp_path, NAME)["seed"]) == [0, 0, 1, 1, 2, 2]


def test_rows_of_other_code_give_way_to_equal_ones_and_to_others_only_on_request(
    tmp_path, root, publish, changed_batch
):
    seeds = grid(root, (0,))
    finish(tmp_path, jobs(seeds))
    publish(tmp_path, seeds)
    changed_batch()
    finish(tmp_path, jobs(seeds), shift=0.25)
    before = published(tmp_path)
    with pytest.raises(ValueError, match=r"final_test_accuracy: 0\.5 published, 0\.75 now"):
        publish(tmp_path, seeds)
    assert published(tmp_path) == before
    finish(tmp_path, jobs(seeds), commit="f" * 40)
    publish(tmp_path, seeds)
    runs = frames.runs(tmp_path, NAME)
    assert dict(zip(runs["norm"], runs["commit"], strict=True)) == {"batch": "f" * 40, "none": "0" * 40}
    forget(tmp_path)
    assert all(map(publishing.load(tmp_path, NAME).done, jobs(seeds)))


def test_rows_that_lack_a_table_stay_when_a_seed_is_added(tmp_path, root, publish):
    finish(tmp_path, jobs(grid(root, (0,))))
    publish(tmp_path, grid(root, (0,)))
    forget(tmp_path)
    probed = [replace(each, probes={"weights": ProbePlan(at=[0])}) for each in grid(root, (0, 1))]
    finish(tmp_path, jobs(probed)[2:], table="weights")
    publish(tmp_path, probed)
    assert sorted(frames.runs(tmp_path, NAME)["seed"]) == [0, 0, 1, 1]
    assert set(frames.load(tmp_path, NAME, "looks")["seed"]) == {0}
    assert set(frames.load(tmp_path, NAME, "weights")["seed"]) == {1}


def test_why_a_published_run_does_not_count_is_named(
    tmp_path, root, publish, trained, changed_batch, capsys, monkeypatch
):
    """A file of its components that changed; a default, which made it another run, and then publishing is refused."""
    finish(tmp_path, jobs(grid(root, (0,))))
    publish(tmp_path, grid(root, (0,)))
    forget(tmp_path)
    batch, none = (job.run_id for job in jobs(grid(root, (0,))))
    with monkeypatch.context() as patched:
        patched.setitem(Optim.__init__.__kwdefaults__, "weight_decay", 0.25)
        now = grid(root, (0,))
        with pytest.raises(ValueError, match=r"optim.weight_decay: 0.0001 then, 0.25 now.*REPLACE=1"):
            publish(tmp_path, now)
        preview.dry_run(NAME, jobs(now), tmp_path, 1, publishing.load(tmp_path, NAME))
        log = capsys.readouterr().out
        assert all(f"not the run {name}, which is published" in log for name in (batch, none))
        assert log.count("optim.weight_decay: 0.0001 then, 0.25 now") == 2
    changed_batch()
    publish(tmp_path, grid(root, (0,)))
    capsys.readouterr()
    assert study.sweep(NAME, "full", [], tmp_path, 1) == 0
    log = capsys.readouterr().out
    assert f"{batch}: published, but norms/batch.py changed" in log and "--accept-code" in log
    assert trained == [batch] and none not in log


def test_a_changed_default_of_a_probe_is_not_served_from_tables_that_do_not_say(tmp_path, root, publish, monkeypatch):
    """Those of earlier releases: what nobody set had its reference."""
    tails = [replace(config(root, probes={"gradient_tails": {"at": [0]}}), sweep=Sweep(name=NAME))]
    (job,) = jobs(tails)
    finish(tmp_path, [job], table="gradient_tails")
    publish(tmp_path, tails)
    path = paths.tables(tmp_path, NAME) / "runs.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["looks"]), path)
    assert publishing.load(tmp_path, NAME, ["seed=0"]).done(job)
    assert not publishing.load(tmp_path, NAME, ["probes.gradient_tails.batch_size=64"]).done(job)  # it was another look
    assert publishing.load(tmp_path, NAME).done(job)
    before = plugins.defaults
    monkeypatch.setattr(
        plugins, "defaults", lambda k, n: before(k, n) | ({"num_bins": 8} if n == "gradient_tails" else {})
    )
    now = publishing.load(tmp_path, NAME).compare(job)
    assert now is not None and now.lacking == ("gradient_tails",)
    explicit = replace(job, config=config(root, probes={"gradient_tails": {"at": [0], "options": {"num_bins": 64}}}))
    assert publishing.load(tmp_path, NAME).done(explicit)


def of_another_sweep(root: Path, seeds: Iterable[int], rates: Iterable[float] = (0.1,), **sweep: Any) -> list[Config]:
    made = grid(root, seeds, rates, **{"tables": [], "runs_of": [NAME], "outcome_by": "losses"} | sweep)
    return [replace(each, sweep=replace(each.sweep, name="further")) for each in made]


def test_runs_that_another_sweep_has_published_are_not_trained_again(tmp_path, root, publish, capsys, monkeypatch):
    """Their outcome is judged by the losses, as this sweep judges; what it does not ask for is no stranger."""
    columns = {"step": "int64", "loss": "float64"}
    kept = grid(root, (0, 1, 2), tables=["steps"])
    for seed, loss in ((0, 2.0), (1, 2.3), (2, 2.0)):
        wanted = [job for job in jobs(kept) if job.config.seed == seed]
        finish(tmp_path, wanted, columns=columns, table="steps", values=[loss] * 50, num_steps=50)
    publish(tmp_path, kept)
    forget(tmp_path)
    further = of_another_sweep(root, (0, 1))
    monkeypatch.setattr(compose, "expand", lambda *_: further)
    monkeypatch.setattr(compose, "describe", lambda _: "")
    monkeypatch.setattr(compose, "header", lambda name: {"runs_of": [NAME]})
    assert study.sweep("further", "full", [], tmp_path, 1) == 0
    assert "further: 4 runs, 4 published, 0 done, 0 to train" in capsys.readouterr().out
    specs = [of_job(job) for job in jobs(further)]
    assert Survey.of(tmp_path, specs).tally("further", specs).pending == 0
    assert tables.publish("further", [], tmp_path) == 0
    runs = frames.runs(tmp_path, "further").sort_values(["seed", "norm"])
    assert runs["outcome"].tolist() == ["learns"] * 2 + ["at chance"] * 2
    assert runs["last_loss"].tolist() == pytest.approx([2.0, 2.0, 2.3, 2.3])
    assert publishing.load(tmp_path, "further").runs.keys() == {job.run_id for job in jobs(further)}


def test_runs_of_other_sweeps_are_published_with_whole_seeds_alone(tmp_path, root, publish, monkeypatch):
    """This sweep has one rate more: of seed 0 all is done, of seed 1 what the other sweep has published."""
    kept = grid(root, (0, 1), tables=["steps"])
    finish(tmp_path, jobs(kept), columns={"step": "int64", "loss": "float64"}, table="steps", values=[2.0] * 9)
    publish(tmp_path, kept)
    forget(tmp_path)
    further = of_another_sweep(root, (0, 1), rates=(0.1, 0.2))
    monkeypatch.setattr(compose, "expand", lambda *_: further)
    with pytest.raises(ValueError, match=r"^further is not finished"):
        tables.publish("further", [], tmp_path)
    new = [job for job in jobs(further) if job.config.optim.lr == 0.2 and job.config.seed == 0]
    finish(tmp_path, new, columns={"step": "int64", "loss": "float64"}, table="steps", values=[2.0] * 9)
    assert tables.publish("further", [], tmp_path) == 0
    assert frames.runs(tmp_path, "further")["seed"].tolist() == [0] * 4


@pytest.mark.parametrize(
    ("kept", "asks", "shared"),
    [("losses", "accuracy", False), ("accuracy", "accuracy", True), ("losses", "losses", True)],
)
def test_outcomes_are_taken_only_as_the_sweep_judges_them(tmp_path, root, publish, kept, asks, shared):
    columns, configs = {"step": "int64", "loss": "float64"}, grid(root, (0,), tables=["steps"], outcome_by=kept)
    finish(tmp_path, jobs(configs), columns=columns, table="steps", values=[2.0] * 9)
    publish(tmp_path, configs)
    (one, *_) = of_another_sweep(root, (0,), outcome_by=asks)
    assert bool(publishing.load(tmp_path, "further", settings=one.sweep).runs) == shared
    path = paths.tables(tmp_path, NAME) / "steps.parquet"
    pq.write_table(pq.read_table(path).slice(0, 12), path)  # of one run a part of its losses
    (one, *_) = of_another_sweep(root, (0,), outcome_by="losses")
    assert len(publishing.load(tmp_path, "further", settings=one.sweep).runs) == 1


def test_a_sweep_that_publishes_more_than_its_runs_takes_none_of_others():
    with pytest.raises(ValueError, match=r"^sweep\.runs_of.*give it sweep\.tables=\[\]"):
        compose.expand("stability_largest", "full", ["sweep.tables=[epochs]"])
    with pytest.raises(ValueError, match=r"^sweep\.runs_of: there is no sweep 'stability'; did you mean"):
        compose.expand("stability_largest", "full", ["sweep.runs_of=[stability]"])


@pytest.fixture
def trained(monkeypatch):
    """What a sweep has trained, run by run, as though it did."""
    found: list[str] = []

    def make(title, wanted, pending, results, *_):
        found.extend(sorted(pending))
        finish(results, [job for job in wanted if job.run_id in pending])
        return [RunEnded(run_id, "completed") for run_id in sorted(pending)]

    monkeypatch.setattr(rounds, "_train", make)
    monkeypatch.setattr(compose, "describe", lambda name: name)
    return found


def test_a_sweep_counts_what_is_published_as_done(tmp_path, root, publish, trained, capsys):
    """Extended by a seed after the raw runs were deleted: that seed is trained, and its tables have all."""
    finish(tmp_path, jobs(grid(root, (0, 1))))
    publish(tmp_path, grid(root, (0, 1)))
    forget(tmp_path)
    extended = grid(root, (0, 1, 2))
    finish(tmp_path, jobs(extended)[4:5])
    publish(tmp_path, extended)  # nothing new is whole; from here on the sweep is the extended one
    capsys.readouterr()
    assert study.sweep(NAME, "full", [], tmp_path, 1) == 0
    assert f"{NAME}: 6 runs, 4 published, 1 done, 1 to train" in capsys.readouterr().out
    assert trained == [jobs(extended)[5].run_id]
    assert sorted(frames.runs(tmp_path / "full", NAME)["seed"]) == [0, 0, 1, 1, 2, 2]
    assert set(frames.load(tmp_path / "full", NAME, "looks")["seed"]) == {0, 1, 2}
    publish(tmp_path, extended)
    assert published(tmp_path) == {p.name: p.read_bytes() for p in paths.tables(tmp_path / "full", NAME).iterdir()}
    trained.clear()
    assert study.sweep(NAME, "full", [], tmp_path, 1, again=True) == 0
    assert set(trained) == {job.run_id for job in jobs(extended)[:4]}
    assert "4 published" not in capsys.readouterr().out.split("again")[-1]


def test_a_suite_s_estimate_leaves_out_what_is_published(tmp_path, root, publish):
    finish(tmp_path, jobs(grid(root, (0,))))
    publish(tmp_path, grid(root, (0,)))
    forget(tmp_path)
    assert "2 runs,    0 to train" in preview.suite_time("s", [NAME], "full", [], tmp_path)[0]
    assert "2 runs,    2 to train" in preview.suite_time("s", [NAME], "full", [], tmp_path, again=True)[0]


@pytest.mark.parametrize(("column", "value"), [("lr", 0.2), ("data_sha256", "f" * 64), ("normalise", "mean")])
def test_a_published_run_of_the_same_name_and_another_configuration_is_named(tmp_path, root, publish, column, value):
    configs = grid(root, (0,))
    finish(tmp_path, jobs(configs))
    publish(tmp_path, configs)
    path = paths.tables(tmp_path, NAME) / "runs.parquet"
    rows = [row | {column: value} for row in pq.read_table(path).to_pylist()]
    pq.write_table(reduction.runs_table(rows), path)
    with pytest.raises(ValueError, match=rf"{column} = {value} published, .* asked for; AGAIN=1"):
        publishing.load(tmp_path, NAME).done(jobs(configs)[0])


def test_a_published_run_that_lacks_a_table_is_not_done(tmp_path, root, publish):
    """A probe that the sweep has now, and that has not looked at it; not where the sweep does not publish its table."""
    probed = {"weights": {"at": [0]}}
    configs = [replace(config(root, probes=probed), sweep=Sweep(name=NAME))]
    (job,) = jobs(configs)
    finish(tmp_path, [job])
    publish(tmp_path, [replace(configs[0], probes={})])
    assert not publishing.load(tmp_path, NAME).done(job)
    kept = replace(job, config=replace(job.config, sweep=Sweep(name=NAME, tables=["looks"])))
    assert publishing.load(tmp_path, NAME).done(kept)
    finish(tmp_path, [job], table="weights")
    publish(tmp_path, configs, replace=True)
    assert publishing.load(tmp_path, NAME).done(job)


def test_a_search_goes_on_from_published_outcomes(tmp_path, root, publish):
    configs = grid(root, (0,), rates=(0.1, 1.0, 10.0), search=Search(axis="optim.lr", factor=2.0))
    for job in jobs(configs):
        finish(tmp_path, [job], outcome="trained" if job.config.optim.lr < 5 else "diverged")
    known = {job.run_id: {"outcome": Store(tmp_path).manifest(job.run_id)["outcome"]} for job in jobs(configs)}
    reached = [job.run_id for job in search.reach(jobs(configs), Store(tmp_path)).jobs]
    assert len(reached) > len(configs)
    workspace = tmp_path / "published"
    expected = [job.run_id for job in jobs(configs)]
    reduction.reduce(Store(tmp_path), expected, paths.tables(workspace, NAME))
    there = publishing.load(workspace, NAME)
    assert {run_id: {"outcome": row["outcome"]} for run_id, row in there.runs.items()} == known
    assert [job.run_id for job in search.reach(jobs(configs), Store(workspace), there).jobs] == reached
    assert len(search.reach(jobs(configs), Store(workspace)).jobs) < len(reached)


def test_columns_that_a_later_version_adds_are_empty_before_and_types_widen(tmp_path, root, publish):
    finish(tmp_path, jobs(grid(root, (0,))), columns=COLUMNS | {"count": "int16"})
    publish(tmp_path, grid(root, (0,)))
    forget(tmp_path)
    later = {**COLUMNS, "value": "float32", "count": "int32", "added": "int64"}
    finish(tmp_path, jobs(grid(root, (1,))), columns=later)
    publish(tmp_path, grid(root, (0, 1)))
    table = pq.read_table(paths.tables(tmp_path, NAME) / "looks.parquet")
    kinds = {field.name: str(field.type) for field in table.schema}
    assert (kinds["value"], kinds["count"], kinds["added"]) == ("double", "int32", "int64")
    rows = frames.load(tmp_path, NAME, "looks")
    assert rows[rows["seed"] == 0]["added"].isna().all() and set(rows[rows["seed"] == 1]["added"]) == {1, 2, 3}
    before = published(tmp_path)
    forget(tmp_path)
    publish(tmp_path, grid(root, (0, 1)))
    assert published(tmp_path) == before


def test_a_kind_that_cannot_be_one_with_the_published_is_refused_and_nothing_changes(tmp_path, root, publish):
    finish(tmp_path, jobs(grid(root, (0,))))
    publish(tmp_path, grid(root, (0,)))
    before = published(tmp_path)
    forget(tmp_path)
    finish(tmp_path, jobs(grid(root, (1,))), columns={"step": "int64", "value": "string"}, values=["x", "y", "z"])
    with pytest.raises(ValueError, match=r"table 'looks': published rows do not fit new ones"):
        publish(tmp_path, grid(root, (0, 1)))
    assert published(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("at", range(12))
def test_wherever_publishing_crashes_one_whole_set_is_read_and_the_next_completes_it(
    tmp_path, root, publish, monkeypatch, at
):
    finish(tmp_path, jobs(grid(root, (0,))))
    publish(tmp_path, grid(root, (0,)))
    everything = grid(root, (0, 1))
    finish(tmp_path, jobs(everything))
    moves, real = 0, Path.replace

    def crash(self, target):
        nonlocal moves
        moves += 1
        if moves > at:
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        try:
            publish(tmp_path, everything)
        except KeyboardInterrupt:
            assert moves == at + 1
    runs, looks = frames.runs(tmp_path, NAME), frames.load(tmp_path, NAME, "looks")
    assert set(runs["seed"]) == set(looks["seed"]) in ({0}, {0, 1})
    publish(tmp_path, everything)
    assert set(published(tmp_path)) == {"runs.parquet", "looks.parquet"}
    assert set(frames.load(tmp_path, NAME, "looks")["seed"]) == {0, 1}


KILLED = """
import os, signal, sys
from pathlib import Path
from bnstudy.store import files
folder, at, count = Path(sys.argv[1]), int(sys.argv[2]), 0
def dying(act):
    def die(*arguments, **options):
        global count
        count += 1
        if count > at:
            os.kill(os.getpid(), signal.SIGKILL)
        return act(*arguments, **options)
    return die
Path.replace, Path.unlink, Path.mkdir, os.fsync = map(dying, (Path.replace, Path.unlink, Path.mkdir, os.fsync))
with files.replacing_all(folder) as staged:
    for name in ("a", "b", "d"):
        (staged / name).write_text("new")
"""


def test_a_set_of_files_that_is_killed_anywhere_is_all_old_or_all_new(tmp_path):
    old, new = {"a": "old", "b": "old", "c": "old"}, {"a": "new", "b": "new", "d": "new"}
    seen, at, code = [], 0, -9
    while code:
        folder = tmp_path / str(at)
        folder.mkdir()
        for name, text in old.items():
            (folder / name).write_text(text)
        code = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(at)], check=False).returncode
        assert code in (0, -9)
        found = {path.name: path.read_text() for path in files.current(folder)}
        assert found in (old, new)
        seen.append(found == new)
        files.settle(folder)
        assert {path.name: path.read_text() for path in folder.iterdir()} == found
        at += 1
    assert seen == sorted(seen) and seen.count(False) > 3 < seen.count(True)


def test_what_fails_while_it_is_staged_changes_nothing(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="full"), files.replacing_all(tmp_path) as staged:
        (staged / "a").write_text("new")
        raise OSError("full")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


@pytest.mark.parametrize("sweep", ["lenet_lr_grid", "init", "lr_grid_reduced"])
def test_the_committed_tables_pass_through_unchanged(tmp_path, sweep):
    there = publishing.load(COMMITTED, sweep)
    reduction.reduce(Store(tmp_path), [], tmp_path / "out", published=there.rows(there.runs.keys()))
    committed = sorted((COMMITTED / "tables" / sweep).glob("*.parquet"))
    assert [path.name for path in committed] == sorted(path.name for path in (tmp_path / "out").iterdir())
    for path in committed:
        ours, theirs = (pd.read_parquet(each / path.name) for each in (tmp_path / "out", path.parent))
        pd.testing.assert_frame_equal(ours[theirs.columns], theirs, check_exact=True)


def test_damaged_published_tables_are_named(tmp_path):
    folder = paths.tables(tmp_path, NAME)
    folder.mkdir(parents=True)
    (folder / "runs.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"runs\.parquet cannot be read .*git restores it"):
        publishing.load(tmp_path, NAME)
    assert publishing.load(tmp_path, "none") == publishing.NOTHING
