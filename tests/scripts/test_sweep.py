"""Sweeps: what they plan, what they print, how they stand, and the same runs from every engine."""

import collections
import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from configs.flags import parse_flags
from envs.collect import collect_random
from envs.tasks import ALL_TASKS
from scripts import sweep
from sweeps import engines
from sweeps.engines import Local
from sweeps.jobs import Job
from sweeps.run import run_jobs
from sweeps.status import hours_text
from training.plan import plan
from utils.errors import RunError
from utils.files import exclusive_folder, is_locked, lock_of, write_json

ROOT = Path(__file__).resolve().parents[2]
TASK = "pointmaze-medium-navigate-singletask-task1-v0"


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(*flags, environ=os.environ):
    return sweep.main(["scripts/sweep.py", *map(str, flags)], environ)


def printed(capsys, *flags):
    """The command lines of a sweep, as words behind the interpreter."""
    assert run(*flags) == 0
    return [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()]


def planned(*flags, pack=1):
    options, rest = sweep.parser().parse_known_args(map(str, flags))
    return sweep.plan_jobs(options, rest, pack)


# ---------------------------------------------------------------- what it plans


def test_the_table_is_every_agent_task_and_seed_once_and_main_takes_every_command(
    capsys,
):
    lines = printed(capsys, "--agents=trqam,qam", "--env_name=all50", "--seeds=8")
    assert all(words[0] == "main.py" for words in lines) and len(lines) == 100
    runs = [run for words in lines for run in plan(parse_flags(words))]
    found = collections.Counter(
        (run.agent_name, run.env_name, run.seed) for run in runs
    )
    assert found == {
        (agent, task, seed): 1
        for agent in ("trqam", "qam")
        for task in ALL_TASKS
        for seed in range(8)
    }
    assert len({run.folder for run in runs}) == 800


def test_the_table_of_all_methods(capsys):
    """Each of 19 methods on 50 tasks, by commands that main.py takes; RLPD, which has no offline
    phase, is given no length of it.
    """
    flags = ("--agents=table", "--env_name=all50", "--offline_steps=7")
    jobs = printed(capsys, *flags)
    methods = {" ".join(w for w in words if w.startswith("--agent")) for words in jobs}
    assert (len(jobs), len(methods)) == (950, 19)
    assert "--agent=agents/cgql.py --agent.mode=mse" in methods
    shortened = {words[1] for words in jobs if "--offline_steps=7" not in words}
    assert shortened == {"--agent=agents/rlpd.py"}
    parsed = {(words[1], *words[4:]): words for words in jobs}
    assert len(parsed) == 19
    for words in parsed.values():
        assert plan(parse_flags(words))[0].settings.flags["offline_steps"] in (0, 7)


def test_jobs_that_train_different_bases_come_first(capsys):
    jobs = planned("--agents=trqam,qam", "--env_name=all50", "--seeds=2", pack=2)
    bases = [tuple(base.folder for base in job.bases) for job in jobs]
    assert len(set(bases)) == len(set(bases[:10])) == 10
    assert all(len(set(bases[i : i + 10])) == 10 for i in range(0, 100, 10))
    without = planned("--agents=bc", "--env_name=scene") + planned(
        "--env_name=scene", "--bc_steps=0"
    )
    assert [job.bases for job in without] == [()] * 10


def test_a_task_that_two_names_stand_for_is_one_job():
    names = "--env_name=scene-play-singletask-task2-v0,scene,cube-single-play-singletask-task1-v0"
    jobs = planned(names)
    tasks = [f"scene-play-singletask-task{i}-v0" for i in (2, 1, 3, 4, 5)]
    assert {job.runs[0].env_name for job in jobs} == {
        *tasks,
        "cube-single-play-singletask-task1-v0",
    }
    assert len(jobs) == 6


def test_seeds_are_packed_and_a_grid_is_every_combination(capsys):
    flags = [
        f"--env_name={TASK}",
        "--first_seed=2",
        "--seeds=8",
        "--pack=3",
        "--run_group=mine",
    ]
    grid = [
        "--grid=agent.kl_budget=0.5,1",
        "--grid=agent.actor_hidden_dims=(8,8),(16,)",
    ]
    lines = printed(capsys, *flags, *grid)
    seeds = [
        (words[3], *(word for word in words if word.startswith("--num_seeds")))
        for words in lines
    ]
    assert seeds == 4 * [
        ("--seed=2", "--num_seeds=3"),
        ("--seed=5", "--num_seeds=3"),
        ("--seed=8", "--num_seeds=2"),
    ]
    assert collections.Counter(tuple(words[-2:]) for words in lines) == {
        (f"--agent.kl_budget={kl}", f"--agent.actor_hidden_dims={dims}"): 3
        for kl in ("0.5", "1")
        for dims in ("(8,8)", "(16,)")
    }
    assert all("--run_group=mine" in words for words in lines)
    assert (
        len({run.folder for words in lines for run in plan(parse_flags(words))}) == 32
    )


def test_elsewhere_the_commands_name_the_project_in_full(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (words,) = printed(capsys, f"--env_name={TASK}")
    assert words[:2] == [str(ROOT / "main.py"), f"--agent={ROOT / 'agents/trqam.py'}"]
    (run,) = plan(parse_flags(words))
    monkeypatch.chdir(ROOT)
    assert run.folder == plan(parse_flags(["main.py", f"--env_name={TASK}"]))[0].folder


def test_finished_runs_are_skipped(tmp_path, capsys):
    flags = [
        "--env_name=scene",
        "--seeds=2",
        f"--save_dir={tmp_path}",
        "--offline_steps=10",
        "--online_steps=6000",
    ]
    jobs = planned(*flags, pack=2)
    for finished, job in zip((2, 1, 2, 0, 0), jobs, strict=True):
        for one in job.runs[:finished]:
            one.folder.mkdir(parents=True)
            write_json(
                one.folder / "done.json",
                {"bc_steps": 1, "offline_steps": 10, "online_steps": 6000},
            )
    tasks = [words[2] for words in printed(capsys, *flags)]
    assert tasks == [f"--env_name=scene-play-singletask-task{i}-v0" for i in (2, 4, 5)]
    assert (
        len(printed(capsys, *flags, "--online_steps=6001")) == 5
    )  # larger steps extend a run


def test_the_alias_of_a_task_is_that_task():
    alias, task = (
        f"--env_name=scene-play-singletask-{name}v0" for name in ("", "task2-")
    )
    (by_alias,), (by_task,) = (planned(name)[0].runs for name in (alias, task))
    assert by_alias.folder == by_task.folder
    assert len(planned(f"{alias},{task.partition('=')[2]}")) == 1


def test_an_agent_file_may_be_named_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text((ROOT / "agents" / "fql.py").read_text())
    ((run,),) = (
        job.runs for job in planned("--agents=~/mine.py", f"--env_name={TASK}")
    )
    assert run.agent_name == "mine" and run.source.file == tmp_path / "mine.py"


MISTAKES = {
    "unknown agent": (["--agents=trqam,qamm", f"--env_name={TASK}"], "--agent=agents/qamm.py", "agents/qam.py"),
    "no agent": (["--agents=,", f"--env_name={TASK}"], "--agents", "trqam"),
    "unknown task": (["--env_name=scene,puzle-4x4"], "--env_name", "puzzle-4x4"),
    "no task": ([], "--env_name is missing", "all50"),
    "no seeds": ([f"--env_name={TASK}", "--seeds=0"], "--seeds", "at least 1, not 0"),
    "no number": ([f"--env_name={TASK}", "--pack=all"], "--pack", "at least 1, not all"),
    "unknown engine": ([f"--env_name={TASK}", "--engine=slurm"], "--engine", "'print', 'local', 'ray'"),
    "a flag of main's that a sweep sets": ([f"--env_name={TASK}", "--num_seeds=3"], "--num_seeds", "--seeds=N"),
    "an agent of main's": ([f"--env_name={TASK}", "--agent=agents/qam.py"], "--agent", "--agents=NAME"),
    "overwriting": ([f"--env_name={TASK}", "--overwrite"], "--overwrite", "--run_group"),
    "unknown flag": ([f"--env_name={TASK}", "--offline_step=1"], "offline_step", "offline_steps"),
    "a setting as a flag": (
        [f"--env_name={TASK}", "--grid=kl_budget=1,2"], "--kl_budget", "written --agent.kl_budget=1",
    ),
    "unknown setting": ([f"--env_name={TASK}", "--agent.kl_bugdet=1"], "--agent.kl_bugdet", "--agent.kl_budget"),
    "a setting that one agent lacks": (
        ["--agents=trqam,qam", f"--env_name={TASK}", "--grid=agent.kl_budget=1,2"], "--agent.kl_budget", "agents/qam.py",
    ),
    "not a flag": ([f"--env_name={TASK}", "trqam"], "'trqam' is not a flag", "--name=value"),
    "half a grid": ([f"--env_name={TASK}", "--grid=agent.kl_budget"], "--grid=agent.kl_budget", "KEY=A,B,C"),
    "an empty value": ([f"--env_name={TASK}", "--grid=agent.kl_budget=1,,2"], "--grid=agent.kl_budget", "KEY=A,B,C"),
    "a grid over seeds": ([f"--env_name={TASK}", "--grid=seed=1,2"], "--grid=seed=1,2", "--first_seed"),
    "a grid over steps": ([f"--env_name={TASK}", "--grid=offline_steps=1,2"], "would share", "--run_group"),
    "an agent twice": ([f"--env_name={TASK}", "--agents=trqam,trqam"], "would share", "--agents"),
    "Slurm and another engine": ([f"--env_name={TASK}", "--slurm=x", "--engine=local"], "--slurm=x", "--engine=local"),
    "a newline in a value": (
        [f"--env_name={TASK}", "--tags=a\necho b", "--slurm=x"], "--tags: '--tags=a\\necho b'", "a control character",
    ),
    "a newline in a grid": ([f"--env_name={TASK}", "--grid=tags=a\rb,c"], "--grid: ", "a control character"),
    "bytes that are no text": ([f"--env_name={TASK}", "--tags=\udcff"], "--tags: ", "bytes that are not UTF-8"),
    "an unwritable script": ([f"--env_name={TASK}", "--slurm=/nowhere/x"], "--slurm=/nowhere/x", "another file"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, tmp_path, capsys):
    flags, named, hint = MISTAKES[mistake]
    assert run(*flags, f"--save_dir={tmp_path}/exp") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and named in line and hint in line
    assert list(tmp_path.iterdir()) == []


def test_without_ray_or_a_cluster_one_line_says_what_to_do(
    tmp_path, monkeypatch, capsys
):
    flags = [f"--env_name={TASK}", "--engine=ray", f"--save_dir={tmp_path}"]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        assert run(*flags) == 2
    assert "pip install '.[ray]'" in capsys.readouterr().err
    assert run(*flags, "--ray_address=nowhere") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: --ray_address=nowhere: no cluster ("
    ) and line.endswith("start one: ray start --head")


def test_help_names_every_flag(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    names = [
        "agents",
        "env_name",
        "seeds",
        "first_seed",
        "grid",
        "engine",
        "slurm",
        "pack",
        "jobs_per_device",
        "status",
    ]
    assert all(f"--{name}" in text for name in [*names, "ray_address", "retries"])


# ---------------------------------------------------------------- Slurm


def test_the_slurm_script_runs_each_command_once(tmp_path, monkeypatch, capsys):
    """A stub of the scheduler gives each task its number; a stub of Python writes down what it
    is asked to run.
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


def test_the_hint_can_be_pasted_and_no_value_leaves_its_line(
    tmp_path, monkeypatch, capsys
):
    """A value may be any shell text: the hint, the comment and the commands stay what they are."""
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


def test_a_path_of_two_lines_is_refused_where_it_would_be_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/a\nb/python")
    assert run(f"--env_name={TASK}") == 2
    out, err = capsys.readouterr()
    assert out == "" and "'/a\\nb/python' has a control character" in err


def test_there_is_no_slurm_script_where_everything_has_finished(tmp_path, capsys):
    """Not even with exit code 0, after which `&& sbatch` would submit what an earlier call
    wrote.
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
    named = (
        f"error: --slurm={tmp_path}/x.sbatch: nothing is left to submit, all 1 jobs have"
        " finished; not written\n"
    )
    assert (printed.out, printed.err) == ("", named) and not (
        tmp_path / "x.sbatch"
    ).exists()


# ---------------------------------------------------------------- how it stands


def test_status_counts_states_and_estimates_the_time_left(tmp_path, capsys):
    flags = [
        "--env_name=scene", "--seeds=2", f"--save_dir={tmp_path}", "--offline_steps=1000", "--online_steps=100", "--start_training=10",
        "--utd_ratio=2", "--bc_steps=0",
    ]  # fmt: skip
    assert run(*flags, "--status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[-2].split() == ["all", "0", "0", "0", "0", "10"]
        and "not known before" in lines[-1]
    )
    assert list(tmp_path.iterdir()) == []

    finished, running, failed, early, stopped = planned(*flags, pack=2)
    for one in finished.runs:
        one.folder.mkdir(parents=True)
        write_json(
            one.folder / "done.json",
            {"bc_steps": 0, "offline_steps": 1000, "online_steps": 100},
        )
        # 2 s per offline step (with 100 s of evaluations and saves), 3 s per online step (two
        # updates of a second each)
        (one.folder / "timing.csv").write_text(
            "step,updates_per_s,save_seconds,eval_seconds\n500,0.5263157894736842,20.0,\n"
            "1000,0.5263157894736842,20.0,\n1000,,,60.0\n1100,1.0,100.0,\n"
        )
    for one in (*running.runs, *failed.runs, *stopped.runs):
        one.folder.mkdir(parents=True)
        write_json(one.folder / "config.json", one.config())
    for one in running.runs:
        # a row being written
        (one.folder / "timing.csv").write_text(
            "step,updates_per_s\n500,0.5\n1000,0.5\n1050"
        )
    for job, error in ((failed, "the disk is full"), (early, "no data")):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_text(f"== 2026-01-01 00:00:00 $ python main.py\nerror: {error}\n")
        engines.log_exit_code(job.log, 1)
    with contextlib.ExitStack() as stack:
        for one in running.runs:
            stack.enter_context(one.locked())
        assert run(*flags, "--status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["finished", "running", "stopped", "failed", "missing"]
    assert lines[1].split() == ["trqam", "scene-play", "2", "2", "2", "4", "0"]
    assert lines[2].split() == ["all", "2", "2", "2", "4", "0"]
    assert lines[3].split() == ["running", "91%", "0:05:00", "left", running.name]
    assert (
        lines[4] == f"failed   exit code 1: the disk is full  {failed.log}"
        and failed.log.exists()
    )
    assert lines[5] == f"failed   exit code 1: no data  {early.log}"
    # one that Ctrl-C stopped, of a process that wrote no log
    assert (
        lines[6]
        == f"stopped  at step 0 of 1,100, the same command resumes it  {stopped.runs[0].folder}"
    )
    # three jobs of 1000 x 2 s and 100 x 3 s, and 300 s of the running one
    assert (
        lines[7]
        == "time left (h:mm:ss): 2:00:00 for one job after the other; 2:00:00 for 1 at a time,"
        " as now"
    )
    assert len(lines) == 8


def test_time_left_is_never_nothing_while_jobs_are_missing():
    assert [hours_text(seconds) for seconds in (0.2, 59.5, 61, 111_900, None)] == [
        "0:00:01",
        "0:01:00",
        "0:01:01",
        "31:05:00",
        "?",
    ]


def test_looking_at_a_lock_never_keeps_a_process_from_taking_it(tmp_path):
    (job,) = planned(f"--env_name={TASK}", f"--save_dir={tmp_path}")
    (one,) = job.runs
    assert not is_locked(one.folder)
    with one.locked():
        assert is_locked(one.folder)
        with (
            pytest.raises(RunError, match="is being written by another process"),
            one.locked(),
        ):
            pass
    with lock_of(one.folder).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not is_locked(one.folder)
        threading.Timer(0.1, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with one.locked():
            assert is_locked(one.folder)


# ---------------------------------------------------- engines, with programs that take no time


def stubs(tmp_path, *programs, flags=("--bc_steps=0",)):
    """Jobs of the scene tasks that run small Python programs instead of main.py."""
    jobs = planned("--env_name=scene", f"--save_dir={tmp_path}", *flags)
    return [
        with_program(job, tmp_path, program)
        for job, program in zip(jobs, programs, strict=False)
    ]


def with_program(job, tmp_path, program):
    """The job with another program."""
    path = tmp_path / f"{job.name}.py"
    path.write_text(program)
    return Job((str(path),), job.runs)


def output(job):
    """What the job printed, without the lines of the engine."""
    return "\n".join(
        line for line in job.log.read_text().splitlines() if not line.startswith("== ")
    )


def test_a_failing_job_is_told_and_the_others_go_on(tmp_path, capsys):
    programs = [
        "print('one')",
        "import sys; print('error: no luck'); sys.exit(3)",
        "import os; os.kill(os.getpid(), 9)",
    ]
    jobs = stubs(tmp_path, *programs, "print('four')")
    assert run_jobs(jobs, Local(dict(os.environ), 1)) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"[1/4] finished: {jobs[0].name}"
    assert (
        lines[1]
        == f"[2/4] FAILED (exit code 3: no luck): {jobs[1].name}; log {jobs[1].log}"
    )
    assert lines[2].startswith("[3/4] FAILED (exit code -9: ")
    assert lines[3] == f"[4/4] finished: {jobs[3].name}"
    assert [output(jobs[0]), output(jobs[3])] == ["one", "four"]
    assert [bool(job.failure()) for job in jobs] == [False, True, True, False]


def test_jobs_that_share_a_machine_have_their_own_cores(tmp_path, monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    jobs = stubs(
        tmp_path,
        *["import os, time; print(sorted(os.sched_getaffinity(0))); time.sleep(1)"] * 3,
    )
    assert run_jobs(jobs[:1], Local(dict(os.environ), 1)) == 0
    assert json.loads(output(jobs[0])) == cores
    assert run_jobs(jobs[1:], Local(dict(os.environ), 2)) == 0
    first, second = (json.loads(output(job)) for job in jobs[1:])
    assert (
        first == second == cores if len(cores) == 1 else sorted(first + second) == cores
    )
    assert engines.shares_of_cores(10 * len(cores)) == [""] * 10 * len(cores)


def test_jobs_are_spread_over_the_gpus_and_share_their_memory(tmp_path, monkeypatch):
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 0\necho 1\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}:{os.environ['PATH']}")
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES")
    }
    assert engines.gpus(environ) == ["0", "1"]
    assert engines.gpus(environ | {"CUDA_VISIBLE_DEVICES": "3"}) == ["3"]
    assert [
        engines.gpus(environ | {"CUDA_VISIBLE_DEVICES": none}) for none in ("", "-1")
    ] == [
        [],
        [],
    ]
    assert engines.gpus(environ | {"JAX_PLATFORMS": "cpu"}) == []
    show = (
        "print(os.environ['CUDA_VISIBLE_DEVICES'],"
        " os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'])"
    )
    jobs = stubs(tmp_path, *[f"import os, time\n{show}\ntime.sleep(1)"] * 4)
    assert run_jobs(jobs, Local(environ, 2)) == 0
    assert sorted(map(output, jobs)) == ["0 0.450", "0 0.450", "1 0.450", "1 0.450"]


@pytest.mark.ci
def test_a_job_does_not_wait_in_a_slot_for_the_base_that_another_one_trains(tmp_path):
    names = ["scene-play-singletask-task1-v0", "scene-play-singletask-task2-v0", TASK]
    jobs = {
        job.runs[0].env_name: job
        for job in planned(f"--env_name={','.join(names)}", f"--save_dir={tmp_path}")
    }
    (base,) = jobs[names[0]].bases
    done = {"bc_steps": 0, "offline_steps": 10**9, "online_steps": 0}
    now = "import json, pathlib, time\nprint(time.time())\n"
    train = (
        f"{now}time.sleep(2)\nfolder ="
        f" pathlib.Path({str(base.folder)!r})\nfolder.mkdir(parents=True)\n"
        "(folder /"
        f" 'done.json').write_text(json.dumps({done!r}))\nprint(time.time())\ntime.sleep(2)\nprint(time.time())\n"
    )
    first, second, other = (
        with_program(jobs[name], tmp_path, text)
        for name, text in zip(names, (train, now, now), strict=True)
    )
    assert run_jobs([first, second, other], Local(dict(os.environ), 2)) == 0
    begun, trained, ended = map(float, output(first).split())
    assert float(output(other)) < trained  # took the slot meanwhile
    assert begun < trained < float(output(second)) < ended


def gone(pid):
    """Whether a process has ended; a zombie that nobody waits for counts."""
    try:
        return (
            "Z" == Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        )
    except OSError:
        return True


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return value


def plain_environ():
    """What a user has, without the strictness that tests add; compiled programs are kept."""
    return {
        name: value
        for name, value in os.environ.items()
        if name != "JAX_NUMPY_RANK_PROMOTION"
    }


@contextlib.contextmanager
def process(*command):
    """A process that gets SIGTERM at the end, if it has not ended."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=plain_environ(), **streams
    ) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.terminate()


# A job whose answer to SIGTERM takes a moment.
SAVES = """
import os, signal, sys, time
def leave(*_):
    time.sleep(0.5)
    print("saved", flush=True)
    sys.exit(143)
print(os.getpid(), flush=True)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(600)
"""


def stop_a_sweep(tmp_path, engine, signum):
    """Send a signal to a process that runs two such jobs -> its exit code, what it printed, the
    log, the first job's id.
    """
    code = f"""
import os, sys
from pathlib import Path
from sweeps.engines import Local, Ray
from sweeps.run import run_jobs
from tests.scripts.test_sweep import SAVES, stubs
from utils.preemption import Preempted

jobs = stubs(Path({str(tmp_path)!r}), SAVES, SAVES)
print(jobs[0].log, flush=True)
try:
    run_jobs(jobs, {engine})
except Preempted as signal:
    sys.exit(signal.exit_code)
"""
    with process(sys.executable, "-c", code) as sweeping:
        log = Path(sweeping.stdout.readline().strip())
        wait_for(lambda: log.is_file() and "ready" in log.read_text())
        pid = int(log.read_text().splitlines()[1])
        sweeping.send_signal(signum)
        told, _ = sweeping.communicate(timeout=60)
    return sweeping.returncode, told, log, pid


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_when_a_sweep_is_stopped_or_dies_its_jobs_save_and_leave(tmp_path, signum):
    code, told, log, pid = stop_a_sweep(tmp_path, "Local(dict(os.environ), 1)", signum)
    assert told == "" and code == (
        -signum if signum == signal.SIGKILL else 128 + signum
    )
    assert signum == signal.SIGKILL or gone(
        pid
    )  # a sweep that is stopped waits for them
    wait_for(lambda: gone(pid))
    assert "saved" in log.read_text()


# ---------------------------------------------------------------- engines, with real runs

TASKS = [f"pointmaze-medium-navigate-singletask-task{i}-v0" for i in (1, 2, 3)]
TWELVE = [
    "--agents=trqam,qam", f"--env_name={','.join(TASKS)}", "--seeds=2", "--pack=2", "--preset=smoke", "--bc_steps=8",
    "--offline_steps=8", "--online_steps=24", "--start_training=4", "--log_interval=4", "--save_interval=4",
    "--eval_interval=0", "--eval_episodes=1", "--eval_workers=1", "--horizon_length=5", "--agent.action_chunking=True",
]  # fmt: skip


def flags_in(save_dir, data):
    return [*TWELVE, f"--save_dir={save_dir}", f"--ogbench_dataset_dir={data}"]


def logs_of(save_dir):
    """Every run's CSV rows, as bytes, by the place below save_dir; timing.csv is the clock's."""
    files = sorted(
        path for path in save_dir.glob("smoke/*/*_s*_*/*.csv") if path.stem != "timing"
    )
    assert len(list(save_dir.glob("smoke/*/*_s*_*/done.json"))) == 12
    return {str(path.relative_to(save_dir)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The twelve runs by --engine=local, once for all processes of the test run -> the folder
    of the data, what was logged.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "sweep"
    folder.mkdir(exist_ok=True)
    with exclusive_folder(folder):
        if not (folder / "printed").exists():
            collect_random(TASK, folder / "data", 300)
            flags = [
                *flags_in(folder / "exp", folder / "data"),
                "--engine=local",
                "--jobs_per_device=2",
            ]
            with process(sys.executable, "scripts/sweep.py", *flags) as sweeping:
                (folder / "output").write_text(sweeping.communicate()[0])
            assert sweeping.returncode == 0, (folder / "output").read_text()
            (folder / "output").rename(folder / "printed")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_local_engine_finishes_twelve_runs(local, capsys):
    logs = logs_of(local / "exp")
    assert len(logs) == 24 and all(logs.values())
    assert len(set(logs.values())) >= 12  # no run is another one
    told = (local / "printed").read_text()
    assert (
        told.startswith("6 jobs of 6, 12 runs\n")
        and "[6/6] finished: " in told
        and "FAILED" not in told
    )
    assert not re.search(
        "waiting for",
        "".join(path.read_text() for path in local.glob("exp/smoke/sweep/*.log")),
    )
    flags = flags_in(local / "exp", local / "data")
    assert printed(capsys, *flags) == []
    assert run(*flags, "--status") == 0
    assert capsys.readouterr().out.splitlines()[-2:][1] == "all finished"


@pytest.mark.slow
def test_main_takes_printed_commands_from_a_shell(capsys):
    assert (
        run(
            "--agents=trqam,qam",
            "--env_name=all50",
            "--seeds=8",
            "--grid=agent.actor_hidden_dims=(8,8),(16,)",
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    for line in (lines[0], lines[-1]):
        done = subprocess.run(
            ["bash", "-c", f"{line} --dry_run"],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
        assert [
            line.split()[1:] for line in done.stdout.splitlines() if "  seeds " in line
        ] == [["seeds", "0-7"]]


@pytest.fixture
def cluster():
    """A Ray cluster of two nodes -> its address, the id of the second node, and what kills that
    node.

    SIGINT is ignored in it, as in whatever a script starts in the background.
    """
    # Other programs' memory is not Ray's to act upon.
    environ = plain_environ() | {
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    streams = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "text": True,
    }
    command = [
        "sh",
        "-c",
        'trap "" INT; exec "$@"',
        "sh",
        sys.executable,
        "tests/scripts/two_ray_nodes.py",
    ]
    with subprocess.Popen(command, cwd=ROOT, env=environ, **streams) as nodes:

        def kill():
            nodes.stdin.write("kill\n")
            nodes.stdin.flush()
            assert nodes.stdout.readline() == "killed\n"

        address, doomed = nodes.stdout.readline().split()
        yield address, doomed, kill
    assert nodes.returncode == 0  # its input is closed, and it was waited for


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_ray_engine_gives_the_same_runs_though_a_node_is_killed(
    local, cluster, tmp_path
):
    address, doomed, kill = cluster
    flags = [
        *flags_in(tmp_path, local / "data"),
        "--engine=ray",
        f"--ray_address={address}",
    ]
    jobs = planned(*flags, pack=2)
    with process(sys.executable, "scripts/sweep.py", *flags) as sweeping:

        def caught():
            """A job in the middle of its training on the node."""
            assert sweeping.poll() is None, sweeping.stdout.read()
            here = [
                job
                for job in jobs
                if job.log.is_file() and f"node {doomed} " in job.log.read_text()
            ]
            saved = [
                job
                for job in here
                if all(run.newest_checkpoint() >= 0 for run in job.runs)
            ]
            return next((job for job in saved if not job.is_done()), None)

        job = wait_for(caught, 900)
        kill()
        told, _ = sweeping.communicate()
    assert sweeping.returncode == 0, told
    assert "[6/6] finished: " in told and "FAILED" not in told
    nodes = re.findall(r"^== \S+ \S+ node (\w+) ", job.log.read_text(), re.MULTILINE)
    assert nodes[0] == doomed and len(set(nodes)) == 2
    assert "resumed at step" in job.log.read_text()
    assert logs_of(tmp_path) == logs_of(local / "exp")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_when_a_sweep_on_ray_is_stopped_its_jobs_save_and_leave(
    cluster, tmp_path, signum
):
    engine = f"Ray(dict(os.environ), 1, {cluster[0]!r}, 3)"
    code, told, log, pid = stop_a_sweep(tmp_path, engine, signum)
    assert "Traceback" not in told and code == 128 + signum
    assert gone(pid) and log.read_text().endswith("saved\n== exit code 143\n")
