"""The figures of tasks, domains and all tasks are those of runs with known numbers."""

import dataclasses
import re

import numpy as np
import pytest
from scipy import stats

from envs.tasks import ALL_TASKS, dataset_name
from reports.cells import CELLS
from reports.html import page
from tests.reports.helpers import CUBE, LEVELS, SCENE, make_report, row_of, run_report
from tests.synthetic_runs import write_csv, write_run


def test_there_is_an_entry_for_every_task_every_domain_and_all_tasks(table):
    _, _, found = table
    names = [(row.scope, row.name) for row in found.rows if row.method == "trqam"]
    domains = list(dict.fromkeys(map(dataset_name, ALL_TASKS)))
    assert [name for scope, name in names if scope == "task"] == list(ALL_TASKS)
    assert [name for scope, name in names if scope == "domain"] == domains
    assert [name for scope, name in names if scope == "overall"] == ["all tasks"]
    assert len(found.rows) == 3 * 61 and {row.seeds for row in found.rows} == {8}


@pytest.mark.parametrize("scope", ["task", "domain", "overall"])
def test_success_is_that_of_the_written_runs(table, scope):
    _, final, found = table
    rows = [row for row in found.rows if row.scope == scope]
    assert rows
    for row in rows:
        inside = [
            i
            for i, task in enumerate(ALL_TASKS)
            if row.name in (task, dataset_name(task), "all tasks")
        ]
        scores = 100 * final[list(LEVELS).index(row.method), inside]
        of_seeds = scores.mean(0)
        assert row.mean == pytest.approx(scores.mean())
        assert row.half == pytest.approx(
            stats.t.ppf(0.975, 7) * of_seeds.std(ddof=1) / 8**0.5
        )
        assert row.iqm.value == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))
        assert row.iqm.low <= row.iqm.value <= row.iqm.high
        assert (row.step, row.tasks, row.episodes, row.start) == (
            "1,000,000",
            len(inside),
            50,
            0.0,
        )


def test_path_kl_and_lambda_are_those_of_the_written_runs(table):
    _, _, found = table
    row = row_of(found, "all tasks", "trqam")
    # the last tenth of 40 logs
    last = [1.0 + 0.05 * (-1) ** k + 2.0 / (k + 1) for k in range(36, 40)]
    assert row.path_kl == pytest.approx(np.mean(last), rel=1e-6)
    settled = [1.0 + 0.05 * (-1) ** k + 2.0 / (k + 1) for k in range(20, 40)]
    assert (
        row.within
        == pytest.approx(100 * np.mean([abs(kl - 1) <= 0.1 for kl in settled]))
        and 0 < row.within < 100
    )
    assert (row.kl_budget, row.lam) == (1.0, pytest.approx(3.0 * (1 + 39 / 40)))
    assert np.isnan(row_of(found, "all tasks", "qam").path_kl)


def test_a_report_says_when_the_path_kl_settled_and_how_high_it_was(tmp_path):
    """It settles at the first log near the budget after which nine in ten logs are near it. A
    run that strays again never settles.
    """
    step = 50_000
    spent = [3.0, 1.0, 0.5, 0.5, *[0.95] * 12, 1.2, *[1.05] * 3]
    for task, last in ((1, 1.0), (2, 1.5)):
        kl = [
            (step * (i + 1), 2.0 * share, 1.0)
            for i, share in enumerate([*spent, last, last])
        ]
        write_run(
            tmp_path,
            CUBE.format(task),
            0,
            {1_100_000: 0.5},
            "trqam",
            kl,
            given={"agent.kl_budget": 2.0},
            offline_steps=1_100_000,
        )
    settled, strayed = (
        row for row in make_report(tmp_path).rows if row.scope == "task"
    )
    assert (settled.settled, settled.highest) == (5 * step, 3.0)
    assert settled.within > 90 > strayed.within and np.isnan(strayed.settled)
    assert (CELLS["settled"][1](settled), CELLS["settled"][1](strayed)) == (
        "250,000",
        "-",
    )
    assert CELLS["highest"][1](settled) == "3.00"


def test_path_kl_without_a_budget_is_shown_alone(tmp_path):
    """QAM logs a path KL and has no budget."""
    write_run(
        tmp_path,
        SCENE.format(1),
        0,
        {0: 0.1, 1_000_000: 0.7},
        kl=[(1_000_000, 1.05, 0.5)],
    )
    folder = write_run(
        tmp_path, SCENE.format(1), 0, {0: 0.1, 1_000_000: 0.0}, agent="qam"
    )
    write_csv(
        folder / "train.csv",
        ("step", "phase", "dual/path_kl"),
        [(s, "offline", 6.4) for s in (500_000, 1_000_000)],
    )
    found = make_report(tmp_path)
    row = row_of(found, SCENE.format(1), "qam")
    assert row.path_kl == 6.4 and np.isnan([row.kl_budget, row.within, row.lam]).all()
    assert [CELLS[name][1](row) for name in ("path_kl", "within", "lam")] == [
        "6.400",
        "",
        "",
    ]
    unknown = dataclasses.replace(row, path_kl=np.nan, kl_budget=1.0)
    assert CELLS["path_kl"][1](unknown) == "- / 1"
    assert not any("path KL" in note for note in found.notes)
    assert "6.400" in page(found) and ">nan" not in page(found)


def test_a_fork_may_call_another_setting_lam(tmp_path):
    """It steers towards a budget, because its dual has a step size."""
    kl = [(500_000, 9.0, 100.0), (1_000_000, 9.0, 100.0)]
    given = {"agent.lam": 0.5, "agent.eta_lambda": 0.1}
    write_run(tmp_path, CUBE.format(1), 0, {1_000_000: 0.5}, "mine", kl, given=given)
    (row,) = make_report(tmp_path).rows
    assert CELLS["within"][1](row) == "0 %"


def test_a_frozen_lambda_has_no_budget_and_no_bound(tmp_path):
    """agents/trqam_fixed_lambda.py logs its parent's budget but does not steer towards it."""
    kl = [(500_000, 9.0, 100.0), (1_000_000, 9.0, 100.0)]
    write_run(
        tmp_path,
        CUBE.format(1),
        0,
        {1_000_000: 0.5},
        "trqam_fixed_lambda",
        kl,
        given={"agent.lam": 100.0},
    )
    found = make_report(tmp_path)
    row = row_of(found, CUBE.format(1), "trqam_fixed_lambda")
    assert [CELLS[name][1](row) for name in ("path_kl", "within", "lam")] == [
        "9.000",
        "",
        "300",
    ]
    assert found.notes == [] and "budget s0" not in page(found)


def test_widened_intervals_stay_between_0_and_100_percent(tmp_path):
    for seed, rate in enumerate((0.0, 0.0, 1.0, 1.0)):
        write_run(tmp_path, CUBE.format(1), seed, {1_000_000: rate})
        write_run(tmp_path, CUBE.format(1), seed, {1_000_000: 0.5}, agent="qam")
    found = make_report(tmp_path)
    assert row_of(found, CUBE.format(1), "trqam").iqm[1:] == (0.0, 100.0)
    assert found.improvements[0].probability[1:] == (0.0, 100.0)


def test_means_over_different_tasks_are_noted_and_not_ranked(tmp_path, capsys):
    """Both methods have both tasks offline, but QAM was not trained online on the second."""
    success = {0: 0.1, 1_000_000: 0.4, 1_100_000: 0.6}
    for task in (1, 2):
        write_run(tmp_path / "exp", CUBE.format(task), 0, success, online_steps=100_000)
        write_run(
            tmp_path / "exp",
            CUBE.format(task),
            0,
            success,
            agent="qam",
            online_steps=100_000 * (task == 1),
        )
    assert (
        run_report(
            tmp_path / "exp",
            *(f"--{kind}={tmp_path / kind}" for kind in ("html", "latex")),
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert (
        "note: online: methods were run on different tasks (qam 1, trqam 2): " in shown
        and "offline: methods" not in shown
    )
    offline, _, online = shown.partition(
        "online, cube-double-play: 10.0 % at step 0, 1 seed, "
    )
    assert (
        "cube-double-play: 10.0 % at step 0, 2 tasks, 1 seed, " in offline
        and "P(A > it) %" in offline
    )
    assert (
        re.search(r"\nA qam .* 1\nB trqam .* 2\n", online)
        and "> it) %" not in online.partition("\n\n")[0]
    )
    text = (tmp_path / "html").read_text()
    tables = text[text.index('id="offline-means"') : text.index('id="offline-tasks"')]
    rows = re.findall(
        r"<th><b>[AB]</b> (qam|trqam)</th><td>(\d)</td><td>1</td>", tables
    )
    assert rows == [("qam", "2"), ("trqam", "2"), ("qam", "1"), ("trqam", "2")]
    lines = [
        line
        for line in (tmp_path / "latex").read_text().splitlines()
        if line.startswith(r"\textit{cube-double-play}")
    ]
    assert [line.count(r"\textbf{") for line in lines] == [2, 0]


def test_tasks_without_a_common_seed_have_no_common_mean(tmp_path):
    for i in (1, 2):
        write_run(tmp_path, CUBE.format(i), i, {1_000_000: 0.5})
    found = make_report(tmp_path)
    assert [row.scope for row in found.rows] == ["task", "task"]
    assert (
        "cube-double-play: the tasks of trqam have no seed in common, so there is no row over"
        " them" in found.notes
    )
