"""What looks at all runs stays possible with 100,000 of them: made ones, which are read as real ones are."""

from __future__ import annotations

import resource
import subprocess
import sys

import many_runs
import pandas as pd
import pytest

from bnstudy.config.schema import from_dict
from bnstudy.store import index, locks, paths, reduction
from bnstudy.store.runs import State, Store
from bnstudy.sweep.specs import RunSpec, kind
from bnstudy.sweep.tally import measured, tally

REDUCE = """
import sys
from pathlib import Path
import many_runs
from bnstudy.store import paths, reduction
from bnstudy.store.runs import Store
results, count = Path(sys.argv[1]), int(sys.argv[2])
folder = paths.tables(results / "of", many_runs.SWEEP)
reduction.reduce(Store(results), many_runs.run_ids(count), folder, tables=["epochs"])
"""
MIB = 1024  # of the KiB in which a process counts its memory


def look(results, count):
    """All that `status` does but for composing the sweep, which is remembered too."""
    names = many_runs.run_ids(count)
    entries = index.entries(results, names)
    images, of = 128 * 235 * many_runs.NUM_EPOCHS, kind("lenet", "fp32", "images", "batch", 128, (), 1)
    runs = [RunSpec(name, images, of) for name in names]
    return str(tally(runs, entries, measured(runs, entries, results), locks.holders(results)))


def test_made_runs_are_read_as_real_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(many_runs, "LINKS", 7)  # names that a file may have
    many_runs.fill(tmp_path, 10)
    many_runs.fill(tmp_path, 30)
    names, store = many_runs.run_ids(30), Store(tmp_path)
    assert sorted(names) == store.run_ids() and len(set(names)) == 30
    assert {store.state(name) for name in names} == {State.completed}
    made = from_dict(store.manifest(names[13])["config"])
    assert (made.norm["name"], made.optim.lr, made.seed) == ("none", many_runs.RATES[3], 0)
    assert "30 completed" in look(tmp_path, 30)
    folder = paths.tables(tmp_path / "of", many_runs.SWEEP)
    reduction.reduce(store, names, folder, tables=["epochs"])
    rows = pd.read_parquet(folder / "epochs.parquet")
    assert len(rows) == 30 * many_runs.NUM_EPOCHS and rows["run_id"].nunique() == 30


@pytest.mark.soak
def test_a_hundred_thousand_runs(tmp_path, monkeypatch):
    """Looked at a second time none of them is opened, and they are reduced within 4 GiB of memory."""
    count = 100_000
    many_runs.fill(tmp_path, count)
    assert f"{count} completed" in look(tmp_path, count)
    opened = []
    monkeypatch.setattr(Store, "manifest", lambda self, run_id: opened.append(run_id))
    assert f"{count} completed" in look(tmp_path, count) and not opened
    subprocess.run([sys.executable, "-c", REDUCE, str(tmp_path), str(count)], check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4096 * MIB
