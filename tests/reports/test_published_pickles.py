"""Published learning curves are read from pickles, here small ones with known axes."""

import pickle

import numpy as np
import pytest

from reports.published_pickles import AXES, read_curves
from utils.errors import UserError

TASKS = [f"cube-double-play-singletask-task{i}-v0" for i in (1, 2)]
K = 1_000


def written(tmp_path, data):
    path = tmp_path / "exp_data.pkl"
    path.write_bytes(pickle.dumps(data))
    return path


def rates(evaluations, seeds, low=0.1):
    """Return success [evaluations, seeds] that grows with both."""
    grows = 0.5 * np.arange(1, evaluations + 1)[:, None] / evaluations
    return low + grows + 0.01 * np.arange(seeds)


def read(tmp_path, data, interval=50 * K, axes=AXES[0]):
    found, notes = read_curves(written(tmp_path, data), interval, axes)
    return {(curves.task, curves.method): curves for curves in found}, notes


def one(tmp_path, array, **options):
    """Return the curves of the only array in a file, and the notes."""
    found, notes = read(tmp_path, {(TASKS[0], "QAM"): array}, **options)
    return found[TASKS[0], "QAM"], notes


def test_an_alias_counts_as_its_task_once(tmp_path):
    """cube-double-play-singletask-v0 is task 2 of OGBench's five, whose own entry wins."""
    alias, own = "cube-double-play-singletask-v0", TASKS[1]
    found, _ = read(
        tmp_path,
        {
            (alias, "QAM"): rates(3, 2),
            (alias, "FQL"): rates(3, 2),
            (own, "QAM"): rates(3, 2, low=0.2),
        },
    )
    assert found.keys() == {(own, "QAM"), (own, "FQL")}
    assert found[own, "QAM"].success[0, 0] - found[own, "FQL"].success[
        0, 0
    ] == pytest.approx(0.1)


# ---------------------------------------------------------------- steps


SCHEDULES = {  # shape, interval: first and last step, steps offline and online, in thousands
    ((30, 12), 50): (50, 1500, 1000, 500),
    ((31, 8), 50): (0, 1500, 1000, 500),
    ((30, 8), 50): (50, 1500, 1000, 500),
    ((20, 8), 50): (50, 1000, 1000, 0),
    ((21, 8), 50): (0, 1000, 1000, 0),
    ((10, 8), 50): (50, 500, 500, 0),
    ((15, 8), 100): (100, 1500, 1000, 500),
    ((16, 8), 100): (0, 1500, 1000, 500),
    ((3, 2), 500): (500, 1500, 1000, 500),
    ((13, 8), 50): (50, 650, 650, 0),
}


@pytest.mark.parametrize(("shape", "interval"), SCHEDULES)
def test_the_first_axis_is_evaluations_and_the_last_one_ends_a_phase(
    shape, interval, tmp_path
):
    first, last, offline, online = (K * steps for steps in SCHEDULES[shape, interval])
    interval *= K
    array = rates(*shape)
    curves, (note,) = one(tmp_path, array, interval=interval)
    np.testing.assert_array_equal(curves.success, array)
    assert curves.schedule[1:] == (offline, online)
    np.testing.assert_array_equal(
        curves.schedule.steps, np.arange(first, last + 1, interval)
    )
    read_as = f"read as evaluated every {interval:,} steps, the last time at {last:,}; "
    assert f"{shape[1]} runs, {read_as}" in note
    assert (
        f"QAM: {shape[0]} evaluations of {shape[1]} seeds from {first:,} to {last:,}"
        in note
    )


@pytest.mark.parametrize("array", [rates(1, 6)[0], rates(1, 6)])
@pytest.mark.parametrize("axes", AXES)
def test_one_evaluation_is_the_one_after_the_offline_phase(array, axes, tmp_path):
    array = array.T if axes == AXES[1] else array
    curves, notes = one(tmp_path, array, axes=axes)
    np.testing.assert_array_equal(curves.success, rates(1, 6))
    assert curves.schedule == (1000 * K, 1000 * K, 0)
    assert len(notes) == 1 and notes[0].endswith(
        "QAM: 1 evaluation of 6 seeds at 1,000,000"
    )


def test_ten_evaluations_beside_thirty_are_only_online(tmp_path):
    data = {(TASKS[0], "QAM"): rates(30, 12), (TASKS[0], "RLPD"): rates(10, 12)}
    found, (note,) = read(tmp_path, data)
    schedule = found[TASKS[0], "RLPD"].schedule
    assert schedule[1:] == (0, 500 * K)
    np.testing.assert_array_equal(schedule.steps, np.arange(50 * K, 501 * K, 50 * K))
    assert found[TASKS[0], "QAM"].schedule.offline_steps == 1000 * K
    words = "evaluations of 12 seeds from 50,000 to"
    assert f"QAM: 30 {words} 1,500,000, online after 1,000,000; " in note
    assert note.endswith(f"RLPD: 10 {words} 500,000, online alone")


@pytest.mark.parametrize(
    ("longer", "rows", "interval", "first"),
    [(31, 11, 50 * K, 0), (15, 5, 100 * K, 100 * K), (31, 10, 50 * K, 50 * K)],
)
def test_curves_that_are_only_online_follow_from_the_others(
    longer, rows, interval, first, tmp_path
):
    data = {(TASKS[0], "TRQAM"): rates(longer, 4), (TASKS[0], "RLPD"): rates(rows, 4)}
    schedule = read(tmp_path, data, interval=interval)[0][TASKS[0], "RLPD"].schedule
    assert (schedule.steps[0], *schedule[1:]) == (first, 0, 500 * K)


def test_a_complete_offline_phase_beside_a_longer_curve_is_offline(tmp_path):
    """40 evaluations end 1M steps after the offline phase; 20 of another method are that phase."""
    data = {(TASKS[0], "long"): rates(40, 4), (TASKS[0], "short"): rates(20, 4)}
    schedule = read(tmp_path, data)[0][TASKS[0], "short"].schedule
    assert (schedule.offline_steps, schedule.online_steps) == (1000 * K, 0)


# ---------------------------------------------------------------- axes


def test_the_axes_are_what_the_flag_says(tmp_path):
    array = rates(31, 8)
    curves, notes = one(tmp_path, array.T, axes="seeds,evaluations")
    np.testing.assert_array_equal(curves.success, array)
    assert curves.schedule.steps[0] == 0 and len(notes) == 1


@pytest.mark.parametrize(
    ("shape", "axes", "words"),
    [
        (
            (8, 31),
            AXES[0],
            "the second axis is the longer one (QAM: read as 8 evaluations",
        ),
        (
            (31, 8),
            AXES[1],
            "the first axis is the longer one (QAM: read as 8 evaluations",
        ),
        (
            (10, 12),
            AXES[0],
            "the second axis is the longer one (QAM: read as 10 evaluations",
        ),
    ],
)
def test_more_seeds_than_evaluations_cause_a_warning(shape, axes, words, tmp_path):
    _, notes = one(tmp_path, rates(*shape), axes=axes)
    other = AXES[1 - AXES.index(axes)]
    assert len(notes) == 2
    assert notes[1].startswith(str(tmp_path)) and words in notes[1]
    assert f"evaluations of {max(shape)} seeds)" in notes[1]
    assert notes[1].endswith(
        f"if it is that of the evaluations, give --pickle_axes={other}"
    )


def test_as_many_seeds_as_a_longer_array_has_cause_no_warning(tmp_path):
    data = {(TASKS[0], "QAM"): rates(30, 12), (TASKS[0], "RLPD"): rates(10, 12)}
    assert len(read(tmp_path, data)[1]) == 1
    data[TASKS[0], "RLPD"] = rates(10, 13)
    _, notes = read(tmp_path, data)
    assert len(notes) == 2 and "(RLPD: read as 10 evaluations of 13 seeds)" in notes[1]


# ---------------------------------------------------------------- means over tasks


def with_means(shape=(30, 6), shuffled=True):
    """Return two tasks and their means, whose seeds are in another order."""
    data = {
        (task, "QAM"): rates(*shape, low=0.1 + 0.2 * i) for i, task in enumerate(TASKS)
    }
    mean = np.mean(list(data.values()), axis=0)
    rng = np.random.default_rng(0)
    for name in ("cube-double-play", "all"):
        data[name, "QAM"] = rng.permuted(mean, axis=1) if shuffled else mean
    return data


def test_means_of_the_tasks_agree_whatever_the_order_of_their_seeds(tmp_path):
    found, notes = read(tmp_path, with_means())
    assert len(notes) == 1 and list(found) == [(task, "QAM") for task in TASKS]
    rounded = {key: np.round(100 * array, 1) for key, array in with_means().items()}
    assert len(read(tmp_path, rounded)[1]) == 1


def test_means_that_agree_the_other_way_round_name_the_flag(tmp_path):
    transposed = {key: array.T for key, array in with_means().items()}
    _, notes = read(tmp_path, transposed)
    assert (
        "2 of 2 entries of domains and all are not the means of their tasks"
        in notes[-1]
    )
    assert "(cube-double-play QAM, all QAM)" in notes[-1]
    assert notes[-1].endswith("; with --pickle_axes=seeds,evaluations all of them are")
    assert len(read(tmp_path, transposed, axes="seeds,evaluations")[1]) == 1


@pytest.mark.parametrize(
    "wrong", [lambda a: a + 0.002, lambda a: a[:-1], lambda a: a[::-1]]
)
def test_wrong_means_cause_a_warning(wrong, tmp_path):
    data = with_means()
    data["all", "QAM"] = wrong(data["all", "QAM"])
    _, notes = read(tmp_path, data)
    assert "1 of 2 entries" in notes[1] and "(all QAM)" in notes[1]
    assert "--pickle_axes" not in notes[1]


def test_names_that_are_neither_tasks_nor_means_of_them_are_named(tmp_path):
    data = with_means() | {
        ("scene-play", "QAM"): rates(30, 6),
        ("cube-task1", "QAM"): ["text"],
    }
    _, notes = read(tmp_path, data)
    left_out = (
        "left out, neither tasks nor their domains nor all: scene-play, cube-task1"
    )
    assert notes[1].endswith(left_out)


# ---------------------------------------------------------------- values


def test_percent_and_rates_are_distinguished_in_spite_of_rounding(tmp_path):
    array = rates(30, 2)
    np.testing.assert_allclose(one(tmp_path, 100 * array)[0].success, array)
    ones = np.full((30, 2), 1 + 1e-9)  # a mean of ones
    np.testing.assert_array_equal(one(tmp_path, ones)[0].success, ones)


def test_absent_values_stay_absent(tmp_path):
    data = with_means(shuffled=False)
    data[TASKS[0], "QAM"][29, 0] = np.nan
    found, _ = read(tmp_path, data)
    assert np.isnan(found[TASKS[0], "QAM"].success).sum() == 1


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (
            np.ones((2, 2, 2)),
            "arrays must be [seeds] or [evaluations, seeds] (--pickle_axes)",
        ),
        (
            np.ones((0, 3)),
            "arrays must be [seeds] or [evaluations, seeds] (--pickle_axes)",
        ),
        (["a", "b"], "is not made of numbers"),
        (
            np.array([-3.0, 0.5]),
            "not success rates, which are from 0 to 1 or in percent",
        ),
        (
            np.array([130.0, 0.5]),
            "not success rates, which are from 0 to 1 or in percent",
        ),
        (
            np.full((30, 2), np.nan),
            "not success rates, which are from 0 to 1 or in percent",
        ),
    ],
)
def test_arrays_that_are_not_success_rates_are_refused(array, named, tmp_path):
    with pytest.raises(UserError) as error:
        one(tmp_path, array)
    assert str(error.value).startswith(str(tmp_path)) and named in str(error.value)
