"""Where BN sits: which accuracies are compared, what part of the gain is, and what the untrained network must show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Verdict
from bnstudy.analysis.frames import placed
from bnstudy.config import compose
from bnstudy.config.schema import to_dict
from bnstudy.store.reduction import config_columns

PLACEMENT, REDUCED, INIT = (
    findings.load(synthetic.FINDINGS / f"{name}.py") for name in ("placement", "placement_reduced", "placement_init")
)
BEST = {  # accuracies at the best rate; BN's gain is 20 points
    "*": 60.0, "none": 40.0, "before_pooling": 54.0, "after_classifier": 52.0,
    "stage1.*": 42.0, "stage2.*": 46.0, "stage3.*": 50.0,
}  # fmt: skip


def of_place(place: str) -> dict[str, str]:
    return {"norm": "none" if place == "none" else "batch", "norm_where": "*" if place == "none" else place}


def trained(best: Mapping[str, float], seeds: int = 5, spread: float = 0.01) -> dict[str, pd.DataFrame]:
    """Each place is best at 0.03; at 0.1 it diverges, at 0.01 it is half as good."""
    rows = []
    for place, percent in best.items():
        for lr, factor, outcome in ((0.01, 0.5, "trained"), (0.03, 1.0, "trained"), (0.1, np.nan, "diverged")):
            for seed in range(seeds):
                accuracy = factor * (percent + 100 * spread * (seed - seeds // 2)) / 100
                run = {"run_id": f"{place}{lr}{seed}", "lr": lr, "seed": seed, "outcome": outcome}
                accuracies = {f"final_{side}_accuracy": accuracy for side in ("train", "test")}
                rows.append({**run, **of_place(place), **accuracies})
    return {"runs": pd.DataFrame(rows)}


@pytest.mark.parametrize("sweep", ["placement", "placement_reduced", "placement_init"])
@pytest.mark.parametrize("preset", ["quick", pytest.param("full", marks=pytest.mark.slow)])
def test_the_sweeps_have_every_place_equally_often(sweep: str, preset: str) -> None:
    runs = pd.DataFrame([config_columns(to_dict(config)) for config in compose.expand(sweep, preset, ["seed=1"])])
    counts = placed(runs)["place"].value_counts()
    assert set(counts.index) == set(figures.PLACES) and counts.nunique() == 1
    assert runs["epochs"].nunique() <= 1  # whatever the arms of Figure 1 say


def test_two_thirds_at_the_end_and_more_the_nearer_to_it_reproduce() -> None:
    evidence = PLACEMENT.evidence(trained(BEST))
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert evidence["10"].estimates["share of BN's gain"].mean == pytest.approx(0.7)
    assert [each.mean for each in evidence["10-stages"].estimates.values()] == pytest.approx([0.2, 0.2])


def test_a_best_rate_at_the_grids_edge_decides_nothing() -> None:
    frames = trained(BEST)
    frames = {"runs": frames["runs"][frames["runs"]["lr"] < 0.1]}
    assert {e.verdict for e in PLACEMENT.evidence(frames).values()} == {Verdict.undecided}


@pytest.mark.parametrize(
    ("change", "claim", "verdict"),
    [
        ({"before_pooling": 59.0}, "10", Verdict.partly),
        ({"before_pooling": 41.0}, "10", Verdict.not_reproduced),
        ({"before_pooling": 63.0}, "10", Verdict.not_reproduced),
        ({"after_classifier": 46.0}, "10-classifier", Verdict.partly),
        ({"after_classifier": 30.0}, "10-classifier", Verdict.not_reproduced),
        ({"stage1.*": 48.0}, "10-stages", Verdict.partly),
        ({"stage1.*": 58.0, "stage3.*": 44.0}, "10-stages", Verdict.not_reproduced),
        ({"*": 39.0}, "10", Verdict.undecided),
    ],
)
def test_each_verdict_can_come_out(change: dict[str, float], claim: str, verdict: Verdict) -> None:
    assert PLACEMENT.evidence(trained(BEST | change))[claim].verdict is verdict


def test_a_control_that_does_not_train_decides_nothing() -> None:
    evidence = PLACEMENT.evidence(trained(BEST | {"none": 26.0}))
    assert {e.verdict for e in evidence.values()} == {Verdict.undecided}
    assert {e.reason for e in evidence.values()} == {"the network without BN does not train at any rate"}


def test_few_seeds_or_a_missing_arm_decide_nothing() -> None:
    assert {e.verdict for e in PLACEMENT.evidence(trained(BEST, seeds=2)).values()} == {Verdict.undecided}
    for absent in BEST:
        frames = trained({place: value for place, value in BEST.items() if place != absent})
        verdicts = {name: e.verdict for name, e in PLACEMENT.evidence(frames).items()}
        assert Verdict.undecided in verdicts.values(), absent
        PLACEMENT.plot(figures.new(PLACEMENT.size, "t", "s", synthetic=False), frames)
        assert len(PLACEMENT.numbers(frames)) == len(figures.PLACES)


def test_the_reduced_scale_judges_alike_and_decides_claims_of_its_own() -> None:
    frames = trained(BEST | {"stage1.*": 48.0})
    paper, reduced = PLACEMENT.evidence(frames), REDUCED.evidence(frames)
    assert {name: e.estimates for name, e in reduced.items()} == {f"{n}-reduced": e.estimates for n, e in paper.items()}
    assert {claim.scale for claim in REDUCED.claims} == {"reduced"} and REDUCED.sweep != PLACEMENT.sweep


def untrained(
    share: Mapping[str, float], rise: Mapping[str, float], size: Mapping[str, float], seeds: int = 5
) -> dict[str, pd.DataFrame]:
    """ln std rises from 0 at layer 6 by `rise` to layer 102; gradients of standard deviation `size`."""
    moments, tails, logits = [], [], []
    for place in figures.PLACES:
        for seed in range(seeds):
            run = {"run_id": f"{place}{seed}", "seed": seed, **of_place(place)}
            noise = 1 + 0.02 * (seed - seeds // 2)
            for depth, level in ((7, 0.0), (55, rise[place] / 2), (103, rise[place])):
                moments += [
                    {**run, "depth": depth, "channel": c, "variance": np.exp(2 * level * noise)} for c in (0, 1)
                ]
                moments.append({**run, "depth": depth, "channel": 2, "variance": 0.0})  # a dead channel
                tails.append({**run, "depth": depth, "value": size[place] * noise})
            logits.append({**run, "value": share[place] * noise})
    tables = {"activation_moments": moments, "gradient_tails": tails, "logit_gradient": logits}
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


SHARE = dict.fromkeys(figures.PLACES, 0.3) | {"none": 0.9}
RISE = dict.fromkeys(figures.PLACES, 5.0) | {"*": 0.7, "stage3.*": 0.8}
SIZE = dict.fromkeys(figures.PLACES, 0.01) | {"none": 4.0}


def test_the_argued_picture_reproduces() -> None:
    evidence = INIT.evidence(untrained(SHARE, RISE, SIZE))
    assert {name: e.verdict for name, e in evidence.items()} == dict.fromkeys(evidence, Verdict.reproduced)
    assert {e.n for e in evidence.values()} == {5}


@pytest.mark.parametrize(
    ("share", "rise", "size", "verdicts"),
    [
        ({"after_classifier": 0.8}, {}, {}, {"output": "partly"}),
        ({"after_classifier": 0.8, "before_pooling": 0.7}, {}, {}, {"output": "not reproduced"}),
        ({"none": 0.2}, {}, {}, {"output": "not reproduced"}),
        ({}, {"before_pooling": 1.0}, {}, {"activations": "partly"}),
        ({}, {"before_pooling": 1.0, "after_classifier": 1.0}, {}, {"activations": "not reproduced"}),
        ({}, {}, {"before_pooling": 1.0}, {"gradients": "partly"}),
        ({}, {}, {"before_pooling": 1.0, "after_classifier": 1e-4}, {"gradients": "not reproduced"}),
        ({}, {"stage1.*": 1.0}, {}, {"stages": "partly"}),
        ({}, {"stage1.*": 1.0, "stage2.*": 1.0}, {}, {"stages": "not reproduced"}),
    ],
)
def test_each_initial_verdict_can_come_out(
    share: dict[str, float], rise: dict[str, float], size: dict[str, float], verdicts: dict[str, str]
) -> None:
    evidence = INIT.evidence(untrained(SHARE | share, RISE | rise, SIZE | size))
    expected = dict.fromkeys(("output", "activations", "gradients", "stages"), "reproduced") | verdicts
    assert {name.removeprefix("10-init-"): str(e.verdict) for name, e in evidence.items()} == expected


def test_the_untrained_figure_shows_every_place() -> None:
    frames = untrained(SHARE, RISE, SIZE)
    fig = figures.new(INIT.size, "t", "s", synthetic=False)
    INIT.plot(fig, frames)
    for ax in fig.axes[:2]:
        assert len(ax.lines) >= len(figures.PLACES)
    dots = [line for line in fig.axes[2].lines if line.get_marker() == "o"]
    assert [len(np.asarray(line.get_xdata())) for line in dots] == [5] * len(figures.PLACES)
    assert len(INIT.numbers(frames)) == 4 * len(figures.PLACES)
    assert {e.verdict for e in INIT.evidence(untrained(SHARE, RISE, SIZE, seeds=2)).values()} == {Verdict.undecided}
