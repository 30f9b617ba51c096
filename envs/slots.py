"""Environments by slot in one process: resets, chunks of actions, and their faults."""

import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from envs.checks import EnvFault, success_of
from utils.errors import UserError


class ChunkResult(NamedTuple):
    """The result of one chunk: L <= H steps, fewer if the episode ends or fails."""

    observations: np.ndarray  # [L,O] float32, after each step
    rewards: np.ndarray  # [L] float64
    terminated: bool  # after the last step
    truncated: bool
    success: float = np.nan  # reported at the last step; NaN for none
    success_any: float = np.nan  # the highest reported at any step; NaN for none
    # the fault of the last step, whose observation and reward are then NaN
    fault: str = ""
    cut_at: int = 0  # the step at which SeededEnv truncated the episode; 0: it did not
    traceback: str = ""  # of a fault that is an exception of the environment

    @property
    def done(self) -> bool:
        """Whether the episode ended."""
        return self.terminated or self.truncated

    @property
    def length(self) -> int:
        """L."""
        return len(self.rewards)


class _FailedReset(gymnasium.Env):
    """Stands in for an environment whose reset failed: its step raises the reset's error."""

    def __init__(self, space: gymnasium.Space, error: Exception):
        self.observation_space = space
        self.error = error

    def step(self, action: np.ndarray):
        raise self.error


class SlotEnvs:
    """The environments of one process by slot, each made at its first reset.

    Args:
        make: makes an environment.
    """

    def __init__(self, make: Callable[[], gymnasium.Env]):
        self._make = make
        self._envs: dict[int, gymnasium.Env] = {}

    def answer(
        self, command: str, slot: int, argument: Any
    ) -> np.ndarray | ChunkResult:
        """Execute "reset" or "run"; return an observation [O] or the result of a chunk.

        Args:
            command: "reset" or "run".
            slot: the slot.
            argument: the seed, or the chunk [H, A].
        """
        if command == "run":
            result = _run(self._envs[slot], argument)
            if result.traceback:  # the next reset makes a new one
                del self._envs[slot]
            return result
        if slot not in self._envs or isinstance(self._envs[slot], _FailedReset):
            self._envs[slot] = self._make()
        observation, _ = self._envs[slot].reset(seed=argument)
        return np.asarray(observation, np.float32)

    def guarded(
        self, command: str, slot: int, argument: Any
    ) -> np.ndarray | ChunkResult:
        """`answer`, where a reset that fails leaves the environments of other slots alone.

        It returns zeros [O], and the next chunk of the slot has the fault.
        """
        try:
            return self.answer(command, slot, argument)
        except UserError:
            raise
        except Exception as error:
            if command == "run" or slot not in self._envs:  # or it cannot even be made
                raise
            space = self._envs[slot].observation_space
            self._envs[slot] = _FailedReset(space, error)
            return np.zeros(space.shape, np.float32)

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs.values():
            env.close()


def summary(error: Exception) -> str:
    """Return an error as one line, with its type unless it is an EnvFault."""
    kind = "" if isinstance(error, EnvFault) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())


def _run(env: gymnasium.Env, chunk: np.ndarray) -> ChunkResult:
    """Run a chunk [H, A] open loop, up to its episode's end or the first fault."""
    observations = []
    rewards = []
    successes = []
    terminated = truncated = False
    info: dict[str, Any] = {}
    fault = ""
    details = ""
    for action in chunk:
        try:
            observation, reward, terminated, truncated, info = env.step(action)
            success = success_of(info)
        except UserError:
            raise
        except Exception as error:
            fault = summary(error)
            details = "" if isinstance(error, EnvFault) else traceback.format_exc()
            terminated = False
            truncated = False
            observation = env.observation_space.low * np.nan
            reward = np.nan
            success = np.nan
        observations.append(np.asarray(observation, np.float32))
        rewards.append(float(reward))
        successes.append(success)
        if terminated or truncated or fault:
            break
    return ChunkResult(
        np.stack(observations),
        np.asarray(rewards),
        bool(terminated),
        bool(truncated),
        successes[-1],
        float(np.fmax.reduce(successes)),
        fault,
        info.get("cut_at", 0),
        details,
    )
