"""SQAM: the scalar adjoint against the lean one, the bridge by hand, and the value penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import sqam, trqam
from agents.flow import euler_sample, time_grid
from tests.agents.straightforward import field, init, q_values, states
from tests.agents.tiny_agents import OBS, B, D, H, K, diverse, random_batch, tiny

N = 7  # bridge times; not K


@pytest.mark.ci
def test_without_a_spatial_jacobian_the_lean_adjoint_is_the_scalar_one():
    """The base reads s and t but not x, so the factors 1 - h / (t_k + h) telescope to t_k.

    The number of steps is a power of two, so that the time grid is exact and the only error is
    the rounding of float64.
    """
    steps = 8
    with jax.enable_x64(True):
        params = init(jax.random.key(1), OBS + D + 1, (16, 16), D, True)
        params["Dense_0"]["kernel"] = (
            params["Dense_0"]["kernel"].at[OBS : OBS + D].set(0.0)
        )
        base = field(params, jax.random.normal(jax.random.key(2), (B, OBS)))
        xs, terminal = (
            jax.random.normal(jax.random.key(3), (steps, B, D)),
            jax.random.normal(jax.random.key(4), (B, D)),
        )
        lean, scalar = (
            trqam.lean_adjoint(base, xs, terminal),
            (time_grid(steps)[:, None, None] * terminal[None]),
        )
        assert lean.dtype == jnp.float64
        np.testing.assert_allclose(
            scalar,
            (np.arange(steps) / steps)[:, None, None] * np.asarray(terminal),
            rtol=1e-15,
        )
        np.testing.assert_allclose(lean, scalar, rtol=1e-14, atol=1e-15)


def test_with_a_spatial_jacobian_the_two_adjoints_differ():
    base = field(
        diverse(tiny(sqam)).target_params["base"], random_batch()["observations"]
    )
    xs, terminal = (
        jax.random.normal(jax.random.key(3), (K, B, D)),
        jax.random.normal(jax.random.key(4), (B, D)),
    )
    lean = jax.jit(lambda xs, terminal: trqam.lean_adjoint(base, xs, terminal))(
        xs, terminal
    )
    scalar = time_grid(K)[:, None, None] * terminal[None]
    assert jnp.abs(lean - scalar).max() > 0.1


def test_times_and_bridge_by_hand():
    agent = tiny(sqam, n_bridge=4)
    np.testing.assert_allclose(agent.times(), [0.25, 0.5, 0.75, 1.0])
    xs = sqam.bridge_states(
        jnp.full((4, 1, 1), 2.0), jnp.array([[-1.0]]), agent.times()
    )
    np.testing.assert_allclose(xs[:, 0, 0], [1.25, 0.5, -0.25, -1.0])


def test_loss_and_path_kl_at_the_bridge_times_by_hand():
    """With N = 2, tau is 1/2 and 1, and g^2 is 2 and 2/3.

    With D = adj = lam = 1 the terms are 4 / g^2 + 4 + g^2.
    """
    ones, ts = jnp.ones((2, 1, 1)), jnp.array([0.5, 1.0])
    expected = (4 / 2 + 4 + 2) + (4 * 3 / 2 + 4 + 2 / 3)
    np.testing.assert_allclose(
        trqam.adjoint_matching_loss(ones, ones, 1.0, ts), expected, rtol=1e-6
    )
    np.testing.assert_allclose(
        trqam.path_kl(ones, ts), 2 * 0.5 * (1 / 2 + 3 / 2), rtol=1e-6
    )
    np.testing.assert_allclose(
        trqam.path_kl_bound(ones, 2.0, ts), 0.5 * (2 + 2 / 3) / (2 * 4), rtol=1e-6
    )


def test_the_quantities_that_the_loss_treats_as_constant():
    """a_hat is the policy's Euler sample, and the bridge ends in it.

    The critic's gradient at a_hat gives the adjoints at all times of the bridge.
    """
    agent, batch = diverse(tiny(sqam, n_bridge=N, best_of_n=2)), random_batch()
    noise = agent.draw_noise(jax.random.key(0), B)
    assert {name: value.shape for name, value in noise.items()} == {
        "next_action": (2, B, D), "flow_x0": (B, D), "flow_t": (B, 1), "policy_x0": (B, D), "bridge": (N, B, D),
    }  # fmt: skip
    fixed = jax.jit(sqam.SQAM.fixed_quantities)(agent, batch, noise)
    fixed |= jax.jit(states)(agent, batch, noise, fixed)
    s, s_next = batch["observations"], batch["next_observations"][:, -1]
    a_hat = euler_sample(field(agent.params["policy"], s), noise["policy_x0"], K)
    np.testing.assert_allclose(fixed["x_final"], a_hat, atol=1e-5)
    np.testing.assert_allclose(fixed["xs"][-1], a_hat, atol=1e-5)
    np.testing.assert_allclose(
        fixed["next_actions"],
        jax.jit(sqam.SQAM.act)(agent, s_next, noise["next_action"]),
        atol=1e-5,
    )
    slope = jax.grad(
        lambda a: (
            q_values(agent.target_params["critic"], s, jnp.clip(a, -1, 1))
            .mean(axis=0)
            .sum()
        )
    )(a_hat)
    for j in range(N):
        np.testing.assert_allclose(
            fixed["adjoints"][j], -(j + 1) / N * slope, atol=1e-5
        )


@pytest.mark.ci
def test_value_penalty_is_differentiated_through_both_of_its_terms():
    """The penalty is c mean(Q(s, clip a_hat) - Q(s, a)).

    Its slope along a random direction in the critic's parameters is compared in float64.
    """
    with jax.enable_x64(True):
        agent = diverse(tiny(sqam, flow_steps=2, n_bridge=2))
        agent = jax.tree.map(
            lambda leaf: (
                leaf.astype(jnp.float64)
                if jnp.issubdtype(leaf.dtype, jnp.floating)
                else leaf
            ),
            agent,
        )
        batch = {
            name: value.astype(jnp.float64) for name, value in random_batch().items()
        }
        noise = agent.draw_noise(jax.random.key(0), B)
        fixed = jax.jit(sqam.SQAM.fixed_quantities)(agent, batch, noise)
        critic = agent.params["critic"]
        direction = jax.tree.map(
            lambda p: jax.random.normal(jax.random.key(p.size), p.shape), critic
        )
        moved = lambda e: jax.tree.map(lambda p, d: p + e * d, critic, direction)  # noqa: E731

        def penalty(critic):
            s, a, a_hat = (
                batch["observations"],
                batch["actions"].reshape(B, -1),
                jnp.clip(fixed["a_hat"], -1, 1),
            )
            return (
                0.3
                * (
                    q_values(critic, s, a_hat).mean(axis=0)
                    - q_values(critic, s, a).mean(axis=0)
                ).mean()
            )

        def total(agent, e):
            return agent.loss(agent.params | {"critic": moved(e)}, batch, noise, fixed)[
                0
            ]

        without_penalty = agent.replace(
            config=type(agent.config)({**agent.config, "gap_reg_coef": 0.0})
        )
        slope = jax.jit(
            jax.grad(lambda e: total(agent, e) - total(without_penalty, e))
        )(0.0)
        penalty_along = jax.jit(lambda e: penalty(moved(e)))
        expected = (penalty_along(1e-5) - penalty_along(-1e-5)) / 2e-5
        assert abs(expected) > 1e-3
        np.testing.assert_allclose(slope, expected, rtol=1e-6)
        _, metrics = jax.jit(sqam.SQAM.loss)(agent, agent.params, batch, noise, fixed)
        np.testing.assert_allclose(
            0.3 * metrics["critic/value_gap"], penalty_along(0.0), rtol=1e-9
        )


@pytest.mark.ci
def test_value_penalty_lowers_the_critics_values_of_the_policys_actions():
    """Without valid chunks the critic descends the penalty alone.

    Its values of the policy's actions fall relative to those of the data's actions.
    """
    agent, batch = tiny(sqam, lr=1e-2), random_batch()
    batch["valid"] = jnp.zeros((B, H))
    update = jax.jit(sqam.SQAM.update)
    gaps = []
    for u in range(30):
        agent, metrics = update(agent, batch, jax.random.key(u))
        gaps.append(float(metrics["critic/value_gap"]))
    assert gaps[-1] < gaps[0] - 0.5


@pytest.mark.ci
def test_budget_penalty_and_bridge_are_settings():
    config = sqam.get_config()
    assert (config.kl_budget, config.n_bridge, config.gap_reg_coef) == (0.5, 10, 0.3)
    assert "adjoint" not in config
    _, metrics = jax.jit(sqam.SQAM.update)(
        tiny(sqam).with_kl_budget(0.25), random_batch(), jax.random.key(0)
    )
    assert metrics["dual/kl_budget"] == 0.25
    # The policy starts as the base, so the first KL is 0.
    assert metrics["dual/lam"] == pytest.approx(1.0 - 0.01 * 0.25)
