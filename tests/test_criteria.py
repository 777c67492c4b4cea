"""Criteria as data: the sentence has the bounds that judge, each verdict comes out, and none for want of evidence."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import criteria, findings
from bnstudy.analysis.criteria import Criterion, HoldsFor, Need, Outcome, Part, Sample
from bnstudy.analysis.findings import Claim, Verdict
from bnstudy.analysis.stats import Scale

PATHS = findings.discover(synthetic.FINDINGS)
RATIO = Part("ratio", above=30, scale=Scale.log)
SHARE = Part("share", below=0.5, scale=Scale.logit)


def around(centre: float, spread: float, n: int = 5) -> Sample:
    return criteria.single(pd.Series(centre + spread * np.linspace(-1, 1, n), index=range(n)))


def claim(criterion: Criterion, name: str = "1", family: str = "f") -> Claim:
    return Claim(id=name, where="w", says="s", criterion=criterion, scale="init", family=family)


def verdict(criterion: Criterion, **samples: Sample) -> tuple[Verdict, str]:
    found = findings.judged([claim(criterion)], {"1": samples})["1"]
    return found.verdict, found.reason


def test_the_sentence_has_every_bound_and_every_rule():
    rule = Criterion(
        (RATIO, Part("slope", above=-1.1, below=-0.9)), partial=1, needs=(Need("fit", "nothing fits", above=99),),
        remark="laid down after a pilot",
    )  # fmt: skip
    text = str(rule)
    bounds = ("Ratio: above 30", "slope: between \u22121.1 and \u22120.9", "fit above 99")
    for wanted in (*bounds, "nothing fits", "pilot"):
        assert wanted in text
    moved = Criterion((Part("ratio", above=31, scale=Scale.log),))
    assert "above 31" in str(moved) and "30" not in str(moved)


def test_clearly_above_clearly_below_and_neither():
    rule = Criterion((RATIO,))
    assert verdict(rule, ratio=around(100, 5)) == (Verdict.reproduced, "")
    assert verdict(rule, ratio=around(10, 1)) == (Verdict.not_reproduced, "")
    found, reason = verdict(rule, ratio=around(35, 30))
    assert found is Verdict.undecided and "ratio" in reason and "5 seeds" in reason


def test_equivalence_is_not_the_absence_of_a_difference():
    rule = Criterion((Part("difference", above=-2, below=2),))
    assert verdict(rule, difference=around(0.1, 0.5))[0] is Verdict.reproduced
    assert verdict(rule, difference=around(0.1, 9))[0] is Verdict.undecided
    assert verdict(rule, difference=around(5, 0.5))[0] is Verdict.not_reproduced


@pytest.mark.parametrize(
    ("ratio", "share", "expected"),
    [(100, 0.2, Verdict.reproduced), (100, 0.9, Verdict.partly), (10, 0.9, Verdict.not_reproduced)],
)
def test_one_of_two_parts_is_partly(ratio: float, share: float, expected: Verdict) -> None:
    samples = {"ratio": around(ratio, 1), "share": around(share, 0.02)}
    assert verdict(Criterion((RATIO, SHARE), partial=1), **samples)[0] is expected


def test_other_parts_can_make_it_partly():
    rule = Criterion((RATIO,), partial=(Part("ratio", above=3, scale=Scale.log),))
    assert verdict(rule, ratio=around(10, 1))[0] is Verdict.partly
    assert verdict(rule, ratio=around(2, 0.1))[0] is Verdict.not_reproduced


def test_few_seeds_and_unmet_preconditions_decide_nothing():
    assert verdict(Criterion((RATIO,)), ratio=around(100, 1, n=2)) == (Verdict.undecided, "fewer than 3 seeds")
    rule = Criterion((RATIO,), needs=(Need("loss", "the control never learned", below=2.2),))
    assert verdict(rule, ratio=around(100, 1), loss=around(2.0, 0.1))[0] is Verdict.reproduced
    unmet = (Verdict.undecided, "the control never learned")
    assert verdict(rule, ratio=around(100, 1), loss=around(2.15, 0.1)) == unmet
    assert verdict(rule, ratio=around(100, 1), loss=criteria.single(pd.Series(dtype=float))) == unmet


def test_partly_needs_as_many_seeds_as_the_verdict():
    """Two values decide nothing, whatever the other quantity has."""
    few = criteria.single(pd.Series([1.0, 1.01, np.nan, np.nan, np.nan]))
    rule = Criterion((RATIO,), partial=(Part("other", above=0),))
    assert verdict(rule, ratio=around(10, 1), other=few)[0] is Verdict.not_reproduced
    assert verdict(rule, ratio=around(10, 1), other=around(1, 0.1))[0] is Verdict.partly


def test_a_seed_without_a_value_does_not_meet_a_precondition():
    """As the loss of a control that diverged; a seed of which nothing is judged does not count."""
    rule = Criterion((RATIO,), needs=(Need("loss", "the control never learned", below=2.2),))
    lost = criteria.single(pd.Series([1.0, 1.1, np.nan, 1.2, 1.0]))
    assert verdict(rule, ratio=around(100, 1), loss=lost) == (Verdict.undecided, "the control never learned")
    absent = criteria.single(pd.Series([1.0, 1.1, 1.2, 1.0]))
    assert verdict(rule, ratio=around(100, 1), loss=absent) == (Verdict.undecided, "the control never learned")
    sixth = criteria.single(pd.Series([1.0, 1.1, 1.3, 1.2, 1.0, np.nan]))
    assert verdict(rule, ratio=around(100, 1), loss=sixth)[0] is Verdict.reproduced


def test_a_value_without_a_place_on_the_scale_speaks_for_nothing():
    """Negative ratios have no logarithm: what is left of the seeds must not decide."""
    values = criteria.single(pd.Series([-1.0, -2.0, -3.0, 200.0, 201.0]))
    assert verdict(Criterion((RATIO,)), ratio=values)[0] is Verdict.undecided


def test_partly_is_corrected_for_the_number_of_claims_too():
    values = pd.Series([1.0, 0.2, 1.5, 0.9, 0.1])  # p = 0.04
    rule = Criterion((Part("gain", above=3),), partial=(Part("gain", above=0),))
    of = {str(i): {"gain": Sample(values)} for i in range(3)}
    assert findings.judged([claim(rule)], {"1": of["1"]})["1"].verdict is Verdict.partly
    three = findings.judged([claim(rule, name) for name in of], of)
    assert {e.verdict for e in three.values()} == {Verdict.not_reproduced} and "in part is open" in three["0"].reason
    refuted = findings.judged([claim(rule)], {"1": {"gain": around(-9, 1)}})["1"]
    assert (refuted.verdict, refuted.reason) == (Verdict.not_reproduced, "")


@pytest.mark.parametrize(("parts", "expected"), [(1, Verdict.partly), (2, Verdict.undecided)])
def test_the_best_of_several_parts_has_had_several_chances(parts: int, expected: Verdict) -> None:
    """p = 0.04 of one part that was named beforehand, and of the better of two."""
    gain, nothing = pd.Series([1.0, 0.2, 1.5, 0.9, 0.1]), pd.Series([-1.0, 1.0, 0.2, -0.3, 0.1])
    bound = Part("gain", above=0)
    rule = Criterion((Part("gain", above=3),), partial=(bound,)) if parts == 1 else (
        Criterion((bound, Part("other", above=0)), partial=1)
    )  # fmt: skip
    assert verdict(rule, gain=Sample(gain), other=Sample(nothing))[0] is expected


def test_noise_alone_is_hardly_ever_partly():
    random = np.random.default_rng(0)
    rule = Criterion(tuple(Part(f"part {i}", above=0) for i in range(9)), partial=1)
    draws = [{part.key: Sample(pd.Series(random.normal(size=5))) for part in rule.full} for _ in range(300)]
    partly = sum(verdict(rule, **samples)[0] is Verdict.partly for samples in draws)
    assert partly <= 0.05 * len(draws)  # each part by itself is above in 2.5 %, one of nine in a fifth


def test_a_refutation_is_corrected_too():
    """p = 0.04 that one part fails: of one part, of one of two parts, and of one claim of two."""
    below = Sample(-pd.Series([1.0, 0.2, 1.5, 0.9, 0.1]))
    rule = Criterion((Part("gain", above=0),))
    assert verdict(rule, gain=below)[0] is Verdict.not_reproduced
    two = Criterion((Part("gain", above=0), Part("other", above=0)))
    assert verdict(two, gain=below, other=around(9, 1))[0] is Verdict.undecided
    assert verdict(two, gain=around(-9, 1), other=around(9, 1))[0] is Verdict.not_reproduced
    found = findings.judged([claim(rule), claim(rule, "2")], {"1": {"gain": below}, "2": {"gain": around(9, 1)}})
    assert found["1"].verdict is Verdict.undecided and "correction" in found["1"].reason
    every = Criterion((Part("gain", above=0, holds_for=HoldsFor.every), Part("other", above=0)))
    assert verdict(every, gain=below, other=around(9, 1))[0] is Verdict.not_reproduced  # nothing is left to chance


def test_claims_of_one_family_are_corrected_for_their_number():
    values = pd.Series([1.0, 0.2, 1.5, 0.9, 0.1])  # p = 0.04
    rule = Criterion((Part("gain", above=0),))
    alone = findings.judged([claim(rule)], {"1": {"gain": Sample(values)}})["1"]
    assert alone.verdict is Verdict.reproduced
    many = [claim(rule, str(i)) for i in range(3)]
    three = findings.judged(many, {c.id: {"gain": Sample(values)} for c in many})
    assert {e.verdict for e in three.values()} == {Verdict.undecided} and "correction" in three["0"].reason
    weaker = Criterion(rule.full, partial=(Part("gain", above=-1),))
    of = {str(i): {"gain": Sample(values)} for i in range(3)}
    partly = findings.judged([claim(weaker, name) for name in of], of)
    assert {e.verdict for e in partly.values()} == {Verdict.partly}  # or more noise would make it a better verdict
    apart = [claim(rule, str(i), family=str(i)) for i in range(3)]
    assert {e.verdict for e in findings.judged(apart, {c.id: {"gain": Sample(values)} for c in apart}).values()} == {
        Verdict.reproduced
    }


def test_arms_are_compared_by_seed_and_told_by_themselves():
    frame = pd.DataFrame({"norm": ["batch"] * 3 + ["none"] * 3, "seed": [0, 1, 2] * 2,
                          "value": [1.0, 2.0, 4.0, 10.0, 20.0, 40.0]})  # fmt: skip
    sample = criteria.compared(frame, "value", Scale.log)
    assert sample.values.to_list() == pytest.approx([10.0] * 3)
    found = findings.judged([claim(Criterion((Part("ratio", above=9, scale=Scale.log),)))], {"1": {"ratio": sample}})
    assert found["1"].verdict is Verdict.reproduced and found["1"].effect.startswith("ratio: 2 [")
    assert found["1"].shown["ratio"] == pytest.approx((2, 20))


def test_slips_in_a_criterion_are_named():
    with pytest.raises(ValueError, match="slope: give above, below"):
        Part("slope")
    with pytest.raises(ValueError, match=r"slope: above = 2 is not less than below = 1"):
        Part("slope", above=2, below=1)
    with pytest.raises(ValueError, match="ratio: averaged on log and on plain"):
        Criterion((RATIO,), partial=(Part("ratio", above=3),))
    with pytest.raises(ValueError, match="no values were measured for 'ratio'"):
        Criterion((RATIO,)).judge({"share": around(0.5, 0.1)})
    with pytest.raises(ValueError, match="claim 2 was measured and has no criterion"):
        findings.judged([claim(Criterion((RATIO,)))], {"2": {}})


def test_what_is_not_defined_is_open():
    assert RATIO.outcome(pd.Series([math.nan] * 5)) is Outcome.open


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 1, 1], Verdict.reproduced), ([1, 0, 1], Verdict.partly), ([0, 0, 0], Verdict.not_reproduced),
     ([1, 1, math.nan], Verdict.undecided)],
)  # fmt: skip
def test_a_bound_may_hold_in_every_seed_or_in_some(values: list[float], expected: Verdict) -> None:
    every, some = (Part("learns", above=0.5, holds_for=holds_for) for holds_for in (HoldsFor.every, HoldsFor.some))
    rule = Criterion((every,), partial=(some,))
    assert verdict(rule, learns=criteria.single(pd.Series(values, dtype=float)))[0] is expected
    assert "above 0.5 in every seed: reproduced" in str(rule) and "above 0.5 in some seed: partly" in str(rule)


@pytest.mark.parametrize(
    ("bound", "text"), [(98.99, "98.99"), (99, "99"), (0.5, "0.5"), (1e-12, "1e\N{MINUS SIGN}12"), (12345.0, "12345")]
)
def test_a_bound_has_all_its_digits(bound, text):
    """The code asks for it, and so must the sentence."""
    assert str(Need("accuracy", "it does not fit", above=bound)) == f"accuracy above {text}"
    assert Part("accuracy", below=bound).asks == f"accuracy: below {text}"
    assert Part("accuracy", above=bound, below=2 * bound).asks.startswith(f"accuracy: between {text} and ")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_need_that_is_a_count_says_so(path):
    """A bound of one half, or of one, is about a number of something, but for shares, differences and ratios."""
    for claim in findings.load(path).claims:
        for need in claim.criterion.needs if isinstance(claim.criterion, Criterion) else ():
            if 0.5 in (need.above, need.below) or need.below == 1:
                assert need.of.startswith(("number of", "share of")), need.of
