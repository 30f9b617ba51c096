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
from typing import Any

from configs.agent_source import ROOT
from sweeps.jobs import INTERRUPTED, Job
from utils.errors import UserError
from utils.files import is_locked

TIED = ROOT / "sweeps" / "tied.py"
GRACE_SECONDS = 30.0  # in which a process that got SIGTERM saves and is gone
LOCK_SECONDS = 180.0  # for which a lost machine may keep the lock of a run in a shared folder
POLL_SECONDS = 0.5
PASSED_ON = ("JAX_", "XLA_", "MUJOCO_", "WANDB_")  # variables that reach jobs on other machines
MEMORY = 0.9  # of a GPU, for all jobs on it together


def launch(
    command: Sequence[str],
    log: Path,
    environ: Mapping[str, str],
    cores: str = "",
    note: str = "",
) -> subprocess.Popen:
    """Start a command in a session of its own, its output appended to `log`; on Linux it gets
    SIGTERM when we die.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"== {time.strftime('%Y-%m-%d %H:%M:%S')} {note}$ {shlex.join(command)}\n")
        file.flush()
        return subprocess.Popen(
            [sys.executable, "-I", str(TIED), str(os.getpid()), cores, *command],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def conclude(log: Path, code: int) -> int:
    """Write the exit code to the log, and return it."""
    with log.open("a") as file:
        file.write(f"== exit code {code}\n")
    return code


def end(processes: Iterable[subprocess.Popen]) -> None:
    """Have the processes save and leave; kill those that do not in time."""
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
        """The jobs that ended since the last call, with their exit codes; waits a moment where
        there is none.
        """

    @abc.abstractmethod
    def stop(self) -> None:
        """Have all jobs save and leave."""


def gpus(environ: Mapping[str, str]) -> list[str]:
    """The NVIDIA GPUs of this machine, as CUDA_VISIBLE_DEVICES names them; none where JAX is
    told to use something else.
    """
    if environ.get("JAX_PLATFORMS", "cuda").split(",")[0] not in ("", "cuda", "gpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in environ:
        names = environ["CUDA_VISIBLE_DEVICES"].split(",")
        # CUDA too looks no further
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []


def memory_share(jobs_per_device: int) -> dict[str, str]:
    """What keeps jobs from taking each other's memory on one GPU."""
    return (
        {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY / jobs_per_device:.3f}"}
        if jobs_per_device > 1
        else {}
    )


class Local(Engine):
    """This machine: `jobs_per_device` jobs on each GPU; where there is none, that many that
    share the cores.
    """

    def __init__(self, environ: Mapping[str, str], jobs_per_device: int):
        self.environ = environ
        found = gpus(environ)
        places: list[tuple[dict[str, str], str]] = [
            ({"CUDA_VISIBLE_DEVICES": gpu}, "") for gpu in found
        ] * jobs_per_device
        if found:
            self.environ = memory_share(jobs_per_device) | dict(environ)
        else:
            places = [({}, cores) for cores in shares_of_cores(jobs_per_device)]
        self.free = places
        self.running: dict[Job, tuple[subprocess.Popen, tuple[dict[str, str], str]]] = {}

    def room(self) -> bool:
        return bool(self.free)

    def start(self, job: Job) -> None:
        device, cores = place = self.free.pop(0)
        process = launch(
            [sys.executable, *job.words], job.log, {**self.environ, **device}, cores
        )
        self.running[job] = process, place

    def ended(self) -> list[tuple[Job, int]]:
        gone = [
            (job, code)
            for job, (process, _) in self.running.items()
            if (code := process.poll()) is not None
        ]
        for job, code in gone:
            self.free.append(self.running.pop(job)[1])
            conclude(job.log, code)
        if not gone:
            time.sleep(POLL_SECONDS)
        return gone

    def stop(self) -> None:
        end(process for process, _ in self.running.values())


def shares_of_cores(shares: int) -> list[str]:
    """This process's cores in `shares` parts, as sweeps/tied.py takes them; all of them for
    each where they are too few.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if shares == 1 or len(cores) < shares:
        return [""] * shares
    bounds = [len(cores) * i // shares for i in range(shares + 1)]
    return [",".join(map(str, cores[a:b])) for a, b in itertools.pairwise(bounds)]


class Ray(Engine):
    """A Ray cluster whose machines see the project and the runs under the same paths.

    A job is a task with 1 / jobs_per_device of a GPU, or of a machine where the cluster has no
    GPU. One whose machine or process is lost, or that is asked to leave, is started again
    elsewhere, up to `retries` times. Raises UserError where Ray is not installed or no cluster
    answers.
    """

    def __init__(
        self, environ: Mapping[str, str], jobs_per_device: int, address: str, retries: int
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
            cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
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
        return [(self.running.pop(task), self.code(task)) for task in gone]

    def code(self, task: Any) -> int:
        """The exit code of a task that ended; -1 where it was lost once too often."""
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayError:
            return -1

    def stop(self) -> None:
        for task in self.running:
            self.ray.cancel(task)
        if self.running:
            self.ray.wait(
                list(self.running), num_returns=len(self.running), timeout=GRACE_SECONDS
            )
        self.ray.shutdown()


def remote_attempt() -> Callable[..., int]:
    """What a machine of the cluster runs. Made here, so that it travels by value: this module
    is not on a worker's path.
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

        sys.path.insert(0, root)
        from sweeps import engines

        os.chdir(cwd)
        return engines.attempt(
            [sys.executable, *words], {**os.environ, **environ}, log, folders
        )

    return attempt


def attempt(
    command: Sequence[str], environ: Mapping[str, str], log: str, folders: Sequence[str]
) -> int:
    """Run a command inside a Ray task -> its exit code. Raises InterruptedError, after which
    Ray tries again, for a signal.
    """
    import ray

    # By which Ray cancels; ignored in a cluster that a shell started in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    give_up = time.monotonic() + LOCK_SECONDS
    while any(is_locked(Path(folder)) for folder in folders) and time.monotonic() < give_up:
        time.sleep(POLL_SECONDS)  # until what is left of an attempt on a lost machine is gone
    process = launch(
        command, Path(log), environ, note=f"node {ray.get_runtime_context().get_node_id()} "
    )
    try:
        while (code := process.poll()) is None:
            time.sleep(POLL_SECONDS)  # not wait(): Ray cancels between two instructions
    finally:
        end([process])
        conclude(Path(log), process.returncode)
    if code < 0 or code in INTERRUPTED:
        raise InterruptedError(f"exit code {code}")
    return code
