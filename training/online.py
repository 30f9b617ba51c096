"""The online phase: environment steps of all seeds, in episodes that can be resumed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from envs.evaluation import reset_seed
from envs.slots import ChunkResult
from envs.workers import EnvWorkers, LocalEnvs
from training.acting import chunk_shape
from training.journal import Journal
from training.replay_file import as_dataset
from training.run import Run
from training.seeds import Seeds
from training.updates import Updates
from utils.errors import RunError
from utils.messages import warn
from utils.replay import Transitions
from utils.sharding import stack_seeds

ONLINE_SEEDS = 1 << 20
"""Offset, so that online episodes differ from those of evaluations."""


class OnlineEpisodes:
    """The online episodes of one seed, one environment step at a time; chunks run open loop.

    Args:
        run: the run of the seed.
        envs: the environments of all seeds.
        slot: the seed's environment among them.
        action_dim: A.
        at_random_until: the online step before which actions are random.
    """

    def __init__(
        self,
        run: Run,
        envs: EnvWorkers | LocalEnvs,
        slot: int,
        action_dim: int,
        at_random_until: int,
    ):
        self.envs = envs
        self.slot = slot
        self.env_name = run.env_name
        self.seed = run.seed
        self.sparse = run.settings.flags["sparse"]
        self.action_dim = action_dim
        self.at_random_until = at_random_until
        self.episode = -1
        self.length = 0
        self.observation: np.ndarray | None = None  # None between episodes
        self.queue: list[np.ndarray] = []

    def policy_observation(self, step: int) -> np.ndarray | None:
        """Return the observation [O] for the policy's next chunk, after a reset if needed.

        None if actions are queued, or if the action of environment step `step` is random.
        """
        if self.observation is None:
            # A worker may die in the reset; the checkpoint then has the episode before.
            self.observation = self._reset(self.episode + 1)
            self.episode += 1
            self.length = 0
        return None if self.queue or step < self.at_random_until else self.observation

    def action(self, step: int, chunk: np.ndarray | None) -> np.ndarray:
        """Return the action [A] of environment step `step`.

        chunk: the policy's actions [H, A] at the observation that `policy_observation`
        returned; None if it returned None.
        """
        if step < self.at_random_until:
            rng = np.random.default_rng([self.seed, step])
            return rng.uniform(-1, 1, self.action_dim).astype(np.float32)
        self.queue.extend([] if chunk is None else chunk)
        return self.queue[0]

    def add_result(
        self, action: np.ndarray, result: ChunkResult
    ) -> tuple[dict[str, Any], bool]:
        """Record the result of an action; return (transition, whether it starts an episode).

        Raises RunError for a reward above 0 with --sparse.
        """
        assert self.observation is not None, "call policy_observation() first"
        first = self.length == 0
        observation = result.observations[0]
        reward = result.rewards[0]
        transition = {
            "observations": self.observation,
            "actions": action,
            "rewards": self._sparse(reward) if self.sparse else reward,
            "terminals": float(result.done),
            "masks": 1.0 - float(result.terminated),
            "next_observations": observation,
        }
        self.queue = self.queue[1:]
        self.observation = observation
        self.length += 1
        if result.done:
            self.observation = None
            self.queue = []
        return transition, first

    def _sparse(self, reward: float) -> float:
        if reward > 0:
            raise RunError(
                f"--sparse: {self.env_name} gives a reward of {reward:g}, and --sparse makes"
                " every reward but 0 a -1; leave it out"
            )
        return -1.0 if reward != 0 else reward

    def _reset(self, episode: int) -> np.ndarray:
        seed = reset_seed(self.seed + ONLINE_SEEDS, episode)
        return self.envs.reset([self.slot], [seed])[0]

    def record(self) -> dict[str, Any]:
        """Return the running episode as a JSON object for `resume`.

        It lacks the actions so far, which are in the replay file.
        """
        return {
            "episode": self.episode,
            "length": self.length,
            "observation": None
            if self.observation is None
            else self.observation.tolist(),
            "queue": [action.tolist() for action in self.queue],
        }

    def resume(self, record: dict[str, Any], actions: np.ndarray) -> bool:
        """Replay an interrupted episode from its reset seed and actions.

        Returns False, and drops the episode, if the simulator does not reach the recorded
        observation to the bit.

        Args:
            record: what `record` returned.
            actions: [length, A] the actions so far.
        """
        self.episode = record["episode"]
        if record["observation"] is None:
            return True
        observation = self._reset(self.episode)
        ended = False
        if len(actions):
            (result,) = self.envs.run_chunks([self.slot], actions[None])
            observation = result.observations[-1]
            ended = result.done
        if ended or not np.array_equal(
            observation, np.asarray(record["observation"], np.float32)
        ):
            return False
        self.observation = observation
        self.length = record["length"]
        self.queue = [np.asarray(action, np.float32) for action in record["queue"]]
        return True


class Interaction:
    """The online episodes of all seeds, each in its own environment.

    Args:
        seeds: the seeds. Broken ones no longer act, and their environments idle.
        updates: holds the policies.
        at_random_until: the online step before which actions are random.
    """

    def __init__(self, seeds: Seeds, updates: Updates, at_random_until: int):
        self.seeds = seeds
        self.updates = updates
        self.envs: EnvWorkers | LocalEnvs = (
            EnvWorkers(seeds.task, len(seeds))
            if len(seeds) > 1
            else LocalEnvs(seeds.task)
        )
        self.chunk_shape = chunk_shape(updates.agents)
        _, action_dim = self.chunk_shape
        self.episodes = [
            OnlineEpisodes(journal.run, self.envs, slot, action_dim, at_random_until)
            for slot, journal in enumerate(seeds.journals)
        ]

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def start(
        self, records: Sequence[dict[str, Any]], empty: dict[str, np.ndarray], room: int
    ) -> Transitions:
        """Replay the interrupted episodes; return the online transitions so far, stacked [S].

        Args:
            records: the record of each seed's checkpoint; {} for a new run.
            empty: a compact dataset of the right widths without rows.
            room: how many online transitions to make room for.
        """
        slots = range(len(self.episodes))
        # creates the environments in parallel
        self.envs.reset(slots, [0 for _ in slots])
        stored = []
        for journal, episodes, record in zip(
            self.seeds.journals, self.episodes, records, strict=True
        ):
            rows = empty
            if record.get("episode"):
                rows = resumed_rows(
                    journal, episodes, record["episode"], record["replay"]
                )
            stored.append(Transitions.create(rows, room))
        return stack_seeds(stored, self.updates.mesh)

    def advance(self, online_step: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Take one environment step with every seed and store it in the replay files.

        Returns the transitions [S, ...], zeros for broken seeds, and whether each one starts an
        episode [S]. Seeds whose policy or environment returns unusable values are marked as
        broken. Raises RunError if all seeds are broken, and WorkerError.
        """
        step = self.seeds.flags["offline_steps"] + online_step
        actions = self._actions(online_step, step)
        chunks = np.stack(list(actions.values()))[:, None]
        results = self.envs.run_chunks(list(actions), chunks)
        steps = {}
        for (seed, action), result in zip(actions.items(), results, strict=True):
            if result.fault:
                where = f"environment {self.seeds.run.env_name}: {result.fault}"
                self.seeds.mark_broken(seed, f"{where} in the step after step {step}")
                continue
            steps[seed] = self.episodes[seed].add_result(action, result)
            self.seeds.journals[seed].replay_file.append(steps[seed][0])
        return stack_steps(steps, len(self.seeds))

    def _actions(self, online_step: int, step: int) -> dict[int, np.ndarray]:
        """Return the actions [A] of the next environment step by active seed."""
        wanted = {
            seed: self.episodes[seed].policy_observation(online_step)
            for seed, _ in self.seeds.active
        }
        chunks = self._chunks(wanted, online_step)
        for seed, chunk in chunks.items():
            self._require_finite(seed, chunk, step)
        return {
            seed: self.episodes[seed].action(online_step, chunks[seed])
            for seed, _ in self.seeds.active
        }

    def _chunks(
        self, wanted: Mapping[int, np.ndarray | None], online_step: int
    ) -> dict[int, np.ndarray | None]:
        """Return the policies' chunks [H, A] by seed at observations [O]; None for None."""
        asking = {seed: each for seed, each in wanted.items() if each is not None}
        chunks: dict[int, np.ndarray | None] = dict.fromkeys(wanted)
        if asking:
            shape = next(iter(asking.values())).shape
            observations = np.zeros((len(self.seeds), *shape), np.float32)
            for seed, observation in asking.items():
                observations[seed] = observation
            acted = self.updates.act(observations, online_step)
            chunks |= {seed: acted[seed].reshape(self.chunk_shape) for seed in asking}
        return chunks

    def _require_finite(self, seed: int, chunk: np.ndarray | None, step: int) -> None:
        """Mark a seed as broken if its chunk [H, A] is not finite."""
        if chunk is None or seed in self.seeds.broken or np.isfinite(chunk).all():
            return
        # If an update caused it, the message names that update.
        self.seeds.mark_not_finite(self.updates.not_finite(), step)
        if seed not in self.seeds.broken:
            why = f"an action of the policy is not finite after step {step}"
            self.seeds.mark_broken(seed, why)

    def records(self) -> list[dict[str, Any]]:
        """Return the running episode of each seed, for its checkpoint."""
        return [episodes.record() for episodes in self.episodes]


def stack_steps(
    steps: Mapping[int, tuple[dict[str, Any], bool]], seeds: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return transitions [S, ...] and whether each starts an episode [S].

    Args:
        steps: the transition of each seed that acted, and whether it starts an episode.
        seeds: S; the transitions of the other seeds are zeros.
    """
    transition, _ = next(iter(steps.values()))
    idle = {name: np.zeros_like(value) for name, value in transition.items()}
    pairs = [steps.get(seed, (idle, False)) for seed in range(seeds)]
    stacked = {
        name: np.stack([each[name] for each, _ in pairs]).astype(np.float32)
        for name in transition
    }
    return stacked, np.array([first for _, first in pairs])


def resumed_rows(
    journal: Journal,
    episodes: OnlineEpisodes,
    running: dict[str, Any],
    position: dict[str, int],
) -> dict[str, np.ndarray]:
    """Replay the interrupted episode of a checkpoint; return its online data as a dataset.

    Args:
        journal: the files of the run.
        episodes: the seed's episodes.
        running: the record of the interrupted episode.
        position: the position of the replay file at the checkpoint.
    """
    rows = journal.replay_file.read(position)
    if not episodes.resume(running, rows["actions"][len(rows) - running["length"] :]):
        name = journal.run.env_name
        warn(
            f"{name} does not repeat its running episode (another mujoco or ogbench?): it"
            " starts a new one"
        )
        if running["length"]:  # an episode without a step has no row to end
            journal.replay_file.end_trajectory(running["observation"])
        rows = journal.replay_file.read(journal.replay_file.position())
    return as_dataset(rows, episodes.observation)
