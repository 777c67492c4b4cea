"""What every finding owes: criteria that are data, and a figure that shows the very numbers the verdict rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import synthetic
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure

from bnstudy.analysis import figures, findings, frames, report
from bnstudy.analysis.criteria import Criterion
from bnstudy.analysis.findings import Evidence, Finding

ROOT = Path(__file__).resolve().parents[1]
PATHS = findings.discover(synthetic.FINDINGS)
# Criteria that are sentences: exact equality, outcomes of runs, epochs that are never reached.
IN_WORDS = {
    "14", "4", "4-reduced", "lenet-lr-1", "lenet-region-2", "precision-2", "precision-3", "textbook-faster-1",
    "textbook-faster-2", "textbook-faster-3", "textbook-folding-1", "textbook-folding-2", "textbook-mlp-5",
    "textbook-partial-3",
    "4-epoch", "4-ten-epochs", "4-largest-epoch", "15-epoch", "1-fitted", "2-fitted", "3-fitted", "17-fitted",
    "2-best-grid", "4-grid", "10-grid",
}  # fmt: skip
# What a figure shows in another form than the number judged: why.
OTHERWISE = {
    "5-constant": "how far the curves lie from the grey lines",
    "6-layers": "a share of what (e) and (g) show",
    "10-stages-reduced": "differences of neighbouring bars",
    "12": "how far the curves lie from the diamonds",
    "12-layers": "a share of what (b) shows",
    "13-layers": "a share of what (d) shows",
}


def published(path: Path) -> tuple[Finding, dict, dict[str, Evidence]]:
    finding = findings.load(path)
    try:
        data, _ = report.seen(finding, ROOT / "results", synthetic.FINDINGS.parent)
    except frames.MissingTable:
        pytest.skip("not run yet")
    return finding, data, finding.evidence(data)


def shown(fig: Figure) -> Iterator[float]:
    """Every coordinate of every mark, line and area of a figure."""
    for ax in fig.axes:
        for line in ax.lines:
            for values in (line.get_xdata(), line.get_ydata()):
                yield from np.asarray(values, dtype=float).ravel()
        for drawn in ax.collections:
            if isinstance(drawn, PolyCollection | PathCollection):
                for path in drawn.get_paths():
                    yield from np.asarray(path.vertices, dtype=float).ravel()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_criterion_is_data_unless_none_fits(path: Path) -> None:
    finding = findings.load(path)
    words = {c.id for c in finding.claims if not isinstance(c.criterion, Criterion)}
    assert {name for name in words if not name.startswith("sensitivity")} <= IN_WORDS


@pytest.mark.parametrize("name", ["fig2", "fig6", "fig7", "table1", "gradient_noise", "placement_reduced", "lenet_lr"])
def test_the_figure_shows_the_numbers_that_are_judged(name: str) -> None:
    """The mean of a quantity, or those of the two arms that it compares, stand in the figure as they were judged."""
    finding, data, evidence = published(synthetic.FINDINGS / f"{name}.py")
    fig = figures.new(finding.size, "t", "s", synthetic=False)
    finding.plot(fig, data)
    drawn = np.array([value for value in shown(fig) if math.isfinite(value)])

    def there(value: float) -> bool:
        return bool(np.isclose(drawn, value, rtol=1e-6, atol=1e-12).any())

    missing = []
    for claim, found in evidence.items():
        for of, estimate in found.estimates.items():
            arms = found.shown.get(of, ())
            if claim not in OTHERWISE and not there(estimate.mean) and not (arms and all(map(there, arms))):
                missing.append((claim, of, estimate.mean))
    assert missing == []


def test_a_figure_that_shows_other_numbers_is_caught() -> None:
    """The same comparison, on a figure whose numbers are medians of what is judged by means."""
    finding, data, evidence = published(synthetic.FINDINGS / "placement_reduced.py")
    fig = figures.new(finding.size, "t", "s", synthetic=False)
    finding.plot(fig, {"runs": data["runs"][data["runs"]["seed"] > 0]})
    drawn = np.array([value for value in shown(fig) if math.isfinite(value)])
    estimate = next(iter(evidence["10-reduced"].estimates.values()))
    assert not np.isclose(drawn, estimate.mean, rtol=1e-6).any()
