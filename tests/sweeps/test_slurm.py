"""A sweep writes a script for Slurm that runs each of its commands once."""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys

from sweeps import slurm
from sweeps.jobs import Job
from tests.sweeps.stub_jobs import ROOT, TASK, begin, planned, printed, run
from utils.files import write_json


def test_the_slurm_script_runs_each_command_once(tmp_path, monkeypatch, capsys):
    """The test gives each task its number, as the scheduler does; a stub of Python records what
    it is asked to run.
    """
    stub = tmp_path / "a python"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$@" > "$RECORD"\n')
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(stub))
    script = tmp_path / "table.sbatch"
    flags = [
        "--agents=trqam,qam",
        "--env_name=scene",
        "--seeds=2",
        "--agent.actor_hidden_dims=(8, 8)",
    ]
    lines = printed(capsys, *flags)
    assert run(*flags, f"--slurm={script}") == 0
    assert capsys.readouterr().out.splitlines() == [
        "10 jobs of 10, 20 runs",
        f"sbatch {script}",
    ]
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    text = script.read_text()
    (last,) = re.findall(r"^#SBATCH --array=0-(\d+)$", text, re.MULTILINE)
    ran = []
    for number in range(int(last) + 1):
        environ = os.environ | {
            "SLURM_ARRAY_TASK_ID": str(number),
            "RECORD": str(tmp_path / "record"),
        }
        assert (
            subprocess.run(["bash", script], env=environ, cwd=tmp_path).returncode == 0
        )
        where, *words = (tmp_path / "record").read_text().splitlines()
        assert where == str(ROOT)
        ran.append(words)
    assert ran == lines and len(lines) == 10
    assert (
        "Tasks 0-0 train the bases" in text
        and "--array=1-9 --dependency=afterany:ID" in text
    )
    alone = subprocess.run(
        ["bash", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert alone.returncode != 0 and "submit this file with sbatch" in alone.stderr


def test_the_slurm_script_names_only_jobs_that_train_a_base(tmp_path):
    jobs = planned("--env_name=scene,cube-double", f"--save_dir={tmp_path}")
    assert "# Tasks 0-1 train the bases" in slurm.slurm_script(jobs, [])
    begin(jobs[1])
    assert "# Tasks 0-3 train the bases" in slurm.slurm_script(jobs, [])
    (base,) = jobs[0].bases
    base.folder.mkdir(parents=True)
    write_json(base.folder / "config.json", base.config())
    done = {"bc_steps": 0, "offline_steps": 10**9, "online_steps": 0}
    write_json(base.folder / "done.json", done)
    for job in jobs:
        if not job.has_begun() and job.bases[0].folder != base.folder:
            begin(job)
    assert "train the bases" not in slurm.slurm_script(jobs, [])


def test_the_slurm_script_names_its_interpreter_even_if_its_environment_is_active(
    tmp_path, monkeypatch, capsys
):
    """The file may be submitted later, without that environment; printed lines are run at once."""
    monkeypatch.setattr(shutil, "which", lambda name: sys.executable)
    script = tmp_path / "table.sbatch"
    assert run("--env_name=scene", f"--slurm={script}") == 0
    (jobs,) = re.findall(r"<<'JOBS'\n(.*)\nJOBS\n", script.read_text(), re.DOTALL)
    start = f"{shlex.quote(sys.executable)} main.py "
    assert [line.startswith(start) for line in jobs.splitlines()] == [True] * 5
    capsys.readouterr()
    assert run("--env_name=scene") == 0
    assert capsys.readouterr().out.count("python main.py ") == 5


def test_a_slurm_script_of_more_jobs_than_an_array_may_have_is_submitted_in_parts(
    tmp_path, monkeypatch, capsys
):
    """Together the parts run each job once. A stub of Python prints the number of its job."""
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\necho "$1"\n')
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(stub))
    (planned_job,) = planned(f"--env_name={TASK}", f"--save_dir={tmp_path}")
    jobs = [Job((str(number),), planned_job.runs) for number in range(2100)]
    script = tmp_path / "a table.sbatch"
    text = slurm.slurm_script(jobs, ["scripts/sweep.py"])
    slurm.write_script(script, text, len(jobs))
    parts = [
        "--export=ALL,SWEEP_FIRST=1001 --array=0-1000",
        "--export=ALL,SWEEP_FIRST=2002 --array=0-97",
    ]
    submit = [f"sbatch '{script}'", *(f"sbatch {part} '{script}'" for part in parts)]
    assert capsys.readouterr().out.splitlines() == submit
    assert all(f"\n#   sbatch {part} FILE\n" in text for part in parts)
    assert {int(last) for last in re.findall(r"--array=\d+-(\d+)", text)} == {
        0,
        97,
        1000,
    }
    for first, task, number in (
        ("", 1000, 1000),
        (1001, 0, 1001),
        (1001, 5, 1006),
        (2002, 97, 2099),
    ):
        environ = os.environ | {
            "SWEEP_FIRST": str(first),
            "SLURM_ARRAY_TASK_ID": str(task),
        }
        ran = subprocess.run(
            ["bash", script], env=environ, capture_output=True, text=True
        )
        assert ran.stdout == f"{number}\n"


def test_the_hint_can_be_pasted_and_no_value_breaks_its_line(
    tmp_path, monkeypatch, capsys
):
    """A value may be any shell text, which the hint, the comment and the commands quote."""
    (tmp_path / "made").mkdir()
    monkeypatch.chdir(tmp_path / "made")
    evil = "$(touch x); `touch x`; # 'é \" JOBS"
    assert run(f"--env_name={TASK}", f"--tags={evil}", "--slurm=-a b;touch x") == 0
    hint = capsys.readouterr().out.splitlines()[-1]
    stub = f'sbatch() {{ cat "$1"; }}; python() {{ printf \'%s\\n\' "$@"; }}; {hint}'
    shown = subprocess.run(
        ["bash", "-c", stub], capture_output=True, text=True, check=True
    )
    script = (tmp_path / "made" / "-a b;touch x").read_text()
    assert shown.stdout == script
    (job,) = re.findall(r"^mapfile -t jobs <<'JOBS'\n(.*)\nJOBS$", script, re.MULTILINE)
    assert f"--tags={evil}" in shlex.split(job)
    (comment,) = (line for line in script.splitlines() if line.startswith("# python"))
    assert f"--tags={evil}" in shlex.split(comment[2:])
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"-a b;touch x"}


def test_a_path_of_two_lines_is_refused_instead_of_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/a\nb/python")
    assert run(f"--env_name={TASK}") == 2
    out, err = capsys.readouterr()
    assert out == "" and "'/a\\nb/python' has a control character" in err


def test_no_slurm_script_is_written_if_everything_has_finished(tmp_path, capsys):
    """The exit code is not 0 either, because `&& sbatch` would then submit the script of an
    earlier call.
    """
    flags = [
        f"--env_name={TASK}",
        f"--save_dir={tmp_path}",
        "--offline_steps=10",
        "--online_steps=6000",
    ]
    ((run_of_job,),) = (job.runs for job in planned(*flags, pack=1))
    run_of_job.folder.mkdir(parents=True)
    write_json(
        run_of_job.folder / "done.json",
        {"bc_steps": 1, "offline_steps": 10, "online_steps": 6000},
    )
    assert run(*flags, f"--slurm={tmp_path}/x.sbatch") == 1
    printed = capsys.readouterr()
    message = (
        f"error: --slurm={tmp_path}/x.sbatch: nothing is left to submit, all 1 jobs have"
        " finished; not written\n"
    )
    assert (printed.out, printed.err) == ("", message) and not (
        tmp_path / "x.sbatch"
    ).exists()
