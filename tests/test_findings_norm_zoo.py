"""The norm zoo: made arms are judged for what they are, and the table says what was not run."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings, readme, zoo
from bnstudy.analysis.findings import Verdict

FINDING = findings.load(synthetic.FINDINGS / "norm_zoo.py")
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
LIMITS = {  # place in the grid of the largest rate that learns, as bounded activations would have it
    "batch": 6, "mean_only": 1, "variance_only": 5, "batch_before_pooling": 3, "group": 5, "layer": 5,
    "dynamic_tanh": 4, "standardised": 3, "skipinit": 4, "fixup": 4, "zero_classifier": 2, "none": 1,
}  # fmt: skip


def frames(limits=None, growth=None, share=0.66, best=3, seeds=4):
    """Arms with these limits, whose activations grow by 10 to `growth` (by default the less the larger the limit), and
    in which a classifier from zero gains `share` of what BN at the end does, all at the rate in place `best`."""
    limits, runs, moments = LIMITS | (limits or {}), [], []
    for seed, (name, arm) in itertools.product(range(seeds), zoo.ARMS.items()):
        run = {"model": arm.model, "norm": arm.norm, "norm_where": arm.where, "seed": seed}
        top = 0.5 + {"none": 0.0, "batch_before_pooling": 0.1, "zero_classifier": 0.1 * share}.get(name, 0.2)
        for place, lr in enumerate(RATES):
            learns = place <= limits[name] if limits[name] >= 0 else False
            runs.append({
                **run, "run_id": f"{name}{seed}{lr}", "lr": lr, "outcome": "learns" if learns else "diverged",
                "final_test_accuracy": top - 0.02 * abs(place - min(best, max(limits[name], 0))) + 0.001 * seed,
                "status": "completed" if learns else "diverged", "num_steps": 100, "wall_sec": 50.0, "num_runs": 1,
            })  # fmt: skip
        power = (growth or {}).get(name, -limits[name])
        for depth, block in ((3, True), (16, True), (31, True), (2, False)):
            moments.append({**run, "depth": depth, "block_output": block, "site": "activation",
                            "variance": 10.0 ** (2 * power * depth / 31) * (1 + 0.001 * seed)})  # fmt: skip
    return {"runs": pd.DataFrame(runs), "norm_zoo_start/activation_moments": pd.DataFrame(moments)}


ALL_AT = dict.fromkeys(zoo.ARMS, 3)


def test_where_no_rate_learns_there_is_no_limit() -> None:
    """Not the largest rate that stays finite, of which the bracket tells then."""
    outcomes = {0.003: "at chance", 0.01: "at chance", 0.03: "diverged"}
    runs = pd.DataFrame([{"arm": "none", "seed": 0, "lr": lr, "outcome": each} for lr, each in outcomes.items()])
    (cell,) = zoo.cells(runs).to_dict("records")
    assert cell["finite"] and pd.isna(cell["low"])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"limits": {"none": 2, "batch_before_pooling": 4, "zero_classifier": 4}, "best": 1},
         {"B5-growth": Verdict.reproduced, "B5-parts": Verdict.reproduced, "B5-classifier": Verdict.reproduced}),
        ({"growth": LIMITS}, {"B5-growth": Verdict.not_reproduced}),
        ({"limits": {"mean_only": 6, "variance_only": 5}}, {"B5-parts": Verdict.partly}),
        ({"limits": {"mean_only": 6, "variance_only": 1}}, {"B5-parts": Verdict.not_reproduced}),
        ({"limits": {"none": -1}}, {"B5-growth": Verdict.undecided, "B5-parts": Verdict.undecided}),
        ({"limits": ALL_AT, "best": 1, "share": 0.05}, {"B5-classifier": Verdict.not_reproduced}),
        ({"limits": ALL_AT, "best": 1, "share": 0.35}, {"B5-classifier": Verdict.partly}),
        ({"limits": ALL_AT, "best": 0}, {"B5-classifier": Verdict.undecided}),
        ({"seeds": 2}, dict.fromkeys(("B5-growth", "B5-parts", "B5-classifier"), Verdict.undecided)),
    ],
)  # fmt: skip
def test_made_arms_are_judged_for_what_they_are(how, expected):
    found = {claim: evidence.verdict for claim, evidence in FINDING.evidence(frames(**how)).items()}
    assert {claim: found[claim] for claim in expected} == expected


def test_every_arm_is_named_and_drawn():
    data = frames()
    fig = figures.new(FINDING.size, "t", "s", synthetic=False)
    FINDING.plot(fig, data)
    marks = {line.get_marker() for line in fig.axes[0].lines} - {"None"}
    assert len(marks) == len(fig.legends[0].get_texts()) == len(zoo.ARMS)
    assert len(FINDING.numbers(data)) == 3 * len(zoo.ARMS)


def test_the_documentation_has_the_table_of_the_published_runs():
    text = readme.BEYOND.read_text(encoding="utf-8")
    assert f"<!-- norm zoo:begin -->\n{zoo.table(readme.ROOT / 'results')}\n<!-- norm zoo:end -->" in text


def test_the_table_says_what_was_not_run(tmp_path, monkeypatch):
    lines = zoo.table(tmp_path).splitlines()
    assert len(lines) == 2 + len(zoo.ARMS) and all(zoo.NOT_RUN in line for line in lines[2:])
    runs = frames()["runs"]
    monkeypatch.setattr("bnstudy.analysis.frames.load", lambda *asked: runs[runs["norm"] != "layer"])
    told = {line.split(" | ")[0].removeprefix("| "): line for line in zoo.table(tmp_path).splitlines()}
    assert zoo.NOT_RUN in told["layer"] and zoo.NOT_RUN not in told["BN"]
    assert "1 of that without a norm" in told["none"]
