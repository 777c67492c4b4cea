"""The tails of the gradients: which evidence keeps a power law and which does not, and McCulloch's index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import synthetic

from bnstudy.analysis import figures, findings, frames
from bnstudy.analysis.findings import Evidence, Verdict

TAILS = findings.load(synthetic.FINDINGS / "fig2_tails.py")
LAYERS = (18, 55, 90)
RIVALS = ("lognormal", "stretched_exponential", "half_normal")
STD = 10.0  # of every log-likelihood ratio
HOLDS = {"lognormal": 1.0, "stretched_exponential": 2.0, "half_normal": -200.0}  # gains over a power law that holds
Gains = Mapping[tuple[int, int, bool], Mapping[str, float]]  # depth, seed, chosen -> law -> gain


def data(gains: Gains | None = None, seeds: int = 5, index: float = 1.5, hill: float = 1.6) -> dict[str, pd.DataFrame]:
    """Both tables and the published curve; without BN quantiles are those of a stable law with this index."""
    tails, fits = [], []
    probabilities = (0.05, 0.25, 0.5, 0.75, 0.95)
    stable = scipy.stats.levy_stable.ppf(probabilities, index, 0.0)
    normal = scipy.stats.norm.ppf(probabilities)
    for norm in ("batch", "none"):
        for seed in range(seeds):
            for depth in LAYERS:
                where: dict[str, Any] = {"norm": norm, "seed": seed, "depth": depth, "run_id": f"{norm}{seed}"}
                quantiles = stable if norm == "none" else normal
                told = [("quantile", p, np.nan, q) for p, q in zip(probabilities, quantiles, strict=True)]
                told += [("hill", k / 100, np.nan, hill if norm == "none" else 5.0) for k in range(1, 11)]
                told += [("histogram_linear", x, x + 1.0, 50.0) for x in range(-4, 4)]
                told += [("histogram_log", x, 10 * x, 100.0) for x in (0.001, 0.01, 0.1, 1.0)]
                told += [("std", np.nan, np.nan, 2.0 + seed)]
                tails += [
                    {**where, "quantity": q, "x": x, "x_high": high, "value": v, "low": 0.9 * v, "high": 1.1 * v}
                    for q, x, high, v in told
                ]
                for chosen in (True, False):
                    gain = HOLDS | dict((gains or {}).get((depth, seed, chosen), {}))
                    for law in ("power_law", *RIVALS):
                        row = {**where, "law": law, "chosen": chosen, "share": 0.05 if chosen else 0.1}
                        row |= {"threshold": 2.0, "shape": 0.8 if norm == "none" else 1.6}
                        row |= {"log_ratio": -gain[law] if law in RIVALS else 0.0}
                        fits.append(row | {"log_ratio_std": STD if law in RIVALS else 0.0})
    published = frames.published(synthetic.FINDINGS.parent / "paper_curves", "fig2")
    return {"gradient_tails": pd.DataFrame(tails), "tail_fits": pd.DataFrame(fits), "published": published}


def judged(*args: Any, **changes: Any) -> dict[str, Evidence]:
    return TAILS.evidence(data(*args, **changes))


def test_a_power_law_everywhere_reproduces() -> None:
    evidence = judged()
    assert {name: e.verdict for name, e in evidence.items()} == dict.fromkeys(evidence, Verdict.reproduced)
    assert {e.n for e in evidence.values()} == {5}


@pytest.mark.parametrize(
    "gain",
    [{"lognormal": 10.5}, {"stretched_exponential": 10.5}, {"half_normal": -19.0}],
    ids=["lognormal likelier", "stretched exponential likelier", "half-normal not ruled out"],
)
@pytest.mark.parametrize(("seeds", "verdict"), [((0, 1), Verdict.undecided), (range(5), "")])
def test_each_rival_alone_ends_the_power_law(gain: Mapping[str, float], seeds: Any, verdict: str) -> None:
    evidence = judged({(55, seed, True): gain for seed in seeds})
    assert evidence["6-power-law"].verdict == (verdict or Verdict.not_reproduced)
    assert evidence["6-power-law-tenth"].verdict is Verdict.reproduced


def test_evidence_short_of_two_standard_deviations_leaves_it() -> None:
    gain = {"lognormal": 9.5, "stretched_exponential": 9.5, "half_normal": -20.5}
    assert judged({(55, seed, True): gain for seed in range(5)})["6-power-law"].verdict is Verdict.reproduced


def test_the_largest_tenth_is_judged_by_itself() -> None:
    evidence = judged({(55, seed, False): {"lognormal": 99.0} for seed in range(5)})
    assert evidence["6-power-law-tenth"].verdict is Verdict.not_reproduced
    assert evidence["6-power-law"].verdict is Verdict.reproduced


@pytest.mark.parametrize(("layers", "verdict"), [((18,), Verdict.partly), ((18, 55, 90), Verdict.undecided)])
def test_every_layer_counts(layers: tuple[int, ...], verdict: Verdict) -> None:
    gains = {(layer, seed, True): {"lognormal": 99.0} for layer in layers for seed in (1, 2, 3)}
    assert judged(gains)["6-power-law-layers"].verdict is verdict
    everywhere = {(layer, seed, True): {"lognormal": 99.0} for layer in layers for seed in range(5)}
    assert judged(everywhere)["6-power-law-layers"].verdict is (
        Verdict.not_reproduced if len(layers) == 3 else Verdict.partly
    )


@pytest.mark.parametrize(
    ("without", "with_bn", "verdict"),
    [(0.8, 1.6, Verdict.reproduced), (1.2, 1.6, Verdict.partly), (1.6, 1.2, Verdict.not_reproduced)],
)
def test_the_shape_tells_which_tail_is_heavier(without: float, with_bn: float, verdict: Verdict) -> None:
    tables = data()
    fits = tables["tail_fits"]
    fits["shape"] = np.where(fits["norm"] == "none", without, with_bn)
    assert TAILS.evidence(tables)["6-heavier"].verdict is verdict


@pytest.mark.parametrize(
    ("index", "hill", "verdict"),
    [(1.5, 1.75, Verdict.reproduced), (1.5, 2.5, Verdict.not_reproduced), (2.0, 2.9, Verdict.not_reproduced)],
)
def test_a_stable_law_has_one_index(index: float, hill: float, verdict: Verdict) -> None:
    assert judged(index=index, hill=hill)["6-stable"].verdict is verdict


def test_the_index_is_found_in_a_stable_laws_quantiles() -> None:
    told = {line.quantity: line.ours_none for line in TAILS.numbers(data(index=1.5))}
    assert float(told["stable law's index by quantiles, layer 55"]) == pytest.approx(1.5, abs=0.01)
    cauchy = {line.quantity: line.ours_none for line in TAILS.numbers(data(index=1.0))}
    assert float(cauchy["stable law's index by quantiles, layer 18"]) == pytest.approx(1.0, abs=0.02)
    told_batch = {line.quantity: line.ours_batch for line in TAILS.numbers(data())}
    assert float(told_batch["stable law's index by quantiles, layer 90"]) == pytest.approx(2.0, abs=0.005)


@pytest.mark.parametrize("arm", ["batch", "none"])
def test_an_arm_without_runs_is_a_hole_not_a_crash(arm: str) -> None:
    tables = data()
    for name in ("gradient_tails", "tail_fits"):
        tables[name] = tables[name].query("norm == @arm")
    TAILS.plot(figures.new(TAILS.size, "t", "s", synthetic=False), tables)
    assert TAILS.numbers(tables)
    evidence = TAILS.evidence(tables)
    assert evidence["6-heavier"].verdict is Verdict.undecided
    assert (evidence["6-power-law"].verdict is Verdict.undecided) == (arm == "batch")


def test_a_tail_that_could_not_be_fitted_is_no_seed() -> None:
    tables = data()
    fits = tables["tail_fits"]
    fits.loc[fits["seed"] < 3, ["shape", "log_ratio", "log_ratio_std", "threshold"]] = np.nan
    assert TAILS.evidence(tables)["6-power-law"].n == 2
    TAILS.plot(figures.new(TAILS.size, "t", "s", synthetic=False), tables)


def test_two_seeds_are_too_few() -> None:
    assert {e.verdict for e in judged(seeds=2).values()} == {Verdict.undecided}
