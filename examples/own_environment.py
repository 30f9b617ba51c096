"""An environment and data of your own: a point in a square that has to reach the middle.

    python examples/own_environment.py reach.npz
    python main.py --env_name=examples.own_environment:Reach-v0 --dataset=reach.npz \\
        --preset=cpu --bc_steps=2000 --offline_steps=2000

The environment has one-dimensional Box spaces, actions in [-1, 1], a time limit, and `success`
in its info. The data has the flat layout: each row is a transition, `terminals` marks the end
of the task and `truncations` the time limit.
"""

import sys

import gymnasium
import numpy as np


class Reach(gymnasium.Env):
    """A point moves in a square; the reward is -1 until it is within 0.1 of the middle.

    The observation is the position [2], the action a step [2].
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.position.copy(), {}

    def step(self, action):
        self.position = np.clip(self.position + 0.1 * np.asarray(action, np.float32), -1, 1)
        success = bool(np.linalg.norm(self.position) < 0.1)
        return (
            self.position.copy(),
            float(success) - 1.0,
            success,
            False,
            {"success": success},
        )


gymnasium.register("Reach-v0", f"{__name__}:Reach", max_episode_steps=30)


def collect(episodes: int = 1000) -> dict[str, np.ndarray]:
    """Collect episodes of noisy steps towards the middle, as arrays of N rows."""
    env = gymnasium.make("Reach-v0")
    rng = np.random.default_rng(0)
    names = (
        "observations",
        "actions",
        "rewards",
        "terminals",
        "truncations",
        "next_observations",
    )
    rows: dict[str, list] = {name: [] for name in names}
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        done = False
        while not done:
            action = np.clip(rng.normal(-observation, 0.7), -1, 1).astype(np.float32)
            following, reward, terminated, truncated, _ = env.step(action)
            at_limit = truncated and not terminated  # rows are one or the other
            values = (observation, action, reward, terminated, at_limit, following)
            for name, value in zip(names, values, strict=True):
                rows[name].append(value)
            observation = following
            done = terminated or truncated
    return {name: np.array(values, np.float32) for name, values in rows.items()}


if __name__ == "__main__":
    np.savez(sys.argv[1], **collect())
