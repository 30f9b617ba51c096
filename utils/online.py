"""The online phase: episodes that can be resumed in the middle, and the file of the transitions they gave."""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from envs.workers import ChunkResult, EnvWorkers, LocalEnvs
from utils.checkpoints import CheckpointError
from utils.chunks import FIELDS
from utils.errors import RunError
from utils.evaluation import reset_seed
from utils.runs import Run

ONLINE_SEEDS = 1 << 20  # keeps the resets of the online phase apart from those of evaluations


class OnlineEpisodes:
    """Episodes of one seed's online phase, in one slot of `envs`, a step at a time; chunks run open loop."""

    def __init__(self, run: Run, envs: EnvWorkers | LocalEnvs, slot: int, action_dim: int, at_random_until: int):
        self.envs, self.slot = envs, slot
        self.env_name, self.seed, self.sparse = run.env_name, run.seed, run.settings.flags["sparse"]
        self.action_dim, self.at_random_until = action_dim, at_random_until
        self.episode, self.length = -1, 0
        self.observation: np.ndarray | None = None  # None between episodes
        self.queue: list[np.ndarray] = []

    def wants(self, step: int) -> np.ndarray | None:
        """The observation [O] at which environment step number `step` wants the next actions, of a new episode if need be.

        None where some are queued, and where the action is random.
        """
        if self.observation is None:
            self.episode += 1
            self.length = 0
            self.observation = self._reset()
        return None if self.queue or step < self.at_random_until else self.observation

    def action(self, step: int, chunk: np.ndarray | None) -> np.ndarray:
        """The action [A] of environment step number `step`; chunk: the next ones [H, A], where `wants` asked for them."""
        if step < self.at_random_until:
            return np.random.default_rng([self.seed, step]).uniform(-1, 1, self.action_dim).astype(np.float32)
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
                f"--sparse: {self.env_name} gives a reward of {reward:g}, and --sparse makes every reward "
                "but 0 a -1; leave it out"
            )
        return -1.0 if reward != 0 else reward

    def _reset(self) -> np.ndarray:
        return self.envs.reset([self.slot], [reset_seed(self.seed + ONLINE_SEEDS, self.episode)])[0]

    def record(self) -> dict[str, Any]:
        """The running episode as a JSON object; with its actions, which the replay file has, `resume` repeats it."""
        return {
            "episode": self.episode,
            "length": self.length,
            "observation": None if self.observation is None else self.observation.tolist(),
            "queue": [action.tolist() for action in self.queue],
        }

    def resume(self, record: dict[str, Any], actions: np.ndarray) -> bool:
        """Bring the simulator where `record` was made, by the seed of the episode and its actions [length, A].

        Returns False, and starts with a new episode, where the simulator does not come out there to the bit.
        """
        self.episode = record["episode"]
        if record["observation"] is None:
            return True
        observation, ended = self._reset(), False
        if len(actions):
            (result,) = self.envs.run_chunks([self.slot], actions[None])
            observation, ended = result.observations[-1], result.done
        if ended or not np.array_equal(observation, np.asarray(record["observation"], np.float32)):
            return False
        self.observation, self.length = observation, record["length"]
        self.queue = [np.asarray(action, np.float32) for action in record["queue"]]
        return True


class ReplayFile:
    """Online transitions in an append-only file, in the compact layout of a dataset (utils/chunks.py).

    A row for each transition, and behind the last one of a trajectory a row for its final observation (`starts` 0). A
    checkpoint holds a `position`: how many rows there were, and their CRC-32. What stands behind it is cut off on `resume`.
    """

    def __init__(self, path: Path, observation_dim: int, action_dim: int):
        self.path = path
        widths = {"observations": (observation_dim,), "actions": (action_dim,)}
        self.dtype = np.dtype([(name, "<f4", widths.get(name, ())) for name in (*FIELDS, "starts")])
        self.rows, self.crc = 0, 0
        self._file: Any = None

    def append(self, transition: dict[str, Any]) -> None:
        """Add one transition, in the form that `OnlineEpisodes.took` returns."""
        rows = np.zeros(2 if transition["terminals"] else 1, self.dtype)
        for name in FIELDS:
            rows[name][0] = transition[name]
        rows["starts"][0] = 1
        rows["observations"][1:] = transition["next_observations"]
        self._write(rows)

    def _write(self, rows: np.ndarray) -> None:
        if self._file is None:
            self._file = self.path.open("ab")
        data = rows.tobytes()
        self._file.write(data)
        self.rows, self.crc = self.rows + len(rows), zlib.crc32(data, self.crc)

    def position(self) -> dict[str, int]:
        """Where the file ends, once everything is on disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        return {"rows": self.rows, "crc": self.crc}

    def read(self, position: dict[str, int]) -> np.ndarray:
        """The rows up to a position; raises CheckpointError where they are not the ones that were written."""
        size = position["rows"] * self.dtype.itemsize
        data = b""
        if size:
            try:
                with self.path.open("rb") as file:
                    data = file.read(size)
            except FileNotFoundError:
                raise CheckpointError(f"{self.path} is missing") from None
        if len(data) != size or zlib.crc32(data) != position["crc"]:
            raise CheckpointError(f"the first {position['rows']} rows of {self.path} are not what was written")
        return np.frombuffer(data, self.dtype)

    def resume(self, position: dict[str, int]) -> None:
        """Go on behind a position that was read."""
        if self.path.exists():
            os.truncate(self.path, position["rows"] * self.dtype.itemsize)
        self.rows, self.crc = position["rows"], position["crc"]

    def end_trajectory(self, observation: list[float]) -> None:
        """Give up the running trajectory after its newest observation [O]; `as_dataset` makes its last transition terminal."""
        row = np.zeros(1, self.dtype)
        row["observations"] = observation
        self._write(row)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def as_dataset(rows: np.ndarray, observation: np.ndarray | None) -> dict[str, np.ndarray]:
    """Rows of a replay file, and the running episode's newest observation [O] if there is one, as a compact dataset."""
    rows = rows.copy()
    rows["terminals"][np.flatnonzero(rows["starts"] == 0) - 1] = 1
    if observation is not None:
        rows = np.concatenate([rows, np.zeros(1, rows.dtype)])
        rows["observations"][-1] = observation
    return {name: rows[name] for name in FIELDS} | {"rows": np.flatnonzero(rows["starts"]).astype(np.int32)}
