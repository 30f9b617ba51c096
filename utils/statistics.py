"""The statistics of a report: Student's t over seeds, and the aggregates of Agarwal et al. 2021 (arXiv 2108.13264, rliable).

Scores are arrays [T, N] of T tasks and N seeds. The bootstrap is stratified by task: the seeds of each task are drawn anew,
with replacement and apart from those of the others; intervals are the percentiles of the estimates.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
REPLICATES = 2_000
CHUNK = 2_000_000  # numbers that the bootstrap holds at a time


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


def mean_and_half(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [...] of independent scores [..., N], and half of Student's 95 % interval (NaN for one score); NaNs are absent."""
    count = np.isfinite(scores).sum(-1)
    some = np.maximum(count, 1)
    total = np.where(np.isfinite(scores), scores, 0.0).sum(-1)
    mean = np.where(count > 0, total / some, np.nan)
    squares = np.where(np.isfinite(scores), scores - mean[..., None], 0.0) ** 2
    degrees = np.maximum(count - 1, 1)
    error = np.sqrt(squares.sum(-1) / degrees / some)
    return mean, np.where(count > 1, stdtrit(degrees, (1 + LEVEL) / 2) * error, np.nan)


def prediction_half(rates: np.ndarray, episodes: float) -> float:
    """Half of the 95 % interval in which one more run lands: t s √(1 + 1/N) around the mean of success rates [N], 0 to 1.

    s is their standard deviation, and at least the binomial error of a run's episodes, with two successes and two failures
    added to all of them (Agresti and Coull 1998), so that it is not 0 where every run failed. NaN for one run.
    """
    count = len(rates)
    if count < 2:
        return math.nan
    rate = (rates.sum() * episodes + 2) / (count * episodes + 4)
    deviation = max(float(rates.std(ddof=1)), math.sqrt(rate * (1 - rate) / episodes))
    return float(stdtrit(count - 1, (1 + LEVEL) / 2)) * deviation * math.sqrt(1 + 1 / count)


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean [...] of all runs [..., T, N]: without the lowest and the highest quarter, each rounded down."""
    runs = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = runs.shape[-1] // 4
    return runs[..., cut : runs.shape[-1] - cut].mean(-1)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(X > Y) + P(X = Y) / 2 of a run of each [..., T, N], [..., T, M], the mean over the tasks [...] (Mann-Whitney's U)."""
    above, below = x[..., :, None] > y[..., None, :], x[..., :, None] < y[..., None, :]
    return 0.5 + 0.5 * (above.mean((-3, -2, -1)) - below.mean((-3, -2, -1)))


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *scores: np.ndarray,
    replicates: int = REPLICATES,
    seed: int = 0,
    widen: bool = False,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """statistic(*scores) with its stratified bootstrap interval; several arrays are drawn independently of each other.

    widen: by √(N/(N-1)), which the bootstrap of N seeds is short of, as far as the bounds of the statistic; without it the
    interval is rliable's. One seed has none.
    """
    value, seeds = float(statistic(*scores)), min(array.shape[-1] for array in scores)
    if seeds < 2:
        return Interval(value, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    most = max(1, CHUNK // (len(scores[0]) * math.prod(array.shape[-1] for array in scores)))
    estimates = []
    for first in range(0, replicates, most):
        count = min(most, replicates - first)
        estimates.append(statistic(*(_drawn(rng, array, count) for array in scores)))
    ends = np.percentile(np.concatenate(estimates), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    low, high = value + (ends - value) * (math.sqrt(seeds / (seeds - 1)) if widen else 1.0)
    return Interval(value, *(float(np.clip(end, *bounds)) for end in (low, high)))


def _drawn(rng: np.random.Generator, scores: np.ndarray, count: int) -> np.ndarray:
    tasks, seeds = scores.shape
    index = rng.integers(seeds, size=(count, tasks, seeds))
    return scores[np.arange(tasks)[:, None], index]
