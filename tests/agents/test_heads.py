"""agents/heads.py against quadrature, finite differences and algebra by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from agents import heads, trqam
from tests.agents.straightforward import init, network, q_values
from tests.agents.tiny_agents import OBS, B, D, random_batch, tiny

SQUASH = jax.jit(heads.squash)


def density(a, mean, log_std):
    """Return p(a) of one action in (-1, 1), by the noise that gives this action."""
    noise = (np.arctanh(a) - mean) / np.exp(log_std)
    return float(
        np.exp(SQUASH(*(np.array([value]) for value in (mean, log_std, noise)))[1])
    )


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -0.5), (0.7, -1.0), (-1.5, 0.3)])
def test_log_probability_by_quadrature(mean, log_std):
    """The density integrates to 1.

    The mean of -log p over samples is the integral of -p log p.
    """
    with jax.enable_x64(True):
        total, _ = quad(density, -1, 1, args=(mean, log_std), epsabs=1e-8)
        entropy, _ = quad(
            lambda a: -(p := density(a, mean, log_std)) * np.log(p), -1, 1, epsabs=1e-6
        )
        noise = jax.random.normal(jax.random.key(0), (400_000, 1))
        full = [jnp.full(noise.shape, value) for value in (mean, log_std)]
        actions, log_probs = map(np.asarray, SQUASH(*full, noise))
    assert total == pytest.approx(1.0, abs=1e-5)
    assert -log_probs.mean() == pytest.approx(
        entropy, abs=6 * float(log_probs.std()) / 400_000**0.5
    )
    assert np.abs(actions).max() < 1.0


def test_log_probabilities_add_over_dimensions():
    mean, log_std, noise = jax.random.normal(jax.random.key(0), (3, B, D))
    together = heads.squash(mean, log_std, noise)[1]
    one_by_one = sum(
        heads.squash(mean[:, d : d + 1], log_std[:, d : d + 1], noise[:, d : d + 1])[1]
        for d in range(D)
    )
    np.testing.assert_allclose(together, one_by_one, rtol=1e-5)


@pytest.mark.parametrize("mean", [-500.0, -20.0, 20.0, 500.0])
def test_log_probability_is_finite_and_correct_at_the_edges(mean):
    """At large |u| the slope 1 - tanh(u)^2 is 4 exp(-2 |u|), but |tanh(u)| is 1 in float32.

    log p = log N(u) + 2 |u| - log 4
    """
    value, slopes = jax.value_and_grad(
        lambda m, s: heads.squash(jnp.full(1, m), jnp.full(1, s), jnp.full(1, 0.3))[1],
        argnums=(0, 1),
    )(mean, -1.0)
    assert abs(float(jnp.tanh(mean))) == 1.0
    u = mean + np.exp(-1.0) * 0.3
    expected = -0.5 * 0.3**2 + 1.0 - 0.5 * np.log(2 * np.pi) + 2 * abs(u) - np.log(4)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(
        slopes, [2 * np.sign(u), 2 * np.sign(u) * np.exp(-1.0) * 0.3 - 1.0], rtol=1e-5
    )


def test_gradient_of_the_log_probability_by_finite_differences():
    """Differences in float64, along a random direction, match the gradient through the network."""
    with jax.enable_x64(True):
        actor = heads.TanhGaussian((16,))
        params = init(jax.random.key(1), OBS, (16,), 2 * D, False)
        direction = jax.tree.map(
            lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params
        )
        inputs, noise = (
            jax.random.normal(jax.random.key(2), (B, OBS)),
            jax.random.normal(jax.random.key(3), (2, B, D)),
        )

        @jax.jit
        def along(e):
            moved = jax.tree.map(lambda p, d: p + e * d, params, direction)
            return actor.apply({"params": moved}, inputs, noise)[1].mean()

        np.testing.assert_allclose(
            jax.grad(along)(0.0), (along(1e-5) - along(-1e-5)) / 2e-5, rtol=1e-6
        )


def test_log_std_is_clipped():
    noise = jnp.full((1, 1), 0.5)
    for given, used in ((9.0, 2.0), (-90.0, -20.0)):
        actions, log_probs = heads.squash(
            jnp.zeros((1, 1)), jnp.full((1, 1), given), noise
        )
        expected, expected_log_probs = heads.squash(
            jnp.zeros((1, 1)), jnp.full((1, 1), used), noise
        )
        assert (actions, log_probs) == (expected, expected_log_probs)


def test_the_network_gives_mean_and_log_std():
    params = init(jax.random.key(0), OBS, (16,), 2 * D, False)
    inputs, noise = (
        jax.random.normal(jax.random.key(1), (B, OBS)),
        jax.random.normal(jax.random.key(2), (4, B, D)),
    )
    out = network(params, inputs)
    actor = heads.TanhGaussian((16,))
    actions, log_probs = actor.apply({"params": params}, inputs, noise)
    assert log_probs.shape == (4, B)
    np.testing.assert_allclose(
        actions[2],
        jnp.tanh(out[:, :D] + jnp.exp(out[:, D:]) * noise[2]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_one_step_actions_read_observation_and_noise():
    params = init(jax.random.key(0), OBS + D, (16,), D, True)
    s, z = (
        jax.random.normal(jax.random.key(1), (B, OBS)),
        jax.random.normal(jax.random.key(2), (4, B, D)),
    )
    expected = network(params, jnp.concatenate([s, z[3]], axis=-1))
    actions = heads.OneStepActor((16,), True).apply({"params": params}, s, z)
    np.testing.assert_allclose(actions[3], expected, atol=1e-5)


def test_distillation_by_hand():
    # The clipped flow actions are 0, 1, 0.5 and -1.
    actions, flow = (
        jnp.array([[1.0, 3.0], [0.0, -1.0]]),
        jnp.array([[0.0, 4.0], [0.5, -2.0]]),
    )
    loss, slopes = jax.value_and_grad(heads.distillation_loss, argnums=(0, 1))(
        actions, flow
    )
    assert loss == (1 + 4 + 0.25 + 0) / 4
    np.testing.assert_allclose(slopes[0], [[0.5, 1.0], [-0.25, 0.0]])
    np.testing.assert_array_equal(slopes[1], jnp.zeros((2, 2)))


@pytest.mark.parametrize(("entropy", "sign"), [(-4.0, -1), (-1.0, 1), (-3.0, 0)])
def test_temperature_rises_while_the_entropy_is_below_its_target(entropy, sign):
    """The loss and its slope in log alpha are alpha (H - H_target).

    Descent on it raises alpha where H < H_target.
    """
    log_alpha, target, log_probs = (
        jnp.log(2.0),
        -3.0,
        jnp.array([-entropy - 0.5, -entropy + 0.5]),
    )
    value, slopes = jax.value_and_grad(heads.temperature_loss, argnums=(0, 1))(
        log_alpha, log_probs, target
    )
    np.testing.assert_allclose(value, 2.0 * (entropy - target), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slopes[0], value, rtol=1e-6, atol=1e-6)
    assert np.sign(np.round(slopes[0], 5)) == sign
    np.testing.assert_array_equal(slopes[1], jnp.zeros(2))


def test_entropy_loss_reaches_the_actor_at_constant_alpha():
    slopes = jax.grad(lambda *x: heads.entropy_loss(*x, -3.0)[0], argnums=(0, 1))(
        jnp.log(2.0), jnp.array([1.0, 2.0])
    )
    # Only the loss of the temperature has a slope in log alpha.
    np.testing.assert_allclose(slopes[0], 2.0 * (-1.5 + 3.0), rtol=1e-6)
    np.testing.assert_allclose(slopes[1], [1.0, 1.0], rtol=1e-6)  # alpha / B
    total, metrics = heads.entropy_loss(jnp.log(2.0), jnp.array([1.0, 2.0]), -3.0)
    expected = {
        "alpha": 2.0,
        "mean": -1.5,
        "loss": 2.0 * 1.5,
        "alpha_loss": 2.0 * (-1.5 + 3.0),
    }
    found = {
        name.removeprefix("entropy/"): float(value) for name, value in metrics.items()
    }
    assert found == pytest.approx(expected)
    assert float(total) == pytest.approx(expected["loss"] + expected["alpha_loss"])


def test_critic_objective_has_a_gradient_in_actions_and_none_in_the_critic():
    agent, s = tiny(trqam), random_batch()["observations"]
    critic = agent.params["critic"]
    actions = jax.random.normal(jax.random.key(0), (B, D))
    value, slopes = jax.value_and_grad(agent.critic_objective, argnums=(0, 2))(
        critic, s, actions
    )
    np.testing.assert_allclose(value, -q_values(critic, s, actions).mean(), rtol=1e-6)
    assert all(not leaf.any() for leaf in jax.tree.leaves(slopes[0]))
    step = 1e-2 * slopes[1] / jnp.linalg.norm(slopes[1])
    rise = agent.critic_objective(critic, s, actions + step) - agent.critic_objective(
        critic, s, actions - step
    )
    np.testing.assert_allclose(rise, 2e-2 * jnp.linalg.norm(slopes[1]), rtol=1e-2)
