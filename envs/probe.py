"""Probe environments: so small that Q is known, to tell a learning critic from one that only
runs.

ProbeReward-v0   one step; the action's distance to the observation:  Q(s, a) = -(a - s)^2
ProbeChain-v0    LENGTH steps of reward -1, then success, whatever the action

Use them like any environment of your own: --env_name=envs.probe:ProbeReward-v0
--dataset=FILE.npz (`write_dataset`).
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

LENGTH = 6


class ProbeReward(gymnasium.Env):
    """Observation s [1] uniform in [-1, 1], action a [1]; reward -(a - s)^2 and the episode
    ends.
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.state.copy(), {}

    def step(self, action):
        reward = -float((action[0] - self.state[0]) ** 2)
        return self.state.copy(), reward, True, False, {"success": float(reward > -0.05)}

    @staticmethod
    def q(observations: np.ndarray, actions: np.ndarray, discount: float) -> np.ndarray:
        """Q [B] of the first action of a chunk, at observations [B, 1] and actions [B, 1]."""
        return -((actions - observations) ** 2)[:, 0]


class ProbeChain(gymnasium.Env):
    """Observation: the share of the LENGTH steps done, [1]; reward -1 until the last step,
    which succeeds with 0.
    """

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        done = self.steps == LENGTH
        return (
            np.array([self.steps / LENGTH], np.float32),
            float(done) - 1.0,
            done,
            False,
            {"success": float(done)},
        )

    @staticmethod
    def q(observations: np.ndarray, actions: np.ndarray, discount: float) -> np.ndarray:
        """Q [B]: a reward of -1 for every step left but the last."""
        left = np.round((1.0 - observations[:, 0]) * LENGTH)
        return -(1.0 - discount ** (left - 1)) / (1.0 - discount)


for probe in (ProbeReward, ProbeChain):
    gymnasium.register(f"{probe.__name__}-v0", f"envs.probe:{probe.__name__}")


def write_dataset(env_name: str, path: Path | str, transitions: int, seed: int = 0) -> Path:
    """Random actions in one of the probes, as an npz file for --dataset."""
    env = gymnasium.make(env_name)
    rng = np.random.default_rng(seed)
    rows: dict[str, list] = {
        name: [] for name in ("observations", "actions", "rewards", "masks", "terminals")
    }
    stored, done = 0, True
    while stored < transitions or not done:
        if done:
            observation, _ = env.reset(seed=seed + stored)
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        following, reward, done, _, _ = env.step(action)
        values = (observation, action, reward, 1.0 - float(done), False)
        for name, value in zip(rows, values, strict=True):
            rows[name].append(value)
        stored, observation = stored + 1, following
        if done:  # the final observation has a row of its own
            for name, value in zip(rows, (observation, action, 0.0, 1.0, True), strict=True):
                rows[name].append(value)
    types = {"terminals": bool}
    arrays: dict[str, Any] = {
        name: np.array(values, types.get(name, np.float32)) for name, values in rows.items()
    }
    np.savez(path, **arrays)
    return Path(path)
