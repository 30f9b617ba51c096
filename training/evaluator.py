"""The evaluations of a program's seeds: threads with environment processes of their own, beside
the training where asked.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import jax

from agents.base import Agent
from envs.evaluation import EvalResult, evaluate
from envs.workers import SLOTS, EnvWorkers, cores, default_workers
from training.policy import evaluation_policy
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
            processor, beside the training on a device; None: where the device is none itself.
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
        self.beside = not on_cpu if flags["eval_async"] is None else flags["eval_async"]
        self.workers = flags["eval_workers"] or default_workers(self.episodes)
        threads = max(1, min(seeds, cores() // max(self.workers, SLOTS)))
        self._device = host_device() if self.beside else jax.devices()[0]
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
            config.horizon_length if config.action_chunking else 1,
            self.action_dim,
            discount=config.discount,
            progress=not self.beside,
        )


def without_optimiser(agent: Agent) -> Agent:
    """The agent as far as acting needs it."""
    return agent.replace(opt_state=())
