"""report.py --repeat_of compares repeated runs with the original ones."""

import pytest
from scipy import stats

from tests.reports.helpers import SCENE, change_dataset, run_report, unwrapped
from tests.reports.test_returns import write_returns
from tests.synthetic_runs import write_run


def repeat(folder, name, kept):
    """Compare the runs in folder/name with those in folder/kept; return the exit code."""
    words = f"--repeat_of={folder / kept}", "--bootstrap=10"
    return run_report(folder / name, *words)


def test_a_repeat_that_has_not_finished_is_compared_and_says_so(tmp_path, capsys):
    for seed, success in enumerate(({0: 0.1, 1_000_000: 0.4},) * 3 + ({0: 0.1},)):
        name = "kept" if seed < 3 else "again"
        write_run(tmp_path / name, SCENE.format(1), seed, success)
    assert repeat(tmp_path, "again", "kept") == 0
    out = unwrapped(capsys.readouterr().out)
    assert "seed 3, step 0 of 1,000,000, not finished: 10.0 % is inside" in out


def test_repeated_runs_are_compared_with_runs_of_the_same_settings(tmp_path, capsys):
    """Only runs with the same settings count, and a run is not compared with itself. A run
    outside the interval makes the exit code 1.
    """
    task, settings = SCENE.format(1), {"given": {"agent.kl_budget": 0.3}}
    for seed, rate in enumerate((0.2, 0.4, 0.6)):
        write_run(tmp_path / "kept", task, seed, {1_000_000: rate}, **settings)
        write_run(
            tmp_path / "kept",
            task,
            seed,
            {1_000_000: 0.95},
            given={"agent.kl_budget": 3.0},
            hashed="b",
        )
    write_run(tmp_path / "again", task, 3, {1_000_000: 1.0}, **settings)
    assert repeat(tmp_path, "again", "kept") == 0
    interval = (
        f"40.0 ± {100 * stats.t.ppf(0.975, 2) * 0.2 * (4 / 3) ** 0.5:.1f} (95 % prediction"
        " interval of 3 seeds)"
    )
    assert (
        f"trqam {task[:-3]} seed 3, step 1,000,000: 100.0 % is inside {interval}"
        in unwrapped(capsys.readouterr().out)
    )
    # the same seed in two groups counts once
    assert (
        run_report(tmp_path / "again", f"--repeat_of={tmp_path}", "--bootstrap=10") == 0
    )
    assert interval in unwrapped(capsys.readouterr().out)
    write_run(
        tmp_path / "again",
        task,
        4,
        {1_000_000: 0.5},
        hashed="b",
        given={"agent.kl_budget": 3.0},
    )
    assert repeat(tmp_path, "again", "kept") == 1
    assert "seed 4, step 1,000,000: 50.0 % is OUTSIDE 95.0 ±" in unwrapped(
        capsys.readouterr().out
    )
    assert repeat(tmp_path, "kept", "again") == 1
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 120
    assert "fewer than two other seeds of the same settings" in unwrapped(shown)


def test_repeated_runs_have_the_same_settings_and_as_much_data(tmp_path, capsys):
    """bc_steps count as a setting, although no folder's hash covers them. A different dataset
    of the same size is mentioned; one of another size counts as a different setting.
    """
    task = SCENE.format(1)
    for seed in range(3):
        write_run(tmp_path / "kept", task, seed, {1_000_000: 0.5}, bc_steps=10_000)
    write_run(tmp_path / "short", task, 3, {1_000_000: 0.5}, bc_steps=20)
    assert repeat(tmp_path, "short", "kept") == 1
    assert (
        "evaluated at step 1,000,000; there are others with bc_steps 10000 and 20"
        in unwrapped(capsys.readouterr().out)
    )
    again = write_run(
        tmp_path / "again",
        task,
        3,
        {1_000_000: 0.5},
        bc_steps=10_000,
        offline_steps=2_000_000,
    )
    change_dataset(again, crc=8)
    assert repeat(tmp_path, "again", "kept") == 0
    assert (
        "(95 % prediction interval of 3 seeds); the data were not the same"
        in unwrapped(capsys.readouterr().out)
    )
    change_dataset(again, transitions=60_000)
    assert repeat(tmp_path, "again", "kept") == 1
    assert "there are others with transitions 1000000 and 60000" in unwrapped(
        capsys.readouterr().out
    )


def test_every_phase_is_compared_or_the_step_that_is_asked_for(tmp_path, capsys):
    """An offline phase that failed shows although the online phase hides it at the end."""
    task = SCENE.format(1)
    for seed, rate in enumerate((0.5, 0.6, 0.7, 0.05)):
        name = "kept" if seed < 3 else "again"
        success = {1_000_000: rate, 1_500_000: 0.9}
        write_run(tmp_path / name, task, seed, success, online_steps=500_000)
    assert repeat(tmp_path, "again", "kept") == 1
    out = unwrapped(capsys.readouterr().out)
    half = 100 * stats.t.ppf(0.975, 2) * 0.1 * (4 / 3) ** 0.5
    failed = f"step 1,000,000: 5.0 % is OUTSIDE 60.0 ± {half:.1f}"
    assert failed in out and "step 1,500,000: 90.0 % is inside" in out
    late = {1_500_000: 0.9}
    write_run(tmp_path / "again", task, 4, late, online_steps=500_000)
    for step, code, lines in (
        ("1_000_000", 1, (failed, "seed 4: it was not evaluated at step 1,000,000")),
        ("last", 0, [f"seed {i}, step 1,500,000: 90.0 % is inside" for i in (3, 4)]),
    ):
        words = [f"--repeat_of={tmp_path / 'kept'}", "--bootstrap=10", f"--step={step}"]
        assert run_report(tmp_path / "again", *words) == code
        out = unwrapped(capsys.readouterr().out)
        assert all(line in out for line in lines)


@pytest.mark.parametrize("kept", [(None,) * 3, (0.0, 0.1, None)])
def test_a_run_without_any_success_counts_as_zero_where_another_run_has_some(
    kept, tmp_path, capsys
):
    """Such environments report success only in episodes that have it."""
    task = SCENE.format(1)
    own = 0.02 if kept[0] is None else None
    for seed, rate in enumerate((*kept, own)):
        folder = tmp_path / ("kept" if seed < 3 else "again")
        success = {} if rate is None else {1_000_000: rate}
        write_returns(folder, task, seed, {1_000_000: -1.0}, success)
    assert repeat(tmp_path, "again", "kept") == 0
    mean = 100 * sum(rate or 0 for rate in kept) / 3
    line = f"{100 * (own or 0):.1f} % is inside {mean:.1f} ± "
    assert line in unwrapped(capsys.readouterr().out)


def test_a_default_that_is_given_is_no_other_setting(tmp_path, capsys):
    for seed in range(4):
        given = {"agent.kl_budget": 1.0} if seed > 1 else {}
        write_run(tmp_path / "a", SCENE.format(1), seed, {1_000_000: 0.5}, given=given)
    assert repeat(tmp_path, "a", "a") == 0
    assert unwrapped(capsys.readouterr().out).count("interval of 3 seeds") == 4
