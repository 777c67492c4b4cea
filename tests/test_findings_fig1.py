"""Figure 1 on a laptop's scale: what counts as a gain, as a gap, and as no better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import pytest
import synthetic
from matplotlib.figure import Figure

from bnstudy import findings, frames
from bnstudy.findings import Evidence, Verdict

FIG1 = findings.load(synthetic.FINDINGS / "fig1_quick.py")
Arms = Mapping[tuple[str, float], tuple[Sequence[float], float]]  # final test accuracies a seed, train above test

AS_PUBLISHED: Arms = {
    ("batch", 0.1): ([0.92, 0.93, 0.94], 0.07),
    ("batch", 0.003): ([0.89, 0.90, 0.905], 0.1),
    ("batch", 0.0001): ([0.80, 0.81, 0.82], 0.18),
    ("none", 0.0001): ([0.81, 0.82, 0.83], 0.17),
}


def epochs(arms: Arms) -> dict[str, pd.DataFrame]:
    rows = []
    for (norm, lr), (accuracies, gap) in arms.items():
        for seed, final in enumerate(accuracies):
            for epoch in range(1, 5):
                test = final * epoch / 4 if epoch % 2 == 0 else float("nan")
                rows.append(
                    {"run_id": f"{norm}{lr}{seed}", "norm": norm, "run_lr": lr, "lr": lr / epoch, "seed": seed,
                     "epoch": epoch, "test_accuracy": test, "train_accuracy": final * epoch / 4 + gap}
                )  # fmt: skip
    return {
        "epochs": pd.DataFrame(rows),
        "published": frames.published(synthetic.FINDINGS.parent / "paper_curves", "fig1"),
    }


def judged(arms: Arms) -> dict[str, Evidence]:
    return FIG1.evidence(epochs(arms))


def test_as_published() -> None:
    evidence = judged(AS_PUBLISHED)
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert evidence["2-reduced"].measured == "81.0, 90.0, 93.0 % at 0.0001, 0.003, 0.1"
    assert evidence["3-reduced"].measured == "18, 10, 7 points at 0.0001, 0.003, 0.1"


@pytest.mark.parametrize(
    "changed, claim, verdict",
    [
        ({("batch", 0.0001): ([0.85, 0.86, 0.87], 0.18)}, "1-reduced", Verdict.partly),
        ({("none", 0.0001): ([0.3, 0.3, 0.3], 0.18)}, "1-reduced", Verdict.not_reproduced),
        ({("batch", 0.003): ([0.80, 0.90, 0.99], 0.1)}, "2-reduced", Verdict.partly),
        ({("batch", 0.003): ([0.95, 0.95, 0.95], 0.1)}, "2-reduced", Verdict.not_reproduced),
        ({("batch", 0.003): ([0.89, 0.90, 0.905], 0.01)}, "3-reduced", Verdict.partly),
        ({("batch", 0.0001): ([0.8, 0.8, 0.8], 0.0)}, "3-reduced", Verdict.not_reproduced),
        ({("none", 0.0001): ([0.8, 0.8], 0.2)}, "1-reduced", Verdict.undecided),
    ],
)
def test_other_outcomes(changed: Arms, claim: str, verdict: Verdict) -> None:
    assert judged({**AS_PUBLISHED, **changed})[claim].verdict is verdict


def test_it_draws_and_tells_the_numbers() -> None:
    made = epochs(AS_PUBLISHED)
    figure = Figure(layout="constrained")
    FIG1.plot(figure, made)
    assert len(figure.axes) == 2
    assert [row.ours_batch for row in FIG1.numbers(made)] == ["93 [92 to 94]", "90 [89 to 90.5]", "81 [80 to 82]"]
    assert FIG1.numbers(made)[-1].ours_none == "82 [81 to 83]"
