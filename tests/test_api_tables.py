"""Published and own tables, sweeps, runs and claims as frames; what is not there is answered with what is."""

from __future__ import annotations

import json
import os

import pandas as pd
import pytest
import small_runs
import synthetic

import bnstudy
from bnstudy.analysis import frames
from bnstudy.config import project
from bnstudy.config.schema import resolved
from bnstudy.store import reduction
from bnstudy.store.runs import Store

PUBLISHED = synthetic.REPOSITORY / "results"


def test_a_published_table_has_its_runs_columns_from_wherever_python_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("BNSTUDY_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    found = bnstudy.table("init", "activation_moments")
    pd.testing.assert_frame_equal(found, frames.load(PUBLISHED, "init", "activation_moments"))
    assert {"norm", "seed", "lr", "run_depth", "depth"} <= set(found)
    pd.testing.assert_frame_equal(bnstudy.table("init"), frames.runs(PUBLISHED, "init"))


def test_a_query_keeps_the_rows_for_which_it_holds():
    whole = bnstudy.table("lenet_lr_grid", "epochs")
    kept = bnstudy.table("lenet_lr_grid", "epochs", query="norm == 'batch' and lr < 0.1")
    assert 0 < len(kept) == ((whole["norm"] == "batch") & (whole["lr"] < 0.1)).sum() < len(whole)
    assert list(kept.index) == list(range(len(kept)))
    assert bnstudy.table("lenet_lr_grid", query="lr > 1e9").empty


def test_a_query_may_name_variables_of_the_caller_and_of_no_other():
    name = "batch"  # a name that bnstudy.table has, too
    kept = bnstudy.table("lenet_lr_grid", "epochs", query="norm == @name")
    assert len(kept) and set(kept["norm"]) == {"batch"}
    with pytest.raises(ValueError, match="workspace"):
        bnstudy.table("lenet_lr_grid", query="norm == @workspace")
    assert name


@pytest.mark.parametrize(
    "arguments, options, parts",
    [
        (["inti"], {}, ["sweep", "'inti'", "did you mean init?"]),
        (["init", "activation_moment"], {}, ["table of init", "did you mean activation_moments?"]),
        (["init"], {"preset": "ful"}, ["preset", "'ful'", "did you mean full?"]),
        (["init"], {"query": "nrm == 3"}, ["query", "'nrm == 3'", "norm"]),
        (["init"], {"query": "norm =="}, ["query", "'norm =='", "columns"]),
        (["fig1_paper"], {}, ["make sweep-fig1_paper"]),
    ],
)
def test_what_is_not_there_is_named_with_the_remedy(arguments, options, parts):
    with pytest.raises(ValueError) as caught:
        bnstudy.table(*arguments, **options)
    assert all(part in str(caught.value) for part in parts)


def test_tables_that_are_missing_elsewhere_are_named_with_their_folder(tmp_path):
    with pytest.raises(ValueError, match=r"make sweep-init writes it; .*ARGS=--results=") as caught:
        bnstudy.table("init", results=tmp_path, preset="quick")
    assert str(tmp_path) in str(caught.value)


def test_a_sweep_among_own_components_is_known(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "trial.yaml").write_text("# A trial.\ndefaults: [config, _self_]\nsweep: {name: trial}\n")
    monkeypatch.setattr(project, "sweep_folders", lambda: [project.SWEEPS, tmp_path / "sweeps"])
    with pytest.raises(ValueError, match=r"make sweep-trial"):
        bnstudy.table("trial", results=tmp_path)


def test_own_tables_are_a_preset_s_in_a_results_folder(tmp_path):
    root = small_runs.quadrants(tmp_path / "data")
    configs = [small_runs.config(root, seed=seed) for seed in (0, 1)]
    with small_runs.torch_as_it_was():
        small_runs.make(configs, tmp_path)
    expected = {small_runs.job(each).run_id: resolved(each) for each in configs}
    reduction.reduce(Store(tmp_path), list(expected), tmp_path / "custom" / "tables" / "mine", expected=expected)
    curves = bnstudy.table("mine", "epochs", results=tmp_path, preset="custom")
    assert set(curves["seed"]) == {0, 1} and set(curves["run_id"]) == set(expected)
    found = bnstudy.runs(tmp_path)
    assert list(found) == list(bnstudy.table("mine", results=tmp_path, preset="custom"))
    assert set(found["run_id"]) == set(expected) and set(found["status"]) == {"completed"}
    assert found["final_test_accuracy"].between(0, 1).all() and set(found["lr"]) == {0.5}


def test_every_raw_run_has_a_row_however_it_stands(tmp_path):
    assert bnstudy.runs(tmp_path / "nothing").empty
    config = small_runs.config(small_runs.quadrants(tmp_path / "data"))
    with small_runs.torch_as_it_was():
        small_runs.make([config], tmp_path)
    (name,) = small_runs.names([config])
    os.makedirs(tmp_path / "runs" / "begun")
    states = dict(zip(*(bnstudy.runs(tmp_path)[key] for key in ("run_id", "status")), strict=True))
    assert states == {name: "completed", "begun": "partial"}
    (tmp_path / "runs" / name / "manifest.json").write_text("{")
    assert set(bnstudy.runs(str(tmp_path))["status"]) == {"damaged", "partial"}
    with pytest.raises(ValueError, match="is a file"):
        bnstudy.runs(tmp_path / "runs" / name / "manifest.json")


def test_sweeps_say_what_they_ask_and_what_is_published():
    found = bnstudy.sweeps().set_index("sweep")
    assert set(found.index) == {path.stem for path in (synthetic.REPOSITORY / "sweeps").glob("*.yaml")}
    assert found.loc["lenet_lr_grid", "minutes_full"] == 17 and "LeNet" in str(found.loc["lenet_lr_grid", "about"])
    assert found.loc["init", "published_runs"] == len(bnstudy.table("init"))
    assert "activation_moments" in str(found.loc["init", "published_tables"])
    assert found.loc["fig1_paper", "published_runs"] == 0 and found.loc["fig1_paper", "published_tables"] == ""


def test_claims_are_those_of_the_published_table(tmp_path):
    found = bnstudy.claims()
    assert found.to_dict("records") == json.loads((PUBLISHED / "claims.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=r"claims.json.*make report PRESET=quick"):
        bnstudy.claims(tmp_path, preset="quick")
    (tmp_path / "claims.json").write_text("[")
    with pytest.raises(ValueError, match=r"claims.json.*make report"):
        bnstudy.claims(tmp_path)


def test_claims_of_a_folder_of_one_s_own_are_those_that_make_report_judged(tmp_path):
    (tmp_path / "redrawn").mkdir()
    (tmp_path / "redrawn" / "claims.json").write_text('[{"id": "9"}]')
    assert bnstudy.claims(tmp_path)["id"].tolist() == ["9"]
    (tmp_path / "claims.json").write_text('[{"id": "8"}]')
    assert bnstudy.claims(tmp_path)["id"].tolist() == ["8"]


@pytest.mark.parametrize(
    ("inside", "preset", "command"),
    [
        ("", None, "make report ARGS="),
        ("", "full", "make report PRESET=full ARGS="),
        ("quick", None, "make report PRESET=quick ARGS="),
        ("custom/mine", None, "make report NAME=mine ARGS="),
    ],
)
def test_the_command_that_judges_claims_is_named_with_the_folder(inside, preset, command, tmp_path):
    with pytest.raises(ValueError) as raised:
        bnstudy.claims(tmp_path / inside, preset=preset)
    assert f"{command}--results={tmp_path} judges" in str(raised.value)
