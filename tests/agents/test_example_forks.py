"""The example forks with a custom network and a custom critic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from agents import trqam, trqam_custom_network, trqam_distributional_critic
from tests.agents.tiny_agents import B, D, random_batch, tiny

FORKS = [trqam_custom_network, trqam_distributional_critic]


@pytest.mark.ci
@pytest.mark.parametrize("module", FORKS)
def test_a_fork_has_its_own_parameters_and_learns(module):
    fork, ours = tiny(module, lr=1e-2), tiny(trqam)
    shapes = [jax.tree.map(jnp.shape, agent.params) for agent in (fork, ours)]
    assert shapes[0] != shapes[1]
    update = jax.jit(type(fork).update)
    fork, first = update(fork, random_batch(), jax.random.key(0))
    for _ in range(60):
        fork, last = update(fork, random_batch(), jax.random.key(0))
    assert last["critic/loss"] < 0.8 * first["critic/loss"]
    assert last["flow/loss"] < 0.5 * first["flow/loss"]
    assert last["dual/path_kl"] > 0


def test_the_policy_starts_from_the_base_and_reads_time():
    agent, s = tiny(trqam_custom_network), random_batch()["observations"]
    policy, base = (agent.velocity(agent.params[n], s) for n in ("policy", "base"))
    x = jax.random.normal(jax.random.key(0), (4, B, D))
    np.testing.assert_array_equal(policy(x, 0.3), base(x, 0.3))
    ts = jnp.array([0.0, 0.3, 0.6, 0.9])[:, None, None]
    at = policy(x, ts)
    np.testing.assert_allclose(at[1], policy(x[1], 0.3), atol=1e-5)
    assert jnp.abs(policy(x[1], 0.3) - policy(x[1], 0.4)).max() > 1e-3


def with_critic(agent, critic):
    """Return the agent with these critic parameters, also in the moving average."""
    return agent.replace(
        params=agent.params | {"critic": critic},
        target_params=agent.target_params | {"critic": critic},
    )


def test_a_distributional_critic_gives_its_mean():
    """The logits are a bias alone; value, target and metric are the mean computed by hand."""
    agent = tiny(trqam_distributional_critic, bins=4, q_min=-4.0, q_max=0.0, rho=0.0)
    critic = jax.tree.map(jnp.zeros_like, agent.params["critic"])
    bias = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    critic["Dense_2"]["bias"] = jnp.broadcast_to(bias, (3, 4))
    agent, batch = with_critic(agent, critic), random_batch()
    mean = 0.1 * -3.5 + 0.2 * -2.5 + 0.3 * -1.5 + 0.4 * -0.5
    s, actions = batch["observations"], agent.flat_actions(batch)
    np.testing.assert_allclose(agent.expected_return(s, actions), mean, rtol=1e-5)
    _, metrics = agent.critic_loss(critic, batch, jnp.full(B, -1.0))
    np.testing.assert_allclose(metrics["critic/q_mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(agent.pessimistic_q(s, actions), mean, rtol=1e-5)


def test_the_cross_entropy_is_least_at_the_gaussian_probabilities_of_the_bins():
    agent = tiny(trqam_distributional_critic, bins=4, q_min=-4.0, q_max=0.0)
    critic = jax.tree.map(jnp.zeros_like, agent.params["critic"])
    y, batch = -1.3, random_batch()
    probabilities = np.diff(norm.cdf([-4, -3, -2, -1, 0], y, 0.75))
    probabilities /= probabilities.sum()

    def loss(bias):
        moved = critic | {"Dense_2": critic["Dense_2"] | {"bias": bias}}
        return agent.critic_loss(moved, batch, jnp.full(B, y))[0]

    best = jnp.broadcast_to(jnp.log(probabilities), (3, 4)).astype(jnp.float32)
    value, slope = jax.value_and_grad(loss)(best)
    np.testing.assert_allclose(
        value, -(probabilities * np.log(probabilities)).sum(), rtol=1e-5
    )
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)
    assert loss(jnp.zeros((3, 4))) > value


def test_targets_outside_the_bins_are_counted():
    agent = tiny(trqam_distributional_critic, bins=4, q_min=-4.0, q_max=0.0)
    y = jnp.array([-5.0, -4.0, -2.0, 0.0, 0.5, -1.0])
    _, metrics = agent.critic_loss(agent.params["critic"], random_batch(), y)
    np.testing.assert_allclose(metrics["critic/clipped_targets"], 2 / B)


def test_many_targets_outside_the_bins_are_a_concern():
    agent = tiny(trqam_distributional_critic)
    assert agent.concerns([{"critic/clipped_targets": 0.05}]) == {}
    found = agent.concerns([{"critic/clipped_targets": 0.5}])
    assert found == {"q": "targets clipped: widen bins"}


def test_targets_outside_the_bins_are_clipped_to_their_ends():
    agent = tiny(trqam_distributional_critic, bins=4, q_min=-4.0, q_max=0.0)
    losses = [
        agent.critic_loss(agent.params["critic"], random_batch(), jnp.full(B, y))[0]
        for y in (-4.0, -1e4)
    ]
    assert jnp.isfinite(losses[1]) and losses[0] == losses[1]
