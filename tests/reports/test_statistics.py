"""The statistics agree with rliable's definitions, written out here, and with simulated truths."""

import numpy as np
import pytest
from scipy import stats

from reports import statistics
from reports.checks import COVERAGE
from reports.statistics import (
    bootstrap,
    improvements,
    iqm,
    mean_and_half,
    prediction_half,
    probability_of_improvement,
)

# ---------------------------------------------------------------- Student's t


def test_mean_and_half_by_hand():
    mean, half = mean_and_half(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert mean == 3.0
    # t of 4 degrees of freedom at 97.5 %
    assert half == pytest.approx(2.776445 * np.sqrt(2.5 / 5), rel=1e-6)


def test_mean_and_half_of_an_array_agree_with_scipy():
    scores = np.random.default_rng(0).random((3, 4, 7))
    mean, half = mean_and_half(scores)
    low, high = stats.t.interval(
        0.95, 6, loc=scores.mean(-1), scale=stats.sem(scores, axis=-1)
    )
    np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-12)


def test_absent_scores_do_not_count():
    nan = np.nan
    mean, half = mean_and_half(
        np.array([[1.0, nan, 3.0], [nan, 5.0, nan], [nan, nan, nan]])
    )
    np.testing.assert_array_equal(mean, [2.0, 5.0, nan])
    # 1 degree of freedom, standard error 1
    np.testing.assert_allclose(half, [12.7062, nan, nan], rtol=1e-5)


def test_prediction_half_by_hand():
    # standard deviation 0.2, above the binomial error of 50 episodes
    rates = np.array([0.2, 0.4, 0.6])
    assert prediction_half(rates, 50) == pytest.approx(
        4.302653 * 0.2 * np.sqrt(4 / 3), rel=1e-6
    )
    equal = np.array([0.0, 0.0, 0.0])  # the floor is 2 of 154
    assert prediction_half(equal, 50) == pytest.approx(
        4.302653 * np.sqrt(2 / 154 * 152 / 154 / 50) * np.sqrt(4 / 3), rel=1e-6
    )
    assert np.isnan(prediction_half(np.array([0.3]), 50))


@pytest.mark.parametrize(("spread", "rate"), [(0.0, 0.02), (0.0, 0.5), (0.15, 0.5)])
def test_prediction_interval_covers_one_more_run(spread, rate):
    """It covers at least 95 %, up to the error of 4,000 simulations and of Student's t where
    rates are not Gaussian.
    """
    rng = np.random.default_rng(0)
    levels = np.clip(rate + spread * rng.standard_normal((4000, 4)), 0.0, 1.0)
    rates = rng.binomial(50, levels) / 50
    inside = [
        abs(new - old.mean()) <= prediction_half(old, 50)
        for *old, new in rates
        for old in [np.array(old)]
    ]
    assert np.mean(inside) > 0.94


# ---------------------------------------------------------------- rliable's aggregates


def test_iqm_by_hand():
    # the mean of 3, 4, 5 and 6
    assert iqm(np.array([[1.0, 8.0, 3.0, 6.0], [5.0, 4.0, 7.0, 2.0]])) == 4.5
    # A quarter of three runs is rounded down to none.
    assert iqm(np.array([[1.0, 2.0, 30.0]])) == 11.0


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 3), (5, 8), (50, 7)])
def test_iqm_is_the_trimmed_mean_of_all_runs(shape):
    scores = np.random.default_rng(1).random(shape)
    assert iqm(scores) == pytest.approx(
        stats.trim_mean(scores, proportiontocut=0.25, axis=None), rel=1e-12
    )


def test_probability_of_improvement_by_hand():
    x, y = np.array([[1.0, 2.0], [3.0, 3.0]]), np.array([[1.0, 3.0], [0.0, 3.0]])
    assert probability_of_improvement(x, y) == pytest.approx(
        ((0.5 + 0 + 1 + 0) / 4 + (1 + 0.5 + 1 + 0.5) / 4) / 2
    )


def test_probability_of_improvement_is_mann_whitneys_u():
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 6, (4, 5)) / 5, rng.integers(0, 6, (4, 8)) / 5
    parts = [
        stats.mannwhitneyu(a, b, alternative="greater").statistic / (5 * 8)
        for a, b in zip(x, y, strict=True)
    ]
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(parts), rel=1e-12)
    assert probability_of_improvement(y, x) == pytest.approx(
        1 - np.mean(parts), rel=1e-12
    )


# ---------------------------------------------------------------- the bootstrap


def test_the_bootstrap_is_stratified_by_task():
    """Scores that differ only between tasks leave nothing to chance."""
    assert bootstrap(iqm, np.array([[0.0] * 4, [1.0] * 4])) == (0.5, 0.5, 0.5)


def test_the_bootstrap_draws_each_task_and_each_method_independently():
    drawn = []

    def statistic(x, y):
        drawn.append((x, y))
        return x.mean((-2, -1)) - y.mean((-2, -1))

    one = np.arange(8.0).reshape(2, 4)
    bootstrap(statistic, one, 100 + one, replicates=4000)
    x, y = (np.concatenate([pair[i] for pair in drawn[1:]]) for i in range(2))
    assert x.shape == y.shape == (4000, 2, 4)
    np.testing.assert_array_equal([np.unique(x[:, 0]), np.unique(x[:, 1])], one)
    columns = np.stack([x[:, 0, 0], x[:, 0, 1], x[:, 1, 0], y[:, 0, 0], y[:, 1, 0]])
    np.testing.assert_allclose(np.corrcoef(columns), np.eye(5), atol=0.06)
    np.testing.assert_allclose(
        x.mean(0), one.mean(1, keepdims=True).repeat(4, 1), atol=0.1
    )


def test_the_interval_is_that_of_the_definition():
    """rliable's definition in a plain loop: draw runs of each task with replacement, aggregate,
    take percentiles. Our interval is wider by the root of 5/4, for 5 seeds.
    """
    scores = np.random.default_rng(3).beta(2, 3, (6, 5))
    rng, estimates = np.random.default_rng(4), []
    for _ in range(2000):
        again = [runs[rng.integers(len(runs), size=len(runs))] for runs in scores]
        estimates.append(stats.trim_mean(np.concatenate(again), 0.25))
    value, low, high = bootstrap(iqm, scores, replicates=2000)
    assert value == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))
    ends = value + (np.percentile(estimates, [2.5, 97.5]) - value) * 1.25**0.5
    np.testing.assert_allclose([low, high], ends, atol=0.01)
    assert high - low > 0.1


def test_the_bootstrap_is_seeded_and_may_be_drawn_in_pieces(monkeypatch):
    scores = np.random.default_rng(5).random((4, 6))
    at_once = bootstrap(iqm, scores, replicates=300)
    assert bootstrap(iqm, scores, replicates=300) == at_once
    # Draw seven replicates at a time.
    monkeypatch.setattr("reports.statistics.CHUNK", 24 * 7)
    pieces = bootstrap(iqm, scores, replicates=300)
    np.testing.assert_allclose(pieces, at_once, atol=0.05)


def test_one_seed_has_no_interval():
    np.testing.assert_allclose(
        bootstrap(iqm, np.array([[0.2], [0.4]])), [0.3, np.nan, np.nan]
    )


def test_a_widened_interval_ends_at_the_bounds_of_the_statistic():
    scores = np.array([[0.0, 0.0, 1.0]])
    low, high = bootstrap(iqm, scores)[1:]
    assert low < 0 and high > 1
    assert bootstrap(iqm, scores, bounds=(0, 1)) == (pytest.approx(1 / 3), 0.0, 1.0)


# ---------------------------------------------------------------- many pairs of methods


def by_task(**methods):
    """Return the scores [N] by task and method, from the scores [T, N] of each method."""
    tasks = range(len(next(iter(methods.values()))))
    return {
        f"task{t}": {name: scores[t] for name, scores in methods.items()} for t in tasks
    }


def test_a_replicate_is_the_probability_for_the_drawn_scores():
    """The scores of 5 and 8 seeds have ties. Counts of draws give what the drawn scores give."""
    rng = np.random.default_rng(10)
    x, y = (np.sort(rng.integers(0, 5, seeds) / 5) for seeds in (5, 8))
    one, two = (
        statistics._draw(name, scores, 30) for name, scores in (("x", x), ("y", y))
    )
    assert (one.counts.sum(0) == 5).all() and (two.counts.sum(0) == 8).all()
    assert len(np.unique(one.counts, axis=1).T) > 20 and one.counts.max() >= 3
    for i, rate in enumerate(statistics._win_rate(one, two)):
        counts = [drawn.counts[:, i].astype(int) for drawn in (one, two)]
        again = [np.repeat(s, n)[None] for s, n in zip((x, y), counts, strict=True)]
        assert rate == pytest.approx(probability_of_improvement(*again), abs=1e-6)


def test_all_pairs_at_once_agree_with_the_bootstrap_of_each():
    rng = np.random.default_rng(11)
    methods = {
        f"m{i}": rng.binomial(20, 0.3 + 0.1 * i, (6, 4 + i)) / 20 for i in range(3)
    }
    found = improvements(by_task(**methods), replicates=20_000)
    assert list(found) == [("m0", "m1"), ("m0", "m2"), ("m1", "m2")]
    for (one, two), (tasks, interval) in found.items():
        pair, options = (methods[one], methods[two]), {"bounds": (0, 1)}
        expected = bootstrap(
            probability_of_improvement, *pair, replicates=20_000, **options
        )
        assert tasks == 6 and interval.value == pytest.approx(expected.value, rel=1e-12)
        np.testing.assert_allclose(interval[1:], expected[1:], atol=0.01)
        assert interval.high - interval.low > 0.15


def test_methods_and_tasks_are_drawn_independently():
    """Draws of one method on two tasks, and of two methods on one, are independent."""
    names = [f"{task} {method}" for task in "ab" for method in "xy"]
    counts = [statistics._draw(name, np.arange(4.0), 4_000).counts[0] for name in names]
    np.testing.assert_allclose(np.corrcoef(counts), np.eye(4), atol=0.06)
    assert np.mean(counts) == pytest.approx(1.0, abs=0.03)


def test_an_interval_does_not_depend_on_what_else_is_compared():
    rng = np.random.default_rng(12)
    methods = {name: rng.random((3, 5)) for name in "abc"}
    every = improvements(by_task(**methods), replicates=100)
    two = improvements(by_task(a=methods["a"], c=methods["c"]), replicates=100)
    assert two["a", "c"] == every["a", "c"] and len(every) == 3
    assert improvements(by_task(a=methods["a"]), replicates=100) == {}


def test_pairs_are_compared_on_the_tasks_that_both_have():
    low, high = np.array([[0.1, 0.2, 0.1, 0.2]]), np.array([[0.5, 0.6, 0.5, 0.6]])
    scores = by_task(a=np.concatenate([low, high]), b=np.concatenate([high, high]))
    scores["task1"] = {"b": scores["task1"]["b"], "c": np.array([0.5, 0.4, 0.5, 0.4])}
    found = improvements(scores, replicates=50)
    assert found["a", "b"] == (1, (0.0, 0.0, 0.0)) and len(found) == 2
    tasks, better = found["b", "c"]
    assert tasks == 1 and better.value == 0.875 and better.low < 0.875 < better.high


def test_too_few_seeds_for_significance_have_no_interval():
    """Three seeds of each on one task are in one of 20 orders: p is at least 0.1."""

    def has_interval(tasks, seeds):
        apart = by_task(a=np.zeros((tasks, seeds)), b=np.ones((tasks, seeds)))
        ((_, interval),) = improvements(apart, replicates=50).values()
        assert interval.value == 0.0
        return not np.isnan(interval.low)

    few = [(1, 2), (1, 3), (2, 2), (9, 1)]
    assert not any(has_interval(*sizes) for sizes in few)
    assert all(has_interval(*sizes) for sizes in [(1, 4), (2, 3), (3, 2)])


def test_one_seed_has_no_interval_and_widening_ends_at_the_bounds():
    one = improvements(
        by_task(a=np.array([[0.5]]), b=np.array([[0.1, 0.6]])), replicates=50
    )
    tasks, interval = one["a", "b"]
    assert tasks == 1 and interval.value == 0.5 and np.isnan(interval[1:]).all()
    scores = by_task(a=np.array([[0.0, 0.0, 1.0, 1.0]]), b=np.full((1, 4), 0.5))
    assert improvements(scores)["a", "b"] == (1, (0.5, 0.0, 1.0))


# ---------------------------------------------------------------- coverage


def simulate(rng, tasks, seeds, shift=0.0):
    """Return success rates [T, N] of 50 episodes. The chance of success differs between tasks
    and between seeds of a task.
    """
    chance = (
        np.linspace(0.1, 0.8, tasks)[:, None]
        + shift
        + 0.08 * rng.standard_normal((tasks, seeds))
    )
    return rng.binomial(50, np.clip(chance, 0.0, 1.0)) / 50


def rates(tasks, seeds, simulations, replicates=500):
    """Return how often each interval covers the truth: those of the IQM, of the probability of
    improvement, and Student's for the mean over tasks.
    """
    population = np.random.default_rng(99)
    x, y = (
        simulate(population, tasks, 20_000),
        simulate(population, tasks, 1_000, shift=0.05),
    )
    truth = np.array([iqm(x), probability_of_improvement(y, x[:, :1_000]), x.mean()])
    ends = np.zeros((simulations, 2, 3))
    for i in range(simulations):
        rng = np.random.default_rng(i)
        ours, other = (
            simulate(rng, tasks, seeds),
            simulate(rng, tasks, seeds, shift=0.05),
        )
        mean, half = mean_and_half(ours.mean(0))
        found = bootstrap(iqm, ours, replicates=replicates)
        compared = improvements(by_task(other=other, ours=ours), replicates)
        _, better = compared["other", "ours"]
        ends[i] = [
            (found.low, better.low, mean - half),
            (found.high, better.high, mean + half),
        ]
    covered = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean(0)
    print(
        f"{tasks} tasks, {seeds} seeds: IQM {covered[0]:.1%}, improvement {covered[1]:.1%},"
        f" Student's t {covered[2]:.1%}"
    )
    return covered


def test_intervals_cover_the_truth():
    assert all(
        0.88 <= rate <= 0.99
        for rate in rates(tasks=10, seeds=8, simulations=200, replicates=300)
    )


@pytest.mark.parametrize("seeds", COVERAGE)
def test_the_coverage_on_one_task_is_the_one_that_reports_name(seeds):
    scores = 0.5 + 0.1 * np.random.default_rng(0).normal(size=(1_000, 1, seeds))
    found = [bootstrap(iqm, one_task, replicates=200) for one_task in scores]
    covered = np.mean([one.low <= 0.5 <= one.high for one in found])
    assert 100 * covered == pytest.approx(COVERAGE[seeds], abs=3)


@pytest.mark.slow
def test_intervals_cover_the_truth_at_the_nominal_rate():
    """It is 95 %, in 1,000 simulations of 8 seeds and 600 of 3."""
    for seeds, simulations, low, high in (
        (8, 1_000, 0.935, 0.965),
        (3, 600, 0.92, 0.98),
    ):
        found = rates(tasks=50, seeds=seeds, simulations=simulations)
        assert all(low <= rate <= high for rate in found)
