"""Brackets of the largest rate that trains: what outcomes give, what is tried next, and that any cut can go on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnstudy.analysis import bracket
from bnstudy.analysis.bracket import DIVERGED, STALLED, TRAINED, Bracket
from bnstudy.store.outcomes import CHANCE, LEARNS, PARTIAL

GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
LETTERS = {"t": TRAINED, "s": STALLED, "d": DIVERGED, "l": LEARNS, "c": CHANCE, "p": PARTIAL}
edges = st.floats(-5, 1).map(lambda exponent: 10**exponent)
factors = st.floats(1.05, 3)
islands = st.lists(st.sampled_from(GRID), max_size=3)


def outcomes(letters: str) -> dict[float, str]:
    return dict(zip(GRID, (LETTERS[letter] for letter in letters), strict=False))


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("ttttttttd", Bracket(0.3, 1.0)),
        ("ttttttttt", Bracket(1.0, None)),
        ("ddddddddd", Bracket(None, 1e-4)),
        ("sssssssss", Bracket(None, None)),
        ("sssttsddd", Bracket(1e-2, 3e-2)),  # too small, trains, too large
        ("ssstsdddd", Bracket(3e-3, 1e-2)),
        ("stttdtdtd", Bracket(3e-3, 1e-2, (3e-2, 0.3))),
        ("sdttttttt", Bracket(None, 3e-4, GRID[2:])),  # diverging is not what too small a rate does
        ("", Bracket(None, None)),
        ("cclllcccc", Bracket(1e-2, 3e-2)),  # by losses: too small, learns, too large and never diverges
        ("cclllcddd", Bracket(1e-2, 3e-2)),
        ("cclclcddd", Bracket(1e-3, 3e-3, (1e-2,))),
        ("llllddddd", Bracket(3e-3, 1e-2)),
        ("ccccddddd", Bracket(3e-3, 1e-2, finite=True)),  # nothing learns: where it ceases to be finite
        ("ccccccccc", Bracket(1.0, None, finite=True)),
        ("ccdcddddd", Bracket(3e-4, 1e-3, (3e-3,), finite=True)),
        ("cdlllcccc", Bracket(None, 3e-4, GRID[2:5])),
        ("pcllldddd", Bracket(1e-2, 3e-2)),  # too few losses: not known to learn
    ],
)
def test_outcomes_give_their_bracket(letters: str, expected: Bracket) -> None:
    assert bracket.of(outcomes(letters)) == expected


def oracle(edge: float, small: float = 0.0, also: list[float] | None = None) -> Callable[[float], str]:
    """Trains from `small` to `edge`, and at the rates `also`."""

    def outcome(rate: float) -> str:
        if rate <= edge or rate in (also or []):
            return STALLED if rate < small else TRAINED
        return DIVERGED

    return outcome


@given(edges, factors, islands)
def test_the_edge_lies_in_a_bracket_as_narrow_as_asked_for(edge: float, factor: float, also: list[float]) -> None:
    truth = oracle(edge, also=also)
    tried = bracket.search(GRID, factor, truth)
    assert tried == {rate: truth(rate) for rate in tried} and tuple(tried)[: len(GRID)] == GRID
    found = bracket.of({rate: str(outcome) for rate, outcome in tried.items()})
    first_bad = next((rate for rate in GRID if truth(rate) != TRAINED), None)
    again = tuple(rate for rate in GRID if first_bad and rate > first_bad and truth(rate) == TRAINED)
    assert found.non_monotone == again
    if first_bad is None:
        assert found == Bracket(GRID[-1], None) and len(tried) == len(GRID)
    elif first_bad == GRID[0]:
        assert found.low is None and len(tried) == len(GRID)
    else:
        assert found.low is not None and found.high is not None and found.high / found.low <= factor
        assert truth(found.low) == TRAINED and truth(found.high) != TRAINED
        if found.low not in also:
            assert found.low <= edge < found.high
        # Every run more halves the logarithm of the bracket; rounding to three digits may cost one.
        assert len(tried) - len(GRID) <= math.ceil(math.log2(math.log(10 / 3 + 0.01) / math.log(factor))) + 1


@given(edges, edges, factors)
def test_rates_too_small_to_train_do_not_matter(edge: float, small: float, factor: float) -> None:
    if not any(small <= rate <= edge for rate in GRID):
        return
    with_small = bracket.search(GRID, factor, oracle(edge, small))
    assert with_small.keys() == bracket.search(GRID, factor, oracle(edge)).keys()


def by_losses(small: float, learns: float, finite: float) -> Callable[[float], str]:
    """At chance below `small` and from `learns` to `finite`, from where it diverges."""

    def outcome(rate: float) -> str:
        if rate > max(finite, learns):
            return DIVERGED
        return LEARNS if small <= rate <= learns else CHANCE

    return outcome


@given(edges, edges, edges, factors, st.integers(0, 30))
def test_by_losses_the_edge_of_learning_is_found_or_that_of_being_finite(
    small: float, learns: float, finite: float, factor: float, cut: int
) -> None:
    truth = by_losses(small, learns, finite)
    whole = bracket.search(GRID, factor, truth)
    found = bracket.of({rate: str(outcome) for rate, outcome in whole.items()})
    edge = max(finite, learns) if found.finite else learns
    assert found.finite == (LEARNS not in whole.values() and CHANCE in whole.values())
    assert found.low is None or found.low <= edge
    assert found.high is None or found.high > edge
    assert found.low is None or found.high is None or found.high / found.low <= factor
    assert (found.low is None) == (truth(GRID[0]) == DIVERGED)
    known = dict(list(whole.items())[:cut])  # and any cut goes on to the same end
    while None in (tried := bracket.search(GRID, factor, known.get)).values():
        at_least, at_most = bracket.still(tried, factor)
        assert at_least <= len(whole) - len(tried) <= at_most
        known |= {rate: truth(rate) for rate, outcome in tried.items() if outcome is None}
    assert tried == whole


@given(edges, factors, islands, st.integers(0, 30))
def test_a_search_that_was_cut_goes_on_to_the_same_end(edge: float, factor: float, also: list[float], cut: int) -> None:
    truth = oracle(edge, also=also)
    whole = bracket.search(GRID, factor, truth)
    known = dict(list(whole.items())[:cut])
    rounds = 0
    while None in (tried := bracket.search(GRID, factor, known.get)).values():
        at_least, at_most = bracket.still(tried, factor)
        left = len(whole) - len(tried)
        assert at_least <= left <= at_most
        asked = [rate for rate, outcome in tried.items() if outcome is None]
        assert len(asked) == 1 or set(asked) <= set(GRID)
        known |= {rate: truth(rate) for rate in asked}
        rounds += 1
    assert tried == whole and bracket.still(tried, factor) == (0, 0)
    assert rounds <= len(whole) - len(GRID) + 1


@given(edges, factors)
def test_what_is_tried_has_three_digits(edge: float, factor: float) -> None:
    for rate in bracket.search(GRID, factor, oracle(edge)):
        assert float(f"{rate:.3g}") == rate


def test_words() -> None:
    told = [Bracket(0.1, 0.125), Bracket(0.1, 0.125, (1.0, 3.0)), Bracket(1.0, None), Bracket(None, 0.1)]
    assert [str(each) for each in (*told, Bracket(0.1, 0.125, finite=True))] == [
        "0.1 to 0.125", "0.1 to 0.125 (again at 1, 3)", "at or above 1", "none of those tried",
        "0.1 to 0.125; none learns, finite",
    ]  # fmt: skip
