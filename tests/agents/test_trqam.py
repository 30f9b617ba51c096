"""The equations of agents/trqam.py against dense algebra, finite differences and each other.

QAM and the forks of TRQAM are compared with TRQAM.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import (
    bc,
    qam,
    sqam,
    trqam,
    trqam_external_kl,
    trqam_fixed_lambda,
    trqam_scalar_adjoint,
)
from agents.flow import memoryless_noise, time_grid
from tests.agents.straightforward import field, init, q_values, states
from tests.agents.tiny_agents import OBS, B, D, H, K, random_batch, tiny
from utils.errors import UserError


@pytest.fixture
def flow():
    """Return a nonlinear velocity field at fixed observations, and a batch of flow states."""
    params = init(jax.random.key(1), OBS + D + 1, (16, 16), D, True)
    observations = jax.random.normal(jax.random.key(2), (B, OBS))
    return field(params, observations), jax.random.normal(jax.random.key(3), (K, B, D))


def test_lean_adjoint_is_the_dense_product_of_transposed_jacobians(flow):
    velocity, xs = flow
    terminal = jax.random.normal(jax.random.key(4), (B, D))
    adjoints = trqam.lean_adjoint(velocity, xs, terminal)
    h = 1 / K
    expected = np.asarray(terminal, np.float64)
    for k in reversed(range(K)):
        t = k * h
        # The Jacobian is [B, D, B, D].
        jacobian = jax.jacrev(lambda x, t=t: 2 * velocity(x, t + h) - x / (t + h))(
            xs[k]
        )
        jacobian = np.einsum("bibj->bij", np.asarray(jacobian, np.float64))
        expected = expected + h * np.einsum("bij,bi->bj", jacobian, expected)
        np.testing.assert_allclose(adjoints[k], expected, rtol=2e-4, atol=2e-5)


def test_lean_adjoint_is_the_gradient_of_the_base_process_by_finite_differences(flow):
    """Along a noise-free base path adj_0 is d/dx_0 of a'x_K.

    Each step moves x by h (2 v(x, t+h) - x / (t+h)).
    """
    velocity, _ = flow
    h, terminal = 1 / K, jax.random.normal(jax.random.key(4), (B, D))

    def path(x):
        xs = []
        for k in range(K):
            xs.append(x)
            x = x + h * (2 * velocity(x, k * h + h) - x / (k * h + h))
        return jnp.stack(xs), x

    with jax.enable_x64(True):
        x0 = jax.random.normal(jax.random.key(5), (B, D), jnp.float64)
        xs, _ = path(x0)
        adjoint = np.asarray(
            trqam.lean_adjoint(velocity, xs, terminal.astype(jnp.float64))[0]
        )
        eps = 1e-5
        for d in range(D):
            step = jnp.zeros((B, D)).at[:, d].set(eps)
            change = ((path(x0 + step)[1] - path(x0 - step)[1]) * terminal).sum(
                axis=1
            ) / (2 * eps)
            np.testing.assert_allclose(
                adjoint[:, d], np.asarray(change), rtol=1e-3, atol=1e-5
            )


def test_terminal_gradient_by_hand():
    x = jnp.array([[0.5, 2.0], [-0.25, -3.0]])
    q = lambda a: jnp.sum(a**2, axis=-1)  # noqa: E731
    # The gradient is 0 where the action is clipped.
    np.testing.assert_allclose(trqam.terminal_gradient(q, x), [[-1.0, 0.0], [0.5, 0.0]])
    np.testing.assert_allclose(trqam.terminal_gradient(q, x, clip=False), -2 * x)


def test_rollout_by_hand():
    """K = 2 and the fields are constant.

    x1 = x0 + .5 (2 v - x0 / .5) + sqrt(.5) g0 eps0 with g0^2 = 6, and x2 = x1 + .5 v_b.
    """
    policy, base = (
        (lambda x, t: jnp.full_like(x, 1.0)),
        (lambda x, t: jnp.full_like(x, -2.0)),
    )
    xs, x_final, *_ = trqam.memoryless_rollout(
        policy, base, jnp.array([[0.3]]), jnp.array([[[0.1]], [[9.0]]])
    )
    x1 = 1.0 + 3**0.5 * 0.1
    np.testing.assert_allclose(xs[:, 0, 0], [0.3, x1], rtol=1e-6)
    np.testing.assert_allclose(x_final[0, 0], x1 - 1.0, rtol=1e-6)


def test_loss_and_path_kl_by_hand():
    """With K = 2, g^2 is 6 and 2.

    With D = 1, adj = 1 and lam = 1 the terms are (2 / g + g)^2 = 4 / g^2 + 4 + g^2.
    """
    ones, ts = jnp.ones((2, 1, 1)), time_grid(2)
    expected = (4 / 6 + 4 + 6) + (4 / 2 + 4 + 2)
    np.testing.assert_allclose(
        trqam.adjoint_matching_loss(ones, ones, 1.0, ts), expected, rtol=1e-6
    )
    np.testing.assert_allclose(
        trqam.path_kl(ones, ts), 2 * 0.5 * (1 / 6 + 1 / 2), rtol=1e-6
    )
    np.testing.assert_allclose(
        trqam.path_kl_bound(ones, 2.0, ts), 0.5 * (6 + 2) / (2 * 4), rtol=1e-6
    )


@pytest.mark.parametrize("steps", [5, 10])
def test_a_shift_of_actions_in_the_last_step_costs_as_with_noise_of_h(steps):
    """KL(N(a + s, h^2), N(a, h^2)) = s^2 / (2 h^2), where the shift s of actions is h Delta."""
    h, shift = 1 / steps, 0.07
    delta = jnp.zeros((steps, B, 1)).at[-1].set(shift / h)
    np.testing.assert_allclose(
        trqam.path_kl(delta, time_grid(steps)), shift**2 / (2 * h**2), rtol=1e-5
    )


def test_the_bound_with_a_lambda_for_each_step_is_the_sum_of_the_steps():
    adjoints, lams = jax.random.normal(jax.random.key(1), (2, B, D)), (2.0, 3.0)
    h, g2 = 0.5, (6.0, 2.0)
    each = [h * g2[k] * (adjoints[k] ** 2).sum(1) / (2 * lams[k] ** 2) for k in (0, 1)]
    found = trqam.path_kl_bound(adjoints, jnp.array(lams)[:, None, None], time_grid(2))
    np.testing.assert_allclose(found, sum(each).mean(), rtol=1e-5)


class Lowest(trqam.TRQAM):
    """The policy climbs the lowest critic, and the loss logs a lambda of its own."""

    def policy_value(self, q):
        return q.min(axis=0)

    def loss(self, params, batch, noise, fixed):
        loss, metrics = super().loss(params, batch, noise, fixed)
        return loss, metrics | {"dual/lam": jnp.float32(7.0)}


def test_a_fork_chooses_what_the_policy_climbs_and_what_is_logged_as_lambda():
    agent = tiny(SimpleNamespace(get_config=Lowest.get_config, AGENT=Lowest))
    batch, noise = random_batch(), agent.draw_noise(jax.random.key(0), B)
    s, fixed = batch["observations"], agent.fixed_quantities(batch, noise)
    rollout, adjoints = agent.matching(agent.params["policy"], s, noise, fixed)
    q = agent.values(agent.target_params["critic"], s)
    terminal = trqam.terminal_gradient(lambda a: q(a).min(axis=0), rollout.x_final)
    base = agent.velocity(agent.target_params["base"], s)
    expected = trqam.lean_adjoint(base, rollout.xs, terminal)
    np.testing.assert_allclose(adjoints, expected, rtol=1e-5, atol=1e-6)
    mean = tiny(trqam).matching(agent.params["policy"], s, noise, fixed)[1]
    assert np.abs(mean - adjoints).max() > 1e-3
    assert agent.update(batch, jax.random.key(0))[1]["dual/lam"] == 7.0


def test_path_kl_at_the_minimiser_equals_the_bound():
    """With a known adjoint at each state, D = -g^2 adj / (2 lam) minimises the loss.

    There the path KL equals its bound.
    """
    adjoints, lam = jax.random.normal(jax.random.key(0), (K, B, D)), 0.7
    ts = time_grid(K)
    g = memoryless_noise(ts, 1 / K)[:, None, None]
    delta = -(g**2) * adjoints / (2 * lam)
    np.testing.assert_allclose(
        jax.grad(trqam.adjoint_matching_loss)(delta, adjoints, lam, ts), 0.0, atol=1e-5
    )
    np.testing.assert_allclose(
        trqam.path_kl(delta, ts), trqam.path_kl_bound(adjoints, lam, ts), rtol=1e-5
    )


@pytest.mark.parametrize("lam", [0.2, 1.0, 4.0])
def test_trqam_loss_at_lambda_is_lambda_times_qam_loss_at_its_inverse(lam):
    batch = random_batch()
    ours, theirs = tiny(trqam, lam_scale=lam), tiny(qam, inv_temp=1 / lam)
    policy = init(jax.random.key(7), OBS + D + 1, (16, 16), D, False)
    ours = ours.replace(params=ours.params | {"policy": policy})
    theirs = theirs.replace(params=ours.params, target_params=ours.target_params)
    noise = ours.draw_noise(jax.random.key(8), B)
    losses = []
    for agent in (ours, theirs):
        fixed = agent.fixed_quantities(batch, noise)
        losses.append(agent.loss(agent.params, batch, noise, fixed)[1]["adjoint/loss"])
    np.testing.assert_allclose(losses[0], lam * losses[1], rtol=1e-5)


def dual(lam=1.0, kl_ema=0.0, kl_budget=0.5):
    return trqam.Dual(
        *(jnp.array(value, jnp.float32) for value in (lam, kl_ema, kl_budget))
    )


def test_dual_steps_by_hand():
    config = trqam.get_config()
    # The KL is clipped at c epsilon = 1.
    stepped = trqam.descend_dual(dual(kl_ema=0.2), jnp.array(7.0), config)
    np.testing.assert_allclose(stepped.kl_ema, 0.9 * 0.2 + 0.1 * 1.0, rtol=1e-6)
    np.testing.assert_allclose(stepped.lam, 1.0 + 0.01 * (0.28 - 0.5), rtol=1e-6)
    stepped = trqam.rescale_dual(dual(kl_ema=0.5), jnp.array(1.0), config)
    np.testing.assert_allclose(stepped.lam, (0.55 / 0.5) ** 0.015, rtol=1e-6)
    # The ratio is clipped at 1/2.
    stepped = trqam.rescale_dual(dual(kl_ema=0.0), jnp.array(0.0), config)
    np.testing.assert_allclose(stepped.lam, 0.5**0.015, rtol=1e-6)


@pytest.mark.parametrize("step", trqam.DUAL_STEPS.values())
def test_lambda_stays_inside_its_bounds(step):
    config = trqam.get_config()
    assert step(dual(lam=100.0, kl_ema=5.0), jnp.array(5.0), config).lam == 100.0
    np.testing.assert_allclose(step(dual(lam=0.01), jnp.array(0.0), config).lam, 0.01)


def test_kl_average_starts_at_zero_or_at_the_budget_by_mode():
    assert tiny(trqam).dual.kl_ema == 0.0
    assert tiny(
        trqam, dual_mode="closed_form", kl_budget=0.3
    ).dual.kl_ema == pytest.approx(0.3)
    with pytest.raises(
        UserError, match="--agent.dual_mode=ascent: use one of descent, closed_form"
    ):
        tiny(trqam, dual_mode="ascent")


@pytest.mark.ci
def test_budget_changes_without_a_recompile():
    # A new function, since jit shares its cache between calls of the same function.
    update = jax.jit(lambda *arguments: trqam.TRQAM.update(*arguments))
    agent = tiny(trqam)
    agent, _ = update(agent, random_batch(), jax.random.key(0))
    agent, metrics = update(
        agent.with_kl_budget(0.25), random_batch(), jax.random.key(1)
    )
    assert metrics["dual/kl_budget"] == 0.25
    assert update._cache_size() == 1


def test_a_path_kl_that_is_clipped_to_its_budget_is_refused():
    """Its average would never be above the budget, so that lambda could not rise."""
    with pytest.raises(
        UserError, match="--agent.kl_clip_coef=1.0: give a number above 1"
    ):
        tiny(trqam, kl_clip_coef=1.0)


def test_only_a_trust_region_has_a_budget():
    for module in (qam, bc):
        with pytest.raises(
            UserError, match="--kl_budget_online=0.5: this agent has no KL budget"
        ):
            tiny(module).with_kl_budget(0.5)


def test_a_frozen_lambda_has_no_settings_of_the_dual_step():
    config = trqam_fixed_lambda.get_config()
    assert not set(config) & {"dual_mode", "eta_lambda", "dual_gain", "lambda_max"}
    assert tiny(trqam_fixed_lambda).dual.kl_ema == 0.0


@pytest.mark.ci
def test_fork_freezes_lambda_and_nothing_else():
    fork, ours = tiny(trqam_fixed_lambda, lam=3.0), tiny(trqam)
    assert fork.trust_region() == ours.trust_region() == 3.0
    for u in range(3):
        fork, fork_metrics = fork.update(random_batch(u), jax.random.key(u))
        ours, metrics = ours.update(random_batch(u), jax.random.key(u))
        if u == 0:  # the same losses until the first dual step has changed lambda
            assert fork_metrics["adjoint/loss"] == metrics["adjoint/loss"]
    assert fork.trust_region() == 3.0
    assert ours.trust_region() != 3.0
    assert fork.dual.kl_ema > 0.0


@pytest.mark.ci
def test_external_penalty_adds_lambda_times_the_path_kl_to_the_loss_of_qam():
    """The loss is QAM's at inverse temperature 1 plus lam_scale lam KL.

    The critic gets no gradient from the penalty.
    """
    ours, theirs, batch = (
        tiny(trqam_external_kl, lam_scale=3.0),
        tiny(qam),
        random_batch(),
    )
    policy = init(jax.random.key(7), OBS + D + 1, (16, 16), D, False)
    ours = ours.replace(params=ours.params | {"policy": policy}, dual=dual(lam=2.0))
    theirs = theirs.replace(params=ours.params, target_params=ours.target_params)
    noise = ours.draw_noise(jax.random.key(8), B)
    fixed = ours.fixed_quantities(batch, noise)
    np.testing.assert_allclose(
        states(ours, batch, noise, fixed)["adjoints"],
        states(theirs, batch, noise, fixed)["adjoints"],
        rtol=1e-5,
        atol=1e-6,
    )

    def penalty(params):
        (total, metrics), (plain, _) = (
            agent.loss(params, batch, noise, fixed) for agent in (ours, theirs)
        )
        return total - plain, metrics["dual/path_kl"]

    (value, kl), slopes = jax.value_and_grad(penalty, has_aux=True)(ours.params)
    assert kl > 0.01
    np.testing.assert_allclose(value, 6.0 * kl, rtol=1e-4)
    kl_slopes = jax.grad(lambda params: penalty(params)[1])(ours.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 6.0 * b, atol=1e-3),
        slopes["policy"],
        kl_slopes["policy"],
    )
    others = [slopes["critic"], slopes["base"]]
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(others)) < 1e-4


@pytest.mark.parametrize("lam", [0.0, 5.0, 300.0])
def test_external_penalty_acts_as_an_internal_lambda_above_one(lam):
    """Its minimiser is that of adjoint matching at mu = 1 + h lam / (2 H)."""
    adjoints = jax.random.normal(jax.random.key(0), (K, B, D))
    ts = time_grid(K)
    g = memoryless_noise(ts, 1 / K)[:, None, None]
    delta = -(g**2) * adjoints / (2 * (1 + lam / (2 * K * H)))

    def loss(delta):
        return (
            trqam.adjoint_matching_loss(delta, adjoints, 1.0, ts)
            + lam * trqam.path_kl(delta, ts) / H
        )

    np.testing.assert_allclose(jax.grad(loss)(delta), 0.0, atol=2e-5)


@pytest.mark.ci
def test_external_penalty_takes_trqams_dual_step():
    agent, metrics = (
        tiny(trqam_external_kl, kl_budget=0.5)
        .with_kl_budget(0.25)
        .update(random_batch(), jax.random.key(0))
    )
    np.testing.assert_allclose(metrics["dual/lam"], 1.0 - 0.01 * 0.25, rtol=1e-5)
    assert metrics["adjoint/penalty"] < 1e-9


def test_scalar_adjoint_does_not_change_the_rollout():
    """The states are the same, and the adjoints are t_k times the gradient at x_K."""
    lean, scalar, batch = tiny(trqam), tiny(trqam_scalar_adjoint), random_batch()
    noise = lean.draw_noise(jax.random.key(0), B)
    ours, theirs = (states(agent, batch, noise, {}) for agent in (scalar, lean))
    np.testing.assert_array_equal(ours["xs"], theirs["xs"])

    def q(actions):
        critic = scalar.target_params["critic"]
        return q_values(critic, batch["observations"], actions).mean(axis=0)

    terminal = trqam.terminal_gradient(q, ours["x_final"])
    expected = (np.arange(K) / K)[:, None, None] * np.asarray(terminal)
    np.testing.assert_allclose(ours["adjoints"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("module", [trqam, sqam, trqam_external_kl])
@pytest.mark.parametrize("mode", trqam.DUAL_STEPS)
def test_a_smaller_budget_raises_lambda_in_every_mode(module, mode):
    """Lambda rises after the change to a smaller budget, and does not rise with the old one."""
    agent = tiny(module, dual_mode=mode, kl_budget=0.5)
    agent = agent.replace(dual=agent.dual.replace(kl_ema=jnp.float32(0.5)))
    lams = [
        agent.with_kl_budget(budget).dual_step(jnp.float32(0.5)).lam
        for budget in (0.5, 0.125)
    ]
    np.testing.assert_allclose(lams[0], 1.0, rtol=1e-6)
    assert lams[1] > 1.001


@pytest.mark.ci
def test_first_update_has_zero_path_kl_and_moves_the_policy():
    agent, metrics = tiny(trqam).update(random_batch(), jax.random.key(0))
    # The KL is not exactly 0: the two fields are computed in batches of different sizes.
    assert metrics["dual/path_kl"] < 1e-10
    kernels = (
        agent.params["policy"]["Dense_0"]["kernel"]
        - tiny(trqam).params["policy"]["Dense_0"]["kernel"]
    )
    assert jnp.abs(kernels).max() > 0.0


def test_path_kl_is_per_environment_action():
    agent = tiny(trqam)
    policy = init(jax.random.key(7), OBS + D + 1, (16, 16), D, False)
    agent = agent.replace(params=agent.params | {"policy": policy})
    noise = agent.draw_noise(jax.random.key(0), B)
    batch = random_batch()
    fixed = agent.fixed_quantities(batch, noise)
    _, metrics = agent.loss(agent.params, batch, noise, fixed)
    ts = time_grid(K)[:, None, None]
    s = batch["observations"]
    xs = states(agent, batch, noise, fixed)["xs"]
    delta = field(policy, s)(xs, ts) - field(agent.target_params["base"], s)(xs, ts)
    np.testing.assert_allclose(
        metrics["dual/path_kl"], trqam.path_kl(delta, time_grid(K)) / H, rtol=1e-5
    )
