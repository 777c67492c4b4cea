"""Figures: the same bytes again, what they tell of themselves, one colour an arm, and the synthetic's mark."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import Bbox
from PIL import Image

from bnstudy.analysis import figures
from bnstudy.analysis.frames import Origin
from bnstudy.analysis.stats import Scale

STYLE = synthetic.FINDINGS.parent / "bnstudy.mplstyle"
BLUE, ORANGE = figures.COLOURS["batch"], figures.COLOURS["none"]
ORIGIN = Origin(10, ("cifar10, arrays, sha256 1a2b3c4d",), ("01234567",), False)


def draw(name: str, folder: Path) -> list[Path]:
    finding, data = synthetic.frames_of(name)
    with figures.style(STYLE):
        fig = figures.new(finding.size, finding.title, "n = 5 seeds an arm", synthetic=False)
        finding.plot(fig, data)
        return figures.save(fig, folder, name, finding.title, ORIGIN)


@pytest.mark.parametrize("name", ["fig6", "lenet_lr"])
def test_the_same_bytes_again(name: str, tmp_path: Path) -> None:
    once, again = draw(name, tmp_path / "once"), draw(name, tmp_path / "again")
    assert [p.name for p in once] == [f"{name}.svg", f"{name}.png"]
    assert [p.read_bytes() for p in once] == [p.read_bytes() for p in again]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fig2", "fig6", "gradient_correlation"])
def test_the_last_bits_of_the_layout_leave_no_trace(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: they differ from process to process, and clip paths in the SVG were named after them."""
    straight, lay_out = draw(name, tmp_path / "straight"), ConstrainedLayoutEngine.execute

    def unsteady(engine: ConstrainedLayoutEngine, fig: Figure) -> None:
        lay_out(engine, fig)
        for part in fig.subfigs:
            part.bbox_relative.set_points(part.bbox_relative.get_points() * (1 + 1e-14))
        for ax in fig.axes:
            ax.set_position(Bbox(ax.get_position(original=True).get_points() * (1 - 1e-14)))

    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", unsteady)
    shaken = draw(name, tmp_path / "shaken")
    assert [p.read_bytes() for p in straight] == [p.read_bytes() for p in shaken]


def test_metadata_tell_commit_data_and_runs(tmp_path: Path) -> None:
    svg, png = draw("lenet_lr", tmp_path)
    told = "10 runs; commit 01234567; data cifar10, arrays, sha256 1a2b3c4d"
    assert told in svg.read_text(encoding="utf-8") and "dc:date" not in svg.read_text(encoding="utf-8")
    with Image.open(png) as image:
        assert image.info["Description"] == told and image.info["Software"] == "bnstudy"
    ElementTree.parse(svg)


def test_style_leaves_no_trace_and_must_be_there(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    with figures.style(STYLE):
        assert mpl.rcParams["svg.hashsalt"] == "bnstudy"
    assert dict(mpl.rcParams) == before
    with pytest.raises(ValueError, match="missing"), figures.style(tmp_path / "none.mplstyle"):
        pass


def test_a_stand_in_is_marked_in_the_header_and_across_the_figure() -> None:
    marked = figures.new((6, 4), "title", "subtitle", synthetic=True)
    plain = figures.new((6, 4), "title", "subtitle", synthetic=False)
    assert [t.get_text() for t in marked.texts].count(figures.SYNTHETIC_MARK) == 2
    assert figures.SYNTHETIC_MARK not in [t.get_text() for t in plain.texts]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_headroom_leaves_its_share_free(scale: str) -> None:
    ax = Figure().subplots()
    ax.set(yscale=scale, ylim=(0.1, 1000))
    figures.headroom(ax, 0.2)
    to_panel = ax.transData + ax.transAxes.inverted()
    assert to_panel.transform((0, 1000))[1] == pytest.approx(0.8) and ax.get_ylim()[0] == pytest.approx(0.1)


def test_runs_that_diverged_stand_below_zero_in_their_colours() -> None:
    ax = Figure().subplots()
    ax.plot([0.1, 1], [20, 80])
    lost = pd.DataFrame({"norm": ["none", "batch", "none"], "lr": [0.1, 0.1, 0.1]})
    figures.diverged(ax, lost)
    assert [(t.get_text(), t.get_color()) for t in ax.texts] == [("1", BLUE), ("2", ORANGE)]
    assert all(ax.get_ylim()[0] < t.get_position()[1] < 0 for t in ax.texts)
    assert [label.get_text() for label in ax.get_yticklabels()][:2] == ["diverged", "0"]


def test_where_nothing_diverged_nothing_is_said() -> None:
    ax = Figure().subplots()
    figures.diverged(ax, pd.DataFrame({"norm": [], "lr": []}))
    assert ax.get_ylim()[0] == 0 and not ax.texts


@pytest.mark.parametrize("name", ["fig2", "fig5", "fig6", "table1", "gradient_correlation", "lenet_lr"])
def test_lines_have_no_colour_but_the_arms_and_greys(name: str) -> None:
    finding, data = synthetic.frames_of(name)
    fig = figures.new(finding.size, "t", "s", synthetic=False)
    finding.plot(fig, data)
    greys = {figures.INK, figures.MUTED, figures.FAINT, "#8A929C"}
    allowed = {c.lower() for c in {*figures.COLOURS.values(), *greys}}
    assert {to_hex(line.get_color()) for ax in fig.axes for line in ax.lines} <= allowed
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)


@pytest.mark.parametrize(("low", "high", "shown"), [(1, 300, {"1", "3", "10", "300"}), (1e-4, 1e8, {"1", "10000"})])
def test_a_logarithmic_axis_has_ticks_over_few_decades_and_many(low: float, high: float, shown: set[str]) -> None:
    fig = Figure()
    ax = fig.subplots()
    ax.plot([0, 1], [low, high])
    figures.plain_log(ax)
    fig.draw_without_rendering()
    assert shown <= {label.get_text() for label in ax.get_yticklabels()}


def test_hollow_dots_lie_on_the_seeds_that_they_mark() -> None:
    ax = Figure().subplots()
    figures.seeds(ax, 0, [1.0, float("nan"), 3.0, 4.0], "batch", scale=Scale.plain, hollow=[False, True, False, True])
    dots, holes = (np.asarray(line.get_xydata()) for line in ax.lines[:2])
    assert len(dots) == 3 and (holes == dots[2:]).all()
