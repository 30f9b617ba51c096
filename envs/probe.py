"""Probe environments, so small that Q is known: they show whether a critic really learns.

ProbeReward-v0   one step with a reward for matching the observation:  Q(s, a) = -(a - s)^2
ProbeChain-v0    LENGTH steps of reward -1, then success, whatever the actions

Use them like an environment of your own: --env_name=envs.probe:ProbeReward-v0
--dataset=FILE.npz, where `write_dataset` writes the file.
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

LENGTH = 6


class ProbeReward(gymnasium.Env):
    """One step: observation s [1] uniform in [-1, 1], action a [1], reward -(a - s)^2."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.state.copy(), {}

    def step(self, action):
        reward = -float((action[0] - self.state[0]) ** 2)
        return (
            self.state.copy(),
            reward,
            True,
            False,
            {"success": float(reward > -0.05)},
        )

    @staticmethod
    def q(observations: np.ndarray, actions: np.ndarray, discount: float) -> np.ndarray:
        """Return Q [B] of the first action of a chunk.

        Args:
            observations: [B, 1].
            actions: [B, 1].
            discount: not used, because an episode has one step.
        """
        return -((actions - observations) ** 2)[:, 0]


class ProbeChain(gymnasium.Env):
    """LENGTH steps: the observation [1] is the share done; rewards are -1, and 0 at the end."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        done = self.steps == LENGTH
        observation = np.array([self.steps / LENGTH], np.float32)
        return observation, float(done) - 1.0, done, False, {"success": float(done)}

    @staticmethod
    def q(observations: np.ndarray, actions: np.ndarray, discount: float) -> np.ndarray:
        """Return Q [B]: the discounted sum of -1 for every remaining step but the last.

        Args:
            observations: [B, 1].
            actions: [B, 1], without effect.
            discount: per step.
        """
        left = np.round((1.0 - observations[:, 0]) * LENGTH)
        return -(1.0 - discount ** (left - 1)) / (1.0 - discount)


for probe in (ProbeReward, ProbeChain):
    gymnasium.register(f"{probe.__name__}-v0", f"envs.probe:{probe.__name__}")


def write_dataset(
    env_name: str, path: Path | str, transitions: int, seed: int = 0
) -> Path:
    """Write an npz file for --dataset with random actions in a probe; return its path.

    Args:
        env_name: the id of the probe.
        path: the file.
        transitions: the least number of transitions; the last episode is completed.
        seed: determines the data.
    """
    env = gymnasium.make(env_name)
    rng = np.random.default_rng(seed)
    rows: list[tuple] = []
    stored = 0
    done = True
    while stored < transitions or not done:
        if done:
            observation, _ = env.reset(seed=seed + stored)
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        following, reward, done, _, _ = env.step(action)
        rows.append((observation, action, reward, 1.0 - float(done), False))
        stored += 1
        observation = following
        if done:  # the final observation has a row of its own
            rows.append((observation, action, 0.0, 1.0, True))
    names = ("observations", "actions", "rewards", "masks", "terminals")
    columns = zip(names, zip(*rows, strict=True), strict=True)
    arrays: dict[str, Any] = {
        name: np.array(column, np.float32) for name, column in columns
    }
    arrays["terminals"] = arrays["terminals"].astype(bool)
    np.savez(path, **arrays)
    return Path(path)
