"""The norm zoo: made arms are judged for what they are, and the table says what was not run."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings, readme, zoo
from bnstudy.analysis.findings import Verdict
from bnstudy.analysis.frames import MissingTable

PARTS, ZOO = (findings.load(synthetic.FINDINGS / f"{name}.py") for name in zoo.SWEEPS)
OF_PARTS = ("batch", "none", "mean_only", "variance_only", "zero_classifier", "batch_before_pooling")
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
LIMITS = {  # place in the grid of the largest rate that learns, as bounded activations would have it
    "batch": 5, "mean_only": 1, "variance_only": 5, "batch_before_pooling": 3, "group": 5, "layer": 5,
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
    rows = pd.DataFrame(runs)
    of_parts = rows["run_id"].str.replace(r"\d.*", "", regex=True).isin(OF_PARTS)
    return {"norm_zoo_parts/runs": rows[of_parts], "runs": rows[~of_parts],
            "norm_zoo_start/activation_moments": pd.DataFrame(moments)}  # fmt: skip


def of_parts(data):
    """The frames that the finding about BN's parts asks for, of those of the whole zoo."""
    return {"runs": data["norm_zoo_parts/runs"]}


def judged(data):
    return {
        claim: evidence.verdict
        for finding, each in ((ZOO, data), (PARTS, of_parts(data)))
        for claim, evidence in finding.evidence(each).items()
    }


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
        ({"limits": {"mean_only": 5, "variance_only": 5}}, {"B5-parts": Verdict.partly}),
        ({"limits": {"mean_only": 5, "variance_only": 1}}, {"B5-parts": Verdict.not_reproduced}),
        ({"limits": {"batch": 6}}, {"B5-parts": Verdict.undecided, "B5-growth": Verdict.reproduced}),
        ({"limits": {"none": -1}}, {"B5-growth": Verdict.undecided, "B5-parts": Verdict.reproduced}),
        ({"limits": {"mean_only": -1}}, {"B5-growth": Verdict.undecided, "B5-parts": Verdict.undecided}),
        ({"limits": ALL_AT, "best": 1, "share": 0.05}, {"B5-classifier": Verdict.not_reproduced}),
        ({"limits": ALL_AT, "best": 1, "share": 0.35}, {"B5-classifier": Verdict.partly}),
        ({"limits": ALL_AT, "best": 0}, {"B5-classifier": Verdict.undecided}),
        ({"seeds": 2}, dict.fromkeys(("B5-growth", "B5-parts", "B5-classifier"), Verdict.undecided)),
    ],
)  # fmt: skip
def test_made_arms_are_judged_for_what_they_are(how, expected):
    found = judged(frames(**how))
    assert {claim: found[claim] for claim in expected} == expected


def test_growth_is_judged_by_the_seeds_that_have_every_arm():
    data = frames(seeds=5)
    data["runs"] = data["runs"][data["runs"]["seed"] < 3]
    evidence = ZOO.evidence(data)["B5-growth"]
    assert (evidence.n, evidence.verdict) == (3, Verdict.reproduced)
    assert PARTS.evidence(of_parts(data))["B5-parts"].n == 5


def test_a_seed_without_an_arms_growth_or_limit_is_no_seed():
    data = frames(seeds=5)
    start = "norm_zoo_start/activation_moments"
    lacking = (data[start]["seed"] == 4) & (data[start]["model"] == data[start]["model"].iloc[-1])
    data[start] = data[start][~lacking]
    evidence = ZOO.evidence(data)["B5-growth"]
    assert (evidence.n, evidence.verdict) == (4, Verdict.reproduced)
    runs = data["norm_zoo_parts/runs"]
    begun = {"runs": runs[(runs["seed"] < 4) | runs["run_id"].str.startswith("batch4")]}
    evidence = PARTS.evidence(begun)["B5-parts"]
    assert (evidence.n, evidence.verdict) == (4, Verdict.reproduced)


@pytest.mark.parametrize(
    ("sweep", "arms"), [("norm_zoo_parts", set(OF_PARTS)), ("norm_zoo", zoo.ARMS.keys() - OF_PARTS)]
)
def test_the_sweeps_have_each_arm_once(sweep, arms):
    lines = (readme.ROOT / "sweeps" / f"{sweep}.yaml").read_text(encoding="utf-8").splitlines()
    (asked,) = (line.partition(":")[2].strip() for line in lines if line.startswith("      arm:"))
    assert sorted(asked.split(",")) == sorted(arms)


def test_every_arm_is_named_and_drawn():
    data = frames()
    fig = figures.new(ZOO.size, "t", "s", synthetic=False)
    ZOO.plot(fig, data)
    marks = {line.get_marker() for line in fig.axes[0].lines} - {"None"}
    assert len(marks) == len(fig.legends[0].get_texts()) == len(zoo.ARMS)
    assert len(ZOO.numbers(data)) == 3 * len(zoo.ARMS)


def test_every_part_is_named_and_drawn():
    data = of_parts(frames())
    fig = figures.new(PARTS.size, "t", "s", synthetic=False)
    PARTS.plot(fig, data)
    fig.draw_without_rendering()
    rows = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert rows == [arm.label for name, arm in zoo.ARMS.items() if name in OF_PARTS]
    for ax in fig.axes:
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        assert [np.size(line.get_xdata()) for line in dots] == [4] * len(OF_PARTS)
    assert len(PARTS.numbers(data)) == 2 * len(OF_PARTS)


def test_the_documentation_has_the_table_of_the_published_runs():
    text = readme.BEYOND.read_text(encoding="utf-8")
    assert f"<!-- norm zoo:begin -->\n{zoo.table(readme.ROOT / 'results')}\n<!-- norm zoo:end -->" in text


def test_the_table_says_what_was_not_run(tmp_path, monkeypatch):
    lines = zoo.table(tmp_path).splitlines()
    assert len(lines) == 2 + len(zoo.ARMS) and all(zoo.NOT_RUN in line for line in lines[2:])
    data = frames()
    runs = {"norm_zoo_parts": data["norm_zoo_parts/runs"], "norm_zoo": data["runs"][data["runs"]["norm"] != "layer"]}
    monkeypatch.setattr("bnstudy.analysis.frames.load", lambda workspace, sweep, *asked: runs[sweep])
    told = {line.split(" | ")[0].removeprefix("| "): line for line in zoo.table(tmp_path).splitlines()}
    assert zoo.NOT_RUN in told["layer"] and zoo.NOT_RUN not in told["BN"] + told["group"]
    assert "1 of that without a norm" in told["none"]


def test_the_table_has_the_arms_of_one_sweep_alone(tmp_path, monkeypatch):
    runs = frames()["norm_zoo_parts/runs"]

    def load(workspace, sweep, *asked):
        if sweep == "norm_zoo":
            raise MissingTable("not run")
        return runs

    monkeypatch.setattr("bnstudy.analysis.frames.load", load)
    told = zoo.table(tmp_path).splitlines()[2:]
    assert sum(zoo.NOT_RUN not in line for line in told) == len(OF_PARTS)
