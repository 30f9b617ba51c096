"""Tests what updates keep between calls, and the length of a call."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from agents import bc, trqam
from tests.agents.tiny_agents import OBS, tiny
from tests.small_datasets import make_dataset
from tests.training.test_seeds import tiny_agents
from training.updates import SeedState, Updates, act_online, updates_per_call
from training.windows import EMPTY_WINDOW
from utils.errors import UserError
from utils.replay import Replay
from utils.sharding import stack_seeds


@pytest.fixture
def replay():
    return new_replay(30)


def new_replay(length):
    dataset = make_dataset([length, 20])
    return Replay.create(
        {name: np.nan_to_num(value) for name, value in dataset.items()}
    )


def new_states(seeds):
    keys = np.random.default_rng(0).integers(0, 1 << 32, (2, seeds, 2), np.uint32)
    return [
        SeedState(agent, {"updates": keys[0, i], "actions": keys[1, i]}, EMPTY_WINDOW)
        for i, agent in enumerate(tiny_agents()[:seeds])
    ]


@pytest.mark.ci
def test_updates_continue_from_their_states_to_the_bit(replay):
    """As after a checkpoint in the middle of a window, agents, keys and sums are all restored."""
    uninterrupted, cut = Updates(new_states(2)), Updates(new_states(2))
    for _ in range(3):
        uninterrupted.run(replay, 2)
    cut.run(replay, 2)
    states = jax.tree.map(np.array, cut.states())  # copies, as in a checkpoint
    assert [state.window["updates"] for state in states] == [2, 2]
    again = Updates(states)
    for _ in range(2):
        again.run(replay, 2)
    assert uninterrupted.done() == again.done() == 6
    jax.tree.map(np.testing.assert_array_equal, again.states(), uninterrupted.states())
    assert (
        again.means() == uninterrupted.means() and again.means()[0] != again.means()[1]
    )
    # the time before the checkpoint is not known
    assert again.speed(2.0)["updates_per_s"] == 4 / 2.0
    assert uninterrupted.speed(2.0)["updates_per_s"] == 6 / 2.0
    uninterrupted.restart_window()
    assert uninterrupted.speed(2.0)["updates_per_s"] == 0
    assert uninterrupted.means() == [{}, {}] and uninterrupted.not_finite() == {}
    assert uninterrupted.states()[0].window == EMPTY_WINDOW


@pytest.mark.ci
def test_seeds_with_different_numbers_of_updates_since_their_logs_have_their_own_means(
    replay,
):
    """Such as one that was logged at the end of a shorter run, beside one that was killed."""
    states = new_states(2)
    begun = Updates(states[1:])
    begun.run(replay, 2)
    logged, killed = states[0], begun.states()[0]
    killed = killed._replace(agent=states[1].agent)  # at the same update as the other
    together = Updates([logged, killed])
    assert together.means()[0] == {} and together.means()[1] == begun.means()[0]
    together.run(replay, 1)
    assert [state.window["updates"] for state in together.states()] == [1, 3]
    alone = Updates(states)
    alone.run(replay, 1)
    assert together.means()[0] == pytest.approx(alone.means()[0], rel=1e-5)
    name = "critic/loss"
    total = 2 * begun.means()[0][name] + alone.means()[1][name]
    assert together.means()[1][name] == pytest.approx(total / 3, rel=1e-5)


@pytest.mark.ci
def test_a_metric_that_the_agent_no_longer_has_starts_a_new_window(replay, printed):
    (state,) = new_states(1)
    window = {"updates": 3, "sums": {"critic/loss": 1.0, "of an earlier version": 2.0}}
    updates = Updates([state._replace(window=window)])
    updates.run(replay, 1)
    assert "the agent has other metrics than at its checkpoint" in printed().err
    fresh = Updates([state])
    fresh.run(replay, 1)
    assert updates.means() == fresh.means()


@pytest.mark.ci
def test_a_metric_that_is_not_finite_is_named_with_its_seed_and_first_update(replay):
    states = new_states(2)
    params = jax.tree.map(lambda leaf: leaf * np.nan, states[1].agent.params)
    states[1] = states[1]._replace(agent=states[1].agent.replace(params=params))
    updates = Updates(states)
    for _ in range(2):
        updates.run(replay, 1)
    found = updates.not_finite()
    broken = [
        name for name, mean in updates.means()[1].items() if not np.isfinite(mean)
    ]
    assert found == {1: f"{min(broken)} is not finite since update 1"}


def test_calls_have_one_length_that_crosses_no_interval():
    assert updates_per_call(1000, 0, 20, 50, 0) == 2
    assert updates_per_call(1000, 0, 100, 200, 0) == 4  # the most on a CPU
    assert updates_per_call(60, 45, 10, 40, 15) == 1


def test_the_noise_of_actions_differs_at_every_online_step():
    agent, key = tiny(bc), jax.random.key(5)
    stacked = stack_seeds([agent], None)
    keys, observation = jax.random.key_data(key)[None], np.ones((1, OBS), np.float32)
    third, fourth = (act_online(stacked, observation, keys, step) for step in (3, 4))
    assert (third != fourth).all()
    shape = (agent.draws, 1, agent.flat_action_dim)
    noise = jax.random.normal(jax.random.fold_in(key, 3), shape)
    np.testing.assert_allclose(
        third, agent.act(observation, noise), rtol=1e-5, atol=1e-6
    )


def test_speed_is_updates_over_training_time():
    clock = SimpleNamespace(idle=1.0, updates=20)
    measured = Updates.speed(SimpleNamespace(clock=clock), 4.0)
    assert measured == {"updates_per_s": 5.0, "device_idle": 0.25}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"step": 1}, r"metric step: train.csv has a column step"),
        ({"phase": 0.0}, r"metric phase: train.csv has a column phase"),
        (
            {"per_sample": np.zeros(4)},
            r"metric per_sample has shape \[4\]; metrics are scalars",
        ),
    ],
)
def test_a_metric_that_cannot_be_a_column_is_refused(metrics, message, monkeypatch):
    """Each replay has another length, because JAX remembers traces by shapes."""
    after_step = lambda agent, ours: (agent, ours | metrics)  # noqa: E731
    monkeypatch.setattr(trqam.TRQAM, "after_step", after_step)
    with pytest.raises(UserError, match=f"^{message}"):
        Updates(new_states(1)).run(new_replay(len(message)), 1)
