"""agents/ifql.py: the expectile, the targets of value and critic, and acting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import expectile

from agents import ifql
from tests.agents.straightforward import network, q_values
from tests.agents.tiny_agents import OBS, B, D, H, random_batch, tiny


@pytest.mark.parametrize("kappa", [0.5, 0.7, 0.95])
def test_the_minimiser_is_the_expectile(kappa):
    q = np.random.default_rng(0).normal(size=200)
    v = float(expectile(q, kappa))
    with jax.enable_x64(True):
        loss = jax.jit(lambda v: ifql.expectile_loss(jnp.asarray(q) - v, kappa))
        slope = jax.grad(loss)
        np.testing.assert_allclose(slope(v), 0.0, atol=1e-9)
        assert loss(v) < min(loss(v - 0.01), loss(v + 0.01))
        np.testing.assert_allclose(
            slope(v + 0.3),
            (loss(v + 0.3 + 1e-6) - loss(v + 0.3 - 1e-6)) / 2e-6,
            rtol=1e-6,
        )


def test_expectile_loss_by_hand():
    np.testing.assert_allclose(
        ifql.expectile_loss(jnp.array([2.0, -2.0]), 0.9),
        (0.9 * 4 + 0.1 * 4) / 2,
        rtol=1e-6,
    )


@pytest.mark.ci
def test_value_and_critic_targets_by_hand():
    """V learns the pessimistic target critic at the data's actions.

    Q learns from V of the next observation.
    """
    agent, batch = tiny(ifql, rho=0.5, discount=0.9, kappa=0.8), random_batch()
    # After this update, parameters and averages differ.
    agent, _ = agent.update(batch, jax.random.key(0))
    batch["valid"] = batch["valid"].at[0, -1].set(0.0)
    _, metrics, fixed = agent.update_with_noise(
        batch, agent.draw_noise(jax.random.key(1), B)
    )
    v = lambda s: network(agent.params["value"], s)[:, 0]  # noqa: E731
    q = q_values(
        agent.target_params["critic"],
        batch["observations"],
        batch["actions"].reshape(B, D),
    )
    error = q.mean(axis=0) - 0.5 * q.std(axis=0) - v(batch["observations"])
    np.testing.assert_allclose(
        metrics["value/loss"],
        jnp.mean(jnp.where(error >= 0, 0.8, 0.2) * error**2),
        rtol=1e-4,
    )
    y = batch["rewards"][:, -1] + 0.9**H * batch["masks"][:, -1] * v(
        batch["next_observations"][:, -1]
    )
    np.testing.assert_allclose(fixed["td_target"], y, rtol=1e-5)


def test_acts_with_the_best_of_its_samples_of_the_base():
    agent, s = tiny(ifql, num_samples=4), random_batch()["observations"]
    assert agent.samples == 4
    x0 = jax.random.normal(jax.random.key(0), (4, B, D))
    candidates = jnp.stack([agent.act(s, x0[i : i + 1]) for i in range(4)])
    values = jnp.stack(
        [q_values(agent.params["critic"], s, a).mean(axis=0) for a in candidates]
    )
    np.testing.assert_allclose(
        agent.act(s, x0), candidates[values.argmax(axis=0), jnp.arange(B)], atol=1e-6
    )
    assert ifql.get_config().num_samples == 32


def test_the_value_reads_the_observation_alone():
    agent = tiny(ifql)
    assert agent.params["value"]["Dense_0"]["kernel"].shape == (OBS, 16)
    assert "LayerNorm_0" in agent.params["value"]
