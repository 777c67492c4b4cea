"""Raw runs become small tables: one row a run whatever became of it, the same bytes whatever the order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_runs
import synthetic

from bnstudy.analysis import frames
from bnstudy.store import paths, reduction
from bnstudy.store.runs import State, Store, StoreError

COLUMNS = {"step": "int64", "value": "float64", "name": "string"}


def write(store: Store, run_id: str, steps: list[int], values: list[float], **manifest: object) -> None:
    writer = store.writer(run_id)
    if steps:
        writer.add("probe", COLUMNS, {"step": steps, "value": values, "name": [f"row{v:g}" for v in values]})
    config = synthetic.config({"name": "lenet"}, "batch", 0.5, 3, "fashion_mnist", {"epochs": 2, "steps": None})
    writer.finish(synthetic.manifest(config, **manifest))  # type: ignore[arg-type]


def test_rows_are_sorted_by_run_and_step_and_keep_the_probe_s_order(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, "b", [1, 1, 0], [10.0, 11.0, 12.0])
    write(store, "a", [0, 2], [1.0, 2.0])
    reduction.reduce(store, ["b", "a"], tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "probe.parquet")
    assert table["run_id"].astype(str).tolist() == ["a", "a", "b", "b", "b"]
    assert table["value"].tolist() == [1.0, 2.0, 12.0, 10.0, 11.0]
    assert pd.read_parquet(tmp_path / "out" / "runs.parquet")["status"].tolist() == ["completed"] * 2


def test_bytes_do_not_depend_on_the_order_of_the_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for run_id in "cab":
        write(store, run_id, [0], [float(ord(run_id))])
    for folder, order in (("one", "abc"), ("two", "cba")):
        reduction.reduce(store, order, tmp_path / folder)
    for name in ("runs", "probe"):
        one, two = ((tmp_path / folder / f"{name}.parquet").read_bytes() for folder in ("one", "two"))
        assert one == two


def test_nan_and_infinity_survive(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, "a", [0, 1, 2], [np.nan, np.inf, -np.inf])
    reduction.reduce(store, ["a"], tmp_path / "out")
    values = pd.read_parquet(tmp_path / "out" / "probe.parquet", dtype_backend="pyarrow")["value"]
    assert values.isna().sum() == 0  # NaN is a value; a null would mean that nobody looked
    assert np.isnan(values.to_numpy()[0]) and values.to_numpy()[1:].tolist() == [np.inf, -np.inf]


def test_every_state_has_its_row_and_only_done_runs_have_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, "done", [0], [1.0], outcome="trained", final={"test_accuracy": 0.75})
    write(store, "lost", [0], [2.0], status="diverged", outcome="diverged", diverged_step=7)
    write(store, "failed", [0], [3.0], status="failed", error="ValueError: no")
    write(store, "damaged", [0], [4.0])
    (paths.run(tmp_path, "damaged") / "probe.parquet").write_bytes(b"not what was written")
    store.writer("begun")
    expected = {"absent": synthetic.config({"name": "lenet"}, "none", 2.0, 1, "fashion_mnist", {"epochs": 2})}
    reduction.reduce(store, store.run_ids(), tmp_path / "out", expected=expected)
    runs = pd.read_parquet(tmp_path / "out" / "runs.parquet").set_index("run_id")
    assert {str(run_id): status for run_id, status in runs["status"].items()} == {
        "absent": "absent",
        "begun": "partial",
        "damaged": "damaged",
        "done": "completed",
        "failed": "failed",
        "lost": "diverged",
    }
    assert [runs.loc["absent", column] for column in ("norm", "lr", "seed")] == ["none", 2.0, 1]
    assert runs.loc["lost", "diverged_step"] == 7
    assert runs.loc["failed", "error"] == "ValueError: no"
    assert runs["final_test_accuracy"].dropna().to_dict() == {"done": 0.75}
    table = pd.read_parquet(tmp_path / "out" / "probe.parquet")
    assert sorted(table["run_id"].astype(str)) == ["done", "lost"]


def test_a_table_damaged_after_its_check_is_an_error_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    write(store, "a", [0], [1.0])
    reduction.reduce(store, ["a"], tmp_path / "out")
    before = (tmp_path / "out" / "probe.parquet").read_bytes()
    states = {"a": store.state("a")}
    (paths.run(tmp_path, "a") / "probe.parquet").write_bytes(b"x")
    monkeypatch.setattr(Store, "state", lambda self, run_id: states[run_id])
    with pytest.raises(StoreError, match=r"probe\.parquet"):
        reduction.reduce(store, ["a"], tmp_path / "out")
    assert (tmp_path / "out" / "probe.parquet").read_bytes() == before


def test_runs_that_disagree_on_columns_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, "a", [0], [1.0])
    writer = store.writer("b")
    writer.add("probe", {"step": "int64"}, {"step": [0]})
    writer.finish(synthetic.manifest(synthetic.config({"name": "lenet"}, "batch", 1.0, 0, "x", {"epochs": 1})))
    with pytest.raises(ValueError, match="runs a and b"):
        reduction.reduce(store, ["a", "b"], tmp_path / "out")


def test_tables_can_be_chosen(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, "a", [0], [1.0])
    write(store, "b", [], [])
    out = tmp_path / "out"
    reduction.reduce(store, ["a", "b"], out)
    assert (out / "probe.parquet").exists()
    reduction.reduce(store, ["a", "b"], out, tables=["other"])
    assert [p.name for p in out.iterdir()] == ["runs.parquet"]  # no table of an earlier reduction stays behind


def test_a_part_of_a_table_s_rows_can_be_kept_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, "a", [0, 1, 2], [1.0, 2.0, float("nan")])
    write(store, "b", [0], [0.1])
    out = tmp_path / "out"
    reduction.reduce(store, ["a", "b"], out)
    whole = pd.read_parquet(out / "probe.parquet")
    reduction.reduce(store, ["a", "b"], out, rows={"probe": "step in (0, 2)"})
    assert len(pd.read_parquet(out / "probe.parquet")) == 3
    kept = pd.read_parquet(out / "probe.parquet")
    pd.testing.assert_frame_equal(kept, whole[whole["step"] != 1].reset_index(drop=True), check_exact=True)
    with pytest.raises(ValueError, match=r"sweep\.rows\.probe = 'stage == 1' is no query of its columns step,"):
        reduction.reduce(store, ["a", "b"], out, rows={"probe": "stage == 1"})


def test_configuration_becomes_columns() -> None:
    config = synthetic.config({"name": "resnet", "depth": 32}, "batch", 0.1, 4, "cifar10", {"epochs": 9, "steps": None})
    config["norm"]["eps"] = 1e-3
    columns = reduction.config_columns(config)
    assert columns["model"] == "resnet" and columns["network"] == "resnet32" and columns["depth"] == 32
    assert columns["norm"] == "batch" and columns["norm_eps"] == 1e-3 and columns["epochs"] == 9
    assert columns["milestones"] == "[0.5, 0.75]"
    assert reduction.config_columns({**config, "train": {"epochs": 165, "steps": 0}})["epochs"] is None


def test_the_commits_of_a_run_that_was_resumed_with_other_code_are_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for run_id, commits in (("a", ["f" * 40, "0" * 40]), ("b", None)):
        write(store, run_id, [0], [1.0])
        manifest = store.manifest(run_id)
        manifest["provenance"] |= {"commit": "0" * 40} | ({"commits": commits} if commits else {})
        store.writer(run_id).finish(manifest)
    reduction.reduce(store, ["a", "b"], tmp_path / "tables" / "s")
    runs = frames.runs(tmp_path, "s")
    assert runs["commits"].tolist() == [f"{'f' * 40} {'0' * 40}", "0" * 40] and set(runs["commit"]) == {"0" * 40}
    assert frames.commits(runs) == ("00000000", "ffffffff")


@pytest.mark.parametrize(
    ("told", "kernels"),
    [
        ({}, None),  # a manifest of an earlier release
        ({"kernels": False}, False),
        ({"kernels": True, "earlier": []}, True),
        ({"kernels": False, "kernels_used": ["norm_relu"], "kernels_missed": ["winograd"]}, True),
        ({"kernels": False, "kernels_used": [], "kernels_missed": ["winograd"]}, False),
        ({"kernels": False, "earlier": [{"kernels": True}]}, True),  # resumed on a machine without a compiler
        ({"kernels": False, "earlier": [{"threads": 1}]}, False),
    ],
)
def test_whether_kernels_of_ours_computed_is_told(tmp_path: Path, told: dict, kernels: bool | None) -> None:
    store = Store(tmp_path)
    write(store, "a", [0], [1.0])
    manifest = store.manifest("a")
    manifest["provenance"] |= told
    store.writer("a").finish(manifest)
    reduction.reduce(store, ["a"], tmp_path / "tables" / "s")
    assert frames.runs(tmp_path, "s")["kernels"].tolist() == [kernels]


def test_the_data_s_title_reaches_the_reader_and_renames_no_run(tmp_path: Path) -> None:
    """From SOURCE.json through the run's manifest and its row to what figures and claims call the data."""
    plain, titled = (small_runs.quadrants(tmp_path / name) for name in ("plain", "titled"))
    (titled / "quadrants" / "SOURCE.json").write_text('{"name": "Quadrants (99 of 100 exact)"}')
    labels = []
    for root in (plain, titled):
        results = tmp_path / f"results-{root.name}"
        with small_runs.torch_as_it_was():
            (ended,) = small_runs.make([small_runs.config(root, train__steps=1)], results)
        reduction.reduce(Store(results), [ended.run_id], paths.tables(results, "sweep"))
        labels.append((ended.run_id, frames.origin([frames.runs(results, "sweep")]).data_label))
    (run_id, label), (same_run_id, titled_label) = labels
    assert run_id == same_run_id
    assert label.startswith("quadrants, arrays, sha256 ")
    assert titled_label == label.replace("quadrants", "Quadrants (99 of 100 exact)")


def test_a_failed_run_s_data_has_its_title_too(tmp_path: Path) -> None:
    root = small_runs.quadrants(tmp_path)
    (root / "quadrants" / "SOURCE.json").write_text('{"name": "Quadrants (99 of 100 exact)"}')
    with small_runs.torch_as_it_was():
        one = small_runs.config(root, data__batch_size=33, train__steps=4)  # whose last mini-batch has one image
        (ended,) = small_runs.make([one], tmp_path / "results")
    assert ended.state == State.failed
    assert Store(tmp_path / "results").manifest(ended.run_id)["data"]["title"] == "Quadrants (99 of 100 exact)"


def test_a_stand_in_is_marked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    synthetic.write_lenet_run(store, "none", 1.0, 0, synthetic=True)
    synthetic.write_lenet_run(store, "batch", 1.0, 0)
    reduction.reduce(store, store.run_ids(), tmp_path / "out")
    runs = pd.read_parquet(tmp_path / "out" / "runs.parquet").set_index("norm")
    assert runs["stand_in"].to_dict() == {"none": True, "batch": False}
