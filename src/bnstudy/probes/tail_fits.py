"""Which law the largest gradients of a layer follow, and whether that is a power law (Bjorck et al. 2018, Figure 2).

Entries are compared with the threshold u: x = |g| / u >= 1, y = ln x. Every law is fitted by maximum likelihood to what
lies above u, as Clauset, Shalizi and Newman (2009, SIAM Review 51) do it, who also choose u: where the power law's
distribution function comes nearest to the sample's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import erfcx, log_ndtr

from bnstudy.probes.snapshot import Snapshot

READS = {"gradients"}
COLUMNS = {
    "depth": "int16", "layer": "string", "chosen": "bool", "share": "float64", "num_tail": "int64",
    "threshold": "float64", "distance": "float64", "law": "string", "shape": "float64", "scale": "float64",
    "log_ratio": "float64", "log_ratio_std": "float64",
}  # fmt: skip

CHOICES = tuple(percent / 100 for percent in (*range(1, 11), *range(12, 32, 2), *range(35, 55, 5)))
MIN_TAIL = 50  # entries; Clauset et al. call less too few to tell laws apart
Array = np.ndarray[Any, np.dtype[Any]]
Fit = tuple[float, float, Array]  # shape; scale in units of the threshold; log density of each x


def probe(snapshot: Snapshot, *, shares: Sequence[float] = (0.1,)) -> Iterator[dict[str, Any]]:
    """One row per layer, threshold and law. Thresholds: below the `shares` of largest |gradient|, and the chosen one.

    The chosen threshold has the smallest Kolmogorov-Smirnov `distance` of the power law among shares of 1 to 50 %.
    Laws of x above the threshold, with `shape` and `scale` (in units of the gradient):
    power_law, density proportional to x^-(shape + 1), shape the tail index; lognormal, shape the standard deviation of
    ln x and scale the median; stretched_exponential, to x^(shape - 1) exp(-(x/scale)^shape); half_normal, scale the
    standard deviation. Towards a shape of infinity and of 0 the second and the third are power laws themselves, so that
    theirs is never the smaller likelihood.

    log_ratio is the power law's log-likelihood less the law's, log_ratio_std its standard deviation (Vuong 1989,
    Econometrica 57), with output channels in the place of observations: entries of one share their output gradient.
    NaN where fewer than 50 entries lie above a threshold, or it is 0, or entries are not finite.
    """
    if not all(0 < share < 1 for share in shares):
        raise ValueError(f"tail_fits: shares = {list(shares)}: give shares between 0 and 1")
    for layer in snapshot.layers:
        abs_ON = snapshot.gradients[layer.depth].flatten(1).double().abs().cpu().numpy()
        where = {"depth": layer.depth, "layer": layer.name}
        for row in _rows(abs_ON, tuple(shares)):
            yield {**where, **row}


def _rows(abs_ON: Array, shares: tuple[float, ...]) -> Iterator[dict[str, Any]]:
    num_channels, per_channel = abs_ON.shape
    order = np.argsort(-abs_ON, axis=None)
    falling, channels = abs_ON.ravel()[order], order // per_channel
    usable = bool(np.isfinite(falling).all())
    distances = {share: power_law_distance(_tail(falling, share)[0]) if usable else math.nan for share in CHOICES}
    nearest = min(CHOICES, key=lambda share: math.inf if math.isnan(distances[share]) else distances[share])
    for share, chosen in ((nearest, True), *((share, False) for share in shares)):
        logs, threshold = _tail(falling, share) if usable else (np.empty(0), math.nan)
        row = {
            "chosen": chosen, "share": share, "num_tail": logs.size, "threshold": threshold,
            "distance": power_law_distance(logs),
        }  # fmt: skip
        for law, fit in LAWS.items():
            shape = scale = ratio = std = math.nan
            if logs.size:
                shape, scale, log_density = fit(logs)
                differences = power_law(logs)[2] - log_density
                ratio, std = log_ratio(differences, channels[: logs.size], num_channels)
            yield {
                **row, "law": law, "shape": shape, "scale": scale * threshold, "log_ratio": ratio, "log_ratio_std": std
            }  # fmt: skip


def _tail(falling: Array, share: float) -> tuple[Array, float]:
    """ln x of the share's largest values, falling, and the threshold: the next value. Empty where it is not defined."""
    num = round(share * falling.size)
    if not MIN_TAIL <= num < falling.size or not falling[num] > 0 or not falling[0] > falling[num]:
        return np.empty(0), math.nan
    return np.log(falling[:num] / falling[num]), float(falling[num])


def power_law_distance(logs: Array) -> float:
    """Largest difference between the distribution functions of falling logarithms y and of the power law fitted."""
    num = logs.size
    if not num:
        return math.nan
    survival = np.exp(-logs / logs.mean())
    below = np.arange(num) / num  # share of larger values; with the value itself, 1 / num more
    return float(max((survival - below).max(), (below + 1 / num - survival).max()))


def log_ratio(differences: Array, channels: Array, num_channels: int) -> tuple[float, float]:
    """Sum of log-likelihood differences, and its standard deviation over channels as independent blocks."""
    total = float(differences.sum())
    sums = np.bincount(channels, differences - total / differences.size, num_channels)
    return total, float(np.sqrt((sums**2).sum() * num_channels / max(1, num_channels - 1)))


def power_law(logs: Array) -> Fit:
    """Hill's estimate."""
    index = 1 / logs.mean()
    return float(index), 1.0, math.log(index) - (index + 1) * logs


def stretched_exponential(logs: Array) -> Fit:
    """Survival exp(-rate (x^shape - 1) / shape): for a given shape the rate has a closed form."""

    def powers(shape: float) -> Array:
        return np.asarray(np.expm1(shape * logs) / shape)

    def cost(log_shape: float) -> float:
        shape = math.exp(log_shape)
        return float(np.log(powers(shape).mean()) - (shape - 1) * logs.mean())

    shape = math.exp(_lowest(cost, math.log(1e-4), math.log(min(20.0, 300 / logs[0]))))
    rate = 1 / powers(shape).mean()
    with np.errstate(over="ignore", under="ignore"):
        scale = np.exp(np.log(shape / rate) / shape)
    return shape, float(scale), math.log(rate) + (shape - 1) * logs - rate * powers(shape)


def lognormal(logs: Array) -> Fit:
    """y is normal, cut at 0: density exp(-a y - b y^2 / 2) / Z with b = 1 / shape^2, and a = -mean b."""
    unit = logs.mean()
    z = logs / unit
    square = float((z**2).mean()) / 2

    def cost(a_log_b: Array) -> float:
        a, b = a_log_b[0], math.exp(a_log_b[1])
        return float(a + b * square + _log_normaliser(a, b))

    starts = ((1.0, math.log(1e-3)), (0.0, 0.0), (-3.0, 1.0))
    bounds = ((-1e4, 1e3), (math.log(1e-8), math.log(1e6)))
    fit = min((minimize(cost, s, method="Nelder-Mead", bounds=bounds, options={"xatol": 1e-6, "fatol": 1e-10})
               for s in starts), key=lambda result: float(result.fun))  # fmt: skip
    a, b = float(fit.x[0]), math.exp(fit.x[1])
    log_density = -a * z - b * z**2 / 2 - _log_normaliser(a, b) - math.log(unit) - logs
    return float(unit / math.sqrt(b)), float(np.exp(-a / b * unit)), log_density


def _log_normaliser(a: float, b: float) -> float:
    """ln of the integral of exp(-a y - b y^2 / 2) over y > 0."""
    if a > 0:  # two large terms would cancel
        return float(0.5 * math.log(math.pi / (2 * b)) + np.log(erfcx(a / math.sqrt(2 * b))))
    return float(0.5 * math.log(2 * math.pi / b) + a**2 / (2 * b) + log_ndtr(-a / math.sqrt(b)))


def half_normal(logs: Array) -> Fit:
    """x is the absolute value of a normal variable with mean 0."""
    squares = np.exp(2 * logs) / 2

    def log_normaliser(log_scale: float) -> float:
        return float(log_scale + 0.5 * math.log(2 * math.pi) + log_ndtr(-math.exp(-log_scale)))

    def cost(log_scale: float) -> float:
        return float(squares.mean() * math.exp(-2 * log_scale) + log_normaliser(log_scale))

    log_scale = _lowest(cost, math.log(1e-3), float(logs[0]) + 1)
    return math.nan, math.exp(log_scale), -squares * math.exp(-2 * log_scale) - log_normaliser(log_scale)


def _lowest(cost: Callable[[float], float], low: float, high: float) -> float:
    return float(minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-8}).x)


LAWS: dict[str, Callable[[Array], Fit]] = {
    "power_law": power_law,
    "lognormal": lognormal,
    "stretched_exponential": stretched_exponential,
    "half_normal": half_normal,
}
