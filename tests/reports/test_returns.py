"""Runs that report returns and no success have their own table."""

import csv
import re

from scipy import stats

from reports.html import page
from tests.reports.helpers import CUBE, make_report, run_report, unwrapped
from tests.synthetic_runs import write_csv, write_run


def write_returns(folder, name, seed, returns, success=None, **changed):
    """Write a run whose eval.csv has returns by step, and success rates if there are any."""
    place = write_run(folder, name, seed, {}, **changed)
    if success:
        header = ("step", "episodes", "return", "success")
        rows = [
            (step, 50, value, success.get(step, "")) for step, value in returns.items()
        ]
    else:
        header = ("step", "episodes", "return")
        rows = [(step, 50, value) for step, value in returns.items()]
    write_csv(place / "eval.csv", header, rows)


def test_a_latex_table_of_runs_without_success_is_refused(tmp_path, capsys):
    write_returns(tmp_path / "exp", "mine:Walker-v0", 0, {1_000_000: -10.0})
    assert run_report(tmp_path / "exp", f"--latex={tmp_path / 'o.tex'}") == 2
    assert "--latex: no run reports success" in capsys.readouterr().err
    assert not (tmp_path / "o.tex").exists()


def test_runs_without_success_are_named_and_their_returns_shown(tmp_path, capsys):
    own, task = "mine:Walker-v0", CUBE.format(1)
    other = CUBE.format(2)
    for seed, value in enumerate((-10.0, -14.0)):
        write_returns(tmp_path / "exp", own, seed, {0: -90.0, 1_000_000: value})
        write_run(tmp_path / "exp", task, seed, {0: 0.0, 1_000_000: 0.5})
    write_returns(tmp_path / "exp", other, 2, {1_000_000: -3.5})
    files = {kind: tmp_path / kind for kind in ("csv", "html", "latex")}
    assert (
        run_report(
            tmp_path / "exp", *(f"--{kind}={path}" for kind, path in files.items())
        )
        == 0
    )
    shown = capsys.readouterr().out
    half = stats.t.ppf(0.975, 1) * 2
    assert re.search(
        rf"mine:Walker +A trqam +2 +-12.0 ± {half:.1f} +1,000,000\n", shown
    )
    assert re.search(r"cube-double-play-task2 +A trqam +1 +-3.5 +1,000,000\n", shown)
    assert re.search(
        r"cube-double-play-task1: 0.0 % at step 0, 2 seeds, .*\n.*\n.*\nA trqam +50.0 ± 0.0 ",
        shown,
    )
    assert (
        "note: 3 runs report no success: their returns have a table of their own"
        in unwrapped(shown)
    )
    assert "Return of runs that report no success, offline" in files["html"].read_text()
    assert "Walker" not in files["latex"].read_text()
    rows = [
        row
        for row in csv.DictReader(files["csv"].read_text().splitlines())
        if row["kind"] != "published"
    ]
    columns = ("kind", "name", "seeds", "success", "return")
    assert [[row[column] for column in columns] for row in rows] == [
        ["ours", task, "2", "50", ""],
        ["return", other, "1", "", "-3.5"],
        ["return", own, "2", "", "-12"],
    ]
    assert (
        run_report(tmp_path / "exp" / "sweep" / own, f"--repeat_of={tmp_path / 'exp'}")
        == 1
    )
    line = "trqam mine:Walker seed 0: it reports no success to compare"
    assert line in capsys.readouterr().out
    alone = page(make_report(tmp_path / "exp" / "sweep" / own))
    assert "<td>mine:Walker</td><td>A trqam</td><td>2</td><td>-12.0 ± " in alone
    assert 'id="improvement"' not in alone and "<img class=" not in alone


def test_success_that_is_reported_only_where_it_is_reached_is_0_elsewhere(tmp_path):
    returns = {0: -90.0, 500_000: -50.0, 1_000_000: -10.0}
    write_returns(tmp_path, CUBE.format(1), 0, returns, {1_000_000: 0.25})
    (row,) = make_report(tmp_path).rows
    assert (row.start, row.mean) == (0.0, 25.0) and not make_report(tmp_path).returns


def test_a_run_that_never_succeeds_counts_as_0_if_another_of_its_task_succeeds(
    tmp_path,
):
    returns = {0: -90.0, 1_000_000: -10.0}
    write_returns(tmp_path, "mine:Walker-v0", 0, returns, {1_000_000: 0.8})
    write_returns(tmp_path, "mine:Walker-v0", 1, returns)
    found = make_report(tmp_path)
    (row,) = found.rows
    assert (row.mean, row.seeds) == (40.0, 2) and not found.returns
