"""A report chooses which evaluation of a run counts."""

import pytest

from reports.points import final_points
from reports.reading import read_all
from tests.reports.helpers import CUBE, make_report, run_report
from tests.synthetic_runs import write_run


def write_rising(folder, seed, last):
    """Write a run whose success rises by 10 % every 200,000 steps up to step `last`."""
    success = {step: step / 2e6 for step in range(0, last + 1, 200_000)}
    write_run(folder, CUBE.format(1), seed, success)


def test_offline_and_online_are_two_tables(tmp_path):
    success = {0: 0.1, 500_000: 0.2, 1_000_000: 0.4, 1_250_000: 0.7, 1_500_000: 0.9}
    write_run(tmp_path, CUBE.format(1), 0, success, online_steps=500_000)
    found = make_report(tmp_path)
    assert [(row.phase, row.step, row.mean) for row in found.rows] == [
        ("offline", "1,000,000", pytest.approx(40.0)),
        ("online", "1,500,000", pytest.approx(90.0)),
    ]
    assert [(row.phase, row.mean) for row in make_report(tmp_path, "1250000").rows] == [
        ("online", pytest.approx(70.0))
    ]
    assert [(row.phase, row.mean) for row in make_report(tmp_path, "500000").rows] == [
        ("offline", pytest.approx(20.0))
    ]


def test_unfinished_runs_are_noted_and_left_out(tmp_path):
    for seed, last in enumerate((1_000_000, 1_000_000, 600_000)):
        write_rising(tmp_path, seed, last)
    found = make_report(tmp_path)
    assert [(row.seeds, row.mean) for row in found.rows] == [(2, pytest.approx(50.0))]
    assert (
        "1 runs have not reached the end of a phase and are left out there: trqam"
        " cube-double-play-singletask-task1 seed 2 " in (found.notes[0])
    )
    assert "(offline, step 600,000 of 1,000,000)" in found.notes[0]
    last = make_report(tmp_path, "last")
    assert [(row.seeds, row.step, row.mean) for row in last.rows] == [
        (3, "600,000", pytest.approx(30.0))
    ]
    assert (
        "at step 600,000 of 1,000,000, held back by trqam cube-double-play-singletask-task1"
        " seed 2" in last.notes[0]
    )
    step = make_report(tmp_path, "800000")
    assert [(row.seeds, row.mean) for row in step.rows] == [(2, pytest.approx(40.0))]
    assert step.notes[0].startswith(
        "1 of 3 runs have no evaluation at step 800,000 and are left out: "
    )


def test_if_no_run_has_finished_they_are_compared_at_the_last_common_step(tmp_path):
    for seed, last in enumerate((400_000, 600_000)):
        write_rising(tmp_path, seed, last)
    found = make_report(tmp_path)
    assert [(row.seeds, row.step) for row in found.rows] == [(2, "400,000")]
    assert any("no run has reached the end of a phase" in note for note in found.notes)


def test_a_step_without_an_evaluation_is_a_mistake(tmp_path, capsys):
    write_run(tmp_path, CUBE.format(1), 0, {0: 0.0, 1_000_000: 0.5})
    assert run_report(tmp_path, "--step=123") == 2
    assert capsys.readouterr().err.startswith(
        "error: --step=123: no run has an evaluation there; the last ones are at step 1,000,000"
    )


def test_online_steps_are_counted_from_the_end_of_the_offline_phase(tmp_path):
    """500K online steps count the same after 1M offline steps as after none; 250K differ."""
    success = {250_000: 0.4, 500_000: 0.5, 1_000_000: 0.5, 1_500_000: 0.6}
    write_run(tmp_path, CUBE.format(1), 0, success, online_steps=500_000)
    alone = {
        "root": tmp_path,
        "env_name": CUBE.format(1),
        "seed": 0,
        "offline_steps": 0,
    }
    write_run(**alone, success=success, agent="qam", online_steps=500_000)
    assert not any("different steps" in note for note in make_report(tmp_path).notes)
    write_run(**alone, success=success, agent="fql", online_steps=250_000)
    (note,) = (
        note for note in make_report(tmp_path).notes if "different steps" in note
    )
    assert note.startswith(
        "online: runs are at different steps of it, 250,000 to 500,000; "
    )


def test_the_trust_region_online_is_that_of_the_online_phase(tmp_path):
    """Offline the path KL is far from the budget; 50,000 online steps are 5 % of the run."""
    offline = [(step, 0.3, 2.0) for step in range(100_000, 1_000_001, 100_000)]
    online = [(1_000_000 + step, 1.0, 1.0) for step in range(10_000, 50_001, 10_000)]
    write_run(
        tmp_path,
        CUBE.format(1),
        0,
        {1_000_000: 0.5, 1_050_000: 0.6},
        kl=offline + online,
        online_steps=50_000,
    )
    results, _ = read_all([str(tmp_path)], 50_000)
    before, after = (point.trust_region for point in final_points(results, []))
    assert (before.path_kl, before.highest) == (pytest.approx(0.3), pytest.approx(0.3))
    assert (after.path_kl, after.within, after.highest) == (1.0, 100.0, 1.0)
    assert after.settled == 1_010_000


def test_logs_that_are_far_apart_still_show_the_path_kl(tmp_path):
    logs = [(30_000, 0.7, 2.0), (60_000, 0.9, 1.0)]
    write_run(tmp_path, CUBE.format(1), 0, {50_000: 0.5, 100_000: 0.5}, kl=logs)
    (row,) = make_report(tmp_path, "50000").rows
    assert (row.path_kl, row.lam) == (pytest.approx(0.7), pytest.approx(2.0 * 3.0))


def test_a_cloned_policy_that_was_evaluated_is_a_method(tmp_path):
    write_run(
        tmp_path,
        CUBE.format(1),
        0,
        {0: 0.0, 300_000: 0.4},
        agent="bc",
        run_group="bc",
        offline_steps=300_000,
    )
    assert [(row.method, row.mean) for row in make_report(tmp_path).rows] == [
        ("bc", pytest.approx(40.0))
    ]


def test_a_method_that_only_trains_online_is_online_at_step_0_too(tmp_path):
    phases = {"offline_steps": 0, "online_steps": 500_000}
    write_run(
        tmp_path, CUBE.format(1), 0, {0: 0.0, 500_000: 0.5}, agent="rlpd", **phases
    )
    (row,) = make_report(tmp_path, "0").rows
    assert row.phase == "online"
