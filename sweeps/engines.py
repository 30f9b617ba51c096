"""Where jobs run: this machine, or a Ray cluster."""

import abc
import contextlib
import itertools
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs.agent_source import ROOT
from sweeps.jobs import INTERRUPTED, Job
from utils.errors import UserError, one_line
from utils.files import is_locked

EXEC_WITH_PARENT = ROOT / "sweeps" / "exec_with_parent.py"
GRACE_SECONDS = 30.0  # for a process to save and end after SIGTERM
LOCK_SECONDS = 180.0  # to wait for the lock of a run that a lost machine may still hold
POLL_SECONDS = 0.5
PASSED_ON = ("JAX_", "XLA_", "MUJOCO_", "WANDB_", "HF_")
"""Prefixes of the environment variables that reach other machines."""
SETUP_SECONDS = 300.0  # wait on a broken machine, or it would fail job after job
MEMORY = 0.9  # the share of a GPU's memory for all its jobs together


def launch(
    command: Sequence[str],
    log: Path,
    environ: Mapping[str, str],
    cores: str = "",
    note: str = "",
) -> subprocess.Popen:
    """Start a command in a new session; on Linux it gets SIGTERM when this process dies.

    Args:
        command: the command.
        log: the file to append its output to.
        environ: its environment variables.
        cores: the cores to run on, such as "0,1"; "" for all.
        note: a text for the first line of the log.
    """
    pid = str(os.getpid())
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(
            f"== {time.strftime('%Y-%m-%d %H:%M:%S')} {note}$ {shlex.join(command)}\n"
        )
        file.flush()
        return subprocess.Popen(
            [sys.executable, "-I", str(EXEC_WITH_PARENT), pid, cores, *command],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def log_exit_code(log: Path, code: int) -> int:
    """Append the exit code to a log, and return it."""
    with log.open("a") as file:
        file.write(f"== exit code {code}\n")
    return code


def terminate(processes: Iterable[subprocess.Popen]) -> None:
    """Send SIGTERM to processes, and kill those that do not end in time."""
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in alive:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()


class Engine(abc.ABC):
    """Where jobs run."""

    @abc.abstractmethod
    def room(self) -> bool:
        """Whether another job may start now."""

    @abc.abstractmethod
    def start(self, job: Job) -> None:
        """Start a job, or queue it."""

    @abc.abstractmethod
    def ended(self) -> list[tuple[Job, int]]:
        """Return the jobs that ended since the last call, with their exit codes.

        Waits a moment if there is none.
        """

    @abc.abstractmethod
    def stop(self) -> None:
        """Make all jobs save and end."""


def gpus(environ: Mapping[str, str]) -> list[str]:
    """Return the NVIDIA GPUs of this machine by their names for CUDA_VISIBLE_DEVICES.

    Returns [] if JAX_PLATFORMS selects another platform.
    """
    if environ.get("JAX_PLATFORMS", "cuda").split(",")[0] not in ("", "cuda", "gpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in environ:
        names = environ["CUDA_VISIBLE_DEVICES"].split(",")
        # CUDA also ignores what follows an invalid name
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(
            query, capture_output=True, text=True, check=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []


def memory_share(jobs_per_device: int) -> dict[str, str]:
    """Return the variable that limits a job's share of GPU memory; {} for one job per GPU."""
    if jobs_per_device == 1:
        return {}
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY / jobs_per_device:.3f}"}


class Slot(NamedTuple):
    """Where one job at a time may run: a GPU, or some cores."""

    device: dict[str, str]
    """The environment variable that selects the GPU; {} without one."""
    cores: str
    """The cores as for `launch`."""


class Local(Engine):
    """This machine: `jobs_per_device` jobs per GPU or, without any GPU, on parts of the cores.

    Args:
        environ: the environment variables of the jobs.
        jobs_per_device: jobs per GPU, or jobs on the cores.
    """

    def __init__(self, environ: Mapping[str, str], jobs_per_device: int):
        self.environ = environ
        devices = gpus(environ)
        if devices:
            self.environ = memory_share(jobs_per_device) | dict(environ)
            slots = [Slot({"CUDA_VISIBLE_DEVICES": gpu}, "") for gpu in devices]
            self.free = slots * jobs_per_device
        else:
            self.free = [Slot({}, cores) for cores in shares_of_cores(jobs_per_device)]
        self.running: dict[Job, tuple[subprocess.Popen, Slot]] = {}

    def room(self) -> bool:
        return bool(self.free)

    def start(self, job: Job) -> None:
        slot = self.free.pop(0)
        command = [sys.executable, *job.words]
        environ = {**self.environ, **slot.device}
        process = launch(command, job.log, environ, slot.cores)
        self.running[job] = process, slot

    def ended(self) -> list[tuple[Job, int]]:
        ended = []
        for job, (process, slot) in list(self.running.items()):
            code = process.poll()
            if code is not None:
                del self.running[job]
                self.free.append(slot)
                ended.append((job, log_exit_code(job.log, code)))
        if not ended:
            time.sleep(POLL_SECONDS)
        return ended

    def stop(self) -> None:
        terminate(process for process, _ in self.running.values())
        for job, (process, _) in self.running.items():
            log_exit_code(job.log, process.returncode)


def shares_of_cores(shares: int) -> list[str]:
    """Split this process's cores into `shares` parts in the format of exec_with_parent.py.

    If there are too few cores, every part is "", all of them.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if shares == 1 or len(cores) < shares:
        return [""] * shares
    bounds = [len(cores) * i // shares for i in range(shares + 1)]
    return [",".join(map(str, cores[a:b])) for a, b in itertools.pairwise(bounds)]


class Ray(Engine):
    """A Ray cluster whose machines have the project and the runs at the same paths.

    A job is a Ray task with 1 / jobs_per_device of a GPU, or of a machine if the cluster has no
    GPU. Raises UserError if Ray is not installed or no cluster answers.

    Args:
        environ: environment variables; those with a prefix in PASSED_ON reach the jobs.
        jobs_per_device: jobs per GPU, or per machine.
        address: the address of the cluster.
        retries: how often a job is restarted after its process or machine was lost or stopped.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        jobs_per_device: int,
        address: str,
        retries: int,
    ):
        try:
            import ray
        except ImportError as error:
            raise UserError("--engine=ray needs ray: pip install '.[ray]'") from error
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"--ray_address={address}: no cluster ({reason}); start one: ray start --head"
            ) from error
        self.ray = ray
        self.environ = {
            name: value for name, value in environ.items() if name.startswith(PASSED_ON)
        }
        resources: dict[str, Any] = {"num_gpus": 1 / jobs_per_device}
        if ray.cluster_resources().get("GPU"):
            self.environ = memory_share(jobs_per_device) | self.environ
        else:
            cpus = [
                node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]
            ]
            share = min(filter(None, cpus), default=1) / jobs_per_device
            resources = {"num_cpus": int(share) if share >= 1 else share}
        again = {"max_retries": retries, "retry_exceptions": [InterruptedError]}
        self.attempt = ray.remote(remote_attempt()).options(**resources, **again)
        self.running: dict[Any, Job] = {}

    def room(self) -> bool:
        return True  # Ray queues them

    def start(self, job: Job) -> None:
        folders = [str(run.folder.absolute()) for run in job.runs]
        where = {
            "root": str(ROOT),
            "cwd": os.getcwd(),
            "log": str(job.log.absolute()),
            "folders": folders,
        }
        self.running[self.attempt.remote(job.words, self.environ, **where)] = job

    def ended(self) -> list[tuple[Job, int]]:
        gone, _ = self.ray.wait(list(self.running), timeout=POLL_SECONDS)
        ended = [(self.running.pop(task), task) for task in gone]
        return [(job, self.code(task, job.log)) for job, task in ended]

    def code(self, task: Any, log: Path) -> int:
        """Return the exit code of an ended task.

        If Ray gave it up, write the reason to the log and return -1.
        """
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            # str(error) would be the traceback of an exception that the task raised
            reason = one_line(getattr(error, "cause", None) or error)
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a") as file:
                file.write(
                    f"error: Ray gave it up ({reason}); the same command resumes it\n"
                )
            return log_exit_code(log, -1)

    def stop(self) -> None:
        for task in self.running:
            self.ray.cancel(task)
        if self.running:
            self.ray.wait(
                list(self.running), num_returns=len(self.running), timeout=GRACE_SECONDS
            )
        self.ray.shutdown()


def remote_attempt() -> Callable[..., int]:
    """Return the function that a machine of the cluster runs.

    It is a local function so that Ray pickles it by value, since workers cannot import this
    module. On a machine that cannot run jobs it raises InterruptedError after SETUP_SECONDS.
    """

    def attempt(
        words: Sequence[str],
        environ: dict[str, str],
        root: str,
        cwd: str,
        log: str,
        folders: list[str],
    ) -> int:
        import os
        import sys
        import time

        sys.path.insert(0, root)
        try:
            from sweeps import engines

            os.chdir(cwd)
        except (ImportError, FileNotFoundError) as error:
            time.sleep(SETUP_SECONDS)
            raise InterruptedError(  # for another machine to try it
                f"{os.uname().nodename}: {error}; every machine needs the project, its"
                f" packages and the runs at the paths of this one: {root}, {cwd}"
            ) from error
        return engines.attempt(
            [sys.executable, *words], {**os.environ, **environ}, log, folders
        )

    return attempt


def attempt(
    command: Sequence[str], environ: Mapping[str, str], log: str, folders: Sequence[str]
) -> int:
    """Run a command inside a Ray task; return its exit code.

    Raises InterruptedError if a signal ended the command; Ray then restarts the task.

    Args:
        command: the command.
        environ: its environment variables.
        log: the file to append its output to.
        folders: the run folders that it writes.
    """
    import ray

    # Ray cancels by SIGINT, which a cluster started by a shell in the background ignores.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    give_up = time.monotonic() + LOCK_SECONDS
    while (
        any(is_locked(Path(folder)) for folder in folders)
        and time.monotonic() < give_up
    ):
        time.sleep(POLL_SECONDS)  # an earlier attempt on a lost machine may still run
    node = ray.get_runtime_context().get_node_id()
    process = launch(command, Path(log), environ, note=f"node {node} ")
    try:
        while (code := process.poll()) is None:
            time.sleep(POLL_SECONDS)  # not wait(), which Ray cannot interrupt
    finally:
        terminate([process])
        log_exit_code(Path(log), process.returncode)
    if code < 0 or code in INTERRUPTED:
        raise InterruptedError(f"exit code {code}")
    return code
