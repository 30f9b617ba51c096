"""report.py reads files like the QAM paper's exp_data.pkl."""

import csv
import io
import pickle
import re
import resource
import subprocess
import sys

import numpy as np
import pytest

from envs.tasks import ALL_TASKS, dataset_name
from reports.reading import read_all
from reports.summary import make_report
from tests.reports.helpers import CUBE, ROOT, run_report, unwrapped
from tests.synthetic_runs import write_run


def dump(path, value):
    path.write_bytes(pickle.dumps(value))
    return path


def curves_of(low, high, evaluations, seeds=12):
    """Return success [evaluations, seeds] whose mean over seeds rises from `low` to `high`."""
    own = 0.001 * (np.arange(seeds) - (seeds - 1) / 2)
    return np.linspace(low, high, evaluations)[:, None] + own


def published(domains=("cube-double-play", "scene-play")):
    """Return data like the QAM paper's: 30 evaluations of 12 seeds, 10 for RLPD, and means."""
    data = {}
    tasks = [task for task in ALL_TASKS if dataset_name(task) in domains]
    ends_of = {
        "QAM-E": (0.11, 0.69, 30),
        "QAM": (0.01, 0.59, 30),
        "RLPD": (0.05, 0.5, 10),
    }
    for method, ends in ends_of.items():
        data |= {
            (task, method): curves_of(*ends) + 0.01 * i for i, task in enumerate(tasks)
        }
        for name in ("all", *domains):
            own = [
                data[task, method]
                for task in tasks
                if name in ("all", dataset_name(task))
            ]
            data[name, method] = np.mean(own, axis=0)[:, ::-1]  # seeds in another order
    return data


def numbers(path, *words):
    """Report on a pickle; return the CSV lines of kind "ours" by (phase, method, name)."""
    target = path.with_suffix(".csv")
    assert run_report(path, f"--csv={target}", "--bootstrap=50", *words) == 0
    lines = list(csv.DictReader(io.StringIO(target.read_text())))
    assert lines[0].keys() >= {"phase", "name", "method", "success", "seeds"}
    ours = [line for line in lines if line["kind"] == "ours"]
    return {(line["phase"], line["method"], line["name"]): line for line in ours}


def test_published_pickles_are_evaluations_by_seeds(tmp_path, capsys):
    """Evaluation 20 is at 1M steps and 30 at 1.5M. Ten tasks average 4.5 points above the first."""
    lines = numbers(dump(tmp_path / "exp_data.pkl", published()))
    for (phase, method), step, rate in (
        (("offline", "QAM-E"), "1000000", 49 + 4.5),
        (("online", "QAM-E"), "1500000", 69 + 4.5),
        (("offline", "QAM"), "1000000", 39 + 4.5),
        (("online", "QAM"), "1500000", 59 + 4.5),
        (("online", "RLPD"), "500000", 50 + 4.5),
    ):
        line = lines[phase, method, "all tasks"]
        assert float(line["success"]) == pytest.approx(rate)
        assert (line["step"], line["seeds"]) == (step, "12")
    assert not any(
        method == "RLPD" and phase == "offline" for phase, method, _ in lines
    )
    shown = capsys.readouterr().out
    offline, _, online = shown.partition("online, all tasks: 10 tasks, 12 seeds\n")
    assert "RLPD" not in offline and re.search(r"RLPD +54\.5 ± .*500,000", online)
    when = "evaluated every 50,000 steps, the last time at 1,500,000"
    assert len(re.findall("^note: ", shown, re.MULTILINE)) == 1
    assert (
        f"360 runs, read as {when}; QAM-E, QAM: 30 evaluations of 12 seeds"
        in unwrapped(shown)
    )


def test_the_axes_of_a_pickle_are_given_by_a_flag(tmp_path, capsys):
    data = {key: array.T for key, array in published().items()}
    path = dump(tmp_path / "exp_data.pkl", data)
    line = numbers(path, "--pickle_axes=seeds,evaluations")[
        "online", "QAM-E", "all tasks"
    ]
    assert float(line["success"]) == pytest.approx(73.5) and line["seeds"] == "12"
    assert "axis" not in capsys.readouterr().out
    assert ("offline", "QAM-E", "all tasks") in numbers(path)
    shown = unwrapped(capsys.readouterr().out)
    assert "note: " + str(path) + ": the second axis is the longer one" in shown
    assert "with --pickle_axes=seeds,evaluations all of them are" in shown


def test_published_pickles_are_read_beside_runs(tmp_path, capsys):
    """31 evaluations in percent begin at step 0; a single evaluation is the one after 1M steps."""
    curves = np.linspace(0, 1, 31)[:, None] * np.array([60.0, 80.0])
    data = {
        (CUBE.format(1), "QAM"): curves,
        (CUBE.format(1), "FQL"): np.array([10.0, 30.0]),
        ("all", "QAM"): curves,
    }
    write_run(tmp_path / "exp", CUBE.format(1), 0, {0: 0.0, 1_000_000: 0.9})
    path = dump(tmp_path / "exp_data.pkl", data)
    results, notes = read_all([str(tmp_path / "exp"), str(path)], 50_000)
    found = make_report(results, "final", [], notes)
    means = {
        (row.method, row.phase): (row.mean, row.step, row.seeds) for row in found.rows
    }
    assert means["QAM", "offline"] == (pytest.approx(70.0 * 20 / 30), "1,000,000", 2)
    assert means["QAM", "online"] == (pytest.approx(70.0), "1,500,000", 2)
    assert means["FQL", "offline"] == (pytest.approx(20.0), "1,000,000", 2)
    assert means["trqam", "offline"][0] == pytest.approx(90.0)
    starts = {row.start for row in found.rows if row.method == "QAM"}
    assert starts == {0.0}
    assert any(
        "4 runs, read as evaluated every 50,000 steps, the last time at 1,500,000"
        in note
        for note in found.notes
    )
    # A report on a pickle alone works too.
    assert run_report(path, f"--html={tmp_path / 'r.html'}") == 0


def test_a_method_without_an_offline_phase_does_not_hold_back_the_others(tmp_path):
    path = dump(tmp_path / "exp_data.pkl", published())
    results, notes = read_all([str(path)], 50_000)
    found = make_report(results, "last", [], notes, 50)
    assert {row.phase for row in found.rows} == {"online"}
    steps = {row.method: row.step for row in found.rows}
    assert steps == {"QAM-E": "1,500,000", "QAM": "1,500,000", "RLPD": "500,000"}
    assert not any("held back" in note for note in found.notes)


class Evil:
    def __reduce__(self):
        return (exec, ("open('evil', 'w').close()",))


PICKLES = {
    "a call": (
        lambda: {("a", "b"): Evil()},
        "refused, because the file asks for 'builtins.exec'",
    ),
    "no dict": (
        lambda: [1, 2],
        "not an exp_data file, which is a dict of (name, method) -> array",
    ),
    "no task": (
        lambda: {("all", "QAM"): np.ones(3)},
        "no name in it is a single task; it has all",
    ),
    "text": (lambda: {(CUBE.format(1), "QAM"): ["a", "b"]}, "is not made of numbers"),
    "a cube": (
        lambda: {(CUBE.format(1), "QAM"): np.ones((2, 2, 2))},
        "arrays must be [seeds]",
    ),
    "nothing": (
        lambda: {(CUBE.format(1), "QAM"): np.ones((0, 3))},
        "arrays must be [seeds]",
    ),
    "returns": (
        lambda: {(CUBE.format(1), "QAM"): np.array([-9.0])},
        "not success rates",
    ),
}


@pytest.mark.parametrize("mistake", PICKLES)
def test_other_pickles_are_refused_and_not_executed(
    mistake, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    value, named = PICKLES[mistake]
    assert run_report(dump(tmp_path / "x.pkl", value())) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}/x.pkl: ") and named in line
    assert not (tmp_path / "evil").exists()


@pytest.mark.slow
def test_a_published_file_of_17_methods_takes_less_than_a_minute(tmp_path):
    """It has 50 tasks with 12 seeds. CPU time is measured, because the machine may be busy."""
    rng = np.random.default_rng(0)
    tasks = [(task, f"M{method}") for task in ALL_TASKS for method in range(17)]
    data = {key: rng.binomial(50, rng.uniform(0, 0.9), (30, 12)) / 50 for key in tasks}
    path = dump(tmp_path / "exp_data.pkl", data)
    files = [f"--{kind}={tmp_path / kind}" for kind in ("html", "csv", "latex")]
    command = [sys.executable, ROOT / "scripts" / "report.py", path, *files]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    print(f"17 methods on 50 tasks in {seconds:.1f} s")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 61 * (17 + 17 * 16 // 2) and seconds < 60
