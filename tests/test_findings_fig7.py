"""Figure 7 and appendix G: patterns over channel pairs, and channel means against gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Evidence, Verdict

FIG7 = findings.load(synthetic.FINDINGS / "fig7.py")
DEPTHS = (18, 45, 90, 107)
WIDTH = 12
Frames = dict[str, pd.DataFrame]


def share(matrix: np.ndarray) -> float:
    s = np.linalg.svd(matrix, compute_uv=False)
    return float(s[0] ** 2 / (s**2).sum())


def made(seeds: int = 5) -> Frames:
    """Without BN outer products of channel means, with BN sums of nine independent entries."""
    pairs: list[dict[str, object]] = []
    means: list[dict[str, object]] = []
    for norm in ("batch", "none"):
        for seed in range(seeds):
            rng = np.random.default_rng([seed, norm == "none"])
            run = {"run_id": f"{norm}{seed}", "norm": norm, "seed": seed, "step": 0}
            mean_I = rng.random(WIDTH) + 0.05
            for depth in DEPTHS:
                matrix = np.abs(rng.standard_normal((WIDTH, WIDTH, 9))).sum(2)
                if norm == "none":
                    matrix = np.outer(mean_I, rng.random(WIDTH)) * (1 + 0.02 * matrix)
                where = {**run, "depth": depth}
                pairs.append(
                    {**where, "quantity": "rank1_share", "in_channel": -1, "out_channel": -1, "value": share(matrix)}
                )
                for i, o in np.ndindex(*matrix.shape) if depth == 45 else ():
                    at = {"in_channel": i, "out_channel": o, "value": matrix[i, o]}
                    pairs.append({**where, "quantity": "entry", **at})
            means += [
                {**run, "depth": 44, "channel": i, "mean": mean_I[i] * (-1) ** i, "variance": 1.0} for i in range(WIDTH)
            ]
    return {"channel_pair_gradients": pd.DataFrame(pairs), "activation_moments": pd.DataFrame(means)}


def judged(change: Callable[[Frames], None]) -> dict[str, Evidence]:
    data = made()
    change(data)
    return FIG7.evidence(data)


def swap_arms(data: Frames) -> None:
    for frame in data.values():
        frame["norm"] = frame["norm"].map({"batch": "none", "none": "batch"})


def test_low_rank_without_bn_meets_the_criteria_and_the_opposite_does_not() -> None:
    evidence = judged(lambda data: None)
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert {e.n for e in evidence.values()} == {5}
    assert {e.verdict for e in judged(swap_arms).values()} == {Verdict.not_reproduced}


def test_shares_near_1_are_told_apart_by_what_they_leave() -> None:
    def near(batch: float, none: float) -> Callable[[Frames], None]:
        def change(data: Frames) -> None:
            pairs = data["channel_pair_gradients"]
            for arm, value in (("batch", batch), ("none", none)):
                pairs.loc[(pairs["quantity"] == "rank1_share") & (pairs["norm"] == arm), "value"] = value

        return change

    assert judged(near(0.923, 0.998))["13"].verdict is Verdict.reproduced
    assert judged(near(0.99, 0.993))["13"].verdict is Verdict.partly
    assert judged(near(0.99, 0.98))["13"].verdict is Verdict.not_reproduced


def test_three_of_four_layers_are_not_nine_in_ten() -> None:
    def turn(data: Frames) -> None:
        pairs = data["channel_pair_gradients"]
        pairs.loc[(pairs["depth"] == 90) & (pairs["norm"] == "batch"), "value"] = 0.9999

    assert judged(turn)["13-layers"].verdict is Verdict.not_reproduced


@pytest.mark.parametrize(("noise", "verdict"), [(0.0, Verdict.reproduced), (1e3, Verdict.undecided)])
def test_means_are_judged_by_their_rank_correlation(noise: float, verdict: Verdict) -> None:
    def blur(data: Frames) -> None:
        means = data["activation_moments"]
        means["mean"] = means["mean"].abs() + noise * np.random.default_rng(4).random(len(means))

    assert judged(blur)["13-means"].verdict is verdict


def test_the_correlation_is_spearmans_by_a_loop() -> None:
    data = made(1)
    pairs, means = data["channel_pair_gradients"], data["activation_moments"]
    entries = pairs[(pairs["quantity"] == "entry") & (pairs["norm"] == "batch")]
    gradient = [sum(entries[entries["in_channel"] == i]["value"]) for i in range(WIDTH)]
    mean = [abs(means[(means["norm"] == "batch") & (means["channel"] == i)]["mean"].item()) for i in range(WIDTH)]
    # without ties: 1 - 6 sum d^2 / (n (n^2 - 1)), d the difference of ranks
    ranks = [[sum(other <= value for other in values) for value in values] for values in (gradient, mean)]
    squares = sum((a - b) ** 2 for a, b in zip(*ranks, strict=True))
    spearman = 1 - 6 * squares / (WIDTH * (WIDTH**2 - 1))
    told = {line.quantity: line for line in FIG7.numbers(data)}
    shown = told["Spearman, channel mean and gradient, layer 45"].ours_batch.replace("\u2212", "-")
    assert float(shown) == pytest.approx(spearman, abs=5e-3)


def test_the_heat_maps_are_the_first_seed_input_channels_downwards() -> None:
    data = made()
    fig = figures.new(FIG7.size, "t", "s", synthetic=False)
    FIG7.plot(fig, data)
    pairs = data["channel_pair_gradients"]
    for ax, norm in zip(fig.axes[:2], ("none", "batch"), strict=True):
        shown = np.asarray(ax.images[0].get_array())
        entries = pairs[(pairs["quantity"] == "entry") & (pairs["norm"] == norm) & (pairs["seed"] == 0)]
        for row in entries.sample(20, random_state=0).to_dict("records"):
            relative = row["value"] / entries["value"].mean()
            assert shown[row["in_channel"], row["out_channel"]] == pytest.approx(relative)
        assert ax.get_ylabel() == "input channel"
    assert all(ax.get_xlabel() or ax.get_ylabel() for ax in fig.axes)


@pytest.mark.parametrize("arm", ["batch", "none"])
def test_an_arm_without_runs_is_a_hole_not_a_crash(arm: str) -> None:
    half = {name: frame[frame["norm"] == arm] for name, frame in made().items()}
    FIG7.plot(figures.new(FIG7.size, "t", "s", synthetic=False), half)
    assert FIG7.numbers(half)
    evidence = FIG7.evidence(half)
    assert evidence["13"].verdict is evidence["13-layers"].verdict is Verdict.undecided
    assert (evidence["13-means"].verdict is Verdict.undecided) == (arm == "batch")  # of the arm without BN alone


def test_two_seeds_are_too_few_for_a_verdict() -> None:
    assert {e.verdict for e in FIG7.evidence(made(2)).values()} == {Verdict.undecided}
