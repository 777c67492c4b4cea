"""Weight decay's equilibrium: made angles and accuracies are judged for what they are."""

from __future__ import annotations

import itertools
import math

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import findings
from bnstudy.analysis.findings import Verdict

RATES, DECAYS = (0.05, 0.2, 0.8), (0.0003125, 0.00125, 0.005, 0.02, 0.08)
FINDING = findings.load(synthetic.FINDINGS / "effective_rate.py")


def frames(over=None, apart=0.0, accuracy=0.9, seeds=4):
    """Updates that turn each layer by `over` times theory, by product; accuracies `apart` from rate to rate."""
    looks, epochs = [], []
    for seed, lr, decay in itertools.product(range(seeds), RATES, DECAYS):
        run_id, product = f"{seed}-{lr}-{decay}", lr * decay
        factor = 1.0 if over is None else next((f for p, f in over.items() if math.isclose(p, product)), 1.0)
        angle = factor * math.sqrt(2 * product) * (1 + 0.001 * seed)
        common = {"run_id": run_id, "seed": seed, "lr": lr, "weight_decay": decay}
        for step, depth in itertools.product((0, 2000, 3000, 3500, 3950), (1, 2, 3, 4)):
            weight = 2.0 + depth
            gradient = math.tan(angle if step >= 3000 else 1.0) * weight * (1 - product) / lr
            looks.append({**common, "step": step, "depth": depth, "gradient": gradient, "weight": weight})
        final = accuracy + apart * RATES.index(lr) + 0.0001 * seed
        epochs += [{**common, "epoch": epoch, "test_accuracy": final * epoch / 17} for epoch in (1, 17)]
    return {"gradient_norms": pd.DataFrame(looks), "epochs": pd.DataFrame(epochs)}


@pytest.mark.parametrize(
    ("how", "angle", "accuracy"),
    [
        ({}, Verdict.reproduced, Verdict.reproduced),
        ({"over": {0.001: 1.3}}, Verdict.partly, Verdict.reproduced),
        ({"over": {0.001: 1.3, 0.004: 0.7}}, Verdict.not_reproduced, Verdict.reproduced),
        ({"apart": 0.02}, Verdict.reproduced, Verdict.not_reproduced),
        ({"accuracy": 0.3}, Verdict.reproduced, Verdict.undecided),
        ({"seeds": 2}, Verdict.undecided, Verdict.undecided),
    ],
)
def test_made_runs_are_judged_for_what_they_are(how, angle, accuracy):
    found = {claim: evidence.verdict for claim, evidence in FINDING.evidence(frames(**how)).items()}
    assert found == {"B4-angle": angle, "B4-accuracy": accuracy}
