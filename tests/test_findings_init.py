"""Findings at initialisation: the paper's own numbers meet the criteria, their opposite does not, slow twins agree."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy import figures, findings
from bnstudy.findings import Evidence, Verdict
from bnstudy.frames import Origin

NAMES = ("fig2", "fig5", "fig6", "table1", "gradient_correlation")
Frames = dict[str, pd.DataFrame]
OFFSET = runpy.run_path(str(synthetic.FINDINGS / "fig5.py"))["BLOCK_OUTPUT"]


def changed(name: str, change: Callable[[Frames], None]) -> dict[str, Evidence]:
    finding, data = synthetic.frames_of(name)
    data = {key: frame.copy() for key, frame in data.items()}
    change(data)
    return finding.evidence(data)


def scale(table: str, column: str, factor: float, query: str) -> Callable[[Frames], None]:
    def change(data: Frames) -> None:
        rows = data[table].query(query).index
        data[table].loc[rows, column] *= factor

    return change


@pytest.mark.parametrize("name", NAMES)
def test_two_seeds_are_too_few_for_a_verdict(name: str) -> None:
    finding, data = synthetic.frames_of(name)
    few = {k: f[f["seed"] < 2] if "seed" in f else f for k, f in data.items()}
    assert {e.verdict for e in finding.evidence(few).values()} == {Verdict.undecided}
    assert {e.n for e in finding.evidence(few).values()} == {2}


@pytest.mark.parametrize("arm", ["batch", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_an_arm_without_runs_is_shown_as_a_hole_not_a_crash(name: str, arm: str) -> None:
    finding, data = synthetic.frames_of(name)
    half = {k: f[f["norm"] == arm] if "seed" in f else f for k, f in data.items()}
    finding.plot(figures.new(finding.size, "t", "s", stand_in=False), half)
    assert finding.numbers(half)
    alone = {"gradient-correlation-3", "9-means"}  # these are about one arm only
    for key, evidence in finding.evidence(half).items():
        assert evidence.verdict is Verdict.undecided or key in alone


def test_claim_6_compares_layer_55_only() -> None:
    base = changed("fig2", lambda data: None)["6"]
    assert base.verdict is Verdict.reproduced and base.n == 5
    elsewhere = scale("gradient_tails", "value", 1e3, "depth != 55 and quantity == 'std'")
    assert changed("fig2", elsewhere)["6"] == base
    alike = scale("gradient_tails", "value", 1e-2, "depth == 55 and quantity == 'std' and norm == 'none'")
    assert changed("fig2", alike)["6"].verdict is Verdict.not_reproduced
    light = scale("gradient_tails", "value", 0.1, "quantity == 'kurtosis' and norm == 'none'")
    assert changed("fig2", light)["6"].verdict is Verdict.partly


def test_the_published_figure_2_meets_its_own_criterion() -> None:
    def published(data: Frames) -> None:
        tails = data["gradient_tails"]
        for arm, std, kurtosis in (("batch", 0.012, 3.1), ("none", 1.04, 6.3)):
            tails.loc[(tails["norm"] == arm) & (tails["quantity"] == "std"), "value"] = std
            tails.loc[(tails["norm"] == arm) & (tails["quantity"] == "kurtosis"), "value"] = kurtosis

    evidence = changed("fig2", published)
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert evidence["6"].measured == "std ratio 86.7; kurtosis 3.1 with BN, 6.3 without"


def published_moments(data: Frames) -> None:
    """Every channel gets the published standard deviation and mean of its layer."""
    moments, published = data["activation_moments"], data["published"]
    for row in published.to_dict("records"):
        depth = row["layer"] if row["layer"] == 110 else row["layer"] + OFFSET
        rows = moments.index[(moments["norm"] == row["norm"]) & (moments["depth"] == depth)]
        if row["statistic"] == "std":
            moments.loc[rows, "variance"] = math.exp(2 * row["ln_value"])
        else:
            moments.loc[rows, "mean"] = -math.exp(row["ln_value"])


def test_the_published_figure_5_meets_its_own_criteria() -> None:
    evidence = changed("fig5", published_moments)
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert "rise of ln std 4.28 without BN" in evidence["9"].measured


@pytest.mark.parametrize(
    ("halved", "verdict"), [(("batch",), Verdict.partly), (("batch", "none"), Verdict.not_reproduced)]
)
def test_published_variances_are_not_taken_for_standard_deviations(halved: list[str], verdict: Verdict) -> None:
    def read_as_variances(data: Frames) -> None:
        published_moments(data)
        moments = data["activation_moments"]
        rows = moments["norm"].isin(halved)
        moments.loc[rows, "variance"] = moments.loc[rows, "variance"] ** 0.5

    evidence = changed("fig5", read_as_variances)["9-reading"]
    assert evidence.verdict is verdict and "from ln variance 0.00" in evidence.measured


def test_claim_9_fails_if_bn_grows_too() -> None:
    def grow(data: Frames) -> None:
        moments = data["activation_moments"]
        moments["variance"] = np.exp(2 * 0.05 * moments["depth"])

    assert changed("fig5", grow)["9"].verdict is Verdict.not_reproduced


def test_figure_5_averages_logarithms_over_channels_dead_ones_left_out() -> None:
    finding, data = synthetic.frames_of("fig5")
    moments = data["activation_moments"]
    moments = moments[(moments["norm"] == "none") & (moments["seed"] == 2)].copy()
    at_18 = moments[moments["depth"] == 18 + OFFSET]  # shown as layer 18
    moments.loc[at_18.index[0], ["mean", "variance"]] = 0.0
    logs, means = [], []
    for mean, variance in zip(at_18["mean"][1:], at_18["variance"][1:], strict=True):
        logs.append(math.log(math.sqrt(variance)))
        means.append(math.log(abs(mean)))
    lines = {c.quantity: c for c in finding.numbers({**data, "activation_moments": moments})}
    told = float(lines["ln std, layer 18"].ours_none.split()[0].replace("\u2212", "-"))
    assert told == pytest.approx(sum(logs) / len(logs), abs=0.005)
    told = float(lines["ln |mean|, layer 18"].ours_none.split()[0].replace("\u2212", "-"))
    assert told == pytest.approx(sum(means) / len(means), abs=0.005)


def test_table_1_as_recalled_meets_its_own_criterion() -> None:
    def recalled(data: Frames) -> None:
        sums = data["conv_gradient_sums"]
        for arm, ratios in (("batch", (251.8, 112.8, 40.7)), ("none", (1.7, 2.6, 2.1))):
            for depth, ratio in zip((18, 54, 90), ratios, strict=True):
                sums.loc[(sums["norm"] == arm) & (sums["depth"] == depth), "ratio"] = ratio

    assert changed("table1", recalled)["12"].verdict is Verdict.reproduced
    far = scale("conv_gradient_sums", "ratio", 2.0, "norm == 'batch' and depth == 54")
    assert changed("table1", far)["12"].verdict is Verdict.partly
    alike = scale("conv_gradient_sums", "ratio", 100.0, "norm == 'none'")
    assert {e.verdict for e in changed("table1", alike).values()} == {Verdict.not_reproduced}


def test_class_bias_is_judged_by_the_share_and_every_pair() -> None:
    def shares(batch: list[float], none: list[float]) -> Callable[[Frames], None]:
        def change(data: Frames) -> None:
            rows = data["logit_gradient"]
            for arm, values in (("batch", batch), ("none", none)):
                for seed, value in enumerate(values):
                    at = (rows["quantity"] == "top_column_share") & (rows["norm"] == arm) & (rows["seed"] == seed)
                    rows.loc[at, "value"] = value

        return change

    spread_out, one_column = [0.2, 0.3, 0.3, 0.4, 0.7], [0.73, 1.0, 1.0, 1.0, 1.0]
    assert changed("fig6", shares(spread_out, one_column))["11"].verdict is Verdict.reproduced
    assert changed("fig6", shares(spread_out[::-1], [0.69, *one_column[1:]]))["11"].verdict is Verdict.partly
    assert changed("fig6", shares(one_column, spread_out))["11"].verdict is Verdict.not_reproduced


def test_the_heat_map_is_the_first_seed_sorted_by_label() -> None:
    finding, data = synthetic.frames_of("fig6")
    fig = figures.new(finding.size, "t", "s", stand_in=False)
    finding.plot(fig, data)
    shown = np.asarray(fig.axes[0].images[0].get_array())  # without BN
    rows = data["logit_gradient"].query("quantity == 'entry' and norm == 'none' and seed == 0")
    labels = rows.drop_duplicates("example").set_index("example")["label"]
    position = 0
    for label in sorted(set(labels)):
        for example in sorted(labels.index[labels == label]):
            entries = rows[rows["example"] == example].sort_values("column")["value"].to_numpy()
            np.testing.assert_array_equal(shown[position], entries)
            assert entries[label] <= 0
            position += 1
    assert position == 128


def test_correlation_claims_turn_with_the_numbers() -> None:
    assert {e.verdict for e in changed("gradient_correlation", lambda data: None).values()} == {Verdict.reproduced}
    lower = scale("gradient_correlation", "cosine_mean", 0.01, "norm == 'none'")
    evidence = changed("gradient_correlation", lower)
    assert evidence["gradient-correlation-1"].verdict is Verdict.not_reproduced
    assert evidence["gradient-correlation-3"].verdict is Verdict.not_reproduced
    assert evidence["gradient-correlation-2"].verdict is Verdict.reproduced  # of the logits alone
    logits = scale("logit_gradient", "value", 0.0, "norm == 'none'")
    assert changed("gradient_correlation", logits)["gradient-correlation-2"].verdict is Verdict.not_reproduced


def test_rows_without_a_defined_cosine_are_not_read() -> None:
    _, data = synthetic.frames_of("gradient_correlation")
    with_bn = data["gradient_correlation"].query("norm == 'batch'")
    assert 1 not in set(with_bn["batch_size"]) and with_bn["cosine_mean"].notna().all()


def test_a_seed_with_examples_that_have_no_gradient_counts() -> None:
    """Regression: one such example left its whole seed out."""

    def certain(data: Frames) -> None:
        rows = data["gradient_correlation"]
        rows.loc[(rows["norm"] == "none") & (rows["seed"] == 3) & (rows["batch_size"] == 1), "num_pairs"] = 21

    evidence = changed("gradient_correlation", certain)["gradient-correlation-3"]
    assert evidence.n == 5 and evidence.spread.endswith("; 21 to 28 pairs a layer")


@pytest.mark.parametrize("name", [*NAMES, "lenet_lr"])
def test_every_figure_draws_and_compares(name: str) -> None:
    finding, data = synthetic.frames_of(name)
    fig = figures.new(finding.size, finding.title, "n = 5", stand_in=False)
    finding.plot(fig, data)
    assert all(ax.get_xlabel() or ax.get_xticklabels() for ax in fig.axes)
    assert all(isinstance(line, findings.Comparison) for line in finding.numbers(data))
    assert isinstance(data[next(iter(finding.needs))], pd.DataFrame)
    assert Origin(1, ("x",), ("y",), False).data_label == "x"
