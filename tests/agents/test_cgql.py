"""agents/cgql.py: guidance with a known result, Linex, and the critic that reads a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import cgql
from agents.flow import euler_sample
from tests.agents.straightforward import field, q_values
from tests.agents.tiny_agents import OBS, B, D, random_batch, tiny


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_guidance_is_the_velocity_of_the_flow_with_that_score(t):
    """From N(0, 1) to N(m, s^2) the score is -(x - t m) / var.

    The velocity is m + (t s^2 - (1 - t)) (x - t m) / var.
    """
    m, s, x = 0.6, 0.4, jnp.linspace(-2, 2, 9)[:, None]
    var = (1 - t) ** 2 + (t * s) ** 2
    still, score = (lambda x, t: jnp.zeros_like(x)), (lambda x, _: -(x - t * m) / var)
    expected = m + (t * s**2 - (1 - t)) * (x - t * m) / var
    np.testing.assert_allclose(
        cgql.guided(still, score, 1.0)(x, t), expected, rtol=1e-4, atol=1e-5
    )
    halved = cgql.guided(lambda x, t: x, score, 0.5)(x, t)
    np.testing.assert_allclose(halved, x + 0.5 * expected, rtol=1e-4, atol=1e-5)


def test_the_first_step_is_not_guided():
    guided = cgql.guided(lambda x, t: 2.0 * x, lambda x, t: 1e9 * x, 1.0)
    np.testing.assert_array_equal(
        guided(jnp.ones((1, 1)), jnp.zeros(())), jnp.full((1, 1), 2.0)
    )


@pytest.mark.ci
@pytest.mark.parametrize("mode", ["simple", "mse", "linex"])
def test_two_steps_by_hand(mode):
    """With K = 2, x1 = x0 + v(x0, 0) / 2.

    x2 = x1 + (v(x1, 1/2) + 2 c (x1 + inv_temp grad mean_e Q(s, x1, .) / 2)) / 2
    """
    agent = tiny(cgql, mode=mode, flow_steps=2, guidance_coef=0.3, inv_temp=5.0)
    # After this update, parameters and averages differ.
    agent, _ = agent.update(random_batch(), jax.random.key(0))
    s, x0 = random_batch()["observations"], jax.random.normal(jax.random.key(1), (B, D))
    velocity = field(agent.target_params["base"], s)
    read_at = 1.0 if mode == "simple" else 0.5
    x1 = x0 + velocity(x0, 0.0) / 2
    grad = jax.grad(
        lambda x: (
            q_values(
                agent.params["critic"],
                s,
                jnp.concatenate([x, jnp.full((B, 1), read_at)], axis=1),
            )
            .mean(0)
            .sum()
        )
    )(x1)
    expected = x1 + (velocity(x1, 0.5) + 2 * 0.3 * (x1 + 0.5 * 5.0 * grad)) / 2
    np.testing.assert_allclose(agent.sample(s, x0[None])[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("q", "slope"),
    [(0.0, 2.0 * (1 - np.exp(0.6))), (1.0, 2.0 * (1 - np.exp(-1.4))), (-9.0, -2.0)],
)
def test_slope_of_linex(q, slope):
    """The slope is inv_temp (1 - exp(d)) below the clip and -inv_temp above it, d = 2 (0.3 - q).

    Finite differences agree.
    """
    with jax.enable_x64(True):
        loss = lambda q: cgql.linex_loss(q, 0.3, 2.0, 5.0)  # noqa: E731
        np.testing.assert_allclose(jax.grad(loss)(q), slope, rtol=1e-6)
        np.testing.assert_allclose(
            jax.grad(loss)(q), (loss(q + 1e-6) - loss(q - 1e-6)) / 2e-6, rtol=1e-5
        )


def test_linex_is_finite_where_the_exponential_overflows():
    value, slope = jax.value_and_grad(cgql.linex_loss)(-1e3, 0.0, 10.0, 5.0)
    assert (value, slope) == (1e4, -10.0)


def test_linex_is_least_at_the_log_mean_exponential():
    targets = jnp.array([-0.4, 0.1, 0.2])
    best = jnp.log(jnp.mean(jnp.exp(2.0 * targets))) / 2.0
    slope = jax.grad(lambda q: cgql.linex_loss(q, targets, 2.0, 5.0).mean())(best)
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize("mode", ["mse", "linex"])
def test_noisy_loss_by_hand(mode):
    """The critic at x_t learns the target critic at the clean action, weighted by `valid`."""
    agent, batch = tiny(cgql, mode=mode, noisy_coef=0.7, inv_temp=0.5), random_batch()
    agent, _ = agent.update(batch, jax.random.key(0))
    batch["valid"] = batch["valid"].at[0, -1].set(0.0)
    s, a, noise = (
        batch["observations"],
        batch["actions"].reshape(B, D),
        agent.draw_noise(jax.random.key(1), B),
    )
    t, e = noise["noisy_t"], noise["noisy_x0"]
    q = q_values(
        agent.params["critic"], s, jnp.concatenate([(1 - t) * e + t * a, t], axis=1)
    )
    target = q_values(
        agent.target_params["critic"], s, jnp.concatenate([a, jnp.ones((B, 1))], axis=1)
    )
    terms = (q - target) ** 2 if mode == "mse" else jnp.exp((target - q) / 2) + q / 2
    # Below the clip, where Linex is exponential.
    assert ((target - q) / 2).max() < 5.0
    fixed = agent.fixed_quantities(batch, noise)
    total, metrics = agent.loss(agent.params, batch, noise, fixed)
    np.testing.assert_allclose(
        metrics["critic/noisy_loss"], jnp.mean(terms.at[:, 0].set(0.0)), rtol=1e-4
    )
    expected = (
        metrics["critic/loss"]
        + metrics["flow/loss"]
        + 0.7 * metrics["critic/noisy_loss"]
    )
    np.testing.assert_allclose(total, expected, rtol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("mode", ["simple", "mse", "linex"])
def test_without_inv_temp_the_base_acts_alone(mode):
    """The x / t part of the guidance vanishes too."""
    agent = tiny(cgql, mode=mode, inv_temp=0.0, guidance_coef=0.3, tau=0.5)
    # After this update, parameters and averages differ.
    agent, _ = agent.update(random_batch(), jax.random.key(0))
    s, x0 = (
        random_batch()["observations"],
        jax.random.normal(jax.random.key(1), (2, B, D)),
    )
    base = field(agent.target_params["base"], s)
    expected = euler_sample(base, x0, agent.config.flow_steps)
    np.testing.assert_allclose(agent.sample(s, x0), expected, atol=1e-6)


@pytest.mark.ci
def test_simple_mode_trains_the_critic_at_clean_actions_only():
    agent = tiny(cgql, mode="simple")
    assert set(agent.draw_noise(jax.random.key(0), B)) == {
        "next_action",
        "flow_x0",
        "flow_t",
    }
    noise = tiny(cgql, mode="mse").draw_noise(jax.random.key(0), B)
    assert {"noisy_x0", "noisy_t"} < set(noise)
    _, metrics = agent.update(random_batch(), jax.random.key(0))
    assert "critic/noisy_loss" not in metrics
    assert agent.params["critic"]["Dense_0"]["kernel"].shape == (3, OBS + D + 1, 16)
