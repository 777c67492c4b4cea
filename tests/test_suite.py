"""A suite is its sweeps by name; its estimate counts what is still to train."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnstudy.analysis import report
from bnstudy.config import compose
from bnstudy.store import index
from bnstudy.store.index import Entry
from bnstudy.store.runs import State
from bnstudy.sweep import preview, specs, study
from bnstudy.training import signals


def test_members_are_the_sweeps_of_that_name() -> None:
    names = study.members("textbook")
    assert {n for n in compose.sweeps() if n.startswith("textbook_")} < set(names)
    assert study.members("paper_train")[:2] == ["fig1_matched", "fig1_paper"]
    with pytest.raises(ValueError, match=r"suite 'nonesuch': no sweep belongs to it; there are .*paper_init, paper_t"):
        study.members("nonesuch")


def test_what_is_left_when_the_time_is_spent_is_the_rest_of_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "suite_time", lambda *values, **_: ("", 0.0))
    _, second, *others = study.members("paper_init")

    def sweep(name: str, *values: object, **_: object) -> int:
        if name == second:
            raise signals.Spent(f"{name}: 3 of 8 runs done")
        return 0

    monkeypatch.setattr(study, "sweep", sweep)
    monkeypatch.setattr(preview, "left", lambda names, *values, **_: f"\nleft: {', '.join(names)}")
    with pytest.raises(signals.Spent, match=f"{second}: 3 of 8 runs done\nleft: {', '.join(others)}$"):
        study.suite("paper_init", "full", [], tmp_path, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "drawn"), [([], ["quick"]), (["runtime.threads=1"], ["quick"]), (["seed=7"], ["custom"])]
)
def test_the_report_is_of_the_runs_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], drawn: list[str]
) -> None:
    seen = list[Path]()
    monkeypatch.setattr(study, "members", lambda name: ["textbook_lenet", "textbook_mlp"])
    monkeypatch.setattr(preview, "suite_time", lambda *values, **_: ("", 0.0))
    monkeypatch.setattr(study, "sweep", lambda *values, **_: 0)

    def draw(workspace: Path, **options: object) -> int:
        seen.append(workspace)
        return 0

    monkeypatch.setattr(report, "write", draw)
    assert study.suite("textbook", "quick", overrides, tmp_path, None) == 0
    assert seen == [tmp_path / name for name in drawn]


@pytest.mark.slow
def test_the_estimate_counts_what_is_still_to_make(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [f"runtime.data_root='{data_root}'"]
    names = ["textbook_lenet", "textbook_mlp"]  # of which no run is the other's, too
    minutes = [compose.expand(name, "full")[0].sweep.minutes["full"] for name in names]
    whole, _ = preview.suite_time("textbook", names, "full", overrides, tmp_path)
    assert whole.splitlines()[0].startswith(f"textbook (full): 2 sweeps, about {sum(minutes):.0f} minutes")
    assert "textbook_lenet                     10 runs,   10 to train" in whole
    looks = {run.run_id: run.looks for name in names for run in specs.of_sweep(name, "full", overrides, tmp_path)}

    def entries(results: Path, run_ids: set[str]) -> dict[str, Entry]:
        done = {run_id: Entry(State.completed, looks=looks[run_id]) for run_id in run_ids if "batch_scratch" in run_id}
        return dict.fromkeys(run_ids, Entry(State.absent)) | done

    monkeypatch.setattr(index, "entries", entries)
    left, _ = preview.suite_time("textbook", names, "full", overrides, tmp_path)
    assert f"10 runs,    5 to train {minutes[0] / 2:.1f} min".split() == left.splitlines()[1].split()[1:]


def test_a_run_of_several_sweeps_is_estimated_once(tmp_path: Path, data_root: Path) -> None:
    """The region's search begins with the grid's runs: of its 9 rates the grid has 6."""
    overrides = [f"runtime.data_root='{data_root}'"]
    text, _ = preview.suite_time("textbook", ["lenet_lr_grid", "lenet_region"], "quick", overrides, tmp_path)
    told = text.splitlines()
    assert "lenet_lr_grid                      48 runs,   48 to train" in told[1]
    assert "lenet_region                       54 runs,   18 to train" in told[2]
    said = compose.headers()
    grid, region = (said[name]["minutes"]["quick"] for name in ("lenet_lr_grid", "lenet_region"))
    assert f"about {grid + region * 18 / 54:.0f} minutes" in told[0]


def test_the_estimate_names_what_a_search_adds(tmp_path: Path, data_root: Path) -> None:
    overrides = [f"runtime.data_root='{data_root}'"]
    names = ["stability_arms", "stability_arms_curvature"]
    head, of_search, of_none = preview.suite_time("beyond", names, "quick", overrides, tmp_path)[0].splitlines()
    assert "the search of stability_arms takes" in head
    assert "its search follows" in of_search and "search" not in of_none


@pytest.mark.parametrize("name", ["textbook", "paper_init"])
def test_what_two_cores_can_do_says_how_long_it_takes(name: str) -> None:
    said = compose.headers()
    for member in study.members(name):
        minutes = said[member]["minutes"]
        assert minutes.keys() == said[member]["presets"].keys(), member
        assert 0 < minutes["quick"] <= minutes["full"], member


def test_the_textbook_fits_its_budget() -> None:
    """Quick: under 90 minutes on two cores."""
    said = compose.headers()
    assert 0 < sum(said[name]["minutes"]["quick"] for name in study.members("textbook")) < 90
