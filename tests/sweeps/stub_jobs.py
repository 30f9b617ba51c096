"""Helpers: sweeps that run small programs instead of main.py, and the commands they print."""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from scripts import sweep
from sweeps.jobs import Job
from sweeps.planning import plan_jobs
from utils.files import write_json

ROOT = Path(__file__).resolve().parents[2]


TASK = "pointmaze-medium-navigate-singletask-task1-v0"


def run(*flags, environ=os.environ):
    return sweep.main(["scripts/sweep.py", *map(str, flags)], environ)


def printed(capsys, *flags):
    """Return the command lines that a sweep prints: for each its words after the interpreter."""
    assert run(*flags) == 0
    return [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()]


def planned(*flags, pack=1):
    options, rest = sweep.parser().parse_known_args(map(str, flags))
    return plan_jobs(options, rest, pack)


def stubs(tmp_path, *programs, flags=("--bc_steps=0",)):
    """Return jobs of the scene tasks that run small Python programs instead of main.py."""
    jobs = planned("--env_name=scene", f"--save_dir={tmp_path}", *flags)
    return [
        with_program(job, tmp_path, program)
        for job, program in zip(jobs, programs, strict=False)
    ]


def with_program(job, tmp_path, program):
    """Return the job with another program."""
    path = tmp_path / f"{job.name}.py"
    path.write_text(program)
    return Job((str(path),), job.runs)


def begin(job):
    """Write what a run writes when it has its base."""
    for one in job.runs:
        one.folder.mkdir(parents=True)
        write_json(one.folder / "config.json", one.config())


def output(job):
    """Return what the job printed, without the lines of the engine."""
    return "\n".join(
        line for line in job.log.read_text().splitlines() if not line.startswith("== ")
    )


def gone(pid):
    """Return whether a process has ended; a zombie that nobody waits for has."""
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
    """Return a user's environment: without the strictness that tests add, but with the cache."""
    added = ("JAX_NUMPY_RANK_PROMOTION", "PYTHONUNBUFFERED")
    return {name: value for name, value in os.environ.items() if name not in added}


@contextlib.contextmanager
def process(*command):
    """Start a process; at the end, send it SIGTERM if it has not ended."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=plain_environ(), **streams
    ) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.terminate()


# A program that takes a moment to end after SIGTERM.
SAVES = """
import os, signal, sys, time
def leave(*_):
    print("saving", flush=True)
    time.sleep(1)
    print("saved", flush=True)
    sys.exit(143)
print(os.getpid(), flush=True)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(600)
"""


def stop_a_sweep(tmp_path, engine, *signals, before=""):
    """Send signals to a process that runs two jobs of SAVES. Returns its exit code, what it
    printed, the log of the first job and the id of that job's process.

    before: code that it executes first.
    """
    code = f"""
import os, sys
from pathlib import Path
from sweeps.engines import Local, Ray
from sweeps.run import run_jobs
from tests.sweeps.stub_jobs import SAVES, stubs
from utils import preemption
from utils.preemption import Preempted

{before}
jobs = stubs(Path({str(tmp_path)!r}), SAVES, SAVES)
print(jobs[0].log, flush=True)
try:
    run_jobs(jobs, {engine})
except Preempted as signal:
    sys.exit(signal.exit_code)
"""
    with process(sys.executable, "-c", code) as sweeping:
        log = Path(sweeping.stdout.readline().strip())
        for signum, state in zip(signals, ("ready", "saving"), strict=False):
            wait_for(lambda: log.is_file() and state in log.read_text())  # noqa: B023
            sweeping.send_signal(signum)
        pid = int(log.read_text().splitlines()[1])
        stdout, _ = sweeping.communicate(timeout=60)
    return sweeping.returncode, stdout, log, pid
