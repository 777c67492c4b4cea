"""Agreement of gradients along training: which curves reproduce, partly or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings, frames
from bnstudy.analysis.findings import Evidence, Verdict

FINDING = findings.load(synthetic.FINDINGS / "correlation_training.py")
STEPS = (0, 5, 20, 80)
Cosine = Callable[[str, float, int, int], float]  # norm, rate, step, seed


def falling(norm: str, lr: float, step: int, seed: int) -> float:
    start = {"none": 0.9, "batch": 0.3}[norm]
    return start - 0.002 * step - 0.01 * seed


def data(cosine: Cosine = falling, seeds: int = 5) -> dict[str, pd.DataFrame]:
    rows: list[dict[str, Any]] = []
    for norm in ("batch", "none"):
        for seed in range(seeds):
            for lr in (0.01, 0.1):
                for step in STEPS:
                    for size in (1, 16, 128):
                        if size == 1 and norm == "batch":
                            continue
                        value = cosine(norm, lr, step, seed) * (1.0 if size == 128 else 0.5)
                        where = {"run_id": f"{norm}{lr}{seed}", "norm": norm, "seed": seed, "lr": lr, "step": step}
                        where |= {"batch_size": size, "defined": True}
                        # the median over layers is the value itself, the mean is not
                        rows += [
                            {**where, "depth": depth, "cosine_mean": value + shift}
                            for depth, shift in ((1, -0.02), (2, 0.0), (3, 0.3))
                        ]
    return {"gradient_correlation": pd.DataFrame(rows)}


def judged(cosine: Cosine = falling, seeds: int = 5) -> dict[str, Evidence]:
    return FINDING.evidence(data(cosine, seeds))


def test_what_is_expected_reproduces() -> None:
    evidence = judged()
    assert {name: e.verdict for name, e in evidence.items()} == dict.fromkeys(evidence, Verdict.reproduced)
    assert {e.n for e in evidence.values()} == {5}
    after = (0.9 - 0.002 * 80 - 0.02) / 2  # of the middle seed
    assert next(iter(evidence["gradient-correlation-examples"].estimates.values())).mean == pytest.approx(after)


@pytest.mark.parametrize(
    ("cosine", "claim", "verdict"),
    [
        (lambda n, lr, step, seed: 0.35 if n == "none" else 0.3, "matched", Verdict.partly),
        (lambda n, lr, step, seed: 0.9 if n == "none" and seed else (0.2, 0.3)[n != "none"], "own", Verdict.undecided),
        (lambda n, lr, step, seed: 0.35 if n == "none" else 0.3, "own", Verdict.partly),
        (lambda n, lr, step, seed: 0.2 if n == "none" else 0.3, "own", Verdict.not_reproduced),
        (lambda n, lr, step, seed: 0.5 - 0.001 * step if n == "none" else 0.3, "falls", Verdict.partly),
        (lambda n, lr, step, seed: 0.5 + 0.001 * step, "falls", Verdict.not_reproduced),
        (lambda n, lr, step, seed: 0.3 + 0.01 * seed, "examples", Verdict.partly),
        (lambda n, lr, step, seed: 0.1, "examples", Verdict.not_reproduced),
    ],
)
def test_what_is_not_is_told_apart(cosine: Cosine, claim: str, verdict: Verdict) -> None:
    assert judged(cosine)[f"gradient-correlation-{claim}"].verdict is verdict


def test_only_the_rates_that_are_named_count() -> None:
    def cosine(norm: str, lr: float, step: int, seed: int) -> float:
        named = {"batch": (0.01, 0.1), "none": (0.01,)}
        return falling(norm, lr, step, seed) if lr in named[norm] else -1.0

    assert {e.verdict for e in judged(cosine).values()} == {Verdict.reproduced}


def test_looks_before_training_do_not_count_along_it() -> None:
    def cosine(norm: str, lr: float, step: int, seed: int) -> float:
        return falling(norm, lr, step, seed) if step == 0 else 0.2

    assert judged(cosine)["gradient-correlation-own"].verdict is Verdict.not_reproduced


def test_runs_that_diverged_are_no_seeds() -> None:
    tables = data()
    rows = tables["gradient_correlation"]
    lost = (rows["norm"] == "none") & (rows["seed"] > 1) & (rows["step"] > 5)
    tables["gradient_correlation"] = rows[~lost]
    evidence = FINDING.evidence(tables)
    assert {e.verdict for e in evidence.values()} == {Verdict.undecided}
    FINDING.plot(figures.new(FINDING.size, "t", "s", synthetic=False), tables)


@pytest.mark.parametrize("arm", ["batch", "none"])
def test_an_arm_without_runs_is_a_hole_not_a_crash(arm: str) -> None:
    tables = data()
    tables["gradient_correlation"] = tables["gradient_correlation"].query("norm == @arm")
    FINDING.plot(figures.new(FINDING.size, "t", "s", synthetic=False), tables)
    assert FINDING.numbers(tables)
    evidence = FINDING.evidence(tables)
    assert evidence["gradient-correlation-own"].verdict is Verdict.undecided
    assert evidence["gradient-correlation-falls"].verdict is Verdict.undecided


def test_two_seeds_are_too_few() -> None:
    assert {e.verdict for e in judged(seeds=2).values()} == {Verdict.undecided}


def test_the_table_names_what_is_not_defined() -> None:
    told = {line.quantity: line for line in FINDING.numbers(data())}
    line = told["cosine, single examples, 0 updates at 0.01"]
    assert line.ours_batch == frames.DASH and not math.isnan(float(line.ours_none.split()[0]))
