"""Tests that the online phase can be interrupted: the transitions on disk equal those on the
device, and the episode is repeated exactly.
"""

import contextlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.slots import ChunkResult
from envs.workers import LocalEnvs, Task, WorkerError
from tests.small_datasets import append, make_dataset, online_replay, online_transition
from training import online
from training.checkpoints import CheckpointError
from training.online import Interaction, OnlineEpisodes, resumed_rows
from training.replay_file import ReplayFile, as_dataset
from training.seeds import Seeds
from utils.errors import RunError


def write(file, replay, steps, ends):
    """Append `steps` random transitions to a file and to a replay.

    Returns the replay and the newest observation, None between episodes.
    """
    rng = np.random.default_rng(0)
    observation = None
    for step in range(steps):
        first = observation is None
        observation = rng.normal(size=3).astype(np.float32) if first else observation
        transition = online_transition(
            rng, observation, step in ends, success=step % 2 == 0
        )
        file.append(transition)
        replay = append(replay, transition, jnp.array(first))
        observation = None if step in ends else transition["next_observations"]
    return replay, observation


@pytest.fixture
def replay_file(tmp_path):
    """Return a function that opens replay files by name; they are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(
            contextlib.closing(ReplayFile(tmp_path / name, 3, 2))
        )


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("ends", [(), (0,), (2, 3), (4, 8)])
def test_a_replay_restored_from_the_file_equals_the_one_that_was_appended_to(
    replay_file, balanced, ends
):
    dataset = make_dataset([4, 3])
    dataset = {name: np.nan_to_num(value) for name, value in dataset.items()}
    file = replay_file("replay.bin")
    appended, running = write(file, online_replay(dataset, 12, balanced), 9, ends)
    rows = file.read(file.position())
    restored = online_replay(dataset, 12, balanced, as_dataset(rows, running))
    assert jax.tree.structure(restored) == jax.tree.structure(appended)
    jax.tree.map(np.testing.assert_array_equal, restored, appended)
    assert jax.tree.map(lambda leaf: leaf.dtype, restored) == jax.tree.map(
        lambda leaf: leaf.dtype, appended
    )


def test_a_trajectory_that_is_given_up_ends_at_its_newest_observation(replay_file):
    file = replay_file("replay.bin")
    write(file, online_replay(make_dataset([4]), 5), 5, (1,))
    position = file.position()
    file.end_trajectory([7.0, 8.0, 9.0])
    # What belongs to a checkpoint is not rewritten.
    assert file.read(position)["terminals"][-1] == 0
    dataset = as_dataset(file.read(file.position()), None)
    assert list(dataset["terminals"]) == [0, 1, 0, 0, 0, 1, 0]
    assert list(dataset["rows"]) == [0, 1, 3, 4, 5]
    assert list(dataset["observations"][-1]) == [7, 8, 9]


def test_the_file_continues_after_a_position_and_notices_damage(tmp_path, replay_file):
    path = tmp_path / "replay.bin"
    uninterrupted, cut = replay_file(path.name), replay_file("cut.bin")
    empty = cut.position()
    transitions = []
    uninterrupted.append = lambda transition: transitions.append(transition)
    write(uninterrupted, online_replay(make_dataset([4]), 9), 9, (2, 5))
    del uninterrupted.append
    for step, transition in enumerate(transitions):
        uninterrupted.append(transition)
        cut.append(transition)
        if step == 5:
            position = cut.position()
    end = uninterrupted.position()
    cut.close()
    cut = replay_file("cut.bin")
    cut.resume(position)
    for transition in transitions[6:]:
        cut.append(transition)
    assert cut.position() == end
    assert (tmp_path / "cut.bin").read_bytes() == path.read_bytes()

    content = bytearray(path.read_bytes())
    content[position["rows"] * uninterrupted.dtype.itemsize + 3] ^= 1
    path.write_bytes(content)
    # Damage after a position does not matter for it.
    assert len(uninterrupted.read(position)) == position["rows"]
    with pytest.raises(
        CheckpointError,
        match="the first 11 rows of .*replay.bin are not what was written",
    ):
        uninterrupted.read(end)
    path.write_bytes(content[:10])
    with pytest.raises(CheckpointError, match="are not what was written"):
        uninterrupted.read(position)
    path.unlink()
    with pytest.raises(CheckpointError, match="replay.bin is missing"):
        uninterrupted.read(position)
    assert len(uninterrupted.read(empty)) == 0


def test_an_episode_given_up_before_its_first_step_ends_no_trajectory(
    tmp_path, printed
):
    """Its end would mark the newest transition as terminal."""
    file = ReplayFile(tmp_path / "replay.bin", 1, 1)
    start = file.position()
    journal = types.SimpleNamespace(
        replay_file=file, run=types.SimpleNamespace(env_name="some:Env-v0")
    )
    episodes = types.SimpleNamespace(
        resume=lambda running, actions: False, observation=np.zeros(1, np.float32)
    )
    running = {"length": 0, "observation": [5.0]}
    rows = resumed_rows(journal, episodes, running, start)
    assert file.position() == start and len(rows["rows"]) == 0


def episodes_of(envs, action_dim, sparse=False, at_random_until=0):
    settings = types.SimpleNamespace(flags={"sparse": sparse})
    run = types.SimpleNamespace(env_name="some:Env-v0", seed=3, settings=settings)
    return OnlineEpisodes(run, envs, 0, action_dim, at_random_until)


def step_of(episodes, step, ask):
    """Take one environment step; `ask` returns a chunk of actions when one is needed."""
    observation = episodes.policy_observation(step)
    action = episodes.action(step, None if observation is None else ask(observation))
    (result,) = episodes.envs.run_chunks([0], action[None, None])
    return episodes.add_result(action, result)


class Episodes:
    """An environment whose episode e observes [e, t] and ends at t = 5, in the goal if e is odd.

    The reward is 0 in the goal, and 2 or -2 in any other step.
    """

    def __init__(self, sign=-1):
        self.episode, self.step, self.sign = -1, 0, sign

    def reset(self, slots, seeds):
        self.episode, self.step = self.episode + 1, 0
        return np.array([[self.episode, 0]], np.float32)

    def run_chunks(self, slots, chunks):
        self.step += 1
        end, goal = self.step == 5, self.episode % 2 == 1
        reward = 0.0 if end and goal else 2.0 * self.sign
        observation = np.array([[self.episode, self.step]], np.float32)
        return [
            ChunkResult(
                observation,
                np.array([reward]),
                end and goal,
                end and not goal,
                float(end and goal),
            )
        ]


@pytest.mark.parametrize("sparse", [False, True])
def test_chunks_run_open_loop_and_end_with_their_episode(sparse):
    asked = []

    def ask(observation):
        asked.append(observation.tolist())
        return np.full((3, 2), len(asked), np.float32)

    episodes = episodes_of(Episodes(), 2, sparse)
    transitions, first = zip(
        *(step_of(episodes, step, ask) for step in range(10)), strict=True
    )
    # The rest of a chunk is dropped when its episode ends.
    assert asked == [[0, 0], [0, 3], [1, 0], [1, 3]]
    assert [t["actions"][0] for t in transitions] == [1, 1, 1, 2, 2, 3, 3, 3, 4, 4]
    assert list(np.flatnonzero(first)) == [0, 5]
    assert [t["observations"].tolist() for t in transitions] == [
        [e, t] for e in range(2) for t in range(5)
    ]
    assert [t["next_observations"].tolist() for t in transitions] == [
        [e, t + 1] for e in range(2) for t in range(5)
    ]
    assert [t["terminals"] for t in transitions] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    # A time limit does not end the task.
    assert [t["masks"] for t in transitions] == [1] * 9 + [0]
    assert [t["rewards"] for t in transitions] == [-1.0 if sparse else -2.0] * 9 + [0]


def test_an_interrupted_reset_skips_no_episode():
    episodes = episodes_of(Episodes(), 2)
    seeds = []

    def reset(slots, reset_seeds):
        seeds.extend(reset_seeds)
        if len(seeds) == 2:
            raise WorkerError("the worker died")
        return np.zeros((1, 2), np.float32)

    episodes.envs.reset = reset
    for step in range(5):
        step_of(episodes, step, lambda observation: np.zeros((3, 2), np.float32))
    with pytest.raises(WorkerError):
        episodes.policy_observation(5)
    record = episodes.record()
    assert (record["episode"], record["observation"]) == (0, None)
    resumed = episodes_of(episodes.envs, 2)
    assert resumed.resume(record, np.zeros((0, 2)))
    resumed.policy_observation(5)
    assert resumed.episode == 1 and seeds[1] == seeds[2] != seeds[0]


def test_sparse_refuses_positive_rewards_online_too():
    episodes = episodes_of(Episodes(sign=1), 2, sparse=True)
    with pytest.raises(
        RunError,
        match="--sparse: some:Env-v0 gives a reward of 2, and --sparse makes every reward but",
    ):
        step_of(episodes, 0, lambda observation: np.zeros((3, 2), np.float32))


def test_actions_are_random_at_first_and_the_policy_is_not_asked():
    episodes = episodes_of(Episodes(), 2, at_random_until=7)
    asked = []

    def ask(observation):
        asked.append(observation.tolist())
        return np.full((3, 2), 9, np.float32)

    actions = [step_of(episodes, step, ask)[0]["actions"] for step in range(12)]
    assert asked == [[1, 2], [2, 0]]
    assert [action[0] for action in actions[7:]] == [9] * 5
    assert np.unique(actions[:7]).size == 14 and np.abs(actions[:7]).max() <= 1
    again = episodes_of(Episodes(), 2, at_random_until=7)
    np.testing.assert_array_equal(
        actions[:7], [step_of(again, step, ask)[0]["actions"] for step in range(7)]
    )


@pytest.mark.parametrize(
    ("env_name", "action_dim"),
    [
        ("pointmaze-teleport-navigate-singletask-task1-v0", 2),
        pytest.param(
            "antmaze-large-navigate-singletask-task2-v0", 8, marks=pytest.mark.slow
        ),
        pytest.param("cube-double-play-singletask-task2-v0", 5, marks=pytest.mark.slow),
        pytest.param("puzzle-4x4-play-singletask-task3-v0", 5, marks=pytest.mark.slow),
    ],
)
def test_a_running_episode_is_repeated_to_the_bit(env_name, action_dim):
    """The seed and the actions bring a new simulator to the same state, and it continues alike."""

    def ask(observation):
        rng = np.random.default_rng(int(abs(observation).sum() * 1e6))
        return rng.uniform(-1, 1, (4, action_dim)).astype(np.float32)

    uninterrupted = episodes_of(LocalEnvs(Task(env_name)), action_dim)
    before = [step_of(uninterrupted, step, ask)[0] for step in range(30)]
    record = uninterrupted.record()
    assert (record["length"], len(record["queue"])) == (30, 2)
    cut = episodes_of(LocalEnvs(Task(env_name)), action_dim)
    assert cut.resume(
        record, np.stack([transition["actions"] for transition in before])
    )
    for step in range(30, 60):
        ours, theirs = step_of(uninterrupted, step, ask), step_of(cut, step, ask)
        assert ours[1] == theirs[1]
        jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])
    wrong = record | {"observation": [value + 1e-6 for value in record["observation"]]}
    again = episodes_of(LocalEnvs(Task(env_name)), action_dim)
    assert not again.resume(
        wrong, np.stack([transition["actions"] for transition in before])
    )
    assert step_of(again, 30, ask)[1]  # a new episode
    assert again.episode == uninterrupted.episode + 1


class SideBySide:
    """Environments that observe [slot, t] and never end; `faults` holds errors by slot and step."""

    def __init__(self, task, slots):
        self.steps, self.chunks, self.faults = 0, [], {}

    def reset(self, slots, seeds):
        return np.array([[slot, 0] for slot in slots], np.float32)

    def run_chunks(self, slots, chunks):
        self.steps += 1
        self.chunks.append(chunks)
        return [
            ChunkResult(
                np.array([[slot, self.steps]], np.float32),
                np.array([-1.0]),
                False,
                False,
                0.0,
                fault=self.faults.get((slot, self.steps), ""),
            )
            for slot in slots
        ]


def journal_of(seed):
    flags = {"offline_steps": 100, "sparse": False}
    run = types.SimpleNamespace(
        env_name="some:Env-v0",
        seed=seed,
        folder=f"run{seed}",
        settings=types.SimpleNamespace(flags=flags),
    )
    checkpoints = types.SimpleNamespace(last_good=lambda: "there is no checkpoint yet")
    stored = []
    file = types.SimpleNamespace(append=stored.append, stored=stored)
    return types.SimpleNamespace(run=run, checkpoints=checkpoints, replay_file=file)


class Policies:
    """Seed i acts [i + 1, t]; at step 1 the policy of seed 1 gives NaN."""

    agents = types.SimpleNamespace(
        config=types.SimpleNamespace(horizon_length=1, action_chunking=True),
        flat_action_dim=2,
    )
    mesh = None

    def act(self, observations, step):
        actions = np.array([[1, step], [2, step], [3, step]], np.float32)
        if step == 1:
            actions[1, 0] = np.nan
        return actions

    def not_finite(self):
        return {}


def test_a_seed_that_breaks_online_does_not_stop_the_others(monkeypatch, printed):
    monkeypatch.setattr(online, "EnvWorkers", SideBySide)
    seeds = Seeds([journal_of(seed) for seed in range(3)], Task("some:Env-v0"))
    interaction = Interaction(seeds, Policies(), at_random_until=0)
    transitions, first = interaction.advance(0)
    assert transitions["actions"].tolist() == [[1, 0], [2, 0], [3, 0]]
    assert transitions["next_observations"].tolist() == [[0, 1], [1, 1], [2, 1]]
    assert first.tolist() == [True, True, True]

    transitions, first = interaction.advance(1)
    # The environment of the broken seed is not used again, so it cannot fail.
    assert interaction.envs.chunks[1].tolist() == [[[1, 1]], [[3, 1]]]
    assert transitions["next_observations"].tolist() == [[0, 2], [0, 0], [2, 2]]
    assert first.tolist() == [False, False, False]
    reason = "an action of the policy is not finite after step 101 of run1"
    line = f"warning: {reason}; there is no checkpoint yet; the other seeds continue\n"
    assert printed().err == line

    interaction.envs.faults = {(0, 3): "reward nan"}
    interaction.advance(2)
    reason = "environment some:Env-v0: reward nan in the step after step 102 of run0"
    assert reason in printed().err
    assert [seed for seed, _ in seeds.active] == [2]
    stored = [len(journal.replay_file.stored) for journal in seeds.journals]
    # A seed stores nothing from the step in which it broke.
    assert stored == [2, 1, 3]

    interaction.envs.faults = {(2, 4): "reward inf"}
    with pytest.raises(RunError, match="reward inf in the step after step 103 of run2"):
        interaction.advance(3)


def test_random_actions_differ_between_seeds():
    actions = []
    for seed in (0, 1):
        episodes = episodes_of(Episodes(), 2, at_random_until=7)
        episodes.seed = seed
        actions.append(episodes.action(2, None))
        expected = np.random.default_rng([seed, 2]).uniform(-1, 1, actions[-1].shape)
        np.testing.assert_allclose(actions[-1], expected, rtol=1e-6)
    assert (actions[0] != actions[1]).all()
