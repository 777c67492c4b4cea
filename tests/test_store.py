"""A run is read as good only if it is, to the byte."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnstudy.store import paths
from bnstudy.store.runs import State, Store, StoreError

COLUMNS = {"step": "int64", "loss": "float64", "name": "string"}
MANIFEST = {"status": "completed", "outcome": "trained"}


def rows(start, stop):
    steps = list(range(start, stop))
    return {"step": steps, "loss": [float("inf") if s == 3 else s / 7 for s in steps], "name": [f"é{s}" for s in steps]}


def finished(tmp_path, run_id="a"):
    store = Store(tmp_path)
    writer = store.writer(run_id)
    writer.add("steps", COLUMNS, rows(0, 10))
    writer.finish(MANIFEST)
    writer.clean()
    return store


def test_round_trip_keeps_types_infinity_and_order(tmp_path):
    frame = finished(tmp_path).table("a", "steps")
    assert list(frame.columns) == ["run_id", *COLUMNS]
    assert frame["step"].tolist() == list(range(10)) and frame["step"].dtype == np.int64
    assert np.isinf(frame["loss"][3]) and frame["name"][2] == "é2"
    assert set(frame["run_id"]) == {"a"}


def test_states(tmp_path):
    store = Store(tmp_path)
    assert store.state("a") == State.absent
    store.writer("a").add("steps", COLUMNS, rows(0, 2))
    assert store.state("a") == State.partial and not State.partial.done
    assert finished(tmp_path, "b").state("b") == State.completed
    writer = store.writer("c")
    writer.finish(MANIFEST | {"status": "diverged"})
    assert store.state("c") == State.diverged and State.diverged.done
    assert store.run_ids() == ["a", "b", "c"]


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("file", [paths.MANIFEST, "steps.parquet"])
def test_truncated_file_is_damage(tmp_path, file, verify):
    store = finished(tmp_path)
    path = paths.run(tmp_path, "a") / file
    path.write_bytes(path.read_bytes()[:-20])
    assert store.state("a", verify=verify) == State.damaged


def test_one_flipped_bit_is_damage(tmp_path):
    store = finished(tmp_path)
    path = paths.run(tmp_path, "a") / "steps.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert store.state("a") == State.damaged
    with pytest.raises(StoreError, match=r"steps\.parquet.*run its sweep again"):
        store.table("a", "steps")


@pytest.mark.parametrize(
    "change", [{"schema": 99}, {"run_id": "b"}, {"status": "fine"}, {"tables": None}, {"tables": {"x": {}}}]
)
def test_foreign_manifest_is_damage(tmp_path, change):
    store = finished(tmp_path)
    path = paths.run(tmp_path, "a") / paths.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert store.state("a") == State.damaged


def test_interrupted_and_resumed_table_has_the_bytes_of_an_undisturbed_one(tmp_path):
    whole = finished(tmp_path / "whole")
    store = Store(tmp_path / "cut")
    writer = store.writer("a")
    writer.add("steps", COLUMNS, rows(0, 4))
    state = json.loads(json.dumps(writer.flush()))
    writer.add("steps", COLUMNS, rows(4, 9))
    writer.flush()  # after the checkpoint: a kill follows, and these rows must go
    again = store.writer("a")
    again.restore(state)
    again.add("steps", COLUMNS, rows(4, 6))
    again.flush()
    again.add("steps", COLUMNS, rows(6, 10))
    again.finish(MANIFEST)
    assert (paths.run(tmp_path / "cut", "a") / "steps.parquet").read_bytes() == (
        paths.run(tmp_path / "whole", "a") / "steps.parquet"
    ).read_bytes()
    assert store.state("a") == whole.state("a") == State.completed


def test_finishing_twice_changes_nothing(tmp_path):
    """A kill between two manifests of a group: the group is resumed at its end and every member is finished again."""
    store = Store(tmp_path)
    writer = store.writer("a")
    writer.add("steps", COLUMNS, rows(0, 5))
    state = writer.flush()
    writer.finish(MANIFEST)
    before = (paths.run(tmp_path, "a") / "steps.parquet").read_bytes()
    again = store.writer("a")
    again.restore(state)
    again.finish(MANIFEST)
    assert (paths.run(tmp_path, "a") / "steps.parquet").read_bytes() == before


def test_missing_segment_is_an_error(tmp_path):
    store = Store(tmp_path)
    writer = store.writer("a")
    writer.add("steps", COLUMNS, rows(0, 5))
    state = writer.flush()
    next((paths.run(tmp_path, "a") / "segments").iterdir()).unlink()
    with pytest.raises(StoreError, match="missing"):
        store.writer("a").restore(state)


def test_a_segment_that_is_not_what_was_written_is_an_error(tmp_path):
    """Also where parquet, which keeps no checksums, would read it."""
    store = Store(tmp_path)
    writer = store.writer("a")
    writer.add("steps", COLUMNS, rows(0, 5))
    state = writer.flush()
    (segment,) = (paths.run(tmp_path, "a") / "segments").iterdir()
    other = store.writer("b")
    other.add("steps", COLUMNS, rows(5, 10))
    other.flush()
    (paths.run(tmp_path, "b") / "segments" / segment.name).replace(segment)
    for use in (lambda: store.writer("a").restore(state), lambda: writer.finish(MANIFEST)):
        with pytest.raises(StoreError, match="checksum"):
            use()
    assert store.state("a") == State.partial


def test_a_failure_can_be_retracted_and_nothing_else(tmp_path):
    store = finished(tmp_path)
    store.writer("b").finish({"status": "failed"})
    for run_id, state in (("a", State.completed), ("b", State.partial), ("c", State.absent)):
        store.retract_failure(run_id)
        assert store.state(run_id) == state


def test_a_results_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for results in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(StoreError, match=f"--results {results}: {tmp_path / 'file'} is a file; name a folder"):
            Store(results)
    Store(tmp_path / "not" / "there")


def test_unknown_table_is_named(tmp_path):
    with pytest.raises(StoreError, match="no table 'moments'; it has: steps"):
        finished(tmp_path).table("a", "moments")
