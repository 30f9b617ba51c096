"""Environments in spawned processes that never import jax.

A request sends one chunk of actions to every slot, and all processes work at the same time.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Self

import gymnasium
import numpy as np

from envs.robomimic_data import Recipe
from envs.slots import ChunkResult, SlotEnvs, summary
from utils.errors import RunError, UserError
from utils.main_guard import (
    UNGUARDED,
    check_program,
    leave_if_unguarded,
    unguarded_program,
)
from utils.messages import warn

SLOTS = 8

# NumPy and MuJoCo read these when they are imported, so they are set before a process starts.
# Without GL no driver or display is needed; with one thread each, W workers use W cores.
_ENVIRON = {
    "MUJOCO_GL": "disabled",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_environ_lock = threading.Lock()
_limits_lock = threading.Lock()  # evaluations of several seeds run in threads
_limits_warned_of: set[str] = set()  # environments


@dataclass(frozen=True)
class Task:
    """What an environment is made from. It can be pickled, unlike the environment."""

    env_name: str
    recipe: Recipe | None = None
    """Of a task of robomimic, from its file of demonstrations."""

    @classmethod
    def of(cls, env_name: str, config: Mapping[str, Any]) -> Self:
        """Return a task with the recipe in a config.json, if it has one."""
        return cls(env_name, Recipe.from_record(config.get("environment")))

    def make(self, film: bool = False) -> gymnasium.Env:
        """Make an environment; simulators are imported only in the process that does."""
        from envs.ogbench import make_env

        return make_env(self.env_name, film, self.recipe)


class WorkerError(RunError):
    """An environment's process failed or died.

    `summary` is one line; str() adds the traceback.
    """

    def __init__(self, summary: str, details: str = ""):
        super().__init__(f"{summary}\n{details}".strip())
        self.summary = summary


def default_workers(episodes: int = SLOTS, slots: int = SLOTS) -> int:
    """Return the number of usable cores, at most one per slot and per episode."""
    return max(1, min(cores(), slots, episodes))


def cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class EnvWorkers:
    """S environments ("slots") in W processes, slot s in process s % W; a context manager.

    An environment is made in its process at its first reset. Not thread-safe. After any
    exception the processes are ended, and further calls raise WorkerError. Raises UserError if
    the processes cannot import the program.

    Args:
        task: makes the environments; it is pickled.
        slots: S; an episode's slot does not depend on W, and so neither do results.
        workers: W; None: default_workers(slots=S).
        environ: environment variables of the processes, besides the defaults (no GL, one
            thread).
    """

    timeout = 600.0
    """Seconds to wait for an answer; the first one includes imports."""

    def __init__(
        self,
        task: Task,
        slots: int = SLOTS,
        workers: int | None = None,
        environ: Mapping[str, str] | None = None,
    ):
        self.env_name = task.env_name
        self.slots = slots
        self.workers = (
            default_workers(slots=slots) if workers is None else min(workers, slots)
        )
        if self.workers < 1:
            raise ValueError(
                f"need at least one slot and one worker, got {slots} and {workers}"
            )
        self._processes: list[Any] = []
        self._pipes: list[connection.Connection] = []
        self._closed = False
        leave_if_unguarded()
        check_program()
        context = multiprocessing.get_context("spawn")
        try:
            with _patched_environ({**_ENVIRON, **(environ or {})}):
                for worker in range(self.workers):
                    pipe, theirs = context.Pipe()
                    self._pipes.append(pipe)
                    # daemon: also ended by an interpreter that exits without close()
                    process = context.Process(
                        target=_serve,
                        args=(theirs, task),
                        name=f"env-{worker}",
                        daemon=True,
                    )
                    process.start()
                    theirs.close()  # so that the pipe ends when the process dies
                    self._processes.append(process)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """The ids of the processes."""
        return [process.pid for process in self._processes]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> np.ndarray:
        """Start a seeded episode in each slot; return observations [len(slots), O] float32.

        Raises WorkerError, and the UserError of an environment that cannot be made.
        """
        return np.stack(self._ask("reset", slots, [int(seed) for seed in seeds]))

    def run_chunks(self, slots: Sequence[int], chunks: np.ndarray) -> list[ChunkResult]:
        """Run chunks [len(slots), H, A] open loop, each up to its episode's end.

        An exception of an environment is the `fault` of its slot, with the traceback on stderr;
        one of `reset` is that of the slot's next chunk. Raises WorkerError if a process dies.
        """
        results = self._ask("run", slots, list(np.asarray(chunks, np.float32)))
        for text in {result.traceback for result in results} - {""}:
            print(text, file=sys.stderr)
        _warn_of_limit(self.env_name, results)
        return results

    def close(self) -> None:
        """End every process. A second call does nothing."""
        self._closed = True
        for pipe in self._pipes:
            pipe.close()
        deadline = time.monotonic() + 5
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def _ask(self, command: str, slots: Sequence[int], arguments: list) -> list:
        if self._closed:
            raise WorkerError(f"the environment workers of {self.env_name} are closed")
        if any(not 0 <= slot < self.slots for slot in slots):
            raise ValueError(f"slots {list(slots)} are not all in 0..{self.slots - 1}")
        requests: dict[int, list] = {}
        for slot, argument in zip(slots, arguments, strict=True):
            requests.setdefault(slot % self.workers, []).append((slot, argument))
        try:
            # All requests are sent before waiting, so that the workers run in parallel.
            for worker, request in requests.items():
                self._send(worker, (command, request))
            answers = self._receive(set(requests))
        except BaseException:
            # also on Ctrl-C: an answer left in a pipe would be read as the next one
            self.close()
            raise
        return [answers[slot] for slot in slots]

    def _send(self, worker: int, message: tuple) -> None:
        try:
            self._pipes[worker].send(message)
        except OSError as error:
            raise self._death(worker) from error

    def _receive(self, waiting: set[int]) -> dict[int, Any]:
        answers: dict[int, Any] = {}
        while waiting:
            pipes = [self._pipes[worker] for worker in waiting]
            sentinels = [self._processes[worker].sentinel for worker in waiting]
            if not connection.wait(pipes + sentinels, self.timeout):
                raise WorkerError(
                    f"the environment workers of {self.env_name} gave no answer in"
                    f" {self.timeout:g} s"
                )
            for worker in list(waiting):
                if self._pipes[worker].poll() or not self._processes[worker].is_alive():
                    answers.update(self._answer(worker))
                    waiting.remove(worker)
        return answers

    def _answer(self, worker: int) -> dict[int, Any]:
        try:
            kind, content = self._pipes[worker].recv()
        except (EOFError, OSError) as error:
            raise self._death(worker) from error
        if kind == "user error":
            raise UserError(content)
        if kind == "error":
            slot, summary, details = content
            raise WorkerError(
                f"environment {self.env_name} (slot {slot}, worker {worker}): {summary}",
                details,
            )
        return content

    def _death(self, worker: int) -> WorkerError | UserError:
        process = self._processes[worker]
        process.join(5)
        code = process.exitcode
        if code == UNGUARDED:
            return unguarded_program()
        killed = code is not None and code < 0
        how = f"killed by signal {-code}" if killed else f"exit code {code}"
        return WorkerError(
            f"environment worker {worker} of {self.env_name} died ({how})"
        )


class LocalEnvs:
    """The interface of EnvWorkers in this process; for a single slot it is faster."""

    def __init__(self, task: Task):
        self.env_name = task.env_name
        self._envs = SlotEnvs(task.make)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> np.ndarray:
        """Start a seeded episode in each slot, as EnvWorkers.reset does."""
        pairs = zip(slots, seeds, strict=True)
        return np.stack([self._answer("reset", slot, seed) for slot, seed in pairs])

    def run_chunks(self, slots: Sequence[int], chunks: np.ndarray) -> list[ChunkResult]:
        """Run a chunk in each slot, as EnvWorkers.run_chunks does.

        Raises WorkerError for an exception of an environment.
        """
        pairs = zip(slots, chunks, strict=True)
        results = [self._answer("run", slot, chunk) for slot, chunk in pairs]
        for slot, result in zip(slots, results, strict=True):
            if result.traceback:
                raise self._error(slot, result.fault, result.traceback)
        _warn_of_limit(self.env_name, results)
        return results

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()

    def _answer(self, command: str, slot: int, argument: Any) -> Any:
        try:
            return self._envs.answer(command, slot, argument)
        except UserError:
            raise
        except Exception as error:
            raise self._error(slot, summary(error), traceback.format_exc()) from error

    def _error(self, slot: int, summary: str, details: str) -> WorkerError:
        return WorkerError(
            f"environment {self.env_name} (slot {slot}): {summary}", details
        )


def _warn_of_limit(env_name: str, results: list[ChunkResult]) -> None:
    """Warn once, in the calling process, if SeededEnv truncated episodes of an environment."""
    limit = max((result.cut_at for result in results), default=0)
    if not limit:
        return
    with _limits_lock:
        if env_name in _limits_warned_of:
            return
        _limits_warned_of.add(env_name)
    warn(
        f"an episode of {env_name} had not ended after {limit:,} steps and was truncated: the "
        "environment has no time limit; gymnasium.register(..., max_episode_steps=N) sets one"
    )


@contextlib.contextmanager
def _patched_environ(values: Mapping[str, str]):
    """Set environment variables for the block, so that spawned processes inherit them."""
    with _environ_lock:
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _serve(pipe: connection.Connection, task: Task) -> None:
    """Answer requests until the pipe ends, by close() or by the parent's death."""
    # Ctrl-C reaches the whole process group; the parent ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    envs = SlotEnvs(task.make)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            command, requests = pipe.recv()
            slot = None
            try:
                answers: dict[int, Any] = {}
                for slot, argument in requests:
                    answers[slot] = envs.guarded(command, slot, argument)
            except UserError as error:
                pipe.send(("user error", str(error)))
                break
            except Exception as error:
                pipe.send(("error", (slot, summary(error), traceback.format_exc())))
                break
            pipe.send(("answers", answers))
    envs.close()
