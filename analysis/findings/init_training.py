"""Which initialisers train without BN at 0.0001: the first updates (Bjorck et al. 2018, section 4, appendix F)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, number, spread
from bnstudy.analysis.stats import Scale

INITS = {
    "kaiming_normal": ("Kaiming normal", "-"),
    "xavier_uniform": ("Xavier uniform", (0, (5, 1.6))),
    "xavier_normal": ("Xavier normal", (0, (1.2, 1.2))),
    "torch_default": ("torch's default", (0, (6, 1.6, 1.2, 1.6))),
}
XAVIER = ("xavier_uniform", "xavier_normal")
LATE = 50  # updates, or the last third of a shorter training
GUESS, TRAINED = math.log(10), 2.2  # losses: of a network that guesses; below which one has begun to learn
ZOOM = (2.15, 2.6)
RATIO = Part("first loss with Kaiming normal over the larger of both Xavier", above=1000, scale=Scale.log)
STUCK = Part("mean of the last losses with Kaiming normal", above=TRAINED)
LEARNED = Need(
    "mean of the last losses with the best of the initialisers", "no initialiser began to learn: nothing trained",
    below=TRAINED,
)  # fmt: skip

TITLE = "ResNet-110 without BN at 0.0001, by initialiser: does it begin to train?"
CAPTION = (
    "SGD with momentum 0.9 on mini-batches of 128. A loss above 1000 does not end a run here, one that is not finite "
    "does. (a) Mini-batch loss; geometric mean over the seeds that are still finite (line) and 95 % interval (band). "
    "(b) The same close to a guess's loss, one line a seed, smoothed over ten updates: below the lower line a network "
    "has begun to learn; where no initialiser gets there, nothing is decided. (c) Accuracy on the test images after "
    "the last update, one dot a seed; a run that was not finite has none."
)
SWEEP = "init_training"
NEEDS = {"steps": "depth == 110 and norm == 'none'"}
SIZE = (11.4, 4.0)
CLAIMS = (
    Claim(
        id="16",
        origin="paper",
        where="Section 4, appendix F",
        scale="reduced",
        says="Keeping the variance at initialisation is too weak a condition; the initialisation is the cause of the "
        "explosion.",
        criterion=Criterion(
            (RATIO, STUCK),
            needs=(LEARNED,),
            remark="A network that guesses has a loss of ln 10 = 2.303; to have fallen from 100 to there is not to "
            "have trained. Last losses: of the last 50 updates, or of the last third of a shorter training.",
        ),
        published="values not known",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    left, middle, right = fig.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
    steps = frames["steps"]
    last = int(steps["step"].max())
    finite = steps[np.isfinite(steps["loss"])]
    for init, (label, dashes) in INITS.items():
        part = finite[finite["init"] == init]
        if len(part):
            rows = stats.over_seeds(part.assign(update=part["step"] + 1), ["update"], "loss", Scale.log)
            dot = "o" if len(rows) == 1 else ""
            figures.band(left, rows, "update", "none", label=label, ls=dashes, marker=dot, ms=4, clip_on=not dot)
            for _, line in part.sort_values("step", kind="stable").groupby("seed"):
                smooth = line["loss"].rolling(10, min_periods=1).mean()
                middle.plot(line["step"], smooth, color=figures.COLOURS["none"], ls=dashes, lw=1, alpha=0.8)
    left.legend(loc="upper right", handlelength=2.6)
    left.axhline(GUESS, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)), zorder=1)
    left.set_yscale("log")
    titles = f"loss of the first {last + 1} updates", "the same near the loss of guessing"
    for ax, title, letter in zip((left, middle), titles, "ab", strict=True):
        ax.set_ylabel("loss of the mini-batch")
        figures.panel(ax, letter, title)
    left.set_xscale("log")
    left.set_xlim(0.9, last + 1)
    left.set_xlabel("update (1: the first)")
    middle.set_xlim(0, max(1, last))
    middle.set_xlabel("updates")
    middle.set_ylim(ZOOM)
    for level, name in ((GUESS, "guessing"), (TRAINED, "has begun\nto learn")):
        middle.axhline(level, color=figures.MUTED, lw=0.9, ls=(0, (3, 2)), zorder=1)
        middle.text(1.01, level, name, transform=middle.get_yaxis_transform(), fontsize=7, color=figures.MUTED,
                    ha="left", va="center")  # fmt: skip
    runs = _runs(frames)
    for position, init in enumerate(INITS):
        ended = runs[(runs["init"] == init) & np.isfinite(runs["last"])]
        figures.seeds(right, position, 100 * ended["accuracy"], "none", scale=Scale.plain)
        if len(ended) == 0:
            right.text(position, 11, "not finite", fontsize=7, color=figures.MUTED, ha="center", va="bottom")
    right.axhline(10, color=figures.MUTED, lw=0.9, ls=figures.DASHED, zorder=1)
    right.set_xticks(range(len(INITS)), [label.replace(" ", "\n") for label, _ in INITS.values()])
    right.set_xlim(-0.5, len(INITS) - 0.5)
    right.set_ylim(bottom=0)
    right.set_ylabel("test accuracy (%); dashed: chance")
    right.grid(False, axis="x")
    figures.panel(right, "c", "accuracy after the last update")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = _runs(frames)
    first, last = (runs.pivot(index="seed", columns="init", values=name).reindex(columns=list(INITS))
                   for name in ("first", "last"))  # fmt: skip
    ratio = first["kaiming_normal"] / first[list(XAVIER)].max(axis=1, skipna=False)
    values = {RATIO.key: ratio, STUCK.key: last["kaiming_normal"], LEARNED.of: last.min(axis=1)}
    return {"16": {key: criteria.single(of) for key, of in values.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _runs(frames)
    lines = []
    for init, (label, _) in INITS.items():
        part = runs[runs["init"] == init]
        lines.append(Comparison(f"first loss, {label}", "", "", DASH, str(spread(part["first"]))))
        lines.append(Comparison(f"mean of the last losses, {label}", "", "", DASH, str(spread(part["last"]))))
        ended = 100 * part.loc[np.isfinite(part["last"]), "accuracy"]
        lines.append(Comparison(f"test accuracy at the end (%), {label}", "", "", DASH, str(spread(ended))))
        lines.append(Comparison(f"outcome, {label}", "", "", DASH, _outcomes(part)))
    return lines


def _runs(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per run: first loss, mean of the last ones (infinite where one is not finite), test accuracy at the end."""
    num_steps = frames["steps"]["step"].max() + 1
    late = min(LATE, math.ceil(num_steps / 3))
    lines = []
    for (init, seed), part in frames["steps"].groupby(["init", "seed"]):
        losses = part.sort_values("step", kind="stable")["loss"]
        finite = len(losses) == num_steps and bool(np.isfinite(losses).all())
        last = float(losses.tail(late).mean()) if finite else math.inf
        lines.append((init, seed, losses.iloc[0], last, part["final_test_accuracy"].iloc[0]))
    return pd.DataFrame(lines, columns=["init", "seed", "first", "last", "accuracy"])


def _outcomes(part: pd.DataFrame) -> str:
    """How many seeds ended how."""
    ended = np.select(
        [~np.isfinite(part["last"]), part["last"] < TRAINED], ["not finite", "has begun to learn"], "guesses"
    )
    counts = pd.Series(ended).value_counts()
    return ", ".join(f"{name} in {number(count)}" for name, count in counts.items()) or DASH
