"""In an update that diverges, channel moments explode with depth (Bjorck et al. 2018, Figure 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy import figures
from bnstudy.findings import Claim, Comparison, Evidence, judge
from bnstudy.frames import number, spread

RATE = 0.003  # the one that is judged, chosen by the loss alone
LAYERS = (8, 44, 80)
RISES = 1e3  # from each of these layers to the next
DIVERGED = 1e3  # mini-batch loss
# ends of the published colour bars
PUBLISHED_MEANS = ((-0.93, 1.46), (-3.9e3, 2.7e3), (-3.1e8, 1.9e8))
PUBLISHED_VARIANCES = (1.0, 5.4e6, 5.6e16)
HEAT_MAP = "cividis"

TITLE = "Channel moments along an update that diverges, without BN"
CAPTION = (
    "The first update of ResNet-110 without BN, which takes the loss above 1000: the step from the initial weights "
    "along the gradient, from none of it (top) to all of it (bottom), on the update's own mini-batch. (a to f) At "
    "learning rate 0.003, mean and variance of each channel of a layer's own output, before the non-linearity, for "
    "the first seed, one column a channel; each panel has its own colours. (g) Size of a channel mean, at layers 8, 44 "
    "and 80 the largest, at every other layer that of the channel whose variance is largest, and (h) largest channel "
    "variance of each layer, before the update and after it, one line a seed; a line that stops has left the range of "
    "32-bit floats. Hollow diamonds: ends of the published colour bars. "
    "Momentum does not count in a first update, and weight decay changes "
    "no weight by more than a millionth of itself. 0.003 is the smallest rate of the paper's grid at which the first "
    "update of every seed diverges, and was chosen by the loss alone; the rate of the published figure is not known, "
    "and the size of the explosion depends on it: 0.01 stands beside."
)
SWEEP = "diverging_update"
NEEDS = {"moments_along_step": "step == 0"}
SIZE = (11.4, 5.6)
CLAIMS = (
    Claim(
        id="8",
        origin="paper",
        where="Section 3, Figure 4",
        scale="init",
        says="In an update that diverges, activation moments explode with depth.",
        criterion="In every seed the largest channel variance after the diverging update rises from layer 8 to 44 to "
        "80 by at least a factor of 1000 each time. In the median over seeds: partly. Judged at the smallest rate of "
        "the paper's grid at which the first update diverges.",
        published="largest variances 1.0, 5.4e6, 5.6e16 at layers 8, 44, 80",
    ),
    Claim(
        id="8-late",
        origin="paper",
        where="Section 3, Figure 4",
        scale="init",
        says="The explosion comes late in the step, and the later the deeper the layer.",
        criterion="Share of the step at which the largest channel variance first reaches a tenth of its value at the "
        "end: in every seed at least 50 % at layer 44, and more at layer 80. In the median over seeds: partly.",
        published="the last 40 % of the step at layer 44, the last 15 % at layer 80 (seen in heat maps)",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    panels = fig.subplot_mosaic([["a", "b", "c", "g"], ["d", "e", "f", "h"]], width_ratios=(1, 1, 1, 1.5))
    every = _diverging(frames)
    rows = every[every["lr"] == RATE]
    seed = int(rows["seed"].min()) if len(rows) else None
    for statistic, letters in (("mean", "abc"), ("variance", "def")):
        for layer, letter in zip(LAYERS, letters, strict=True):
            ax = panels[letter]
            whose = f" (seed {seed})" if letter == "a" else ""
            figures.panel(ax, letter, f"{statistic}s, layer {layer}, at {number(RATE)}{whose}")
            shown = rows[(rows["seed"] == seed) & (rows["depth"] == layer)]
            _heat_map(fig, ax, shown, statistic)
            if letter in "ad":
                ax.set_ylabel("part of the step (%)")
            if statistic == "variance":
                ax.set_xlabel("channel")
    published = [max(map(abs, ends)) for ends in PUBLISHED_MEANS], PUBLISHED_VARIANCES
    titles = {"mean": "a channel mean of each layer", "variance": "largest variance of each layer"}
    for letter, (statistic, title), values in zip("gh", titles.items(), published, strict=True):
        ax, largest = panels[letter], _largest(every, statistic)
        before = largest[(largest["fraction"] == 0) & (largest["lr"] == RATE)]
        _lines(ax, before, statistic, "before the update", figures.MUTED)
        for rate, part in largest[largest["fraction"] == 1].groupby("lr"):
            colour = figures.COLOURS["none"] if rate == RATE else figures.TINTS["none"]
            _lines(ax, part, statistic, f"after it, at {number(float(str(rate)))}", colour)
        figures.diamonds(ax, LAYERS, values, "none", label="published")
        ax.set_yscale("log")
        figures.stages(ax)
        figures.panel(ax, letter, f"{title}, one line a seed")
    panels["g"].set_xlabel("")
    panels["g"].legend(loc="upper left")


def check(frames: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    every = _diverging(frames)
    rows = every[every["lr"] == RATE]
    ends, rises = _ends(rows), _rises(rows)
    late = _at_layers(_onset(_largest(rows)), "onset")
    comes_late = (late[44] >= 0.5) & (late[80] > late[44])
    n = len(ends)
    others = [f"; at {number(rate)} {_told(every[every['lr'] == rate])}" for rate in _rates(every) if rate != RATE]
    return {
        "8": Evidence(
            measured=f"at {number(RATE)} {_told(rows)}{''.join(others)}",
            spread=f"at {number(RATE)} {'; '.join(spread(ends[layer]).range for layer in LAYERS)}; rises by "
            f"{', '.join(spread(rise).range for rise in rises)}",
            n=n,
            verdict=judge(
                n, whole=bool((rises >= RISES).all()), part=all(spread(rise).median >= RISES for rise in rises)
            ),
        ),
        "8-late": Evidence(
            measured=f"from {_percent(late[44].median())} of the step at layer 44, {_percent(late[80].median())} at "
            "layer 80",
            spread=", ".join(f"{_percent(late[layer].min())} to {_percent(late[layer].max())}" for layer in (44, 80)),
            n=n,
            verdict=judge(
                n,
                whole=bool(comes_late.all()),
                part=bool(late[44].median() >= 0.5 and late[80].median() > late[44].median()),
            ),
        ),
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    every = _diverging(frames)
    lines = []
    for rate in _rates(every):
        rows = every[every["lr"] == rate]
        end, at = rows[rows["fraction"] == 1], f"at {number(rate)}"
        for layer, variance, (low, high) in zip(LAYERS, PUBLISHED_VARIANCES, PUBLISHED_MEANS, strict=True):
            here = end[end["depth"] == layer]
            means = [m.to_numpy() for _, m in here.groupby("seed")["mean"]]  # NaN where one overflowed
            lines += [
                _line(f"largest channel variance, layer {layer}, {at}", number(variance), _largest(here)["variance"]),
                _line(f"smallest channel mean, layer {layer}, {at}", number(low), [m.min() for m in means]),
                _line(f"largest channel mean, layer {layer}, {at}", number(high), [m.max() for m in means]),
            ]
        lines.append(_line(f"loss after the update, {at}", "", end.groupby("seed")["loss"].first().fillna(math.inf)))
    start = every[(every["fraction"] == 0) & (every["lr"] == RATE)]
    return [*lines, _line("loss before it", "", start.groupby("seed")["loss"].first())]


def _diverging(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of the runs whose loss is above the bound, or not finite, after the update."""
    rows = frames["moments_along_step"]
    lost = rows[(rows["fraction"] == 1) & ~(rows["loss"] <= DIVERGED)]
    return rows[rows["run_id"].isin(lost["run_id"])]


def _rates(rows: pd.DataFrame) -> list[float]:
    return sorted(rows["lr"].unique())


def _largest(rows: pd.DataFrame, statistic: str = "variance") -> pd.DataFrame:
    """One row a run, layer and fraction: the largest size of the channels' statistic, infinite where one overflowed."""
    keys = ["lr", "seed", "depth", "fraction"]
    sizes = rows[statistic].abs().fillna(math.inf)
    return rows.assign(**{statistic: sizes}).groupby(keys)[statistic].max().reset_index()


def _ends(rows: pd.DataFrame) -> pd.DataFrame:
    """The largest variances at the end of the step of the runs of one rate."""
    return _at_layers(_largest(rows[rows["fraction"] == 1]), "variance")


def _rises(rows: pd.DataFrame) -> np.ndarray:
    """By which factor they rise from layer to layer: (steps, seeds)."""
    ends = _ends(rows)
    with np.errstate(invalid="ignore"):
        rises = np.stack([ends[deeper].to_numpy() / ends[layer].to_numpy() for layer, deeper in pairwise(LAYERS)])
    return np.where(np.isnan(rises), 0, rises)  # of two that overflowed neither is known to be larger


def _onset(largest: pd.DataFrame) -> pd.DataFrame:
    """Columns seed, depth, onset: the first fraction at which the variance is a tenth of its value at the end."""
    keys = ["seed", "depth"]
    end = largest[largest["fraction"] == 1].rename(columns={"variance": "end"})
    both = largest.merge(end[[*keys, "end"]], on=keys, validate="many_to_one")
    reached = both[both["variance"] >= both["end"] / 10]
    return reached.groupby(keys)["fraction"].min().rename("onset").reset_index()


def _at_layers(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """One row a seed, one column a layer of the figure."""
    shown = frame[frame["depth"].isin(LAYERS)]
    return shown.pivot(index="seed", columns="depth", values=value).reindex(columns=list(LAYERS)).astype(float)


def _lines(ax: Axes, largest: pd.DataFrame, statistic: str, label: str, colour: str) -> None:
    for position, (_, line) in enumerate(largest.groupby("seed")):
        finite = line[statistic].replace(math.inf, math.nan)
        ax.plot(line["depth"], finite, color=colour, lw=1, alpha=0.9, label=None if position else label)


def _heat_map(fig: Figure, ax: Axes, rows: pd.DataFrame, statistic: str) -> None:
    ax.grid(False)
    values = rows.pivot(index="fraction", columns="channel", values=statistic)
    values = values.where(np.isfinite(values))
    if values.isna().all(axis=None):
        return
    limit = float(np.nanmax(np.abs(values.to_numpy())))
    half = 50 / (len(values) - 1)
    cmap, low = (figures.SIGNED_MAP, -1) if statistic == "mean" else (HEAT_MAP, 0)
    image = ax.imshow(
        values.to_numpy() / limit, aspect="auto", interpolation="nearest", cmap=cmap, vmin=low, vmax=1,
        extent=(-0.5, values.shape[1] - 0.5, 100 + half, -half),
    )  # fmt: skip
    bar = fig.colorbar(image, ax=ax, location="bottom", shrink=0.9, aspect=24, pad=0.03)
    ticks = sorted({low, 0, 1})
    bar.set_ticks(ticks, labels=[number(tick * limit, 2) for tick in ticks])
    bar.outline.set_visible(False)


def _told(rows: pd.DataFrame) -> str:
    """The medians of one rate's runs."""
    ends = _ends(rows)
    variances = ", ".join(number(spread(ends[layer]).median, 2) for layer in LAYERS)
    return f"{variances} at layers 8, 44, 80 (rises by {', '.join(number(spread(r).median, 2) for r in _rises(rows))})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _line(quantity: str, published: str, ours: Iterable[float]) -> Comparison:
    return Comparison(quantity, "", published, "", str(spread(ours)))
