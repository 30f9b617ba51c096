"""The speed of evaluations on puzzle-4x4, by number of worker processes."""

import time
from typing import Any

import jax
import numpy as np

from benchmarks.common import ACTION_DIM, OBSERVATION_DIM
from envs.evaluation import evaluate, reset_seed
from envs.workers import SLOTS, EnvWorkers, Task, default_workers
from training.acting import evaluation_policy
from training.evaluator import without_optimiser
from utils.sharding import host_device

TASK = Task("puzzle-4x4-play-singletask-task1-v0")


def evaluation_speed(agent: Any, episodes: int) -> list[dict[str, float]]:
    """Time evaluations with 0, 1, 2, 4, ... workers.

    0 workers means `one_process_loop`, with the policy on the device. With workers the policy
    runs on the CPU, as it does while a device trains.
    """
    result = [one_process_loop(agent, episodes)]
    policy = evaluation_policy(jax.device_put(without_optimiser(agent), host_device()))
    limit = default_workers()
    for workers in sorted({1, 2, 4, SLOTS, limit} & set(range(1, limit + 1))):
        with EnvWorkers(TASK, workers=workers) as processes:
            # creates the environments
            evaluate(policy, processes, SLOTS, 1, progress=False)
            done = evaluate(policy, processes, episodes, 0, progress=False)
        counts = done.env_steps, done.policy_requests, done.policy_calls
        result.append(figures(workers, *counts, done.seconds))
    return result


def one_process_loop(agent: Any, episodes: int) -> dict[str, float]:
    """Time the loop of the published code: one environment, and a policy call at every step.

    The policy is called even while actions of its last chunk are left.
    """
    env = TASK.make()
    policy = evaluation_policy(agent)
    steps = 0
    # compiles
    policy.act(np.zeros((1, OBSERVATION_DIM), np.float32), np.zeros((1, 3), np.uint32))
    start = time.perf_counter()
    queue: list[np.ndarray] = []
    for episode in range(episodes):
        observation = env.reset(seed=reset_seed(0, episode))[0]
        done = False
        queue.clear()
        while not done:
            ids = np.array([[0, episode, steps]], np.uint32)
            chunk = policy.act(observation[None].astype(np.float32), ids)
            chunk = np.clip(chunk, -1.0, 1.0)
            queue.extend(chunk.reshape(-1, ACTION_DIM) if not queue else ())
            observation, _, terminated, truncated, _ = env.step(queue.pop(0))
            steps += 1
            done = terminated or truncated
    return figures(0, steps, steps, steps, time.perf_counter() - start)


def figures(
    workers: int, steps: int, rows: int, calls: int, taken: float
) -> dict[str, float]:
    """Return the figures of one evaluation.

    Args:
        workers: environment processes.
        steps: environment steps.
        rows: observations that the policy received, without those of empty slots.
        calls: calls of the policy.
        taken: seconds.
    """
    return {
        "workers": workers,
        "env_steps": steps,
        "policy_calls": calls,
        "policy_rows": rows,
        "seconds": taken,
        "steps_per_s": steps / taken,
    }


def describe(measured: dict[str, float]) -> str:
    """Describe the figures of one evaluation."""
    how = "in one process, the policy called at every step"
    if measured["workers"]:
        how = f"with {measured['workers']} workers"
    calls, rows = measured["policy_calls"], measured["policy_rows"]
    return (
        f"evaluation {how}: {measured['seconds']:.1f} s, {measured['steps_per_s']:.0f} steps/s,"
        f" {calls} calls of the policy with {rows} observations"
    )
