"""The online phase: episodes that can be resumed in the middle, and the file of the transitions
they gave.
"""

from typing import Any

import numpy as np

from envs.evaluation import reset_seed
from envs.workers import ChunkResult, EnvWorkers, LocalEnvs
from training.run import Run
from utils.errors import RunError

ONLINE_SEEDS = 1 << 20  # keeps the resets of the online phase apart from those of evaluations


class OnlineEpisodes:
    """Episodes of one seed's online phase, in one slot of `envs`, a step at a time; chunks run
    open loop.
    """

    def __init__(
        self,
        run: Run,
        envs: EnvWorkers | LocalEnvs,
        slot: int,
        action_dim: int,
        at_random_until: int,
    ):
        self.envs, self.slot = envs, slot
        self.env_name, self.seed, self.sparse = (
            run.env_name,
            run.seed,
            run.settings.flags["sparse"],
        )
        self.action_dim, self.at_random_until = action_dim, at_random_until
        self.episode, self.length = -1, 0
        self.observation: np.ndarray | None = None  # None between episodes
        self.queue: list[np.ndarray] = []

    def wants(self, step: int) -> np.ndarray | None:
        """The observation [O] at which environment step number `step` wants the next actions,
        of a new episode if need be.

        None where some are queued, and where the action is random.
        """
        if self.observation is None:
            self.episode += 1
            self.length = 0
            self.observation = self._reset()
        return None if self.queue or step < self.at_random_until else self.observation

    def action(self, step: int, chunk: np.ndarray | None) -> np.ndarray:
        """The action [A] of environment step number `step`; chunk: the next ones [H, A], where
        `wants` asked for them.
        """
        if step < self.at_random_until:
            return (
                np.random.default_rng([self.seed, step])
                .uniform(-1, 1, self.action_dim)
                .astype(np.float32)
            )
        self.queue.extend([] if chunk is None else chunk)
        return self.queue[0]

    def took(self, action: np.ndarray, result: ChunkResult) -> tuple[dict[str, Any], bool]:
        """What came of an action -> the transition and whether it is the first of its episode.

        Raises RunError for a reward above 0 with --sparse.
        """
        assert self.observation is not None, "call wants() first"
        first, observation, reward = self.length == 0, result.observations[0], result.rewards[0]
        transition = {
            "observations": self.observation,
            "actions": action,
            "rewards": self._sparse(reward) if self.sparse else reward,
            "terminals": float(result.done),
            "masks": 1.0 - float(result.terminated),
            "next_observations": observation,
        }
        self.queue = self.queue[1:]
        self.observation, self.length = observation, self.length + 1
        if result.done:
            self.observation, self.queue = None, []
        return transition, first

    def _sparse(self, reward: float) -> float:
        if reward > 0:
            raise RunError(
                f"--sparse: {self.env_name} gives a reward of {reward:g}, and --sparse makes"
                " every reward but 0 a -1; leave it out"
            )
        return -1.0 if reward != 0 else reward

    def _reset(self) -> np.ndarray:
        return self.envs.reset(
            [self.slot], [reset_seed(self.seed + ONLINE_SEEDS, self.episode)]
        )[0]

    def record(self) -> dict[str, Any]:
        """The running episode as a JSON object; with its actions, which the replay file has,
        `resume` repeats it.
        """
        return {
            "episode": self.episode,
            "length": self.length,
            "observation": None if self.observation is None else self.observation.tolist(),
            "queue": [action.tolist() for action in self.queue],
        }

    def resume(self, record: dict[str, Any], actions: np.ndarray) -> bool:
        """Bring the simulator where `record` was made, by the seed of the episode and its
        actions [length, A].

        Returns False, and starts with a new episode, where the simulator does not come out
        there to the bit.
        """
        self.episode = record["episode"]
        if record["observation"] is None:
            return True
        observation, ended = self._reset(), False
        if len(actions):
            (result,) = self.envs.run_chunks([self.slot], actions[None])
            observation, ended = result.observations[-1], result.done
        if ended or not np.array_equal(
            observation, np.asarray(record["observation"], np.float32)
        ):
            return False
        self.observation, self.length = observation, record["length"]
        self.queue = [np.asarray(action, np.float32) for action in record["queue"]]
        return True
