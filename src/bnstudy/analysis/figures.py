"""How figures look: one colour per arm everywhere, n in the header, a mark of synthetic data, same bytes each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox

from bnstudy.analysis import stats
from bnstudy.analysis.frames import ARMS, Origin, arms
from bnstudy.analysis.stats import Interval, Scale
from bnstudy.store import files

NORMS = {  # of every norm, the same in every figure (after Tol's muted palette, none of it near the two arms)
    "batch": "#1F5C99", "none": "#D9661F", "frozen": "#6699CC", "batch_scratch": "#882255", "batch_renorm": "#AA4499",
    "group": "#117733", "layer": "#999933", "instance": "#44AA99", "whitening": "#332288",
    "probability_integral": "#661100", "dropout": "#888888", "ghost_batch": "#1F5C99", "noisy_batch": "#7A4FA3",
}  # fmt: skip
OTHER = "#7A4FA3"  # an arm that is neither
OWN = (OTHER, "#117733", "#882255", "#44AA99", "#999933", "#332288", "#AA4499", "#661100")  # of norms not known here


class _Arms(dict[str, str]):
    """What is known of the two arms that the paper compares, and a rule for any other norm."""

    def __init__(self, known: Mapping[str, str], other: Callable[[str], str]) -> None:
        super().__init__(known)
        self._other = other

    def __missing__(self, arm: str) -> str:
        return self._other(arm)


def _colour(arm: str) -> str:
    """The colour of a norm follows from its name, so that it is the same in every figure."""
    return NORMS.get(arm) or OWN[sum(arm.encode()) % len(OWN)]


def _tint(arm: str) -> str:
    red, green, blue = to_rgb(_colour(arm))
    return to_hex((0.7 + 0.3 * red, 0.7 + 0.3 * green, 0.7 + 0.3 * blue))


COLOURS = _Arms({arm: NORMS[arm] for arm in ("batch", "none")}, _colour)  # blue and orange: distinct for every eye
TINTS = _Arms({"batch": "#BCD3EA", "none": "#F7D2B8"}, _tint)  # the range over seeds, and bars
LABELS = _Arms({"batch": "with BN", "none": "without BN"}, str)
PLACES: Mapping[str, tuple[str, str, Any]] = {  # where BN sits (`frames.placed`): label, colour, dashes
    "*": ("everywhere", COLOURS["batch"], "-"),
    "before_pooling": ("before the pooling", "#6A3D9A", (0, (5, 1.6))),
    "after_classifier": ("after the classifier", "#B0568F", (0, (1.2, 1.2))),
    "stage1.*": ("in stage 1", "#A3A34A", (0, (6, 1.6, 1.2, 1.6))),
    "stage2.*": ("in stage 2", "#5E8F73", (0, (6, 1.6, 1.2, 1.6))),
    "stage3.*": ("in stage 3", "#12665A", (0, (6, 1.6, 1.2, 1.6))),
    "none": ("nowhere", COLOURS["none"], "-"),
}
DASHED: Any = (0, (3, 2))  # a level to compare with
INK, MUTED, FAINT, ALARM = "#1B1F24", "#5B6470", "#D5D9DF", "#B3261E"
SIGNED_MAP = "PRGn"  # heat maps around zero: neither end is the colour of an arm
SYNTHETIC_MARK = "SYNTHETIC DATA"
STAGES = ((2, 37), (38, 73), (74, 109))  # ResNet-110: weight layers of its stages of 16, 32 and 64 channels

HEADER_IN = 0.56  # height of title and subtitle
_DPI = 200
_DECIMALS = 6  # of positions, as fractions of the figure


@contextmanager
def style(mplstyle: Path) -> Iterator[None]:
    """The project's look. Identifiers in SVG files are salted with a constant, so that they repeat.

    Raises ValueError if the style file is missing.
    """
    if not mplstyle.exists():
        raise ValueError(f"{mplstyle} is missing: the style file belongs to the repository")
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.style.use(mplstyle)
        mpl.rcParams["svg.hashsalt"] = "bnstudy"
        yield


def new(size: tuple[float, float], title: str, subtitle: str, *, synthetic: bool) -> Figure:
    """An empty figure of `size` inches under a header; synthetic data is marked in the header and across the panels."""
    width, height = size
    fig = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(fig)
    engine: Any = fig.get_layout_engine()
    engine.set(rect=(0, 0, 1, 1 - HEADER_IN / height), w_pad=0.05, h_pad=0.06, wspace=0.03, hspace=0.04)
    top = 1 - 0.06 / height
    fig.text(0.06 / width, top, title, fontsize=11.5, fontweight="bold", va="top", color=INK)
    fig.text(0.06 / width, top - 0.23 / height, subtitle, fontsize=8.5, va="top", color=MUTED)
    if synthetic:
        alarm: dict[str, Any] = {"s": SYNTHETIC_MARK, "color": ALARM, "fontweight": "bold"}
        fig.text(1 - 0.08 / width, top, fontsize=11.5, ha="right", va="top", **alarm)
        fig.text(0.5, 0.45, fontsize=44, ha="center", va="center", alpha=0.1, rotation=18, **alarm)
    return fig


def panel(ax: Axes, letter: str, title: str) -> None:
    """A panel's letter and what it shows, flush left."""
    ax.set_title(f"$\\mathbf{{{letter}}}$  {title}", loc="left")


def band(ax: Axes, frame: pd.DataFrame, x: str, arm: str, *, label: str | None = None, **line: Any) -> None:
    """The mean over seeds as a line, its 95 % interval as a band: columns x, mean, low, high (`stats.over_seeds`)."""
    rows = frame.sort_values(x, kind="stable")
    ax.fill_between(rows[x], rows["low"], rows["high"], color=COLOURS[arm], alpha=0.22, linewidth=0)
    ax.plot(rows[x], rows["mean"], color=COLOURS[arm], label=LABELS[arm] if label is None else label, **line)


def whiskers(
    ax: Axes,
    frame: pd.DataFrame,
    x: str,
    arm: str,
    *,
    label: str | None = None,
    shift: float = 0,
    factor: float = 1,
    colour: str = "",
    **line: Any,
) -> None:
    """As `band`, with a bar at each place in place of the band, for lines whose bands would lie on one another.

    They stand side by side: `shift` is added to x, and on a logarithmic axis x is multiplied by `factor`. `colour`:
    instead of the arm's.
    """
    rows, colour = frame.sort_values(x, kind="stable"), colour or COLOURS[arm]
    at = (rows[x] + shift) * factor
    ax.vlines(at, rows["low"], rows["high"], color=colour, lw=1.1, alpha=0.75)
    style: dict[str, Any] = {"marker": "o", "ms": 3.4, "mew": 0, **line}
    ax.plot(at, rows["mean"], color=colour, label=LABELS[arm] if label is None else label, **style)


def plain_log(ax: Axes, which: str = "y") -> None:
    """A logarithmic axis ("x" or "y") over few decades: ticks at 1, 3, 10, 30, ..., written out.

    Over many, as the interval of two seeds may take, at powers of ten.
    """
    ax.set(**{f"{which}scale": "log"})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(_OnesAndThrees())
    axis.set_major_formatter(lambda value, position: f"{value:g}")
    axis.set_minor_locator(NullLocator())


class _OnesAndThrees(LogLocator):
    """matplotlib's has no ticks at all where these would be too many."""

    def __init__(self) -> None:
        super().__init__(subs=(1, 3))

    def tick_values(self, vmin: float, vmax: float) -> Any:
        powers = LogLocator()
        powers.set_axis(self.axis)  # whose length says how many there may be
        found = super().tick_values(vmin, vmax)
        return found if len(found) else powers.tick_values(vmin, vmax)


def diamonds(ax: Axes, x: Any, y: Any, arm: str, *, label: str | None = None, errors: Any = None) -> None:
    """Published values: hollow diamonds in the arm's colour, with the paper's error bars where it has them."""
    ax.errorbar(
        x, y, yerr=errors, fmt="D", color=COLOURS[arm], ms=4.6, mfc="white", mec=COLOURS[arm], mew=1.2,
        ecolor=COLOURS[arm], elinewidth=0.9, capsize=2, zorder=5, label=label,
    )  # fmt: skip


def entry(label: str, marker: str = "", *, filled: bool = True, colour: str = MUTED, **line: Any) -> Line2D:
    """A legend entry for what a mark ("o", "D", ...) or a kind of line means, by default in the grey of no arm.

    `line`: how the line is drawn; a mark has none unless it is given.
    """
    look: dict[str, Any] = {"ls": "" if marker else "-", "ms": 4.2, "mew": 1.1, **line}
    return Line2D([], [], color=colour, marker=marker, mfc=colour if filled else "white", label=label, **look)


def arm_entries(of: Iterable[str] = ARMS, marker: str = "", **line: Any) -> list[Line2D]:
    """A legend entry for each of these arms."""
    return [entry(LABELS[arm], marker, colour=COLOURS[arm], **line) for arm in of]


def beside(frame: pd.DataFrame, reach: float) -> Iterator[tuple[float, tuple[str, pd.DataFrame]]]:
    """Each arm with its rows, and how far aside of a place it stands: from -`reach` to `reach`; one alone does not."""
    there = arms(frame)
    aside = np.linspace(-reach, reach, len(there)) if len(there) > 1 else np.zeros(len(there))
    return zip(aside.tolist(), there.items(), strict=True)


def headroom(ax: Axes, share: float) -> None:
    """Raises the y axis until this share of the panel is free above what it showed: room for a legend."""
    scale = ax.yaxis.get_transform()
    low, high = scale.transform(np.array(ax.get_ylim()))
    ax.set_ylim(top=float(scale.inverted().transform(low + (high - low) / (1 - share))))


def diverged(ax: Axes, lost: pd.DataFrame, x: str = "lr") -> None:
    """How many runs diverged at each `x`: a row of numbers per arm, in a strip below the 0 of a linear y axis.

    They have no accuracy at which a mark could stand. `lost`: a row per run, columns norm and `x`. To be called when
    everything else is drawn.
    """
    ax.set_ylim(bottom=0)
    if lost.empty:
        return
    top = ax.get_ylim()[1]
    ticks = [tick for tick in ax.get_yticks() if 0 <= tick <= top]
    row = 0.06 * top
    lines = dict.fromkeys([*ARMS, *arms(lost)])
    for place, arm in enumerate(lines):
        y = -(0.6 + place) * row
        counts = lost.loc[lost["norm"] == arm, x].value_counts(sort=False)
        for at, count in zip(counts.index.to_numpy(), counts.to_numpy(), strict=True):
            ax.text(at, y, str(count), color=COLOURS[arm], fontsize=7, ha="center", va="center")
    ax.axhline(0, color=MUTED, lw=0.7, zorder=1)
    ax.set_yticks([-(0.1 + len(lines) / 2) * row, *ticks], ["diverged", *(f"{tick:g}" for tick in ticks)])
    ax.set_ylim(-(0.2 + len(lines)) * row, top)


def effect_entries(where: str) -> list[Line2D]:
    """Legend entries for the marks of `effects`; `where`: the panel."""
    return [
        entry(f"training accuracy {where}", "o", colour=INK, ls="-", lw=1.2),
        entry(f"test accuracy {where}", "o", filled=False, colour=INK, ls="-", lw=1.2),
    ]


def effects(ax: Axes, by_effect: Mapping[str, Mapping[str, Interval]]) -> None:
    """Means with intervals, an effect a row: of each, "train" (filled) and "test" (hollow)."""
    for row, of in enumerate(by_effect.values()):
        for side, shift, face in (("train", -0.13, INK), ("test", 0.13, "white")):
            y = row + shift
            if of[side].n > 1:
                ax.plot([of[side].low, of[side].high], [y, y], color=INK, lw=1.2)
            ax.plot([of[side].mean], [y], "o", color=INK, mfc=face, ms=4.5, mew=1.1)
    ax.axvline(0, color=MUTED, lw=0.9)
    ax.set_yticks(range(len(by_effect)), list(by_effect))
    ax.set_ylim(len(by_effect) - 0.5, -0.5)
    ax.set_xlabel("points of accuracy")


def seeds(
    ax: Axes,
    x: float,
    values: Any,
    arm: str,
    *,
    scale: Scale,
    spacing: float = 0.05,
    colour: str = "",
    interval: bool = True,
    hollow: Any = None,
) -> None:
    """A dot per seed, side by side around `x`, and a bar at their mean on the scale, with its 95 % interval (without
    `interval`, the bar alone). Many seeds take no more room than eight. `colour`: instead of the arm's. `hollow`: which
    of the values have hollow dots."""
    values = pd.Series(values, dtype=float)
    there = values.notna().to_numpy()
    open_dots = np.zeros(there.sum(), dtype=bool) if hollow is None else np.asarray(hollow, dtype=bool)[there]
    values = values.to_numpy()[there]
    if len(values) == 0:
        return
    colour = colour or COLOURS[arm]
    spacing = min(spacing, 7 * spacing / max(1, len(values) - 1))
    offsets = [(i - (len(values) - 1) / 2) * spacing for i in range(len(values))]
    ax.plot([x + o for o in offsets], values, "o", color=colour, ms=4 if len(values) < 12 else 2.6, mew=0, alpha=0.85,
            zorder=4)  # fmt: skip
    if open_dots.any():
        at = x + np.array(offsets)[open_dots]
        ax.plot(at, values[open_dots], "o", color=colour, mfc="white", ms=4.4, mew=1, zorder=5)
    half = max(0.13, spacing * len(values) / 2)
    of = stats.interval(values, scale)
    if interval and of.n > 1:
        ax.fill_between([x - half, x + half], of.low, of.high, color=colour, alpha=0.25, lw=0, zorder=2)
    ax.plot([x - half, x + half], [of.mean] * 2, color=colour, lw=2, solid_capstyle="butt", zorder=3)


def estimate(ax: Axes, x: float, of: Interval, colour: str, *, filled: bool = True, ms: float = 5) -> None:
    """A mean over seeds as a dot with its 95 % interval."""
    if of.n > 1:
        ax.plot([x, x], [of.low, of.high], color=colour, lw=1.3, zorder=6)
    ax.plot([x], [of.mean], "o", color=colour, mfc=colour if filled else "white", ms=ms, mew=1.1, zorder=7)


def stages(ax: Axes) -> None:
    """Where the stages of ResNet-110 begin; x is the weight layer: 1 the stem, 110 the classifier."""
    for first, _ in STAGES[1:]:
        ax.axvline(first - 0.5, color=FAINT, lw=0.8, zorder=0)
    ax.set_xlim(0, 112)
    ax.set_xticks([1, 18, 37, 54, 73, 90, 110])
    ax.set_xlabel("weight layer")
    ax.grid(False, axis="x")


def save(fig: Figure, folder: Path, name: str, title: str, origin: Origin) -> list[Path]:
    """`name.svg` and `name.png`, each with commits, data and number of runs in its metadata, and no date."""
    behind = f"{origin.num_runs} runs; commit {origin.commit_label or 'unknown'}; data {origin.data_label or 'none'}"
    about = {"Title": title, "Description": behind}
    _settle(fig)
    svg, png = (folder / each for each in names(name))
    fig.dpi = _DPI
    with files.replacing(svg) as part:
        FigureCanvasSVG(fig).print_svg(part, metadata={**about, "Creator": "bnstudy", "Date": None})
    fig.dpi = _DPI  # of an SVG it is 72
    with files.replacing(png) as part:
        FigureCanvasAgg(fig).print_png(part, metadata={**about, "Software": "bnstudy"})
    return [svg, png]


def _settle(fig: Figure) -> None:
    """Lay out once for both files: `savefig` would draw twice for each, the first time to lay out.

    The layout's solver adds in the order in which its variables lie in memory, so the last bits of its positions differ
    from process to process, and with them the identifiers in the SVG. They are rounded off, to 0.00001 inches.
    """
    for axis in (axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)):
        if not axis.get_label_text():
            axis.set_label_coords(0, 0)  # otherwise its ticks are measured at every drawing, to place nothing
    engine: Any = fig.get_layout_engine()
    engine.execute(fig)
    fig.set_layout_engine("none")
    for part in fig.subfigs:
        part.bbox_relative.set_points(np.round(part.bbox_relative.get_points(), _DECIMALS))
    for ax in fig.axes:
        ax.set_position(Bbox(np.round(ax.get_position(original=True).get_points(), _DECIMALS)))


def names(name: str) -> tuple[str, str]:
    """The files that `save` writes."""
    return f"{name}.svg", f"{name}.png"
