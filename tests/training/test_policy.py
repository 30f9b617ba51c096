"""How agents act: noise by seed, episode and chunk, actions in [-1, 1]; the best checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import bc
from tests.agents.tiny_agents import OBS, tiny
from training.acting import evaluation_actions
from training.keys import stream
from training.policy import best_evaluated, chunks_from_seed
from training.updates import act_online
from utils.errors import RunError


def test_evaluation_noise_depends_on_seed_episode_and_chunk():
    agent, ids = (
        tiny(bc),
        np.uint32([[0, 0, 0], [7, 0, 0], [0, 3, 0], [0, 0, 2], [7, 3, 2]]),
    )
    observations = jnp.ones((len(ids), OBS))
    actions = evaluation_actions(agent, observations, ids)
    assert len(np.unique(actions, axis=0)) == len(ids)
    alone = evaluation_actions(agent, observations[:1], ids[-1:])
    np.testing.assert_allclose(alone[0], actions[-1], rtol=1e-5, atol=1e-6)
    key = stream(jax.random.key(7), "evaluation")
    key = jax.random.fold_in(jax.random.fold_in(key, 3), 2)
    noise = jax.random.normal(key, (agent.draws, agent.flat_action_dim))
    expected = agent.act(observations[:1], noise[:, None])
    np.testing.assert_allclose(actions[-1], expected[0], rtol=1e-5, atol=1e-6)


class Unclipped(bc.BC):
    """A fork whose own `act` leaves [-1, 1], and with NaN for negative observations."""

    def act(self, observations, x0):
        actions = 3 * jnp.sign(x0[0])
        return jnp.where(observations[:, :1] < 0, jnp.nan, actions)


def test_actions_are_in_range_even_if_a_fork_does_not_clip_them():
    config = tiny(bc).config
    agent = Unclipped.create(jax.random.key(0), OBS, 2, config)
    observations, ids = jnp.ones((4, OBS)), np.arange(12, dtype=np.uint32).reshape(4, 3)
    stacked = jax.tree.map(lambda leaf: leaf[None], agent)
    key = jax.random.key_data(jax.random.key(1))[None]
    for actions in (
        evaluation_actions(agent, observations, ids),
        chunks_from_seed(agent, observations, jnp.uint32(0), jnp.uint32(0)),
        act_online(stacked, observations[:1], key, jnp.int32(0)),
    ):
        assert set(np.ravel(actions)) <= {-1, 1}
    # what is not finite is not hidden
    assert np.isnan(evaluation_actions(agent, -observations, ids)).all()


def test_damaged_evaluations_are_not_advised_to_be_deleted(tmp_path):
    """The run may be another person's; without the file its best checkpoint is lost."""
    (tmp_path / "eval.csv").write_text("step,episodes,success\n10,50,2.0\n")
    with pytest.raises(RunError, match="success is '2.0', not a number") as caught:
        best_evaluated(tmp_path, [10])
    assert "resumes the run" not in str(caught.value)
