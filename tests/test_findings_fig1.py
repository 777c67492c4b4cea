"""Figure 1 at each scale: what counts as a gain, as a gap, and as no better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.figure import Figure

from bnstudy.analysis import curves, drawing, findings, frames
from bnstudy.analysis.findings import Evidence, Finding, Verdict
from bnstudy.config import compose
from bnstudy.config.identity import run_id

QUICK, PAPER, MATCHED = (
    findings.load(synthetic.FINDINGS / f"{name}.py") for name in ("fig1_quick", "fig1_paper", "fig1_matched")
)
Arms = Mapping[tuple[str, float], tuple[Sequence[float], float]]  # final test accuracies a seed, train above test
DIVERGED = float("nan")  # in the place of an accuracy

AS_PUBLISHED: Arms = {
    ("batch", 0.1): ([0.929, 0.93, 0.931], 0.07),
    ("batch", 0.003): ([0.899, 0.90, 0.901], 0.1),
    ("batch", 0.0001): ([0.809, 0.81, 0.811], 0.18),
    ("none", 0.0001): ([0.817, 0.82, 0.823], 0.17),
}


def tables(arms: Arms) -> dict[str, pd.DataFrame]:
    """Runs of four epochs, evaluated after every second; one that diverged ends after the third."""
    epochs, runs = [], []
    for (norm, lr), (accuracies, gap) in arms.items():
        for seed, final in enumerate(accuracies):
            lost = final != final
            name: dict[str, Any] = {"run_id": f"{norm}{lr}{seed}", "norm": norm, "seed": seed, "epochs": 4}
            ends = {"final_test_accuracy": final, "final_train_accuracy": final + gap, "final_train_loss": 0.01}
            runs.append({**name, "lr": lr, "outcome": "diverged" if lost else "trained", **ends})
            for epoch in range(1, 4 if lost else 5):
                seen = (0.9 if lost else final) * epoch / 4
                test = seen if epoch % 2 == 0 else float("nan")
                shares = {"test_accuracy": test, "train_accuracy": seen + gap}
                epochs.append({**name, "run_lr": lr, "lr": lr / epoch, "epoch": epoch, **shares})
    return {
        "epochs": pd.DataFrame(epochs),
        "runs": pd.DataFrame(runs),
        "published": frames.published(synthetic.FINDINGS.parent / "paper_curves", "fig1"),
    }


def judged(finding: Finding, arms: Arms) -> dict[str, Evidence]:
    return finding.evidence(tables(arms))


@pytest.mark.parametrize("finding", [QUICK, PAPER, MATCHED], ids=lambda finding: finding.name)
def test_as_published(finding: Finding) -> None:
    evidence = judged(finding, AS_PUBLISHED)
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced} and {e.n for e in evidence.values()} == {3}


def test_what_was_measured_is_told() -> None:
    evidence = judged(PAPER, AS_PUBLISHED)
    assert evidence["1"].estimates[curves.SAME.key].mean == pytest.approx(-1)
    assert "81 [" in evidence["1"].effect and "82 [" in evidence["1"].effect
    assert [evidence["2"].estimates[step.key].mean for step in curves.HIGHER] == pytest.approx([9, 3])
    assert [evidence["3"].estimates[step.key].mean for step in curves.SMALLER] == pytest.approx([8, 3])


OUTCOMES = [
    ({("batch", 0.003): ([0.80, 0.90, 0.99], 0.16)}, "2", Verdict.partly),  # the steps are lost in the scatter
    ({("batch", 0.003): ([0.949, 0.95, 0.951], 0.05)}, "2", Verdict.partly),
    ({("batch", 0.1): ([0.75, 0.751, 0.752], 0.21)}, "2", Verdict.not_reproduced),
    ({("batch", 0.1): ([0.92, 0.93], 0.1)}, "2", Verdict.undecided),
    ({("batch", 0.003): ([0.949, 0.95, 0.951], 0.01)}, "3", Verdict.partly),
    ({("batch", 0.0001): ([0.955, 0.956, 0.957], 0.0)}, "3", Verdict.not_reproduced),
    ({("batch", 0.1): ([0.92, 0.93, DIVERGED], 0.1)}, "3", Verdict.undecided),
    ({("batch", 0.0001): ([0.809, 0.81, 0.811], 0.1)}, "2", Verdict.undecided),  # does not fit
    ({("batch", 0.0001): ([0.809, 0.81, 0.811], 0.1)}, "1", Verdict.undecided),
]


@pytest.mark.parametrize("finding, scale", [(QUICK, "-reduced"), (PAPER, "")], ids=["quick", "paper"])
@pytest.mark.parametrize("changed, claim, verdict", OUTCOMES)
def test_rates_and_gaps(finding: Finding, scale: str, changed: Arms, claim: str, verdict: Verdict) -> None:
    assert judged(finding, {**AS_PUBLISHED, **changed})[claim + scale].verdict is verdict


@pytest.mark.parametrize(
    "with_bn, verdict",  # test accuracy at 0.0001; without BN it is 0.81
    [(0.815, Verdict.reproduced), (0.77, Verdict.partly), (0.85, Verdict.not_reproduced)],
)
def test_at_one_rate_equal_is_within_two_points(with_bn: float, verdict: Verdict) -> None:
    near = [with_bn - 0.001, with_bn, with_bn + 0.001]
    arms = {**AS_PUBLISHED, ("batch", 0.0001): (near, 0.2), ("none", 0.0001): ([0.809, 0.81, 0.811], 0.17)}
    assert judged(PAPER, arms)["1"].verdict is verdict


def test_a_control_that_never_learned_decides_nothing() -> None:
    made = tables(AS_PUBLISHED)
    made["runs"].loc[made["runs"]["norm"] == "none", "final_train_loss"] = 2.31
    evidence = PAPER.evidence(made)["1"]
    assert evidence.verdict is Verdict.undecided and "never learned" in evidence.reason


@pytest.mark.parametrize("finding, scale", [(QUICK, "-reduced"), (PAPER, "")], ids=["quick", "paper"])
def test_an_arm_that_waits_leaves_the_others_judged(finding: Finding, scale: str) -> None:
    arms = {arm: values for arm, values in AS_PUBLISHED.items() if arm[0] == "batch"}
    evidence = judged(finding, arms)
    assert (evidence[f"1{scale}"].n, evidence[f"1{scale}"].verdict) == (0, Verdict.undecided)
    assert evidence[f"2{scale}"].verdict is evidence[f"3{scale}"].verdict is Verdict.reproduced


@pytest.mark.parametrize(
    "changed, verdict",
    [
        ({("batch", 0.003): ([0.949, 0.95, 0.951], 0.1)}, Verdict.partly),  # the larger rate is not better
        ({("none", 0.0001): ([0.699, 0.7, 0.701], 0.1)}, Verdict.partly),  # BN is better at the same rate
        ({("none", 0.0001): ([0.8, 0.8], 0.2)}, Verdict.undecided),
    ],
)
def test_at_equal_epochs_both_are_asked(changed: Arms, verdict: Verdict) -> None:
    found = judged(MATCHED, {**AS_PUBLISHED, **changed})["1-matched"]
    assert found.verdict is verdict


@pytest.mark.parametrize("name", ["fig1_paper", "fig1_matched", "sharpness_paper", "sharpness_matched"])
def test_without_its_runs_a_claim_says_what_makes_them(tmp_path: Path, name: str) -> None:
    finding = findings.load(synthetic.FINDINGS / f"{name}.py")
    with pytest.raises(frames.MissingTable, match=f"make sweep-{finding.sweep} PRESET=full"):
        drawing.load(finding, tmp_path, synthetic.FINDINGS.parent)


def test_the_runs_at_the_largest_rate_are_made_once() -> None:
    data = {"name": "any", "source": "arrays", "sha256": "0" * 64}
    ids = {
        sweep: {run_id(config, data): config.optim.lr for config in compose.expand(sweep, "full")}
        for sweep in ("fig1_paper", "fig1_matched")
    }
    both = ids["fig1_paper"].keys() & ids["fig1_matched"].keys()
    assert len(both) == 5 and {ids["fig1_paper"][name] for name in both} == {0.1}


@pytest.mark.parametrize("finding", [QUICK, PAPER, MATCHED], ids=lambda finding: finding.name)
def test_it_draws_and_tells_the_numbers(finding: Finding) -> None:
    made = tables({**AS_PUBLISHED, ("batch", 0.1): ([0.929, 0.93, 0.931, DIVERGED], 0.07)})
    figure = Figure(layout="constrained")
    finding.plot(figure, made)
    _, right = figure.axes
    ours = [np.asarray(line.get_ydata(), dtype=float) for line in right.lines if line.get_linewidth() == 1.6]
    ends = {round(float(line[-1])) for line in ours}
    assert ends == {93, 90, 81, 82}
    assert right.get_ylim()[0] == {QUICK.name: 0, PAPER.name: 50, MATCHED.name: 30}[finding.name]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "with BN, rate 0.1 (1 of 4 diverged)" and labels[3] == "without BN, rate 0.0001"
    told = {row.quantity: (row.paper_batch, row.ours_batch, row.ours_none) for row in finding.numbers(made)}
    assert told["final test accuracy at 0.0001 (%)"] == ("81.3", "81 [80.9 to 81.1]", "82 [81.7 to 82.3]")
    assert told["training minus test at 0.003 (points)"] == ("9.6", "10", "")


def test_an_arm_that_stalls_is_on_the_axis() -> None:
    figure = Figure(layout="constrained")
    PAPER.plot(figure, tables({**AS_PUBLISHED, ("none", 0.0001): ([0.1] * 3, 0.0)}))
    assert figure.axes[1].get_ylim()[0] == pytest.approx(9)
