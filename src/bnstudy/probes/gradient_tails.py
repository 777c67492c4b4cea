"""How heavy the tails of each layer's weight gradients are (Bjorck et al. 2018, Figure 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnstudy.probes.snapshot import Snapshot

READS = {"gradients"}
COLUMNS = {
    "depth": "int16", "layer": "string", "quantity": "string",
    "x": "float64", "x_high": "float64", "value": "float64", "low": "float64", "high": "float64",
}  # fmt: skip

QUANTILES = (0.0001, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 0.9999)
TAIL_SHARES = tuple(percent / 100 for percent in range(1, 11))  # of the entries, largest first
BINS_PER_DECADE = 8
INTERVAL = (2.5, 97.5)  # percentiles
Array = np.ndarray[Any, np.dtype[Any]]


def probe(snapshot: Snapshot, *, num_bins: int = 64, num_bootstrap: int = 100) -> Iterator[dict[str, Any]]:
    """Rows (quantity, x, x_high, value, low, high) for every weight layer; what a quantity does not use is NaN.

    count: finite entries; mean, std (biased), kurtosis (fourth standardised moment, 3 for a normal distribution),
    max_abs: of all entries, so NaN where one is NaN. quantile: x is the probability. histogram_linear: finite entries
    in [x, x_high), over `num_bins` equal bins from -max_abs to max_abs. histogram_log: finite absolute values in [x,
    x_high), 8 bins a decade at fixed edges, so that runs can be pooled; the lowest bin begins at 0. hill: x is the
    share of largest absolute values, value the tail index, low and high its 95 % interval over resampled output
    channels, whose entries share their output gradient and are therefore not independent.
    """
    if num_bins < 1 or num_bootstrap < 1:
        raise ValueError(f"gradient_tails: num_bins = {num_bins}, num_bootstrap = {num_bootstrap}: give 1 or more")
    for layer in snapshot.layers:
        gradient_ON = snapshot.gradients[layer.depth].flatten(1).double().cpu().numpy()
        where = {"depth": layer.depth, "layer": layer.name}
        for quantity, *numbers in _quantities(gradient_ON, num_bins, num_bootstrap):
            values = dict(zip(("x", "x_high", "value", "low", "high"), map(float, numbers), strict=True))
            yield {**where, "quantity": quantity, **values}


def _quantities(gradient_ON: Array, num_bins: int, num_bootstrap: int) -> Iterator[tuple[Any, ...]]:
    none = math.nan
    values = gradient_ON.ravel()
    finite = values[np.isfinite(values)]
    with np.errstate(all="ignore"):
        mean, max_abs = values.mean(), np.abs(values).max()
        std = np.sqrt(np.square(values - mean).mean())
        kurtosis = np.power((values - mean) / std, 4).mean()
        quantiles = np.quantile(values, QUANTILES)
    scalars = {"count": finite.size, "mean": mean, "std": std, "kurtosis": kurtosis, "max_abs": max_abs}
    for quantity, value in scalars.items():
        yield quantity, none, none, value, none, none
    for p, value in zip(QUANTILES, quantiles, strict=True):
        yield "quantile", p, none, value, none, none
    for quantity, (counts, edges) in {
        "histogram_linear": linear_histogram(finite, num_bins),
        "histogram_log": log_histogram(finite, num_bins),
    }.items():
        for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
            yield quantity, left, right, count, none, none
    indices, lows, highs = hill(np.abs(gradient_ON), TAIL_SHARES, num_bootstrap)
    for share, index, low, high in zip(TAIL_SHARES, indices, lows, highs, strict=True):
        yield "hill", share, none, index, low, high


def linear_histogram(values: Array, num_bins: int) -> tuple[Array, Array]:
    """Counts and edges of equal bins from -max to max of the absolute values; -1 to 1 where all are 0."""
    largest = np.abs(values).max(initial=0.0) or 1.0
    return np.histogram(values, num_bins, (-largest, largest))


def log_histogram(values: Array, num_bins: int) -> tuple[Array, Array]:
    """Counts and edges of absolute values: `num_bins` bins at powers of 10^(1/8), the lowest reaching down to 0."""
    largest = np.abs(values).max(initial=0.0) or 1.0
    top = math.floor(BINS_PER_DECADE * math.log10(largest)) + 1
    edges = 10.0 ** (np.arange(top - num_bins, top + 1) / BINS_PER_DECADE)
    edges[0], edges[-1] = 0.0, max(edges[-1], largest)  # rounding must not lose the largest
    return np.histogram(np.abs(values), edges)


def hill(abs_ON: Array, shares: tuple[float, ...], num_bootstrap: int) -> tuple[Array, Array, Array]:
    """Hill's tail index for each share k/n of largest values, and both ends of its bootstrap interval.

    alpha = k / sum_{i<=k} ln(X_(i) / X_(k+1)), X_(1) the largest (Hill 1975, Annals of Statistics 3). NaN where fewer
    than two values, a zero or a non-finite one would have to be compared.
    """
    num_channels, per_channel = abs_ON.shape
    ks = np.array([max(1, round(share * abs_ON.size)) for share in shares])
    if not np.isfinite(abs_ON).all() or ks.max() >= abs_ON.size:
        return (np.full(len(shares), np.nan),) * 3
    order = np.argsort(-abs_ON, axis=None)
    falling, channels = abs_ON.ravel()[order], order // per_channel
    logs = np.log(falling / (falling[0] or 1.0), where=falling > 0, out=np.full(falling.shape, np.nan))
    # A resample that takes channel c m_c times holds each of its values m_c times; row 0 is the sample itself. So one
    # sorting serves all of them: the rank of a value in a resample is the running sum of multiplicities.
    draws = np.random.default_rng(0).integers(0, num_channels, (num_bootstrap, num_channels))
    times_BO = np.stack([np.ones(num_channels, int), *(np.bincount(row, minlength=num_channels) for row in draws)])
    excesses = np.stack([_mean_excess(logs, times_O[channels], ks) for times_O in times_BO])
    high, low = np.percentile(excesses[1:], INTERVAL, axis=0)
    with np.errstate(divide="ignore"):  # equal values: an infinite index
        return 1 / excesses[0], 1 / low, 1 / high


def _mean_excess(logs: Array, times: Array, ks: Array) -> Array:
    """For each k, 1 / alpha: mean of the k largest logarithms less the next, where each of the falling `logs` is there
    `times` times.
    """
    ranks = np.cumsum(times)
    last, threshold = np.searchsorted(ranks, ks), np.searchsorted(ranks, ks + 1)  # the k-th value, and the next
    sums = np.cumsum(times[: last.max() + 1] * logs[: last.max() + 1])
    overshoot = ranks[last] - ks
    # The difference of equal logarithms may round to less than 0.
    return np.maximum((sums[last] - overshoot * logs[last]) / ks - logs[threshold], 0.0)
