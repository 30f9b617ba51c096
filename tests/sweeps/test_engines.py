"""The local engine runs jobs, here of small programs, and reports how each ended."""

import functools
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

import pytest

from sweeps import engines
from sweeps.engines import Local
from sweeps.run import Queue, run_jobs
from tests.sweeps.stub_jobs import (
    TASK,
    begin,
    gone,
    output,
    planned,
    process,
    stop_a_sweep,
    stubs,
    wait_for,
    with_program,
)
from training.run import ExpectedBase


def test_a_failing_job_is_reported_and_the_others_continue(tmp_path, capsys):
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


def test_a_finished_job_is_reported_at_once_in_a_file_too(tmp_path):
    code = f"""
import os
from pathlib import Path
from sweeps.engines import Local
from sweeps.run import run_jobs
from tests.sweeps.stub_jobs import stubs

jobs = stubs(Path({str(tmp_path)!r}), "pass", "import time; time.sleep(5); print('ended')")
print(jobs[1].log, flush=True)
run_jobs(jobs, Local(dict(os.environ), 1))
"""
    with process(sys.executable, "-c", code) as sweeping:
        log = Path(sweeping.stdout.readline().strip())
        assert sweeping.stdout.readline().startswith("[1/2] finished")
        assert not log.exists() or "ended" not in log.read_text()


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
    now = "import time\nprint(time.time(), flush=True)\n"
    train = f"""{now}
import json, pathlib
def wait_for(log):
    limit = time.time() + 60
    while not pathlib.Path(log).exists() or "== exit code 0" not in pathlib.Path(log).read_text():
        assert time.time() < limit, log
        time.sleep(0.05)
wait_for({str(jobs[TASK].log)!r})  # it took the slot meanwhile
folder = pathlib.Path({str(base.folder)!r})
folder.mkdir(parents=True)
print(time.time())
(folder / "done.json").write_text(json.dumps({done!r}))
wait_for({str(jobs[names[1]].log)!r})
"""
    first, second, other = (
        with_program(jobs[name], tmp_path, text)
        for name, text in zip(names, (train, now, now), strict=True)
    )
    assert run_jobs([first, second, other], Local(dict(os.environ), 2)) == 0
    _, trained = map(float, output(first).split())
    assert float(output(other)) < trained < float(output(second))


def test_a_job_waits_for_no_base_once_the_run_that_may_train_it_has_begun(tmp_path):
    """A base may be stored under another spelling of its data's folder, or be deleted."""
    jobs = planned("--env_name=scene", f"--save_dir={tmp_path}")[:3]
    queue = Queue(jobs)
    assert (queue.take(), queue.take()) == (jobs[0], None)
    begin(jobs[0])
    assert (queue.take(), queue.take()) == (jobs[1], None)
    begin(jobs[2])
    assert queue.take() is jobs[2]


def test_taking_a_job_asks_no_waiting_job_for_its_bases(tmp_path, monkeypatch):
    """Thousands of jobs may wait on a shared disk."""
    jobs = planned("--env_name=scene", f"--save_dir={tmp_path}")
    queue = Queue(jobs)
    queue.take()
    asked = []
    folder = ExpectedBase.folder
    monkeypatch.setattr(
        ExpectedBase, "folder", property(lambda b: asked.append(b) or folder.fget(b))
    )
    assert queue.take() is None and len(queue.waiting) == 4
    assert {id(base) for base in asked} == {id(jobs[0].bases[0])}


def test_a_stopped_sweep_outlives_its_jobs(tmp_path):
    """SAVES takes a second to end, longer here than a process of training may."""
    code, stdout, log, _ = stop_a_sweep(
        tmp_path,
        "Local(dict(os.environ), 1)",
        signal.SIGTERM,
        before="preemption.GRACE_SECONDS = 0.2",
    )
    assert (code, stdout) == (143, "")
    assert log.read_text().splitlines()[-2:] == ["saved", "== exit code 143"]


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGTERM],
        [signal.SIGTERM, signal.SIGTERM],
        [signal.SIGINT],
        [signal.SIGKILL],
    ],
)
def test_when_a_sweep_is_stopped_or_dies_its_jobs_save_and_exit(tmp_path, signals):
    signum = signals[0]
    code, stdout, log, pid = stop_a_sweep(
        tmp_path, "Local(dict(os.environ), 1)", *signals
    )
    assert stdout == "" and code == (
        -signum if signum == signal.SIGKILL else 128 + signum
    )
    # A sweep that is stopped waits for its jobs; one that is killed cannot.
    assert signum == signal.SIGKILL or gone(pid)
    wait_for(lambda: gone(pid))
    assert "saved" in log.read_text()


class StubRay(types.SimpleNamespace):
    """Ray with one machine, this one, that runs a task when its result is asked for."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            cause = None

    def __init__(self):
        super().__init__(init=lambda **_: None, shutdown=lambda: None)

    def cluster_resources(self):
        return {"GPU": 1}

    def remote(self, function):
        submit = functools.partial(functools.partial, function)
        task = types.SimpleNamespace(remote=submit)
        task.options = lambda **_: task
        return task

    def wait(self, tasks, timeout):
        return tasks, []

    def cancel(self, task):
        pass

    def get(self, task):
        try:
            return task()
        except InterruptedError as error:
            raised = self.exceptions.RayError("a traceback")
            raised.cause = error
            raise raised from error


def test_jobs_on_a_ray_cluster_see_the_variables_of_downloads(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", StubRay())
    given = {"HF_ENDPOINT": "a mirror", "HOME": "elsewhere"}
    environ = engines.Ray(given, 1, "auto", 0).environ
    assert environ == {"HF_ENDPOINT": "a mirror"}


@pytest.mark.parametrize("missing", ["the project", "the current folder"])
def test_a_job_that_reached_only_ray_nodes_without_the_project_says_so_in_its_log(
    missing, tmp_path, monkeypatch, capsys
):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "ray", StubRay())
    if missing == "the project":
        monkeypatch.setitem(sys.modules, "sweeps", None)
    else:
        monkeypatch.setattr(os, "getcwd", lambda: str(tmp_path / "nowhere"))
    (job,) = stubs(tmp_path, "pass")
    assert run_jobs([job], engines.Ray({}, 1, "auto", 0)) == 1
    *_, line, end = job.log.read_text().splitlines()
    assert line.startswith("error: Ray gave it up (") and end == "== exit code -1"
    assert "sweeps" in line if missing == "the project" else "nowhere" in line
    assert "every machine needs the project, its packages and the runs" in line
    assert engines.SETUP_SECONDS in pauses
    assert "FAILED (exit code -1: Ray gave it up (" in capsys.readouterr().out
