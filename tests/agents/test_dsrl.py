"""agents/dsrl.py: the distilled latent critic, the noise actor, its temperature, and acting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import dsrl
from agents.flow import euler_sample
from tests.agents.straightforward import field, q_values, tanh_gaussian
from tests.agents.tiny_agents import B, D, K, random_batch, tiny


def trained():
    """Return an agent whose moving averages differ from its parameters, and the batch, noise and
    constants of its next update.
    """
    agent, batch = tiny(dsrl, noise_scale=1.4, tau=0.3), random_batch()
    agent, _ = agent.update(batch, jax.random.key(0))
    noise = agent.draw_noise(jax.random.key(1), B)
    return agent, batch, noise, agent.fixed_quantities(batch, noise)


def test_latent_distillation_is_member_by_member():
    """Members that differ by offsets c_e cost mean_e c_e^2; equal members cost nothing."""
    q = jax.random.normal(jax.random.key(1), (3, B))
    assert dsrl.latent_loss(q, q) == 0.0
    offsets = jnp.broadcast_to(jnp.array([[0.5], [-1.0], [2.0]]), q.shape)
    np.testing.assert_allclose(dsrl.latent_loss(q, q + offsets), 1.75, rtol=1e-5)


@pytest.mark.ci
def test_the_latent_critic_learns_the_online_critics_value_of_the_flows_action():
    agent, batch, noise, fixed = trained()
    s = batch["observations"]
    actions = euler_sample(field(agent.target_params["base"], s), noise["latent"], K)
    assert (jnp.abs(actions) > 1).any()
    np.testing.assert_allclose(
        fixed["q"],
        q_values(agent.params["critic"], s, jnp.clip(actions, -1, 1)),
        atol=1e-5,
    )
    invalid = batch | {"valid": jnp.zeros_like(batch["valid"])}
    losses = [
        agent.loss(agent.params, b, noise, fixed)[1]["latent/loss"]
        for b in (batch, invalid)
    ]
    assert losses[0] == losses[1] > 0.0


@pytest.mark.ci
def test_noise_actor_and_temperature_by_hand():
    """The actor descends -mean Qz(s, scale w) + alpha mean log p(w).

    The slope of log alpha is alpha (H + D / 2).
    """
    agent, batch, noise, fixed = trained()
    s, log_alpha = batch["observations"], agent.params["temperature"]["log_alpha"]
    grads = jax.grad(agent.loss, has_aux=True)(agent.params, batch, noise, fixed)[0]

    def actor_loss(actor):
        w, log_probs = tanh_gaussian(actor, s, noise["actor"])
        return (
            -q_values(agent.params["latent_critic"], s, 1.4 * w).mean()
            + jnp.exp(log_alpha) * log_probs.mean()
        )

    expected = jax.grad(actor_loss)(agent.params["noise_actor"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        grads["noise_actor"],
        expected,
    )
    _, log_probs = tanh_gaussian(agent.params["noise_actor"], s, noise["actor"])
    slope = jnp.exp(log_alpha) * (-log_probs.mean() + D / 2)
    np.testing.assert_allclose(grads["temperature"]["log_alpha"], slope, rtol=1e-5)
    latent = jax.grad(
        lambda critic: jnp.mean(
            (q_values(critic, s, noise["latent"]) - fixed["q"]) ** 2
        )
    )(agent.params["latent_critic"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        grads["latent_critic"],
        latent,
    )


@pytest.mark.ci
def test_temperature_starts_at_one_and_the_average_of_the_base_acts():
    agent, batch, _, _ = trained()
    assert tiny(dsrl).params["temperature"]["log_alpha"] == 0.0
    s, x0 = batch["observations"], jax.random.normal(jax.random.key(5), (1, B, D))
    w, _ = tanh_gaussian(agent.params["noise_actor"], s, x0[0])
    expected = euler_sample(field(agent.target_params["base"], s), 1.4 * w, K)
    np.testing.assert_allclose(agent.act(s, x0), jnp.clip(expected, -1, 1), atol=1e-5)
