"""The evaluations of a program's seeds: threads with environment processes of their own, at the
same time as the training where asked.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import jax

from agents.base import Agent
from envs.evaluation import EvalResult, evaluate
from envs.workers import SLOTS, EnvWorkers, cores, default_workers
from training.policy import chunk_length, evaluation_policy
from training.seeds import Seeds
from utils import preemption
from utils.sharding import host_device


class Evaluation(NamedTuple):
    """An evaluation that was begun: after which step, of which agent (without the state of its
    optimiser).
    """

    step: int
    agent: Agent
    future: Future[EvalResult]


class Evaluator:
    """Evaluates policies one after the other, or several at a time where there are cores for
    it; a context manager.

    Args:
        env_name: the task.
        flags: eval_episodes, eval_workers, and eval_async: whether policies act on the host's
            processor while the device trains; None: unless the device is that processor.
        seeds: how many policies are evaluated at the same time, at most.
        action_dim: A.
    """

    def __init__(self, env_name: str, flags: dict[str, Any], seeds: int, action_dim: int):
        self.env_name, self.episodes, self.action_dim = (
            env_name,
            flags["eval_episodes"],
            action_dim,
        )
        on_cpu = jax.default_backend() == "cpu"
        self.concurrent = not on_cpu if flags["eval_async"] is None else flags["eval_async"]
        self.workers = flags["eval_workers"] or default_workers(self.episodes)
        threads = max(1, min(seeds, cores() // max(self.workers, SLOTS)))
        self._device = host_device() if self.concurrent else jax.devices()[0]
        self._executor = ThreadPoolExecutor(threads, "evaluation")
        self._own = threading.local()  # the processes of a thread
        self._opened: list[EnvWorkers] = []
        self._closing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._closing = True
        self._executor.shutdown(wait=False, cancel_futures=True)
        for workers in self._opened:
            # what is still being evaluated ends with an error that nobody asks for
            workers.close()
        self._executor.shutdown()

    def start(self, step: int, agent: Agent, seed: int) -> Evaluation:
        """Begin to evaluate an agent, which must not be donated later, on the episodes of
        `seed`.
        """
        agent = jax.device_put(without_optimiser(agent), self._device)
        return Evaluation(step, agent, self._executor.submit(self._evaluate, agent, seed))

    def _evaluate(self, agent: Agent, seed: int) -> EvalResult:
        if not hasattr(self._own, "workers"):
            self._own.workers = EnvWorkers(self.env_name, workers=self.workers)
            self._opened.append(self._own.workers)
            if self._closing:  # meanwhile, so that nobody else closes them
                self._own.workers.close()
        config = agent.config
        return evaluate(
            evaluation_policy(agent),
            self._own.workers,
            self.episodes,
            seed,
            chunk_length(config),
            self.action_dim,
            discount=config.discount,
            progress=not self.concurrent,
        )


class Evaluations:
    """The evaluations of all seeds that were begun and are not in eval.csv yet.

    Args:
        seeds: whose journals get the results.
        evaluator: does the work.
    """

    def __init__(self, seeds: Seeds, evaluator: Evaluator):
        self.seeds, self.evaluator = seeds, evaluator
        self.pending: dict[int, Evaluation] = {}  # by seed

    def start(self, seed: int, step: int, agent: Agent) -> None:
        """Begin an evaluation of one seed's agent after `step`, of which there is no other."""
        journal = self.seeds.journals[seed]
        self.pending[seed] = self.evaluator.start(step, agent, journal.run.seed)
        journal.evaluating = step

    def begun(self) -> list[int]:
        """The seeds with an evaluation."""
        return list(self.pending)

    def done(self) -> list[int]:
        """The seeds whose evaluation is done."""
        return [seed for seed, evaluation in self.pending.items() if evaluation.future.done()]

    def wait(self, seed: int) -> None:
        """Wait for a seed's evaluation; raises WorkerError, and Preempted on a signal."""
        with preemption.at_once():
            self.pending[seed].future.result()

    def record(self, seed: int) -> None:
        """Write the result of a seed's evaluation, which is done."""
        evaluation = self.pending.pop(seed)
        self.seeds.journals[seed].evaluated(evaluation.step, evaluation.future.result())

    def agent_before(self, seed: int, step: int) -> Agent | None:
        """The agent of an evaluation that was begun before `step`; None where there is none."""
        evaluation = self.pending.get(seed)
        return evaluation.agent if evaluation and evaluation.step < step else None


def without_optimiser(agent: Agent) -> Agent:
    """The agent without the state of its optimiser, which acting does not need."""
    return agent.replace(opt_state=())
