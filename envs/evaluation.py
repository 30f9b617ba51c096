"""Seeded evaluation in worker processes: the number of workers changes nothing but the time it
takes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from envs.workers import ChunkResult, EnvWorkers, WorkerError
from utils.errors import RunError
from utils.progress import Counter

# (observations [S,O] float32, keys [S,3] uint32: seed, episode, chunk index) -> actions [S,H*A]
# or [S,H,A]. Row i may depend on nothing but row i of the arguments: noise comes from its key.
Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]
# (observations [S,O], actions [S,D] of the policy) -> what a critic expects of them [S].
Values = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class EvalResult:
    """Per-episode outcomes [E] in the order of the episodes, and what they cost."""

    successes: np.ndarray  # at the last step; NaN where the environment reports none
    successes_any: np.ndarray  # the highest of all steps
    returns: np.ndarray
    lengths: np.ndarray
    discounted_returns: np.ndarray
    policy_calls: int
    policy_rows: int  # chunks asked for by running episodes, over all calls
    seconds: float

    @property
    def success(self) -> float | None:
        """The success rate; None where the environment reports no success."""
        return None if np.isnan(self.successes).any() else float(self.successes.mean())

    @property
    def mean_return(self) -> float:
        """Undiscounted."""
        return float(self.returns.mean())

    @property
    def env_steps(self) -> int:
        return int(self.lengths.sum())

    def describe(self, digits: int = 0) -> str:
        """The success rate in words or, where the environment reports none, the mean return."""
        if self.success is None:
            return f"mean return {self.mean_return:.4g} (no success reported)"
        return f"success {self.success:.{digits}%}"

    def row(self) -> dict[str, float]:
        """The means, a row for eval.csv; without success where the environment reports none."""
        row = {
            "return": self.mean_return,
            "length": float(self.lengths.mean()),
            "discounted_return": float(self.discounted_returns.mean()),
        }
        if self.success is None:
            return row
        return {"success": self.success, **row, "success_any": float(self.successes_any.mean())}


def reset_seed(seed: int, episode: int) -> int:
    """The seed an episode is reset with, a 32-bit hash of (seed, episode)."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


def evaluate(
    policy: Policy,
    workers: EnvWorkers,
    episodes: int,
    seed: int,
    chunk_length: int,
    action_dim: int,
    *,
    discount: float = 1.0,
    first_episode: int = 0,
    progress: bool = True,
) -> EvalResult:
    """Runs episodes first_episode .. first_episode+episodes-1, episode e in slot e % S, chunks
    open loop.

    One policy call per round for all S slots; slots without an episode keep their last row, so
    that the batch, and with it every rounding, is the same for any number of workers and of
    remaining episodes.

    Args:
        policy: see Policy; its actions are clipped to [-1,1] here.
        seed: of the whole evaluation: with the episode's number it decides start, goal and
            policy noise.
        chunk_length: H, steps per policy call.
        action_dim: A.
        discount: for the discounted returns.
        progress: show a bar over episodes, where there is a terminal.

    Raises:
        WorkerError: an environment failed, or returned something that cannot be used.
        RunError: the policy returned NaN or infinity.
    """
    if episodes < 1:
        raise ValueError(f"nothing to evaluate: {episodes} episodes")
    start = time.perf_counter()
    rows = _Rows(workers, seed, range(first_episode, first_episode + episodes), discount)
    policy_calls = policy_rows = 0
    with Counter("evaluation", episodes, unit="ep", kept=False, disable=not progress) as bar:
        while active := rows.start_episodes():
            # Copies: an asynchronous policy may still read them when the next round begins.
            actions = np.asarray(policy(rows.observations.copy(), rows.keys.copy()), np.float32)
            policy_calls, policy_rows = policy_calls + 1, policy_rows + len(active)
            chunks = actions.reshape(workers.slots, chunk_length, action_dim)[active]
            if not np.isfinite(chunks).all():
                raise RunError(f"the policy's actions for {workers.env_name} are not finite")
            bar.update(rows.run(active, np.clip(chunks, -1.0, 1.0)))
    taken = time.perf_counter() - start
    outcomes = rows.outcomes()
    return EvalResult(
        **outcomes, policy_calls=policy_calls, policy_rows=policy_rows, seconds=taken
    )


class _Rows:
    """The S rows of the policy's batch: which episode each slot is in, and what the episodes
    gave.
    """

    def __init__(self, workers: EnvWorkers, seed: int, episodes: range, discount: float):
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
        self.keys = np.zeros((workers.slots, 3), np.uint32)
        count = len(episodes)
        self.outcome = {
            "successes": np.full(count, np.nan),
            "successes_any": np.full(count, np.nan),
            "returns": np.zeros(count),
            "lengths": np.zeros(count, np.int64),
            "discounted_returns": np.zeros(count),
        }

    def start_episodes(self) -> list[int]:
        """Gives idle slots their next episode -> the slots that have one."""
        fresh = [
            slot for slot, left in self._waiting.items() if left and slot not in self._active
        ]
        if fresh:
            for slot in fresh:
                self.keys[slot] = (self._seed, self._waiting[slot].pop(0), 0)
            seeds = [reset_seed(self._seed, int(self.keys[slot, 1])) for slot in fresh]
            observations = self._workers.reset(fresh, seeds)
            if not self.observations.size:
                self.observations = np.zeros(
                    (self._workers.slots, observations.shape[1]), np.float32
                )
            self.observations[fresh] = observations
            self._active = sorted(self._active + fresh)
        return list(self._active)

    def run(self, active: list[int], chunks: np.ndarray) -> int:
        """Executes chunks [len(active),H,A] -> the number of episodes that ended."""
        ended = 0
        for slot, result in zip(active, self._workers.run_chunks(active, chunks), strict=True):
            episode = int(self.keys[slot, 1]) - self._first
            self._check(result, slot, episode)
            powers = self._discount ** (
                self.outcome["lengths"][episode] + np.arange(result.length)
            )
            self.outcome["returns"][episode] += result.rewards.sum()
            self.outcome["discounted_returns"][episode] += (powers * result.rewards).sum()
            self.outcome["lengths"][episode] += result.length
            self.outcome["successes"][episode] = result.success
            so_far = self.outcome["successes_any"][episode]
            self.outcome["successes_any"][episode] = np.fmax(so_far, result.success_any)
            self.observations[slot] = result.observations[-1]
            self.keys[slot, 2] += 1
            if result.done:
                self._active.remove(slot)
                ended += 1
        return ended

    def _check(self, result: ChunkResult, slot: int, episode: int) -> None:
        if result.fault:
            step = self.outcome["lengths"][episode] + result.length
            where = f"at step {step} of episode {self.keys[slot, 1]}"
            raise WorkerError(f"environment {self._workers.env_name}: {result.fault}, {where}")

    def outcomes(self) -> dict[str, np.ndarray]:
        """What the episodes gave; a success reported in some steps is 0 in the others."""
        if np.isfinite(self.outcome["successes_any"]).any():
            for name in ("successes", "successes_any"):
                self.outcome[name] = np.nan_to_num(self.outcome[name])
        return self.outcome
