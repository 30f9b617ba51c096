"""Seeded evaluation in worker processes, whose number changes nothing but the time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from envs.slots import ChunkResult
from envs.workers import EnvWorkers, WorkerError
from utils.progress import Counter


class Policy(NamedTuple):
    """Acts in environments, H steps per call."""

    act: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """(observations [S, O] float32, ids [S, 3] uint32) -> actions [S, H*A] or [S, H, A].

    An id is (seed, episode, chunk index). The actions of slot i may depend only on observation
    i and id i.
    """
    chunk_shape: tuple[int, int]
    """(H, A)."""


Values = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(observations [S, O], actions [S, D] of the policy) -> the critic's values [S]."""


class EpisodeFault(WorkerError):
    """An environment or policy returned unusable values; other episodes can still be run."""


@dataclass(frozen=True)
class EvalResult:
    """Outcomes [E] in the order of the episodes, and the cost of the evaluation."""

    successes: np.ndarray  # at the last step; NaN if the environment reports no success
    successes_any: np.ndarray  # the highest of all steps
    returns: np.ndarray
    lengths: np.ndarray
    discounted_returns: np.ndarray
    policy_calls: int
    policy_requests: int  # chunks that running episodes requested, over all calls
    seconds: float

    @property
    def success(self) -> float | None:
        """The success rate; None if the environment reports no success."""
        return None if np.isnan(self.successes).any() else float(self.successes.mean())

    @property
    def mean_return(self) -> float:
        """The mean of the undiscounted returns."""
        return float(self.returns.mean())

    @property
    def env_steps(self) -> int:
        """The environment steps of all episodes."""
        return int(self.lengths.sum())

    def describe(self, digits: int = 0) -> str:
        """Return the success rate as text, or the mean return if no success is reported."""
        if self.success is None:
            return f"mean return {self.mean_return:.4g} (no success reported)"
        return f"success {self.success:.{digits}%}"

    def metrics(self) -> dict[str, float]:
        """Return the means for a line of eval.csv, without success if none is reported."""
        means = {
            "return": self.mean_return,
            "length": float(self.lengths.mean()),
            "discounted_return": float(self.discounted_returns.mean()),
        }
        if self.success is None:
            return means
        return {
            "success": self.success,
            **means,
            "success_any": float(self.successes_any.mean()),
        }


def reset_seed(seed: int, episode: int) -> int:
    """Return the seed that an episode is reset with, a 32-bit hash of (seed, episode)."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


def evaluate(
    policy: Policy,
    workers: EnvWorkers,
    episodes: int,
    seed: int,
    *,
    discount: float = 1.0,
    first_episode: int = 0,
    progress: bool = True,
) -> EvalResult:
    """Run episodes first_episode .. first_episode + episodes - 1; chunks run open loop.

    Episode e runs in slot e % S. Each round calls the policy once for all S slots. Slots
    without an episode keep their last observation, so the batch, and with it every rounding
    error, does not depend on the number of workers or of remaining episodes.

    Args:
        policy: its actions are clipped to [-1, 1] here.
        workers: the environments, S slots.
        episodes: the number of episodes.
        seed: with the episode's number it determines start, goal and policy noise.
        discount: for the discounted returns.
        first_episode: the number of the first episode.
        progress: whether to show a bar over the episodes.

    Raises:
        EpisodeFault: if the environment or the policy returns an unusable value.
        WorkerError: if an environment fails.
    """
    if episodes < 1:
        raise ValueError(f"nothing to evaluate: {episodes} episodes")
    start = time.perf_counter()
    slots = _Slots(
        workers, seed, range(first_episode, first_episode + episodes), discount
    )
    policy_calls = policy_requests = 0
    with Counter(
        "evaluation", episodes, unit="ep", kept=False, disable=not progress
    ) as bar:
        while active := slots.start_episodes():
            # Copies: an asynchronous policy may still read them when the next round begins.
            arguments = slots.observations.copy(), slots.ids.copy()
            actions = np.asarray(policy.act(*arguments), np.float32)
            policy_calls += 1
            policy_requests += len(active)
            chunks = actions.reshape(workers.slots, *policy.chunk_shape)[active]
            if not np.isfinite(chunks).all():
                raise EpisodeFault(
                    f"the policy's actions for {workers.env_name} are not finite"
                )
            bar.update(slots.run(active, np.clip(chunks, -1.0, 1.0)))
    taken = time.perf_counter() - start
    outcomes = slots.outcomes()
    return EvalResult(
        **outcomes,
        policy_calls=policy_calls,
        policy_requests=policy_requests,
        seconds=taken,
    )


class _Slots:
    """The episodes in the S slots: the policy's inputs and the outcomes so far."""

    def __init__(
        self, workers: EnvWorkers, seed: int, episodes: range, discount: float
    ):
        self._workers = workers
        self._seed = seed
        self._first = episodes.start
        self._discount = discount
        slots = range(workers.slots)
        self._waiting = {
            slot: [e for e in episodes if e % workers.slots == slot] for slot in slots
        }
        self._active: list[int] = []
        self.observations = np.zeros((0, 0), np.float32)  # [S,O] once O is known
        self.ids = np.zeros((workers.slots, 3), np.uint32)
        count = len(episodes)
        self.outcome = {
            "successes": np.full(count, np.nan),
            "successes_any": np.full(count, np.nan),
            "returns": np.zeros(count),
            "lengths": np.zeros(count, np.int64),
            "discounted_returns": np.zeros(count),
        }

    def start_episodes(self) -> list[int]:
        """Start the next episode in each idle slot; return the slots that have an episode."""
        idle = [slot for slot in self._waiting if slot not in self._active]
        fresh = [slot for slot in idle if self._waiting[slot]]
        if fresh:
            for slot in fresh:
                self.ids[slot] = (self._seed, self._waiting[slot].pop(0), 0)
            seeds = [reset_seed(self._seed, int(self.ids[slot, 1])) for slot in fresh]
            observations = self._workers.reset(fresh, seeds)
            if not self.observations.size:
                shape = self._workers.slots, observations.shape[1]
                self.observations = np.zeros(shape, np.float32)
            self.observations[fresh] = observations
            self._active = sorted(self._active + fresh)
        return list(self._active)

    def run(self, active: list[int], chunks: np.ndarray) -> int:
        """Execute chunks [len(active), H, A]; return the number of episodes that ended."""
        ended = 0
        outcome = self.outcome
        for slot, result in zip(
            active, self._workers.run_chunks(active, chunks), strict=True
        ):
            episode = int(self.ids[slot, 1]) - self._first
            self._check(result, slot, episode)
            powers = self._discount ** (
                outcome["lengths"][episode] + np.arange(result.length)
            )
            outcome["returns"][episode] += result.rewards.sum()
            outcome["discounted_returns"][episode] += (powers * result.rewards).sum()
            outcome["lengths"][episode] += result.length
            outcome["successes"][episode] = result.success
            highest = outcome["successes_any"][episode]
            outcome["successes_any"][episode] = np.fmax(highest, result.success_any)
            self.observations[slot] = result.observations[-1]
            self.ids[slot, 2] += 1
            if result.done:
                self._active.remove(slot)
                ended += 1
        return ended

    def _check(self, result: ChunkResult, slot: int, episode: int) -> None:
        if result.fault:
            step = self.outcome["lengths"][episode] + result.length
            where = f"at step {step} of episode {self.ids[slot, 1]}"
            raise EpisodeFault(
                f"environment {self._workers.env_name}: {result.fault}, {where}"
            )

    def outcomes(self) -> dict[str, np.ndarray]:
        """Return the outcomes. If any step reported a success, missing ones count as 0."""
        if np.isfinite(self.outcome["successes_any"]).any():
            for name in ("successes", "successes_any"):
                self.outcome[name] = np.nan_to_num(self.outcome[name])
        return self.outcome
