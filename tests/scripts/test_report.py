"""scripts/report.py checks its command line, prints its help and starts without jax."""

import subprocess
import sys
import time

import pytest

from envs.tasks import ALL_TASKS
from tests.reports.helpers import ROOT, SCENE, run_report
from tests.synthetic_runs import write_run, write_table

MISTAKES = {
    "nothing given": ([], "the following arguments are required: FOLDER"),
    "no folder": (["{empty}/none"], "none: there is no such folder"),
    "no pickle": (["{empty}/none.pkl"], "none.pkl: the file cannot be read"),
    "no runs": (
        ["{empty}"],
        "no run with an evaluation in {empty}; train one with main.py, or give another folder",
    ),
    "a step that is none": (
        ["{empty}", "--step=end"],
        "argument --step: invalid step value: 'end'",
    ),
    "a number that is none": (
        ["{empty}", "--bootstrap=0"],
        "argument --bootstrap: give a whole number of at least 1, not 0",
    ),
    "other axes": (["{empty}", "--pickle_axes=tasks"], "--pickle_axes: invalid choice"),
    "an unknown flag": (
        ["{empty}", "--htm=x"],
        "unrecognized arguments: --htm=x (see --help)",
    ),
    "nowhere to write": (
        ["{empty}", "--html={empty}/none/r.html"],
        "argument --html: there is no folder {empty}/none for r.html",
    ),
    "a folder to write to": (
        ["{empty}", "--csv={empty}"],
        "argument --csv: {empty} is a folder; give a file",
    ),
    "published curves and no picture": (
        ["{empty}", "--published_curves=curves.csv"],
        "--published_curves: it is drawn in --picture; give one",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_prints_one_line(mistake, tmp_path, capsys):
    words, named = MISTAKES[mistake]
    assert run_report(*(word.format(empty=tmp_path) for word in words)) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert (
        line.startswith("error: ")
        and named.format(empty=tmp_path) in line
        and printed.out == ""
    )


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        run_report("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for flag in ("step", "bootstrap", "details", "csv", "latex", "html", "export"):
        assert f"--{flag}" in shown


def test_the_command_imports_neither_jax_nor_matplotlib(tmp_path):
    write_run(tmp_path, SCENE.format(1), 0, {1_000_000: 0.7})
    code = f"""
import sys
from scripts import report
report.main(["report.py", {str(tmp_path)!r}])
sys.exit(str({{"jax", "mujoco", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == "set()\n" and "70.0" in done.stdout


@pytest.mark.slow
def test_1200_runs_take_less_than_a_minute(tmp_path):
    """The runs have the paper's size: 31 evaluations and 300 logs of 20 columns each."""
    write_table(
        tmp_path,
        list(ALL_TASKS),
        8,
        {"trqam": 0.7, "sqam": 0.6, "mine": 0.2},
        evaluations=30,
        logs=300,
        columns=20,
    )
    files = [f"--{kind}={tmp_path / kind}" for kind in ("html", "csv", "latex")]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "report.py", tmp_path, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    print(
        f"1,200 runs in {seconds:.1f} s, a page of"
        f" {(tmp_path / 'html').stat().st_size / 1e6:.1f} MB"
    )
    assert done.returncode == 0 and seconds < 60
