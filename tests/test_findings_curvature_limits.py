"""Limits beside curvature: made networks are judged for what they are."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings, zoo
from bnstudy.analysis.findings import Verdict

TWO = findings.load(synthetic.FINDINGS / "curvature_limits.py")
FINDING = findings.load(synthetic.FINDINGS / "curvature_limits_arms.py")
ARMS = ("batch", "batch_before_pooling", "skipinit", "fixup", "none")
CURVATURES = [name for name in FINDING.needs if "hessian" in name]


def frames(power=1.0, off=1.0, beyond=False, seeds=4):
    """Networks whose limit is 8 over the curvature to this `power`, Fixup's times `off`; `beyond`: none fails."""
    run_rows, curved_rows = [], []
    for seed, (place, arm), depth in itertools.product(range(seeds), enumerate(ARMS), (8, 20, 56)):
        curvature = 10 ** (place - 1) * depth / 8 * (1 + 0.01 * seed)
        limit = 8 / curvature**power * (off if arm == "fixup" else 1)
        kind = zoo.ARMS[arm]
        run = {"model": kind.model, "norm": kind.norm, "norm_where": kind.where, "depth": depth, "seed": seed}
        rates = {limit / 10: "learns", limit: "learns", **({} if beyond else {1.2 * limit: "diverged"})}
        run_rows += [{**run, "run_id": f"{arm}{depth}{seed}{lr}", "lr": lr, "outcome": of} for lr, of in rates.items()]
        curved_rows.append({**run, "run_id": f"{arm}{depth}{seed}", "eigenvalue": curvature, "converged": True})
    runs, curved = pd.DataFrame(run_rows), pd.DataFrame(curved_rows)
    first = curved["norm"].isin(["batch"]) & (curved["norm_where"] == "*")
    return {
        "runs": runs[runs["norm"] != "none"],
        "stability_depth/runs": runs[runs["norm"] == "none"],
        CURVATURES[0]: curved[~first],
        CURVATURES[1]: curved[first],
    }


@pytest.mark.parametrize(
    ("how", "slope", "product"),
    [
        ({}, Verdict.reproduced, Verdict.reproduced),
        ({"power": 0.5}, Verdict.partly, Verdict.not_reproduced),
        ({"power": -0.5}, Verdict.not_reproduced, Verdict.not_reproduced),
        ({"off": 6}, Verdict.reproduced, Verdict.partly),
        ({"beyond": True}, Verdict.undecided, Verdict.undecided),
        ({"seeds": 2}, Verdict.undecided, Verdict.undecided),
    ],
)
def test_made_networks_are_judged_for_what_they_are(how, slope, product):
    found = {claim: evidence.verdict for claim, evidence in FINDING.evidence(frames(**how)).items()}
    assert found == {"B2-slope-arms": slope, "B2-product-arms": product}


def with_and_without(**how):
    """The same for the two arms of `curvature_limits` alone."""
    every, where = frames(**how), "norm in ('batch', 'none') and norm_where == '*' and model == 'resnet'"
    runs, curved = (pd.concat([every[name] for name in names]).query(where)
                    for names in (("runs", "stability_depth/runs"), CURVATURES))  # fmt: skip
    return {"stability_depth/runs": runs, "hessian_top_eigenvalue": curved}


@pytest.mark.parametrize(
    ("how", "slope", "product"),
    [
        ({}, Verdict.reproduced, Verdict.reproduced),
        ({"power": 0.5}, Verdict.partly, Verdict.not_reproduced),
        ({"power": -0.5}, Verdict.not_reproduced, Verdict.not_reproduced),
        ({"beyond": True}, Verdict.undecided, Verdict.undecided),
        ({"seeds": 2}, Verdict.undecided, Verdict.undecided),
    ],
)
def test_with_bn_and_without_are_judged_by_themselves(how, slope, product):
    found = {claim: evidence.verdict for claim, evidence in TWO.evidence(with_and_without(**how)).items()}
    assert found == {"B2-slope": slope, "B2-product": product}
    fig = figures.new(TWO.size, "t", "s", synthetic=False)
    TWO.plot(fig, with_and_without(**how))
    assert len(TWO.numbers(with_and_without(**how))) == 3 * 6


def test_a_seed_that_lacks_a_network_is_left_out():
    data = with_and_without()
    runs = data["stability_depth/runs"]
    fewer = runs[(runs["seed"] < 3) | (runs["depth"] != 56)]
    assert TWO.evidence({**data, "stability_depth/runs": fewer})["B2-slope"].n == 3


def test_every_network_is_drawn():
    data = frames()
    fig = figures.new(FINDING.size, "t", "s", synthetic=False)
    FINDING.plot(fig, data)
    marks = [np.asarray(line.get_ydata()) for line in fig.axes[0].lines if line.get_marker() in ("o", "s", "^")]
    assert sum(map(len, marks)) == 4 * 15
    assert len(FINDING.numbers(data)) == 3 * 15
    assert np.isfinite(np.concatenate(marks)).all()
