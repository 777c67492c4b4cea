"""What every finding owes: criteria that are data, and a figure that shows the very numbers the verdict rests on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bnstudy.analysis import drawing, figures, findings, frames
from bnstudy.analysis.criteria import Criterion
from bnstudy.analysis.findings import Evidence, Finding

ROOT = Path(__file__).resolve().parents[1]
PATHS = findings.discover(synthetic.FINDINGS)
# Criteria that are sentences: exact equality, outcomes of runs, epochs that are never reached.
IN_WORDS = {
    "14", "4", "4-reduced", "lenet-lr-1", "lenet-region-2", "precision-2", "precision-3", "textbook-faster-1",
    "textbook-faster-2", "textbook-faster-3", "textbook-folding-1", "textbook-folding-2", "textbook-mlp-5",
    "textbook-partial-3",
}  # fmt: skip
# What a figure shows in another form than the number judged: how. Every other number stands in its figure, or is the
# difference or ratio of two that stand in one panel.
OTHERWISE = {
    "one number a seed from a whole curve or cloud: a slope, a distance, an extent, where a level is passed": (
        "5-constant 5-training 7-explosion 7-explosion-pixels 9 9-exponential 9-means 9-reading 12 14-density "
        "15-reduced 3-reduced textbook-covariate-predicts textbook-lenet-5 textbook-mlp-2 textbook-mlp-4 "
        "textbook-modes-4 textbook-normalisers-3 B1-shortcuts B2-slope B2-product B2-slope-arms B2-product-arms "
        "B5-growth B5-classifier B6-small B6-large B6-ratio"
    ),
    "the ratio or difference seed by seed of what is drawn as means, on another scale or in two panels": (
        "8 8-levels 16 16-loss 16-depth 16-bn 2-best-reduced 10-init-activations "
        "10-init-gradients 10-init-stages 10-stages-reduced 6-stable textbook-covariate-bn "
        "textbook-covariate-noise textbook-covariate-gradient textbook-shift-2 textbook-lenet-4 textbook-mlp-1 "
        "textbook-mlp-3 textbook-subsets-2 textbook-tiny-1"
    ),
    "a share of the seeds, layers or kinds that are drawn one by one": (
        "6-layers 6-power-law 6-power-law-layers 12-layers 12-parameters-layers 13-layers textbook-shift-3"
    ),
}


def published(path: Path) -> tuple[Finding, dict, dict[str, Evidence]]:
    finding = findings.load(path)
    try:
        data, _ = drawing.load(finding, ROOT / "results", synthetic.FINDINGS.parent)
    except frames.MissingTable:
        pytest.skip("not run yet")
    return finding, data, finding.evidence(data)


def shown(fig: Figure) -> list[np.ndarray]:
    """The coordinates of all marks, lines and areas of each panel that are finite."""
    panels = []
    for ax in fig.axes:
        both = [of for line in ax.lines for of in (line.get_xdata(), line.get_ydata())]
        values = [np.asarray(of, dtype=float).ravel() for of in both]
        for drawn in ax.collections:
            if isinstance(drawn, PolyCollection | PathCollection):
                values += [np.asarray(path.vertices, dtype=float).ravel() for path in drawn.get_paths()]
        panel = np.unique(np.concatenate([*values, np.zeros(0)]))
        panels.append(panel[np.isfinite(panel)])
    return panels


FEW = 1000  # numbers of a panel; between more of them any difference is found by chance


def differs_by(panel: np.ndarray, value: float) -> bool:
    """Whether two numbers of a panel are this far apart, also in percent, or in this ratio."""
    if not 0 < len(panel) < FEW or not math.isfinite(value):
        return False
    apart = panel[:, None] - panel[None, :]
    with np.errstate(all="ignore"):
        ratios = panel[:, None] / panel[None, :]
    return any(np.isclose(apart, factor * value, rtol=1e-9, atol=1e-12).any() for factor in (1, 100)) or bool(
        np.isclose(ratios, value, rtol=1e-9, atol=0).any()
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_criterion_is_data_unless_none_fits(path: Path) -> None:
    finding = findings.load(path)
    words = {c.id for c in finding.claims if not isinstance(c.criterion, Criterion)}
    assert {name for name in words if not name.startswith("sensitivity")} <= IN_WORDS


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_figure_shows_the_numbers_that_are_judged(path: Path) -> None:
    """The mean of a quantity, or those of the two arms that it compares, stand in the figure as they were judged."""
    finding, data, evidence = published(path)
    panels = shown(plotted(finding, data))
    drawn = np.concatenate([*panels, np.zeros(0)])

    def there(value: float) -> bool:
        return bool(np.isclose(drawn, value, rtol=1e-6, atol=1e-12).any())

    otherwise = " ".join(OTHERWISE.values()).split()
    missing = [
        (claim, of, estimate.mean)
        for claim, found in evidence.items()
        for of, estimate in found.estimates.items()
        if claim not in otherwise
        and not there(estimate.mean)
        and not (found.shown.get(of) and all(map(there, found.shown[of])))
        and not any(differs_by(panel, estimate.mean) for panel in panels)
    ]
    assert missing == []
    lines = finding.numbers(data)
    assert all(line.quantity and isinstance(cell, str) for line in lines for cell in (line.ours_batch, line.ours_none))


def plotted(finding: Finding, data: dict) -> Figure:
    fig = figures.new(finding.size, "t", "s", synthetic=False)
    finding.plot(fig, data)
    return fig


def test_a_figure_that_shows_other_numbers_is_caught() -> None:
    """The same comparison, on a figure whose numbers are medians of what is judged by means."""
    finding, data, evidence = published(synthetic.FINDINGS / "placement_reduced.py")
    fig = plotted(finding, {"runs": data["runs"][data["runs"]["seed"] > 0]})
    drawn = np.concatenate(shown(fig))
    estimate = next(iter(evidence["10-reduced"].estimates.values()))
    assert not np.isclose(drawn, estimate.mean, rtol=1e-6).any()
    assert not any(differs_by(panel, estimate.mean) for panel in shown(fig))


@pytest.mark.parametrize(
    "name", ["fig5", "fig6", "fig7", "gradient_correlation", "init_schemes", "lenet_lr", "lr_grid_reduced", "sharpness"]
)
def test_any_arm_is_drawn_and_changes_no_verdict(name: str) -> None:
    """Regression: runs of a third norm were counted in the figure's header and left out of the figure."""
    finding, data, evidence = published(synthetic.FINDINGS / f"{name}.py")
    more = {key: with_third(frame) if "norm" in frame and key != "published" else frame for key, frame in data.items()}
    again = finding.evidence(more)
    assert {id: (e.verdict, e.n, e.estimates) for id, e in again.items()} == {
        id: (e.verdict, e.n, e.estimates) for id, e in evidence.items()
    }
    colours = {to_hex(line.get_color()) for ax in plotted(finding, more).axes for line in ax.lines}
    assert figures.COLOURS["layer"].lower() in colours


def with_third(frame: pd.DataFrame) -> pd.DataFrame:
    third = frame[frame["norm"] == "batch"]
    third = third.assign(norm="layer", run_id="third-" + third["run_id"].astype(str))
    return pd.concat([frame, third], ignore_index=True)
