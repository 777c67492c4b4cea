"""Figure 8 and Theorem 1: the law's moments and closed forms, verdicts on made-up singular values."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.text import Text

from bnstudy.analysis import drawing, figures, findings, frames
from bnstudy.analysis.findings import Evidence, Verdict

PATH = synthetic.FINDINGS / "fig8.py"
FIG8 = findings.load(PATH)
LAW: Callable[[int], Any] = runpy.run_path(str(PATH))["_law"]
FACTORS = (1, 2, 3, 4, 5, 8, 16)
NUM_FACTORS, WIDTH = 16, 1000
PUBLISHED = frames.published(synthetic.FINDINGS.parent / "paper_curves", "fig8")
Frames = dict[str, pd.DataFrame]


def test_its_claims_were_measured_on_no_data() -> None:
    data, origin = drawing.load(FIG8, synthetic.REPOSITORY / "results", synthetic.FINDINGS.parent)
    assert {row.data for row in drawing.judge(FIG8, data, origin)} == {"none"}
    with figures.style(synthetic.FINDINGS.parent / drawing.STYLE):
        fig = drawing.draw(FIG8, data, origin)
    told = [artist.get_text() for artist in fig.findobj(Text) if isinstance(artist, Text)]
    assert any(text.startswith("products of matrices, n = ") for text in told)


def made(seeds: int = 10, factors: tuple[int, ...] = FACTORS) -> Frames:
    """Singular values at the law's own quantiles, shifted a little from seed to seed."""
    parts = []
    for seed in range(seeds):
        for m in factors:
            law = LAW(m)
            shares = (np.arange(WIDTH) + 0.3 + 0.04 * seed) / WIDTH
            values = np.interp(shares, law.shares, law.values)[::-1]
            run = {"run_id": f"r{seed}", "norm": "none", "seed": seed, "num_factors": NUM_FACTORS}
            parts.append(pd.DataFrame({**run, "start": NUM_FACTORS - m, "index": np.arange(WIDTH), "value": values}))
    return {"jacobian_singular_values": pd.concat(parts, ignore_index=True), "published": PUBLISHED}


def judged(change: Callable[[pd.DataFrame], None]) -> dict[str, Evidence]:
    data = made()
    change(data["jacobian_singular_values"])
    return FIG8.evidence(data)


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 16])
def test_the_laws_moments_are_the_fuss_catalan_numbers(m: int) -> None:
    """The k-th moment of the squared singular values is binom(Mk + k, k) / (Mk + 1)."""
    law = LAW(m)
    for k in (1, 2, 3, 4):
        moment = np.trapezoid(law.values ** (2 * k), law.shares)
        assert moment == pytest.approx(math.comb(m * k + k, k) / (m * k + 1), rel=1e-5)
    assert law.largest**2 == pytest.approx((m + 1) ** (m + 1) / m**m)
    assert law.values[-1] == pytest.approx(law.largest, rel=1e-6)
    assert law.shares[0] == pytest.approx(0, abs=1e-3) and law.shares[-1] == 1


def test_of_one_matrix_the_law_is_the_quarter_circle() -> None:
    s = np.linspace(0.01, 1.99, 100)
    expected = (s * np.sqrt(4 - s**2) / 2 + 2 * np.arcsin(s / 2)) / np.pi
    np.testing.assert_allclose(LAW(1).below(s), expected, atol=1e-7)


def test_the_law_is_what_small_random_products_do() -> None:
    source = np.random.default_rng(0)
    for m in (1, 3):
        product = np.eye(300)
        for _ in range(m):
            product = source.normal(0, 300**-0.5, (300, 300)) @ product
        values = np.sort(np.linalg.svd(product, compute_uv=False))
        law = LAW(m)
        assert np.abs(law.below(values) - (np.arange(300) + 0.5) / 300).max() < 0.02


def test_the_law_itself_meets_the_criteria() -> None:
    evidence = judged(lambda values: None)
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert {e.n for e in evidence.values()} == {10}


def test_matrices_of_another_scale_do_not() -> None:
    def scale(values: pd.DataFrame) -> None:
        values["value"] *= 1.2

    evidence = judged(scale)
    assert evidence["14"].verdict is evidence["14-density"].verdict is Verdict.not_reproduced
    assert evidence["14-factors"].verdict is Verdict.reproduced  # ratios do not depend on the scale


def test_a_small_shift_is_a_part_of_the_law() -> None:
    def scale(values: pd.DataFrame) -> None:
        values["value"] *= 1.02

    evidence = judged(scale)
    assert evidence["14-density"].verdict is Verdict.partly
    assert evidence["14"].verdict is Verdict.reproduced


def test_products_that_stay_as_well_conditioned_as_one_matrix_refute_both() -> None:
    def repeat(values: pd.DataFrame) -> None:
        one = values[values["start"] == NUM_FACTORS - 1]
        for start in values["start"].unique():
            values.loc[values["start"] == start, "value"] = one["value"].to_numpy()

    evidence = judged(repeat)
    assert evidence["14"].verdict is evidence["14-factors"].verdict is Verdict.not_reproduced


def test_counts_and_distances_by_a_loop() -> None:
    data = made()
    values = data["jacobian_singular_values"]
    told = {line.quantity: line for line in FIG8.numbers(data)}
    for m, name in ((1, "one matrix"), (3, "3 matrices"), (5, "5 matrices")):
        pooled = values[values["start"] == NUM_FACTORS - m]["value"].tolist()
        second_bin = min(pooled) + (max(pooled) - min(pooled)) / 50
        count = sum(value < second_bin for value in pooled)
        assert told[f"count in the first of 50 bins, {name}"].ours_none == str(count)
    values["value"] *= 1.05
    one = values[(values["start"] == NUM_FACTORS - 1) & (values["seed"] == 0)]["value"]
    law, distance = LAW(1), 0.0
    for value in one:
        expected = float(law.below(np.array([value]))[0])
        distance = max(distance, abs((one <= value).mean() - expected), abs((one < value).mean() - expected))
    assert FIG8.measure is not None
    samples = FIG8.measure(data)["14-density"]
    assert 0.01 < distance == pytest.approx(next(iter(samples.values())).values[0], abs=1e-6)


def test_half_as_many_repeats_give_the_same_counts() -> None:
    first = [FIG8.evidence(made(seeds))["14"].measured.split(";")[0] for seeds in (5, 10)]
    counts = [[int(c) for c in text.removeprefix("first bins ").split(", ")] for text in first]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)


def test_what_rounding_drowns_is_not_drawn() -> None:
    data = made()
    values = data["jacobian_singular_values"]
    fig = figures.new(FIG8.size, "t", "s", synthetic=False)
    values.loc[(values["start"] == NUM_FACTORS - 3) & (values["seed"] == 2) & (values["index"] == 999), "value"] = 1e-16
    FIG8.plot(fig, data)
    (condition,) = (ax for ax in fig.axes if ax.get_xlabel() == "number of factors")
    (dots,) = (line for line in condition.lines if str(line.get_label()).startswith("largest over smallest"))
    shown = pd.DataFrame({"x": dots.get_xdata(), "y": dots.get_ydata()}).dropna()
    assert 1 in set(shown["x"]) and 3 not in set(shown["x"])


def test_two_seeds_or_a_product_that_is_missing_decide_nothing() -> None:
    assert {e.verdict for e in FIG8.evidence(made(2)).values()} == {Verdict.undecided}
    lacking = made(factors=(1, 5))
    assert {e.verdict for name, e in FIG8.evidence(lacking).items() if name != "14"} == {Verdict.undecided}
    FIG8.plot(figures.new(FIG8.size, "t", "s", synthetic=False), lacking)
    assert FIG8.numbers(lacking)[3].ours_none == "\u2013"


def test_every_axis_is_named() -> None:
    fig = figures.new(FIG8.size, "t", "s", synthetic=False)
    FIG8.plot(fig, made())
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes) and len(fig.axes) == 5
