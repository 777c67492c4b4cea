"""What the study costs is arithmetic on the sweep files; the made runs of the simulation are as real ones are."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from small_runs import config

from bnstudy import compose, index, paths
from bnstudy.bench import cost, scale
from bnstudy.config import from_dict
from bnstudy.store import State, Store

SPEEDS = {"resnet110": 200.0, "resnet110_bn": 100.0, "resnet110_bn_bf16": 300.0, "lenet": 5000.0, "lenet_bn": 4000.0}


def test_figure_1_costs_its_epochs():
    """5 seeds of 165, 1320 and 2400 epochs with BN and 2400 without, 50,000 images each."""
    work = cost.of_sweep("fig1_paper")
    epochs = (165 + 1320 + 2400, 2400)
    assert len(work.grid) == 20 and not work.searched
    assert sum(map(cost.num_images, work.runs)) == 5 * sum(epochs) * 50_000
    assert sum(map(cost.num_steps, work.runs)) == 5 * sum(epochs) * 391
    assert (found := cost.training(work, SPEEDS)) is not None
    assert found.sec == pytest.approx(5 * 50_000 * (epochs[0] / 100 + epochs[1] / 200))
    assert found.longest_sec == pytest.approx(2400 * 50_000 / 100)


def test_a_search_costs_what_its_file_says_it_asks_for_at_most():
    work = cost.of_sweep("lr_grid")
    assert f"{len(work.grid)} runs and up to {len(work.searched)} of the search" in compose.describe("lr_grid")
    assert {config.optim.lr for config in work.searched.values()} == {3e-5}  # as long as any other of its cell


def test_eight_gpus_are_never_faster_than_the_longest_run():
    few, many = cost.Time(8000.0, 6000.0), cost.Time(80_000.0, 800.0)
    assert [few.on(n) for n in (1, 8, math.inf)] == [8000.0, 6000.0, 6000.0]
    assert [many.on(n) for n in (1, 8, math.inf)] == [80_000.0, 10_000.0, 800.0]


def test_a_run_that_two_sweeps_ask_for_is_counted_once(tmp_path):
    work = {"a": _work(seeds=(0, 1)), "b": _work(seeds=(1, 2))}
    assert len(cost.union(work.values()).grid) == 3
    *_, first, second, whole = cost.table(work, SPEEDS, None, 2.0**20, tmp_path).splitlines()
    assert first.split(" | ")[1:4] == ["2", "0.0", "18.0 MiB"] and second.split(" | ")[1] == "2"
    assert whole.split(" | ")[1] == "3"


def test_what_was_not_measured_is_not_known(tmp_path):
    work = _work(seeds=(0,))
    assert cost.training(work, {"lenet": 200.0}) is None
    told = cost.machines({"it": work}, SPEEDS, None)
    assert told.count("not measured yet") == 3 and "GPU hours" not in told
    assert "| GPU hours | 0 |" in cost.machines({"it": work}, SPEEDS, SPEEDS)
    bf16 = from_dict({"precision": "bf16", "model": {"name": "resnet", "depth": 20}})
    assert cost.images_per_sec(bf16, SPEEDS) == 300.0 * 108 / 18
    assert cost.images_per_sec(config(tmp_path, norm={"name": "none"}), SPEEDS) == 5000.0


def test_without_training_a_sweep_takes_what_its_published_runs_took(tmp_path):
    work = {"probes": _work(seeds=(0, 1), train__steps=0)}
    assert cost.table(work, SPEEDS, None, 1.0, tmp_path).splitlines()[2].endswith("| not measured yet |")
    folder = paths.tables(tmp_path, "probes")
    folder.mkdir(parents=True)
    told = {"commit": "0", "stand_in": False, "threads": 2}
    for wall_sec, beside in ((60.0, {}), (600.0, {"num_runs": 10})):
        pd.DataFrame([{"wall_sec": wall_sec, **told, **beside}]).to_parquet(folder / "runs.parquet")
        assert cost.table(work, SPEEDS, None, 1.0, tmp_path).splitlines()[2].endswith("| 2.0 min, probes |")


def _work(seeds, **values):
    return cost.Work({str(seed): config(Path(), seed=seed, data__num_train=100, **values) for seed in seeds}, {})


def test_a_steps_row_takes_the_bytes_of_what_cannot_be_compressed():
    """Loss, accuracy and gradient norm are random: 52 bits of each; step and rate nearly vanish."""
    assert 3 * 52 / 8 < cost.bytes_per_step(20_000) < 40


def test_made_runs_are_read_as_real_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "LINKS", 7)  # names that a file may have
    scale.fill(tmp_path, 10)
    scale.fill(tmp_path, 30)
    names = scale.run_ids(30)
    store = Store(tmp_path)
    assert sorted(names) == store.run_ids() and len(set(names)) == 30
    assert {store.state(name) for name in names} == {State.completed}
    assert {entry.state for entry in index.entries(tmp_path, names).values()} == {State.completed}
    made = from_dict(store.manifest(names[13])["config"])
    assert (made.norm["name"], made.optim.lr, made.seed) == ("none", scale.RATES[3], 0)
    scale.STEPS["status"][1](tmp_path, 30)
    scale.STEPS["reduce"][1](tmp_path, 30)
    rows = pd.read_parquet(paths.tables(tmp_path / "of30", scale.SWEEP) / "epochs.parquet")
    assert len(rows) == 30 * scale.NUM_EPOCHS and rows["run_id"].nunique() == 30


def test_the_power_law_is_that_of_its_ends():
    rows = [{"num_runs": n, "cpu_sec": 3 * n**1.5} for n in (10, 100, 1000)]
    assert math.isclose(scale.exponent(rows, "cpu_sec"), 1.5)


def test_the_page_tells_of_sweeps_that_there_are():
    text = (compose.ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    told = re.findall(r"(?m)^\| (\w+) \| \d+ [|+]", text)
    assert len(told) > 10 and set(told) <= set(compose.sweeps())
