"""In an update that diverges, channel moments explode with depth (Bjorck et al. 2018, Figure 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import number, spread
from bnstudy.analysis.stats import Scale

LAYERS = (8, 44, 80)
RISES = 1e3  # from each of these layers to the next
NEAR = 10  # a factor
DIVERGED = 1e3  # mini-batch loss
# ends of the published colour bars
PUBLISHED_MEANS = ((-0.93, 1.46), (-3.9e3, 2.7e3), (-3.1e8, 1.9e8))
PUBLISHED_VARIANCES = (1.0, 5.4e6, 5.6e16)
HEAT_MAP = "cividis"

MATCHED = PUBLISHED_VARIANCES[-1]  # of layer 80, which sets the rate
RISE = {
    (8, 44): Part("largest variance over that of the earlier layer", above=RISES, scale=Scale.log, at="layer 44"),
    (44, 80): Part("largest variance over that of the earlier layer", above=RISES, scale=Scale.log, at="layer 80"),
}
LEVEL = {
    layer: Part("largest variance over the published one", above=1 / NEAR, below=NEAR, scale=Scale.log,
                at=f"layer {layer}")
    for layer in LAYERS[:-1]
}  # fmt: skip
ONSET = Part("share of the step before layer 44 explodes", above=0.5)
LATER = Part("by how much later layer 80 does, as a share of the step", above=0)

TITLE = "Channel moments along an update that diverges, without BN"
CAPTION = (
    "The first update of ResNet-110 without BN, from the initial weights along the gradient, on the update's own "
    "mini-batch. The rate of the published figure is not known, and the size of the explosion depends on it: in each "
    "seed it is the rate at which layer 80's largest channel variance is the published 5.6e16, found along the step at "
    "0.01 (a first update at a smaller rate is a part of it: momentum does not count yet); a seed that does not get "
    "there by 0.01 is left out, (i) says of how many. (a to f) Mean and variance of each channel of a layer's own "
    "output, before the non-linearity, from none of that step (top) to all of it (bottom), first seed; each panel has "
    "its own colours. (g) Size of the largest channel mean and (h) the largest variance of every sixth layer, before "
    "the step and after it, one line a seed (g shows at other layers than 8, 44 and 80 the channel whose variance is "
    "largest); dots: geometric means with 95 % intervals. Hollow diamonds: ends of the published colour bars. (i) The "
    "rates that match, one dot a seed, bar: geometric mean with 95 % interval. (j) The part of the step at which a "
    "tenth of the last variance is reached, one dot a seed, bar: mean with 95 % interval."
)
SWEEP = "diverging_update"
NEEDS = {"moments_along_step": "step == 0"}
SIZE = (12.6, 5.8)
ASKED = "Largest variances of the channels, at the rate at which that of layer 80 is the published 5.6e16."
LATER_THAN_DATA = "Laid down when the tables were there; before, the rate was the smallest of a grid that diverges."
CLAIMS = (
    Claim(
        id="8",
        origin="paper",
        where="Section 3, Figure 4",
        scale="init",
        says="In an update that diverges, activation moments explode with depth.",
        criterion=Criterion(
            tuple(RISE.values()),
            partial=1,
            remark=f"{ASKED} The product of the two is thus given by layer 8; what is tested is that both have their "
            f"share. {LATER_THAN_DATA}",
        ),
        published="largest variances 1.0, 5.4e6, 5.6e16 at layers 8, 44, 80",
    ),
    Claim(
        id="8-levels",
        origin="paper",
        calibrated="the variance of layer 80, which sets the rate",
        where="Section 3, Figure 4",
        scale="init",
        says="With the rate set so that layer 80 is as published, layers 8 and 44 are, too.",
        criterion=Criterion(tuple(LEVEL.values()), partial=1, remark=f"{ASKED} {LATER_THAN_DATA}"),
        published="largest variances 1.0 and 5.4e6 at layers 8 and 44",
    ),
    Claim(
        id="8-late",
        origin="paper",
        where="Section 3, Figure 4",
        scale="init",
        says="The explosion comes late in the step, and the later the deeper the layer.",
        criterion=Criterion(
            (ONSET, LATER),
            partial=1,
            remark=f"A layer explodes where a tenth of its last variance is reached. {ASKED} {LATER_THAN_DATA}",
        ),
        published="the last 40 % of the step at layer 44, the last 15 % at layer 80 (seen in heat maps)",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    panels = fig.subplot_mosaic([["a", "b", "c", "g", "i"], ["d", "e", "f", "h", "j"]],
                                width_ratios=(1, 1, 1, 1.5, 0.6))  # fmt: skip
    rows = _step(frames)
    rates = _rates(rows)
    seed = int(str(rates.index.min())) if len(rates) else None
    for statistic, letters in (("mean", "abc"), ("variance", "def")):
        for layer, letter in zip(LAYERS, letters, strict=True):
            ax = panels[letter]
            whose = f" (seed {seed})" if letter == "a" else ""
            figures.panel(ax, letter, f"{statistic}s, layer {layer}{whose}")
            shown = rows[(rows["seed"] == seed) & (rows["depth"] == layer)]
            _heat_map(fig, ax, _up_to(shown, statistic, rates.get(seed, 0.0)), statistic)
            if letter in "ad":
                ax.set_ylabel("part of the step (%)")
            if statistic == "variance":
                ax.set_xlabel("channel")
    published = [max(map(abs, ends)) for ends in PUBLISHED_MEANS], PUBLISHED_VARIANCES
    titles = {"mean": "a channel mean by layer", "variance": "largest variance by layer"}
    for letter, (statistic, title), values in zip("gh", titles.items(), published, strict=True):
        ax, after = panels[letter], _matched(rows, statistic)
        largest = _largest(rows, statistic)
        start = largest[(largest["rate"] == 0) & largest["seed"].isin(rates.index)]
        _lines(ax, start.rename(columns={statistic: "value"}), "before the step", figures.MUTED)
        _lines(ax, after, "after it", figures.COLOURS["none"])
        for layer in LAYERS:
            of = stats.interval(after.loc[after["depth"] == layer, "value"], Scale.log)
            figures.estimate(ax, layer, of, figures.INK)
        figures.diamonds(ax, [layer + 4 for layer in LAYERS], values, "none", label="published")
        ax.set_yscale("log")
        figures.stages(ax)
        figures.panel(ax, letter, title)
    panels["g"].set_xlabel("")
    mean = figures.entry("geometric mean", "o", colour=figures.INK, ls="-", lw=1.3)
    panels["g"].legend(handles=[*panels["g"].get_legend_handles_labels()[0], mean], loc="upper left")
    figures.seeds(panels["i"], 0, rates, "none", scale=Scale.log, spacing=0.1)
    figures.plain_log(panels["i"])
    panels["i"].set_xticks([])
    panels["i"].set_xlim(-0.6, 0.6)
    panels["i"].set_ylabel("learning rate of the step")
    figures.panel(panels["i"], "i", f"matched rates\n({len(rates)} of {rows['seed'].nunique()} seeds)")
    onsets = _at_layers(_onset(rows, rates), "onset")
    for place, layer in enumerate(LAYERS[1:]):
        figures.seeds(panels["j"], place, 100 * onsets[layer], "none", scale=Scale.plain, spacing=0.07)
    panels["j"].set_xticks(range(2), [f"layer {layer}" for layer in LAYERS[1:]])
    panels["j"].set_xlim(-0.6, 1.6)
    panels["j"].set_ylabel("part of the step (%)")
    panels["j"].grid(False, axis="x")
    figures.panel(panels["j"], "j", "when it explodes")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    rows = _step(frames)
    after, rates = _at_layers(_matched(rows, "variance"), "value"), _rates(rows)
    late = _at_layers(_onset(rows, rates), "onset")
    rises = {
        part.key: criteria.single(stats.effect(after[deeper], after[layer], Scale.log))
        for (layer, deeper), part in RISE.items()
    }
    levels = {
        part.key: criteria.single(after[layer] / PUBLISHED_VARIANCES[LAYERS.index(layer)])
        for layer, part in LEVEL.items()
    }
    onsets = {ONSET.key: criteria.single(late[44]), LATER.key: criteria.single(late[80] - late[44])}
    return {"8": rises, "8-levels": levels, "8-late": onsets}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    rows = _step(frames)
    lines = []
    means = [max(map(abs, ends)) for ends in PUBLISHED_MEANS]
    for statistic, published in (("variance", PUBLISHED_VARIANCES), ("mean", means)):
        after = _at_layers(_matched(rows, statistic), "value")
        for layer, seen in zip(LAYERS, published, strict=True):
            name = "largest channel variance" if statistic == "variance" else "largest |channel mean|"
            lines.append(_line(f"{name}, layer {layer}", number(seen), after[layer]))
    start = rows[rows["rate"] == 0].groupby("seed")["loss"].first()
    return [*lines, _line("learning rate of the step", "", _rates(rows)), _line("loss before it", "", start)]


def _step(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows along the step at the largest rate, with `rate`: the rate whose whole step this part of the step is."""
    rows = frames["moments_along_step"]
    rows = rows[rows["lr"] == rows["lr"].max()]
    lost = rows[(rows["fraction"] == 1) & ~(rows["loss"] <= DIVERGED)]
    return rows[rows["run_id"].isin(lost["run_id"])].assign(rate=lambda of: of["lr"] * of["fraction"])


def _largest(rows: pd.DataFrame, statistic: str = "variance") -> pd.DataFrame:
    """One row per run, layer and rate: the largest size of the channels' statistic, infinite where one overflowed."""
    sizes = rows[statistic].abs().fillna(math.inf)
    return rows.assign(**{statistic: sizes}).groupby(["seed", "depth", "rate"])[statistic].max().reset_index()


def _rates(rows: pd.DataFrame) -> pd.Series:
    """By seed, the rate at which layer 80's largest variance first reaches the published one, if it does."""
    deep = _largest(rows[rows["depth"] == LAYERS[-1]])
    samples = {}
    for seed, part in deep.groupby("seed"):
        line = part.sort_values("rate", kind="stable")
        reached = np.flatnonzero(line["variance"] >= MATCHED)
        if len(reached) and reached[0] > 0:
            ends = line.iloc[[reached[0] - 1, reached[0]]]
            logs = np.log(ends["variance"].to_numpy())
            share = (math.log(MATCHED) - logs[0]) / (logs[1] - logs[0]) if np.isfinite(logs).all() else 0.0
            low, high = ends["rate"]
            samples[seed] = float(low + share * (high - low))
    return pd.Series(samples, dtype=float).rename_axis("seed")


def _matched(rows: pd.DataFrame, statistic: str) -> pd.DataFrame:
    """Columns seed, depth, value: each layer's largest at the seed's rate, interpolated along the step."""
    lines = []
    largest = _largest(rows, statistic)
    for seed, rate in _rates(rows).items():
        wide = largest[largest["seed"] == seed].pivot(index="rate", columns="depth", values=statistic).sort_index()
        with np.errstate(divide="ignore"):
            logs = pd.DataFrame(np.log(wide))
        place = min(int(np.searchsorted(wide.index, rate)), len(wide) - 1)
        low, high = wide.index[place - 1], wide.index[place]
        share = (rate - low) / (high - low)
        value = np.exp((1 - share) * logs.iloc[place - 1] + share * logs.iloc[place])
        lines.append(value.rename("value").reset_index().assign(seed=seed))
    columns = ["seed", "depth", "value"]
    return pd.concat(lines)[columns] if lines else pd.DataFrame(columns=columns)


def _onset(rows: pd.DataFrame, rates: pd.Series) -> pd.DataFrame:
    """Columns seed, depth, onset: the share of the seed's step at which the variance is a tenth of that at the end."""
    end = _matched(rows, "variance").rename(columns={"value": "end"})
    along = _largest(rows).merge(end, on=["seed", "depth"])
    lines = []
    for key, part in along.groupby(["seed", "depth"]):
        seed, depth = (int(str(each)) for each in key)
        whole = float(rates.loc[seed])
        line = part[part["rate"] < whole].sort_values("rate", kind="stable")
        places = np.append(line["rate"], whole)
        with np.errstate(divide="ignore"):
            logs = np.log(np.append(line["variance"], part["end"].iloc[0]))
        wanted = logs[-1] - math.log(10)
        at = int(np.flatnonzero(logs >= wanted)[0])
        low, high = (logs[at - 1], logs[at]) if at else (-math.inf, logs[at])
        share = (wanted - low) / (high - low) if math.isfinite(low) else 1.0
        onset = places[at - 1] + share * (places[at] - places[at - 1]) if at else places[0]
        lines.append((seed, depth, onset / whole))
    return pd.DataFrame(lines, columns=["seed", "depth", "onset"])


def _at_layers(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """One row per seed, one column per layer of the figure."""
    shown = frame[frame["depth"].isin(LAYERS)]
    return shown.pivot(index="seed", columns="depth", values=value).reindex(columns=list(LAYERS)).astype(float)


def _lines(ax: Axes, largest: pd.DataFrame, label: str, colour: str) -> None:
    for position, (_, line) in enumerate(largest.groupby("seed")):
        finite = line["value"].replace(math.inf, math.nan)
        ax.plot(line["depth"], finite, color=colour, lw=1, alpha=0.6, label=None if position else label)


def _up_to(rows: pd.DataFrame, statistic: str, rate: float) -> pd.DataFrame:
    """The channels' statistic, a row for each part of the step (%) to `rate`, whose own is interpolated between two.

    What is of one sign at both is interpolated as a logarithm.
    """
    values = rows.pivot(index="rate", columns="channel", values=statistic).sort_index()
    shown = values[values.index < rate]
    later = values[values.index >= rate]
    if len(shown) and len(later):
        low, high = shown.iloc[-1], later.iloc[0]
        share = (rate - shown.index[-1]) / (later.index[0] - shown.index[-1])
        with np.errstate(invalid="ignore", divide="ignore"):
            grown = np.sign(low) * np.exp((1 - share) * np.log(low.abs()) + share * np.log(high.abs()))
        end = grown.where(low * high > 0, (1 - share) * low + share * high)
        shown = pd.concat([shown, end.rename(rate).to_frame().T])
    return shown.set_axis(100 * shown.index.to_numpy(dtype=float) / rate, axis=0) if rate else shown.iloc[:0]


def _heat_map(fig: Figure, ax: Axes, values: pd.DataFrame, statistic: str) -> None:
    ax.grid(False)
    values = values.where(np.isfinite(values))
    if values.isna().all(axis=None):
        return
    limit = float(np.nanmax(np.abs(values.to_numpy())))
    places = values.index.to_numpy()
    between = (places[1:] + places[:-1]) / 2
    edges = np.concatenate([[2 * places[0] - between[0]], between, [2 * places[-1] - between[-1]]])
    cmap, low = (figures.SIGNED_MAP, -1) if statistic == "mean" else (HEAT_MAP, 0)
    image = ax.pcolormesh(
        np.arange(values.shape[1] + 1) - 0.5, edges, values.to_numpy() / limit, cmap=cmap, vmin=low, vmax=1,
        rasterized=True,
    )  # fmt: skip
    ax.set_ylim(edges[-1], edges[0])
    bar = fig.colorbar(image, ax=ax, location="bottom", shrink=0.9, aspect=24, pad=0.03)
    ticks = sorted({low, 0, 1})
    bar.set_ticks(ticks, labels=[number(tick * limit, 2) for tick in ticks])
    bar.outline.set_visible(False)


def _line(quantity: str, published: str, ours: Iterable[float]) -> Comparison:
    return Comparison(quantity, "", published, "", str(spread(ours)))
