"""The findings on what the textbook says in passing: what reproduces, what refutes, and pictures of both."""

from __future__ import annotations

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings

SEEDS = range(4)


def judged(name, frames):
    """The evidence, by claim, after everything that a reader sees was drawn and written."""
    made = findings.load(synthetic.FINDINGS / f"{name}.py")
    made.plot(figures.new(made.size, made.title, "synthetic", synthetic=False), frames)
    assert made.numbers(frames)
    return made.evidence(frames)


def verdict(name, frames):
    (evidence,) = judged(name, frames).values()
    return str(evidence.verdict)


def variance(ratio, sizes=(2, 8, 32), seeds=SEEDS):
    """`ratio` gives the mean variance of mini-batches over that of all images, by their size; seeds differ a little."""
    return {
        "batch_variance": pd.DataFrame(
            [
                {"run_id": f"{seed}", "seed": seed, "step": 0, "norm": "batch", "batch_size": size, "num_batches": 100,
                 "ratio": ratio(size) + 0.001 * (seed % 2) / size, "scatter": 1 / size**0.5}
                for size in sizes for seed in seeds
            ]
        )
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (lambda m: 1, "reproduced"),
        (lambda m: (m - 1) / m, "not reproduced"),
        (lambda m: 1 if m < 32 else (m - 1) / m, "not reproduced"),
        (lambda m: 1 + 0.2 / m, "not reproduced"),
    ],
)
def test_variance(ratio, expected):
    assert verdict("textbook_variance", variance(ratio)) == expected


def test_variance_is_judged_in_units_of_its_bias():
    (evidence,) = judged("textbook_variance", variance(lambda m: (m - 1) / m)).values()
    assert [of.mean for of in evidence.estimates.values()] == pytest.approx([0.0005] * 3)
    assert verdict("textbook_variance", variance(lambda m: 1, seeds=range(2))) == "undecided"
