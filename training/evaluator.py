"""Evaluates the seeds of a program in threads with their own environment processes.

An evaluation may run while training continues.
"""

import threading
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import jax

from agents.base import Agent
from envs.evaluation import EvalResult, evaluate
from envs.workers import SLOTS, EnvWorkers, Task, cores, default_workers
from training.acting import evaluation_policy
from training.seeds import Seeds
from utils import preemption
from utils.messages import say
from utils.progress import SECONDS_PER_LINE
from utils.sharding import host_device


class Evaluation(NamedTuple):
    """A queued or running evaluation of the agent after a step."""

    step: int
    agent: Agent
    """Without the state of its optimiser."""
    future: Future[EvalResult]


class Evaluator:
    """Evaluates policies, several at a time if there are enough cores; a context manager.

    Args:
        task: the task.
        flags: eval_episodes, eval_workers, and eval_async: whether policies act on the CPU
            while the device trains; None: if the device is not the CPU.
        seeds: the maximum of policies evaluated at the same time.
    """

    def __init__(self, task: Task, flags: dict[str, Any], seeds: int):
        self.task = task
        self.episodes = flags["eval_episodes"]
        self.concurrent = flags["eval_async"]
        if self.concurrent is None:
            self.concurrent = jax.default_backend() != "cpu"
        self.workers = flags["eval_workers"] or default_workers(self.episodes)
        threads = max(1, min(seeds, cores() // SLOTS))
        self._device = host_device() if self.concurrent else jax.devices()[0]
        self._executor = ThreadPoolExecutor(threads, "evaluation")
        self._own = threading.local()  # each thread has its own processes
        self._opened: list[EnvWorkers] = []
        self._closing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._closing = True
        self._executor.shutdown(wait=False, cancel_futures=True)
        for workers in self._opened:
            workers.close()  # running evaluations end with an error that is not read
        self._executor.shutdown()

    def start(self, step: int, agent: Agent, seed: int) -> Evaluation:
        """Queue an evaluation; the agent's arrays must not be donated afterwards.

        Args:
            step: the step of the agent.
            agent: the agent.
            seed: determines the episodes.
        """
        agent = jax.device_put(without_optimiser(agent), self._device)
        return Evaluation(
            step, agent, self._executor.submit(self._evaluate, agent, seed)
        )

    def _evaluate(self, agent: Agent, seed: int) -> EvalResult:
        if not hasattr(self._own, "workers"):
            self._own.workers = EnvWorkers(self.task, workers=self.workers)
            self._opened.append(self._own.workers)
            if self._closing:  # too late for __exit__ to close them
                self._own.workers.close()
        return evaluate(
            evaluation_policy(agent),
            self._own.workers,
            self.episodes,
            seed,
            discount=agent.config.discount,
            progress=not self.concurrent,
        )


class Evaluations:
    """The evaluations of all seeds that are not yet in eval.csv, at most one per seed.

    Args:
        seeds: the seeds, whose journals receive the results.
        evaluator: runs the evaluations.
    """

    def __init__(self, seeds: Seeds, evaluator: Evaluator):
        self.seeds = seeds
        self.evaluator = evaluator
        self.pending: dict[int, Evaluation] = {}  # by index of the seed

    def start(self, index: int, step: int, agent: Agent) -> None:
        """Queue the evaluation of a seed's agent; the seed must have no other evaluation.

        Args:
            index: which of the seeds.
            step: the step of the agent.
            agent: the agent.
        """
        journal = self.seeds.journals[index]
        self.pending[index] = self.evaluator.start(step, agent, journal.run.seed)
        journal.evaluating = step

    def begun(self) -> list[int]:
        """Return the indices of the seeds with an evaluation."""
        return list(self.pending)

    def done(self) -> list[int]:
        """Return the indices of the seeds whose evaluation has finished."""
        return [
            index
            for index, evaluation in self.pending.items()
            if evaluation.future.done()
        ]

    def wait(self, index: int) -> None:
        """Wait for a seed's evaluation; raise WorkerError, or Preempted on a signal.

        Prints a line a minute unless the evaluation has a bar of its own.
        """
        step, _, future = self.pending[index]
        seconds = SECONDS_PER_LINE if self.evaluator.concurrent else None
        with preemption.at_once():
            while futures.wait([future], seconds).not_done:
                name = self.seeds.journals[index].run.name
                say(f"{name}: still evaluating step {step}")
            future.result()

    def record(self, index: int) -> None:
        """Write the result of a seed's finished evaluation."""
        evaluation = self.pending.pop(index)
        self.seeds.journals[index].evaluated(
            evaluation.step, evaluation.future.result()
        )

    def agent_before(self, index: int, step: int) -> Agent | None:
        """Return the agent of a seed's evaluation if it is of an earlier step, else None."""
        evaluation = self.pending.get(index)
        return evaluation.agent if evaluation and evaluation.step < step else None


def without_optimiser(agent: Agent) -> Agent:
    """Return the agent without its optimiser state, which acting does not need."""
    return agent.replace(opt_state=())
