"""What is drawn again: that of which a table, the finding, the style, the code or the figure has changed, no more."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from markupsafe import escape
from test_report import TINY, analysis

from bnstudy.analysis import captions, drawing, figure_cache, figures, report, sweep_page
from bnstudy.analysis.drawing import Task
from bnstudy.config import project

OTHER = TINY.replace('"lenet_lr_grid"', '"init"').replace("model == 'lenet'", "seed >= 0")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two findings from tables of two sweeps, drawn once."""
    root = tmp_path_factory.mktemp("project")
    workspace = synthetic.copy(synthetic.shared(), root / "w")
    analysis(root / "analysis", one=TINY, other=OTHER)
    assert anew(root) == {"one", "other"} and (workspace / "figures" / "other.svg").exists()
    return root


def anew(root: Path) -> set[str]:
    """Draws what has changed; returns what that was."""
    tasks = [task(root, name) for name in ("one", "other")]
    return {section.name for section, changed in drawing.sections(tasks) if changed}


def task(root: Path, name: str) -> Task:
    return Task(root / "analysis" / "findings" / f"{name}.py", root / "analysis", root / "w", root / "w")


def change(path: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        with (root / path).open("ab") as file:
            file.write(b"\n# changed\n")

    return apply


def table(root: Path) -> None:
    path = root / "w" / "tables" / "init" / "runs.parquet"
    pd.read_parquet(path).assign(wall_sec=1.0).to_parquet(path)


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (lambda root: None, set()),
        (table, {"other"}),
        (change("analysis/findings/one.py"), {"one"}),
        (change("analysis/bnstudy.mplstyle"), {"one", "other"}),
        (change("w/figures/one.png"), {"one"}),
        (lambda root: (root / "w/figures/other.svg").unlink(), {"other"}),
        (lambda root: (root / "w/.drawn/one.json").write_text('{"code": 1}'), {"one"}),
    ],
)
def test_only_what_has_changed_is_drawn_again(
    drawn: Path, tmp_path: Path, apply: Callable[[Path], None], expected: set[str]
) -> None:
    root = tmp_path / "project"
    shutil.copytree(drawn, root)
    apply(root)
    assert anew(root) == expected
    assert anew(root) == set()
    if apply is not table:  # whatever was done to them
        for each in ("one.svg", "other.png"):
            assert (root / "w" / "figures" / each).read_bytes() == (drawn / "w" / "figures" / each).read_bytes()


@pytest.mark.parametrize("others", [0, 1, 5])
def test_a_drawing_whose_process_dies_is_named_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    dies = TINY.replace("fig.subplots()", "__import__('os')._exit(1)")
    texts = {f"good{index}": TINY for index in range(others)} | {"dies": dies}
    analysis(tmp_path / "analysis", **texts)
    synthetic.copy(synthetic.shared(), tmp_path / "w")
    monkeypatch.setattr("bnstudy.store.devices.cores", lambda: 2)
    sections = {each.name: each for each, _ in drawing.sections([task(tmp_path, name) for name in texts])}
    assert sections.keys() == texts.keys()
    assert [name for name, each in sections.items() if each.problem] == ["dies"]
    assert sections["dies"].trace and "killed" in sections["dies"].problem
    assert sections["dies"].title and {row.verdict for row in sections["dies"].rows} == {"not run"}
    assert len(list((tmp_path / "w" / "figures").glob("good*.svg"))) == others


def test_nobody_waits_for_a_drawing_that_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at Ctrl-C. This one would never end."""
    endless = TINY.replace("fig.subplots()", "[__import__('time').sleep(1) for _ in iter(int, 1)]")
    analysis(tmp_path / "analysis", good=TINY, endless=endless)
    synthetic.copy(synthetic.shared(), tmp_path / "w")
    monkeypatch.setattr("bnstudy.store.devices.cores", lambda: 1)
    sections = drawing.sections([task(tmp_path, name) for name in ("good", "endless")])
    first, _ = next(sections)
    assert first.name == "good"
    sections.close()  # type: ignore[attr-defined]


def test_other_code_draws_everything_again(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(drawn, tmp_path / "project")
    monkeypatch.setattr(figure_cache, "code", lambda: "other")
    assert anew(tmp_path / "project") == {"one", "other"}


def test_what_is_remembered_is_what_was_found(drawn: Path) -> None:
    one = task(drawn, "one")
    (kept, changed), fresh = next(drawing.sections([one])), drawing.section(one)
    assert not changed and kept == fresh and kept.rows[0].verdict == "reproduced"


def test_a_table_that_comes_is_drawn_and_one_that_goes_takes_its_figure_along(drawn: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(drawn, root)
    shutil.move(root / "w" / "tables" / "init", tmp_path / "kept")
    assert anew(root) == {"other"} and not (root / "w" / "figures" / "other.svg").exists()
    assert anew(root) == set()  # not run, as before
    shutil.move(tmp_path / "kept", root / "w" / "tables" / "init")
    assert anew(root) == {"other"} and (root / "w" / "figures" / "other.svg").exists()


def test_a_sweep_that_no_finding_draws_ends_in_a_page_of_its_own(tmp_path: Path) -> None:
    """Also with an arm that is neither of the two, and a setting that differs."""
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    folder = workspace / "tables" / "lenet_lr_grid"
    shutil.rmtree(workspace / "tables" / "init")
    runs = pd.read_parquet(folder / "runs.parquet")
    own = runs[runs["norm"] == "batch"].assign(norm="my_norm", run_id=lambda of: "own-" + of["run_id"].astype(str))
    pd.concat([runs, own]).to_parquet(folder / "runs.parquet")
    progress: list[str] = []
    report.build(workspace, analysis(tmp_path / "analysis", other=OTHER), progress=progress.append)
    figure = (workspace / "figures" / "sweep-lenet_lr_grid.svg").read_text()
    colours = {figures.COLOURS[arm].lower() for arm in ("batch", "none", "my_norm")}
    assert colours <= set(re.findall("#[0-9a-f]{6}", figure))
    page = (workspace / "report.html").read_text()
    section = page[page.index('<section id="sweep-lenet_lr_grid"') :]
    assert section.count("<td>my_norm</td>") == len(own) and "<th>lr</th>" in section
    comment = project.opening_comment(project.ROOT / "sweeps" / "lenet_lr_grid.yaml")
    assert str(escape(comment.splitlines()[0])) in section
    assert any("sweep-lenet_lr_grid: n = 3 seeds an arm, 72 runs" in line for line in progress)
    assert any(line.startswith("not run: 1 finding") for line in progress)


def test_chance_is_drawn_where_the_number_of_classes_is_known(tmp_path: Path) -> None:
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    file = workspace / "tables" / "lenet_lr_grid" / "runs.parquet"
    runs = pd.read_parquet(file)
    for name, known in (("fashion_mnist", True), ("mine", False)):
        runs.assign(data=name).to_parquet(file)
        assert ("chance" in sweep_page.finding(workspace, "lenet_lr_grid").caption.rpartition("Trained")[2]) is known


def test_every_run_has_a_mark_also_where_a_setting_is_null(tmp_path: Path) -> None:
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    file = workspace / "tables" / "lenet_lr_grid" / "runs.parquet"
    runs = pd.read_parquet(file)
    runs = runs[runs["lr"] == runs["lr"].min()]
    runs = pd.concat([runs, runs.assign(num_train=1000, run_id=lambda of: "few-" + of["run_id"].astype(str))])
    runs.to_parquet(file)
    data, _ = drawing.load(sweep_page.finding(workspace, "lenet_lr_grid"), workspace, tmp_path)
    assert sweep_page.axes_of(data["runs"]) == ["num_train"]
    with figures.style(synthetic.FINDINGS.parent / drawing.STYLE):
        fig = figures.new((9, 4), "t", "s", synthetic=False)
        sweep_page.plot(fig, {"runs": data["runs"]})
    lines = [line for line in fig.axes[0].lines if line.get_marker() in ("o", "x")]
    marks = sum(np.size(line.get_xdata()) for line in lines)
    assert marks == len(runs) and [label.get_text() for label in fig.axes[0].get_xticklabels()] == ["1000", "all"]


@pytest.mark.parametrize("setting", ["weight_decay", "num_train", "network"])
def test_a_line_of_a_sweep_s_page_is_a_mean_over_seeds_alone(tmp_path: Path, setting: str) -> None:
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    file = workspace / "tables" / "lenet_lr_grid" / "runs.parquet"
    runs = pd.read_parquet(file).query("norm == 'batch' and outcome == 'trained'")
    runs = runs[runs["network"] == runs["network"].iloc[0]].assign(final_test_accuracy=0.25)
    value = "another" if setting == "network" else 0.5
    other = runs.assign(**{setting: value}, final_test_accuracy=0.75, run_id=lambda of: "x" + of["run_id"].astype(str))
    pd.concat([runs, other]).to_parquet(file)
    data, _ = drawing.load(sweep_page.finding(workspace, "lenet_lr_grid"), workspace, tmp_path)
    with figures.style(synthetic.FINDINGS.parent / drawing.STYLE):
        fig = figures.new((9, 4), "t", "s", synthetic=False)
        sweep_page.plot(fig, {"runs": data["runs"]})
    means = [line for line in fig.axes[0].lines if line.get_linestyle() == "-" and np.size(line.get_xdata()) > 2]
    assert sorted(float(mean) for line in means for mean in set(np.asarray(line.get_ydata()))) == [25, 75]


@pytest.mark.parametrize(
    ("names", "prose"),
    [
        (["deep_perceptron20", "deep_perceptron5"], "perceptrons of 5 to 20 layers"),
        (["deep_perceptron20"], "perceptrons of 20 layers"),
        (["deep_perceptron20", "lenet"], "deep_perceptron20, LeNet"),
        (["2024"], "2024"),
        ([], ""),
    ],
)
def test_networks_and_data_in_prose(names: list[str], prose: str) -> None:
    assert captions.in_prose(names) == prose


def test_untrained_runs_are_counted(tmp_path: Path) -> None:
    workspace = synthetic.copy(synthetic.shared(), tmp_path / "w")
    finding = sweep_page.finding(workspace, "init")
    data, _ = drawing.load(finding, workspace, tmp_path)
    with figures.style(synthetic.FINDINGS.parent / drawing.STYLE):
        fig = figures.new(finding.size, "t", "s", synthetic=False)
        finding.plot(fig, data)
    assert [text.get_text() for text in fig.axes[0].texts] == [" 5 completed"] * 2


@pytest.mark.parametrize("name", ["sharpness", "textbook_epsilon", "lenet_lr", "textbook_faster", "fig2", "jacobians"])
def test_a_sweep_that_varies_more_than_a_finding_compares_is_not_judged(name: str, tmp_path: Path) -> None:
    """Two weight decays are not twice as many seeds."""
    finding = Task(synthetic.FINDINGS / f"{name}.py", project.ROOT / "analysis", tmp_path, tmp_path)
    sweep = finding.load().sweep
    (tmp_path / "tables" / sweep).mkdir(parents=True)
    for path in (project.ROOT / "results" / "tables" / sweep).glob("*.parquet"):
        rows = pd.read_parquet(path)
        other = rows.assign(run_id=rows["run_id"].astype(str) + "b")
        other = other.assign(weight_decay=0.01) if path.stem == "runs" else other
        both = pd.concat([rows.assign(run_id=rows["run_id"].astype(str)), other])
        both.to_parquet(tmp_path / "tables" / sweep / path.name)
    section = drawing.section(finding)
    assert not section.trace, section.trace
    assert "weight_decay" in section.problem and {row.verdict for row in section.rows} == {"not run"}
    page = drawing.section(Task(tmp_path / "tables" / sweep, project.ROOT / "analysis", tmp_path, tmp_path))
    assert not page.problem, page.problem
