"""Findings at initialisation: the paper's own numbers meet the criteria, their opposite does not, slow twins agree."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Evidence, Verdict
from bnstudy.analysis.frames import Origin

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


@pytest.mark.parametrize("arm", ["batch", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_an_arm_without_runs_is_shown_as_a_hole_not_a_crash(name: str, arm: str) -> None:
    finding, data = synthetic.frames_of(name)
    half = {k: f[f["norm"] == arm] if "seed" in f else f for k, f in data.items()}
    finding.plot(figures.new(finding.size, "t", "s", synthetic=False), half)
    assert finding.numbers(half)
    alone = {"gradient-correlation-3", "9-means", "9-exponential", "12-root"}  # these are about one arm only
    for key, evidence in finding.evidence(half).items():
        assert evidence.verdict is Verdict.undecided or key in alone


def test_moments_inside_the_axes_are_those_of_the_entries() -> None:
    """Normal entries, binned as the probe does, have their std and a kurtosis of 3, whatever lies outside."""
    module = findings.load(synthetic.FINDINGS / "fig2.py").plot.__globals__
    draw = np.random.default_rng(0).normal(0, 0.5, 200_000)
    edges = 10.0 ** (np.arange(-40, 7) / 8)
    edges[0] = 0
    counts = np.histogram(np.abs(np.append(draw, [40.0] * 50)), edges)[0]
    rows = pd.DataFrame({"x": edges[:-1], "x_high": edges[1:], "value": counts, "quantity": "histogram_log",
                         "norm": "none", "seed": 0})  # fmt: skip
    found = module["_inside"](rows).iloc[0]
    assert found["std"] == pytest.approx(0.5, rel=0.04) and found["kurtosis"] == pytest.approx(3, rel=0.1)


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
    assert {e.verdict for name, e in evidence.items() if name != "9-exponential"} == {Verdict.reproduced}
    rise = evidence["9"].estimates["rise of ln std from layer 6 to 102 without BN"]
    assert rise.mean == pytest.approx(4.28, abs=0.01)
    assert evidence["9-exponential"].verdict is Verdict.partly  # a straight line, and not as steep as the theory's


def test_mean_field_theory_has_the_closed_forms_rise_without_padding() -> None:
    """Its growth within a stage lies between that of sums that never fall below 0 (3/2) and the variance's alone."""
    theory = findings.load(synthetic.FINDINGS / "fig5.py").plot.__globals__["mean_field"]()
    per_block = (theory[102] - theory[78]) / 12
    assert 0 < per_block < 0.5 * math.log(1.5) and theory[6] == 0
    assert theory[102] == pytest.approx(5.74, abs=0.05)


def test_mean_field_theory_of_padded_shortcuts_is_that_of_wide_layers() -> None:
    """Dense layers of 300 units, then twice as many, beside each other with and without weights in the shortcut."""
    theory = findings.load(synthetic.FINDINGS / "fig5.py").plot.__globals__["mean_field"]
    apart = [_wide_layers(seed, padded=True) - _wide_layers(seed, padded=False) for seed in range(12)]
    assert np.mean(apart) == pytest.approx(theory(padded=True)[42] - theory()[42], abs=0.03)


def _wide_layers(seed: int, *, padded: bool) -> float:
    """ln rms after the third block of the second stage."""
    random = np.random.default_rng(seed)

    def layer(x: np.ndarray, width: int) -> np.ndarray:
        made: np.ndarray = random.normal(size=(width, len(x))) * np.sqrt(2 / (width + len(x))) @ x
        return made

    x = np.maximum(random.normal(size=300), 0)
    for width in [300] * 18 + [600] * 3:
        shortcut = x if width == len(x) else np.pad(x, 150) if padded else layer(x, width)
        x = np.maximum(shortcut + layer(np.maximum(layer(x, width), 0), width), 0)
    return float(0.5 * np.log(np.mean(x**2)))


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
    assert evidence.verdict is verdict


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

    def far(data: Frames) -> None:
        recalled(data)
        scale("conv_gradient_sums", "ratio", 2.0, "norm == 'batch' and depth == 54")(data)

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

    spread_out, one_column = [0.2, 0.3, 0.3, 0.4, 0.5], [0.93, 1.0, 1.0, 1.0, 1.0]
    assert changed("fig6", shares(spread_out, one_column))["11"].verdict is Verdict.reproduced
    assert changed("fig6", shares([0.7, 0.65, 0.7, 0.75, 0.7], one_column))["11"].verdict is Verdict.partly
    assert changed("fig6", shares(one_column, spread_out))["11"].verdict is Verdict.not_reproduced
    scattered = [0.5, 1.0, 1.0, 1.0, 1.0]
    assert changed("fig6", shares(spread_out, scattered))["11"].verdict is Verdict.undecided


def test_the_heat_map_is_the_first_seed_sorted_by_label() -> None:
    finding, data = synthetic.frames_of("fig6")
    fig = figures.new(finding.size, "t", "s", synthetic=False)
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
    lower = scale("gradient_correlation", "cosine_mean", 0.01, "norm == 'none'")
    evidence = changed("gradient_correlation", lower)
    assert evidence["gradient-correlation-1"].verdict is Verdict.not_reproduced
    assert evidence["gradient-correlation-3"].verdict is Verdict.not_reproduced
    base = changed("gradient_correlation", lambda data: None)
    assert base["gradient-correlation-1"].verdict is Verdict.reproduced
    assert evidence["gradient-correlation-2"].estimates == base["gradient-correlation-2"].estimates  # of logits alone
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

    assert changed("gradient_correlation", certain)["gradient-correlation-3"].n == 5


@pytest.mark.parametrize("name", [*NAMES, "lenet_lr"])
def test_every_figure_draws_and_compares(name: str) -> None:
    finding, data = synthetic.frames_of(name)
    fig = figures.new(finding.size, finding.title, "n = 5", synthetic=False)
    finding.plot(fig, data)
    assert all(ax.get_xlabel() or ax.get_xticklabels() for ax in fig.axes)
    assert all(isinstance(line, findings.Comparison) for line in finding.numbers(data))
    assert isinstance(data[next(iter(finding.needs))], pd.DataFrame)
    assert Origin(1, ("x",), ("y",), False).data_label == "x"
