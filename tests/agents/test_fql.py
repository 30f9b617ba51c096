"""agents/fql.py: its loss by hand, and the actor that acts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import fql
from agents.flow import euler_sample
from tests.agents.straightforward import field, network, q_values
from tests.agents.tiny_agents import B, D, K, random_batch, tiny


@pytest.mark.ci
def test_loss_by_hand():
    """alpha weighs the distance to the flow's samples from the same noise.

    The critic reads clipped actions.
    """
    agent, batch = tiny(fql, alpha=7.0), random_batch()
    s, noise = batch["observations"], agent.draw_noise(jax.random.key(1), B)
    # With larger noise, part of the actions are clipped.
    noise["distill"] = 3.0 * noise["distill"]
    _, metrics, _ = agent.update_with_noise(batch, noise)
    mu = network(
        agent.params["one_step_actor"], jnp.concatenate([s, noise["distill"]], axis=-1)
    )
    flow = euler_sample(field(agent.params["base"], s), noise["distill"], K)
    assert (jnp.abs(mu) > 1).any() and (jnp.abs(flow) > 1).any()
    imitation = jnp.mean((mu - jnp.clip(flow, -1, 1)) ** 2)
    q = q_values(agent.params["critic"], s, jnp.clip(mu, -1, 1)).mean()
    np.testing.assert_allclose(metrics["actor/distill_loss"], imitation, rtol=1e-4)
    np.testing.assert_allclose(
        metrics["actor/loss"], metrics["flow/loss"] + 7.0 * imitation - q, rtol=1e-4
    )


def test_the_one_step_actor_acts():
    agent, s = tiny(fql), random_batch()["observations"]
    z = 3.0 * jax.random.normal(jax.random.key(0), (1, B, D))
    mu = network(agent.params["one_step_actor"], jnp.concatenate([s, z[0]], axis=-1))
    np.testing.assert_allclose(agent.act(s, z), jnp.clip(mu, -1, 1), atol=1e-5)
