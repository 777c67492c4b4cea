"""Running statistics are part of what a run is: they pass through a checkpoint to the bit, and evaluation is theirs."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from small_runs import config, make, names, pending, quadrants, torch_as_it_was, written

from bnstudy.store.runs import Store
from bnstudy.training import signals


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quadrants(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _isolated():
    with torch_as_it_was():
        yield


@pytest.mark.parametrize("norm", ["batch", "batch_scratch", "noisy_batch"])
def test_running_statistics_of_a_resumed_run_are_those_of_one_that_went_through(tmp_path, root, norm):
    plan = {"norm_parameters": {"every_steps": 3, "at_end": True}}
    (one,) = configs = [config(root, norm={"name": norm}, probes=plan)]
    make(configs, tmp_path / "whole")
    while pending(configs, tmp_path / "cut"):
        stop = signals.Stop()

        def ask(done, total, stop=stop):
            stop.requested = True  # at every step

        with contextlib.suppress(signals.Interrupted):
            make(configs, tmp_path / "cut", report=ask, stop=stop)
    run_ids = names(configs)
    assert written(tmp_path / "cut", run_ids) == written(tmp_path / "whole", run_ids)
    rows = Store(tmp_path / "cut").table(run_ids[0], "norm_parameters")
    kept = rows[rows["quantity"].isin(["running_mean", "running_var"])].groupby("step")["value"].sum()
    assert list(kept.index) == [0, 3, 6, 9] and kept.nunique() == len(kept)  # they moved, and were seen to
    assert one.train.steps == 9
