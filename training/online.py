"""The online interaction: environment steps of all seeds, in episodes that can be resumed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.evaluation import reset_seed
from envs.workers import ChunkResult, EnvWorkers, LocalEnvs
from training.journal import Journal
from training.policy import chunk_length
from training.replay_file import as_dataset
from training.run import Run
from training.seeds import Seeds
from training.updates import Updates
from utils.errors import RunError
from utils.logging import warn
from utils.replay import Transitions
from utils.sharding import stack_seeds

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


class Interaction:
    """The online episodes of all seeds, side by side in environments of their own.

    Args:
        seeds: those that break, here or elsewhere, act no more: their environments idle.
        updates: has the policies.
        action_dim: A.
        at_random_until: the online step before which actions are random.
    """

    def __init__(self, seeds: Seeds, updates: Updates, action_dim: int, at_random_until: int):
        env_name = seeds.run.env_name
        self.seeds, self.updates = seeds, updates
        self.envs: EnvWorkers | LocalEnvs = (
            EnvWorkers(env_name, len(seeds)) if len(seeds) > 1 else LocalEnvs(env_name)
        )
        self.episodes = [
            OnlineEpisodes(journal.run, self.envs, slot, action_dim, at_random_until)
            for slot, journal in enumerate(seeds.journals)
        ]
        self.chunk_shape = (chunk_length(updates.config), action_dim)

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def start(
        self, records: Sequence[dict[str, Any]], empty: dict[str, np.ndarray], room: int
    ) -> Transitions:
        """Repeat the episodes that were running -> the online transitions so far, stacked [S].

        Args:
            records: of the checkpoint that each seed resumes from; {} for a new run.
            empty: a compact dataset of the right widths without any row.
            room: how many online transitions there will be.
        """
        slots = range(len(self.episodes))
        self.envs.reset(slots, [0 for _ in slots])  # makes them, side by side
        stored = []
        for journal, episodes, record in zip(
            self.seeds.journals, self.episodes, records, strict=True
        ):
            rows = empty
            if record.get("episode"):
                rows = resumed_rows(journal, episodes, record["episode"], record["replay"])
            stored.append(Transitions.create(rows, room))
        return stack_seeds(stored, self.updates.mesh)

    def advance(self, online_step: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """One environment step of every seed -> the transitions and whether each is the first
        of its episode, along [S].

        They are appended to the replay files. Seeds whose policies or environments give what
        cannot be used are marked as broken. Raises RunError where no seed can go on, and
        WorkerError.
        """
        step = self.seeds.flags["offline_steps"] + online_step
        actions = self._actions(online_step, step)
        results = self.envs.run_chunks(range(len(actions)), actions[:, None])
        for seed, result in enumerate(results):
            if result.fault and seed not in self.seeds.broken:
                where = f"environment {self.seeds.run.env_name}: {result.fault}"
                self.seeds.mark_broken(seed, f"{where} in the step after step {step}")
        steps = [
            episodes.took(action, result)
            for episodes, action, result in zip(self.episodes, actions, results, strict=True)
        ]
        for seed, journal in self.seeds.going:
            journal.replay_file.append(steps[seed][0])
        transitions, first = zip(*steps, strict=True)
        stacked = {
            name: np.stack([transition[name] for transition in transitions]).astype(np.float32)
            for name in transitions[0]
        }
        return stacked, np.array(first)

    def _actions(self, online_step: int, step: int) -> np.ndarray:
        """The actions [S, A] of all seeds' next environment step."""
        wanted = [episodes.wants(online_step) for episodes in self.episodes]
        chunks = self._chunks(wanted, online_step)
        for seed, chunk in enumerate(chunks):
            self._require_finite(seed, chunk, step)
        for seed in self.seeds.broken:
            chunk = chunks[seed]
            chunks[seed] = None if chunk is None else np.zeros_like(chunk)
        return np.stack(
            [
                episodes.action(online_step, chunk)
                for episodes, chunk in zip(self.episodes, chunks, strict=True)
            ]
        )

    def _chunks(
        self, wanted: Sequence[np.ndarray | None], online_step: int
    ) -> list[np.ndarray | None]:
        """The policies' action chunks [H, A] at the observations [O] that are wanted."""
        some = next((observation for observation in wanted if observation is not None), None)
        if some is None:
            return [None for _ in wanted]
        idle = np.zeros_like(some)
        observations = [idle if observation is None else observation for observation in wanted]
        acted = self.updates.act(np.stack(observations), online_step)
        return [
            None if observation is None else actions.reshape(self.chunk_shape)
            for observation, actions in zip(wanted, acted, strict=True)
        ]

    def _require_finite(self, seed: int, chunk: np.ndarray | None, step: int) -> None:
        """Mark a seed as broken whose policy returns actions that are not finite."""
        if chunk is None or seed in self.seeds.broken or np.isfinite(chunk).all():
            return
        # names the update that did it, if it was one
        self.seeds.mark_not_finite(self.updates.not_finite(), step)
        if seed not in self.seeds.broken:
            why = f"an action of the policy is not finite after step {step}"
            self.seeds.mark_broken(seed, why)

    def records(self) -> list[dict[str, Any]]:
        """The running episode of each seed, for its checkpoint."""
        return [episodes.record() for episodes in self.episodes]


def resumed_rows(
    journal: Journal,
    episodes: OnlineEpisodes,
    running: dict[str, Any],
    position: dict[str, int],
) -> dict[str, np.ndarray]:
    """Repeat the running episode of a checkpoint -> its replay file's rows as a dataset."""
    rows = journal.replay_file.read(position)
    if not episodes.resume(running, rows["actions"][len(rows) - running["length"] :]):
        name = journal.run.env_name
        warn(
            f"{name} does not repeat its running episode (another mujoco or ogbench?): it"
            " starts a new one"
        )
        journal.replay_file.end_trajectory(running["observation"])
        rows = journal.replay_file.read(journal.replay_file.position())
    return as_dataset(rows, episodes.observation)
