"""BN taken out where it does nothing of its own: folded in evaluation; and the biases before it dropped."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import figures
from bnstudy.analysis.findings import Comparison, Evidence, claim, judge
from bnstudy.analysis.frames import DASH, number, spread
from bnstudy.analysis.stats import Scale

EXERCISE = "Dive into Deep Learning, Batch Normalization, exercises"
LIMIT = 1e-5
# Change and mode, and how they are called.
CHANGES = {
    ("folded", "evaluation"): "BN folded,\nin evaluation",
    ("unbiased", "training"): "biases dropped,\nin training",
    ("unbiased", "evaluation"): "biases dropped,\nin evaluation",
}
STARTED = {False: "untrained", True: "trained"}

TITLE = "BN folded away, and the biases before BN dropped"
CAPTION = (
    "LeNet with BN on Fashion-MNIST, torch's initialisation, before training and after one epoch at learning rate 1; "
    "256 training images; one dot a seed, bar: geometric mean with 95 % interval. Largest change of a logit over the "
    "largest logit, when each BN is folded into the layer before it, and when the biases before BN are dropped. In "
    "evaluation the running means still hold what the biases gave: there dropping them is felt. Dashed: 0.00001, what "
    "counts as equal."
)
SWEEP = "textbook_folding"
NEEDS = {"folding": "norm == 'batch' and num_layers == 4"}
SIZE = (9.6, 4.0)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    rows = _rows(frames)
    axes = fig.subplots(1, 2, sharey=True)
    for ax, precision, letter in zip(axes, ("float32", "float64"), "ab", strict=True):
        for place, change in enumerate(CHANGES):
            for trained, offset in ((False, -0.2), (True, 0.2)):
                values = _of(rows, change, precision, trained)
                figures.seeds(ax, place + offset, values.clip(lower=1e-17), "batch", spacing=0.04,
                              scale=Scale.log)  # fmt: skip
                style = (STARTED[trained], (place + offset, 0.0), (0, 3))
                ax.annotate(*style, xycoords=("data", "axes fraction"), textcoords="offset points", ha="center",
                            fontsize=7, color=figures.MUTED)  # fmt: skip
        ax.axhline(LIMIT, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)))
        ax.set_yscale("log")
        ax.set_ylim(1e-18, 10)
        ax.set_xticks(range(len(CHANGES)), list(CHANGES.values()))
        ax.set_xlim(-0.5, len(CHANGES) - 0.5)
        ax.grid(False, axis="x")
        figures.panel(ax, letter, f"in {precision}")
    axes[0].set_ylabel("largest change of a logit,\nover the largest logit")


@claim(
    id="textbook-folding-1",
    origin="course",
    where="Jacob et al. (2018), section 3.2",
    scale="textbook",
    says="In evaluation BN can be folded into the layer before it, and the network computes the same.",
    criterion="LeNet's four BN layers folded, in float32: no logit changes by more than 0.00001 of the largest, at "
    "every seed, before and after training (reproduced); before or after it (partly).",
)
def folded(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    rows, change = _rows(frames), ("folded", "evaluation")
    before, after = (_equal(rows, change, "float32", trained) for trained in (False, True))
    return _evidence(rows, change, full=before and after, partial=before or after)


@claim(
    id="textbook-folding-2",
    origin="course",
    where=EXERCISE,
    scale="textbook",
    says="A bias before BN is superfluous: in training the network computes the same without it.",
    criterion="The biases of the four layers before BN dropped, in training mode, in float32: no logit changes by "
    "more than 0.00001 of the largest, at every seed, before and after training (reproduced); in float64 alone "
    "(partly; this clause was added after a first run).",
)
def unbiased(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    rows, change = _rows(frames), ("unbiased", "training")
    full, partial = (
        all(_equal(rows, change, precision, trained) for trained in (False, True))
        for precision in ("float32", "float64")
    )
    return _evidence(rows, change, full=full, partial=partial)


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    rows = _rows(frames)
    return [
        Comparison(
            f"relative change of logits, {label.replace(chr(10), ' ')}, {STARTED[trained]}, {precision}",
            DASH,
            DASH,
            str(spread(_of(rows, change, precision, trained))),
            DASH,
        )
        for change, label in CHANGES.items()
        for precision in ("float32", "float64")
        for trained in STARTED
    ]


def _rows(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return frames["folding"].assign(trained=frames["folding"]["step"] > 0)


def _of(rows: pd.DataFrame, change: tuple[str, str], precision: str, trained: bool) -> pd.Series[float]:
    """One difference per seed."""
    chosen = (rows["change"] == change[0]) & (rows["mode"] == change[1]) & (rows["precision"] == precision)
    return rows[chosen & (rows["trained"] == trained)].set_index("seed")["difference"]


def _equal(rows: pd.DataFrame, change: tuple[str, str], precision: str, trained: bool) -> bool:
    """At every seed; what is not a number is not equal."""
    return bool((_of(rows, change, precision, trained) <= LIMIT).all())


def _evidence(rows: pd.DataFrame, change: tuple[str, str], *, full: bool, partial: bool) -> Evidence:
    samples = {(p, t): _of(rows, change, p, t) for p in ("float32", "float64") for t in STARTED}
    n = min(values.index.nunique() for values in samples.values())
    return Evidence(
        "at most "
        + ", ".join(f"{number(samples['float32', t].max())} {told}" for t, told in STARTED.items())
        + " in float32",
        f"in float64 at most {number(max(samples['float64', t].max() for t in STARTED))}",
        n,
        judge(n, full=full, partial=partial),
    )
