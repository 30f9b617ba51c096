"""The statistics of a report: Student's t over seeds, and the aggregates of Agarwal et al. 2021
(arXiv 2108.13264, rliable).

Scores are arrays [T, N] of T tasks and N seeds. The bootstrap is stratified by task: the seeds
of each task are drawn anew, with replacement and apart from those of the others; intervals are
the percentiles of the estimates.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
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
    """Mean [...] of independent scores [..., N], and half of Student's 95 % interval (NaN for
    one score); NaNs are absent.
    """
    count = np.isfinite(scores).sum(-1)
    at_least_one = np.maximum(count, 1)
    total = np.where(np.isfinite(scores), scores, 0.0).sum(-1)
    mean = np.where(count > 0, total / at_least_one, np.nan)
    squares = np.where(np.isfinite(scores), scores - mean[..., None], 0.0) ** 2
    degrees = np.maximum(count - 1, 1)
    error = np.sqrt(squares.sum(-1) / degrees / at_least_one)
    return mean, np.where(count > 1, stdtrit(degrees, (1 + LEVEL) / 2) * error, np.nan)


def prediction_half(rates: np.ndarray, episodes: float) -> float:
    """Half of the 95 % interval in which one more run lands: t s √(1 + 1/N) around the mean of
    success rates [N], 0 to 1.

    s is their standard deviation, and at least the binomial error of a run's episodes, with two
    successes and two failures added to all of them (Agresti and Coull 1998), so that it is not
    0 where every run failed. NaN for one run.
    """
    count = len(rates)
    if count < 2:
        return math.nan
    rate = (rates.sum() * episodes + 2) / (count * episodes + 4)
    deviation = max(float(rates.std(ddof=1)), math.sqrt(rate * (1 - rate) / episodes))
    return (
        float(stdtrit(count - 1, (1 + LEVEL) / 2))
        * deviation
        * math.sqrt(1 + 1 / count)
    )


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean [...] of all runs [..., T, N]: without the lowest and the highest
    quarter, each rounded down.
    """
    runs = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = runs.shape[-1] // 4
    return runs[..., cut : runs.shape[-1] - cut].mean(-1)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(X > Y) + P(X = Y) / 2 of a run of each [..., T, N], [..., T, M], the mean over the
    tasks [...] (Mann-Whitney's U).
    """
    return 0.5 + 0.5 * np.sign(x[..., :, None] - y[..., None, :]).mean((-3, -2, -1))


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *scores: np.ndarray,
    replicates: int = REPLICATES,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """statistic(*scores) with its stratified bootstrap interval; several arrays are drawn
    independently of each other.

    The interval is rliable's, widened by √(N/(N-1)), which the bootstrap of N seeds lacks, and
    clipped to the bounds of the statistic. It is NaN for one seed.
    """
    value, seeds = float(statistic(*scores)), min(array.shape[-1] for array in scores)
    if seeds < 2:
        return Interval(value, np.nan, np.nan)
    rng = np.random.default_rng(0)
    most = max(
        1, CHUNK // (len(scores[0]) * math.prod(array.shape[-1] for array in scores))
    )
    estimates = []
    for first in range(0, replicates, most):
        count = min(most, replicates - first)
        estimates.append(statistic(*(_drawn(rng, array, count) for array in scores)))
    return Interval(value, *_ends(value, np.concatenate(estimates), seeds, bounds))


def _ends(
    value: float, estimates: np.ndarray, seeds: int, bounds: tuple[float, float]
) -> list[float]:
    """Both ends of the interval of a value with bootstrap estimates [B] from N seeds."""
    ends = np.percentile(estimates, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    wider = value + (ends - value) * np.sqrt(seeds / (seeds - 1))
    return np.clip(wider, *bounds).tolist()


def _drawn(rng: np.random.Generator, scores: np.ndarray, count: int) -> np.ndarray:
    tasks, seeds = scores.shape
    index = rng.integers(seeds, size=(count, tasks, seeds))
    return scores[np.arange(tasks)[:, None], index]


# ---------------------------------------------------------------- many pairs of methods


def improvements(
    scores: Mapping[str, Mapping[str, np.ndarray]],
    replicates: int = REPLICATES,
) -> dict[tuple[str, str], tuple[int, Interval]]:
    """The probability of improvement of each method over each later one, by the two names.

    Each with the number of tasks that both have, and what `bootstrap` gives. Tasks are
    resampled independently, so the replicates of a task are computed once and averaged for
    every group of tasks.

    Args:
        scores: by task, then by method: [N] of its seeds. The methods are in one order.
        replicates: of the bootstrap.
    """
    pairs: dict[tuple[str, str], _Pair] = {}
    for task, by_method in scores.items():
        rates = tuple(
            (method, tuple(own.tolist())) for method, own in by_method.items()
        )
        wins = _wins(task, rates, replicates)
        for (x, y), won in zip(itertools.combinations(by_method, 2), wins, strict=True):
            pair = pairs.setdefault((x, y), _Pair([], [], []))
            pair.x.append(by_method[x])
            pair.y.append(by_method[y])
            pair.wins.append(won)
    return {names: (len(pair.wins), pair.interval()) for names, pair in pairs.items()}


class _Pair(NamedTuple):
    """Two methods on the tasks that both have, one entry for each task."""

    x: list[np.ndarray]
    """Scores [N] of the first method."""
    y: list[np.ndarray]
    """Scores [M] of the second one."""
    wins: list[np.ndarray]
    """P(X > Y) + P(X = Y) / 2 in each replicate [B]."""

    def interval(self) -> Interval:
        """The probability of improvement, a mean over the tasks.

        Without ends for one seed, and where not even complete separation of the methods would
        be significant at 5 % (two-sided permutation test): the bootstrap would still give an
        interval without 50 %.
        """
        x, y = np.stack(self.x), np.stack(self.y)
        value = float(probability_of_improvement(x, y))
        tasks, seeds = x.shape[0], min(x.shape[1], y.shape[1])
        orders = math.comb(x.shape[1] + y.shape[1], seeds) ** tasks
        if seeds < 2 or 2 / orders > 1 - LEVEL:
            return Interval(value, np.nan, np.nan)
        estimates = np.stack(self.wins).mean(axis=0, dtype=np.float64)
        return Interval(value, *_ends(value, estimates, seeds, (0.0, 1.0)))


_Scores = tuple[tuple[str, tuple[float, ...]], ...]


# A task is asked for alone, in its domain and in all tasks.
@functools.lru_cache(maxsize=64)
def _wins(task: str, scores: _Scores, replicates: int) -> np.ndarray:
    """P(X > Y) + P(X = Y) / 2 of each pair of methods on one task, in each replicate [P, B]."""
    drawn = [
        _draw(f"{task} {method}", np.array(rates), replicates)
        for method, rates in scores
    ]
    wins = [_win_rate(x, y) for x, y in itertools.combinations(drawn, 2)]
    return np.reshape(wins, (-1, replicates))


class _Drawn(NamedTuple):
    """The scores of one method on one task, its seeds drawn with replacement B times."""

    scores: np.ndarray
    """[N], ascending."""
    counts: np.ndarray
    """[N, B]: how often each is drawn."""
    below: np.ndarray
    """[N + 1, B]: how many of those drawn are among the lowest 0 to N scores."""


def _draw(name: str, scores: np.ndarray, replicates: int) -> _Drawn:
    """Draw by the name alone: an interval does not depend on what else is compared."""
    seeds = len(scores)
    index = np.random.default_rng(list(name.encode())).integers(
        seeds, size=(seeds, replicates)
    )
    flat = index * replicates + np.arange(replicates)
    counts = np.bincount(flat.ravel(), minlength=seeds * replicates).reshape(
        seeds, replicates
    )
    below = np.concatenate([np.zeros((1, replicates)), counts.cumsum(axis=0)])
    return _Drawn(np.sort(scores), counts.astype(np.float32), below.astype(np.float32))


def _win_rate(x: _Drawn, y: _Drawn) -> np.ndarray:
    """P(X > Y) + P(X = Y) / 2 in each replicate [B]: how much of X is below each score of Y."""
    lower = np.searchsorted(x.scores, y.scores, "left")
    not_higher = np.searchsorted(x.scores, y.scores, "right")
    losses = np.einsum("mb,mb->b", y.counts, x.below[lower] + x.below[not_higher])
    return 1 - losses / (2 * len(x.scores) * len(y.scores))
