"""Can BN stand in for dropout where the network overfits?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, accuracies, spread
from bnstudy.analysis.stats import Scale

SHARES = (0.2, 0.5)  # that dropout drops
ARMS = {"none": "none", "batch": "BN", **{f"dropout {p:g}": f"dropout\n{p:g}" for p in SHARES}}
FITTED = 99  # percent of the training images
NUM_IMAGES = 5000
STANDS_IN = Part("test accuracy with BN less with the better dropout", above=-1, unit="points")
FITS = Need(
    "training accuracy in evaluation, the lower of BN and no norm (%)", "the network does not fit its training images",
    above=FITTED,
)  # fmt: skip

TITLE = "BN and dropout where the network overfits"
CAPTION = (
    "LeNet with ReLU on 5,000 images of Fashion-MNIST, as many of each class: 60 epochs, batches of 64, learning rate "
    "0.01 (divided by 10 at 60 and 85 %), momentum 0.9. BN, or dropout of 0.2 or 0.5, before every activation. One dot "
    "a seed, bar: mean with 95 % interval. (a) Training images classified correctly after training, in evaluation; "
    "dotted: the 99 % that BN and no norm need. (b) The 10,000 test images. (c) Test accuracy with BN less that of "
    "no norm and of the better dropout, by seed; dotted: the point by which BN may be behind."
)
SWEEP = "textbook_dropout_overfits"
NEEDS = {"runs": "status in ('completed', 'diverged')", "splits": "split == 'train'"}
SIZE = (10.8, 4.2)
CLAIMS = (
    Claim(
        id="textbook-dropout-overfits",
        origin="course",
        where="Dive into Deep Learning, Batch Normalization, exercises",
        scale="textbook",
        says="Where the network overfits, BN can stand in for dropout.",
        criterion=Criterion(
            (STANDS_IN,),
            needs=(FITS,),
            remark="Of dropout 0.2 and 0.5 the better is the one with the higher mean test accuracy. Training was "
            "lengthened from 40 to 60 epochs after a first look: two seeds had not fitted their images.",
        ),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    fitted, tested, apart = fig.subplots(1, 3)
    runs = _named(frames["runs"])
    _columns(fitted, {arm: _fitted(frames, arm) for arm in ARMS})
    fitted.axhline(FITTED, color=figures.MUTED, lw=1, ls=":")
    fitted.set_ylabel("training images classified correctly (%)")
    _columns(tested, {arm: _tested(runs, arm) for arm in ARMS})
    tested.set_ylabel("test accuracy (%)")
    _columns(apart, {arm: _behind(runs, arm) for arm in ("none", _better(runs))})
    apart.axhline(0, color=figures.MUTED, lw=0.8)
    apart.axhline(-1, color=figures.MUTED, lw=1, ls=":")
    apart.set_ylabel("test accuracy with BN less that arm's (points)")
    titles = ("fit", "test accuracy", "BN less none and the better dropout")
    for ax, title, letter in zip((fitted, tested, apart), titles, "abc", strict=True):
        figures.panel(ax, letter, title)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    whole = {name: frame[frame["num_train"] >= NUM_IMAGES] for name, frame in frames.items()}
    runs = _named(whole["runs"])
    fits = pd.concat([_fitted(whole, arm) for arm in ("none", "batch")], axis=1).min(axis=1, skipna=False)
    values = {STANDS_IN.key: _behind(runs, _better(runs)), FITS.of: fits}
    return {"textbook-dropout-overfits": {key: criteria.single(of) for key, of in values.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _named(frames["runs"])
    lines = []
    for arm, label in ARMS.items():
        for what, of in (("training", _fitted(frames, arm)), ("test", _tested(runs, arm))):
            ours = (DASH, str(spread(of))) if arm == "none" else (str(spread(of)), DASH)
            flat = label.replace("\n", " ")
            lines.append(Comparison(f"{what} accuracy in evaluation (%), {flat}", DASH, DASH, *ours))
    return lines


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies, and `arm`: a key of ARMS."""
    dropped = pd.Series([f"dropout {p:g}" for p in rows["norm_p"].astype(float)], index=rows.index, dtype="string")
    return accuracies(rows).assign(arm=rows["norm"].astype("string").where(rows["norm"] != "dropout", dropped))


def _tested(runs: pd.DataFrame, arm: str) -> pd.Series:
    """Percent by seed."""
    return runs[runs["arm"] == arm].set_index("seed")["test"]


def _fitted(frames: Mapping[str, pd.DataFrame], arm: str) -> pd.Series:
    """Percent of the training images by seed, in evaluation at the end."""
    rows = _named(frames["splits"])
    return 100 * rows[rows["arm"] == arm].set_index("seed")["accuracy"]


def _better(runs: pd.DataFrame) -> str:
    """The dropout with the higher mean test accuracy."""
    return max((f"dropout {p:g}" for p in SHARES), key=lambda arm: _tested(runs, arm).mean())


def _behind(runs: pd.DataFrame, arm: str) -> pd.Series:
    return stats.effect(_tested(runs, "batch"), _tested(runs, arm))


def _columns(ax: Axes, by_arm: Mapping[str, pd.Series]) -> None:
    for place, (arm, values) in enumerate(by_arm.items()):
        colour = figures.COLOURS[arm.partition(" ")[0]]
        figures.seeds(ax, place, values, arm, scale=Scale.plain, colour=colour)
    ax.set_xticks(range(len(by_arm)), [ARMS[arm] for arm in by_arm])
    ax.set_xlim(-0.6, len(by_arm) - 0.4)
