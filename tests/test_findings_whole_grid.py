"""The grids on all of CIFAR-10: rates chosen on held-out images, shares of a gain, and what decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Evidence, Verdict

GRID, PLACED = (findings.load(synthetic.FINDINGS / f"{name}.py") for name in ("whole_grid", "whole_grid_placed"))
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
Curves = Mapping[str, tuple[float | None, ...]]  # place -> test accuracy at each rate; None: it diverges
AS_PUBLISHED: Curves = {
    "*": (74, 81, 85, 87, 84, 60),
    "before_pooling": (76, 81, 84.5, 80, 40, None),
    "none": (75, 79, 70, None, None, None),
}


def made(changed: Curves | None = None, *, seeds: int = 3, held_out: Curves | None = None) -> dict[str, pd.DataFrame]:
    """`held_out`: accuracies on held-out images where they are others than on the test images."""
    draw = np.random.default_rng(0)
    runs, splits = [], []
    curves = {**AS_PUBLISHED, **(changed or {})}
    for place, accuracies in curves.items():
        for seed in range(seeds):
            for index, (lr, accuracy) in enumerate(zip(RATES, accuracies, strict=True)):
                run_id, lost = f"{place}{seed}{lr}", accuracy is None
                end = 0.0 if accuracy is None else (accuracy + draw.normal(0, 0.1)) / 100
                outcome = "diverged" if lost else "trained" if end >= 0.3 else "stalled"
                runs.append({"run_id": run_id, "norm": "none" if place == "none" else "batch", "norm_where": place,
                             "seed": seed, "lr": lr, "outcome": outcome,
                             "final_test_accuracy": np.nan if lost else end,
                             "final_train_accuracy": np.nan if lost else end})  # fmt: skip
                if not lost:
                    left = (held_out or {}).get(place, curves[place])[index]
                    splits.append({"run_id": run_id, "split": "train", "accuracy": min(1.0, end + 0.05)})
                    splits.append({"run_id": run_id, "split": "held_out", "accuracy": (left or 10) / 100})
    frame = pd.DataFrame(runs)
    frame.loc[frame["norm"] == "none", "norm_where"] = "*"
    return {"runs": frame, "splits": pd.DataFrame(splits)}


def without(place: str, data: Mapping[str, pd.DataFrame], *, kept: bool = False) -> dict[str, pd.DataFrame]:
    """The tables without the runs of a place; `kept`: of it alone."""
    runs = data["runs"]
    of_place = (runs["norm_where"] == place) == kept
    ids = set(runs.loc[of_place, "run_id"])
    return {name: table[table["run_id"].isin(ids)] for name, table in data.items()}


def of_grid(data: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return without("before_pooling", data)


def of_both(data: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables as the finding on one BN needs them, from two sweeps."""
    grid = {f"whole_grid/{name}": table for name, table in of_grid(data).items()}
    return {**without("before_pooling", data, kept=True), **grid}


def judged(changed: Curves | None = None, **options: object) -> dict[str, Evidence]:
    data = made(changed, **options)  # type: ignore[arg-type]
    return {**GRID.evidence(of_grid(data)), **PLACED.evidence(of_both(data))}


def test_as_the_paper_has_it() -> None:
    found = judged()
    assert {name: str(e.verdict) for name, e in found.items()} == {
        "2-best-grid": "reproduced", "4-grid": "reproduced", "10-grid": "reproduced"
    }  # fmt: skip
    assert {e.n for e in found.values()} == {3}
    share = (84.5 - 79) / (87 - 79)
    assert next(iter(found["10-grid"].estimates.values())).mean == pytest.approx(share, abs=0.03)
    assert next(iter(found["4-grid"].estimates.values())).mean == 3  # 0.1, 0.3, 1


@pytest.mark.parametrize(
    ("name", "changed", "options", "verdict"),
    [
        ("2-best-grid", {"none": (75, 79, 70, 50, None, None)}, {}, Verdict.partly),  # it trains at 0.1
        ("2-best-grid", {"*": (74, 87, 85, 84, 84, 60)}, {}, Verdict.undecided),  # the same rate is best
        ("2-best-grid", {"*": (74, 81, 85, 87, 88, 89)}, {}, Verdict.undecided),  # best at the grid's end
        ("2-best-grid", {"none": (80, 79, 70, None, None, None)}, {}, Verdict.undecided),  # at its other end
        ("2-best-grid", {}, {"seeds": 2}, Verdict.undecided),
        ("2-best-grid", {"none": (10, 10.5, 10, None, None, None)}, {}, Verdict.undecided),  # never trains
        ("4-grid", {"none": (75, 79, 70, 10, 10, 10)}, {}, Verdict.partly),  # dead, and finite
        ("4-grid", {"none": (75, 79, 70, 50, 50, 50)}, {}, Verdict.not_reproduced),
        ("4-grid", {"none": (10, 10, 10, None, None, None)}, {}, Verdict.undecided),
        ("4-grid", {}, {"seeds": 2}, Verdict.undecided),
        ("10-grid", {"before_pooling": (76, 81, 86.5, 80, 40, None)}, {}, Verdict.partly),  # 0.94
        ("10-grid", {"before_pooling": (76, 81, 95, 80, 40, None)}, {}, Verdict.not_reproduced),  # 2
        ("10-grid", {"before_pooling": (76, 81, 83, 80, 40, None)}, {}, Verdict.partly),  # 0.5: at the bound
        ("10-grid", {"before_pooling": (85, 81, 84.5, 80, 40, None)}, {}, Verdict.undecided),  # best at the end
        ("10-grid", {}, {"seeds": 2}, Verdict.undecided),
        ("10-grid", {"none": (75, 87, 70, None, None, None)}, {}, Verdict.undecided),  # nothing is gained
    ],
)
def test_other_outcomes(name: str, changed: Curves, options: dict[str, object], verdict: Verdict) -> None:
    assert judged(changed, **options)[name].verdict is verdict


def chosen(data: Mapping[str, pd.DataFrame]) -> tuple[str, str]:
    line = GRID.numbers(of_grid(data))[0]
    return line.ours_batch, line.ours_none


def test_rates_are_chosen_on_held_out_images_and_not_on_the_test_set() -> None:
    assert chosen(made(held_out={"*": (74, 81, 90, 87, 84, 60)})) == ("0.03", "0.01")


def test_a_seed_that_diverged_counts_as_guessing_where_a_rate_is_chosen() -> None:
    data = made()
    lost = (data["runs"]["norm_where"] == "*") & (data["runs"]["lr"] == 0.1) & (data["runs"]["seed"] == 1)
    lost &= data["runs"]["norm"] == "batch"
    data["runs"]["outcome"] = data["runs"]["outcome"].mask(lost, "diverged")
    data["splits"] = data["splits"][~data["splits"]["run_id"].isin(data["runs"].loc[lost, "run_id"])]
    assert chosen(data)[0] == "0.03"


def test_both_sweeps_choose_the_same_rates() -> None:
    data = made()
    lines = PLACED.numbers(of_both(data))
    assert (lines[0].ours_batch, lines[0].ours_none) == chosen(data)
    assert (lines[1].quantity, lines[1].ours_batch) == ("rate chosen, BN before the pooling", "0.03")


@pytest.mark.parametrize("data", [made(), made(seeds=1), made({"none": (None,) * len(RATES)})])
@pytest.mark.parametrize(("finding", "of", "places"), [(GRID, of_grid, 2), (PLACED, of_both, 3)])
def test_it_draws_and_tells_the_numbers(
    finding: findings.Finding,
    of: Callable[[Mapping[str, pd.DataFrame]], dict[str, pd.DataFrame]],
    places: int,
    data: Mapping[str, pd.DataFrame],
) -> None:
    frames = of(data)
    assert set(frames) == set(finding.needs)
    fig = figures.new(finding.size, "t", "s", synthetic=False)
    finding.plot(fig, frames)
    fig.draw_without_rendering()
    assert len(finding.numbers(frames)) == (1 + len(RATES)) * (places - 1)
    finding.evidence(frames)
    crosses = sum(np.size(line.get_xdata()) for line in fig.axes[0].lines if line.get_marker() == "x")
    lost = sum((table["outcome"] == "diverged").sum() for name, table in frames.items() if name.endswith("runs"))
    assert crosses == lost > 0
