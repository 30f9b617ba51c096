"""TRQAM against closed forms: a Gaussian base with its exact velocity and a quadratic Q.

The base is N(m, s^2) in one dimension and Q(a) = -(a - c)^2 / (2 w). The exponentially tilted
density base(a) exp(Q(a) / lambda) is Gaussian with precision 1/s^2 + 1/(lambda w). The field
that adjoint matching has to find is affine in x at every time, so a table of K slopes and
offsets can represent it. K is large because K = 10 is visibly biased.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents.flow import euler_sample, time_grid
from agents.trqam import (
    DUAL_STEPS,
    Dual,
    adjoint_matching_loss,
    lean_adjoint,
    memoryless_rollout,
    path_kl,
    path_kl_bound,
    terminal_gradient,
)

M, S = 0.3, 0.5
C, W = 1.0, 0.5
K, B = 100, 512
TS = time_grid(K)


def q(actions):
    return -jnp.sum((actions - C) ** 2, axis=-1) / (2 * W)


def base_velocity(x, t):
    """Return E[a - x0 | (1-t) x0 + t a = x] for x0 ~ N(0, 1), a ~ N(M, S^2)."""
    variance = (1 - t) ** 2 + (t * S) ** 2
    return M + (t * S**2 - (1 - t)) / variance * (x - t * M)


def tilted(lam):
    """Return mean, standard deviation and KL to the base of the tilted Gaussian."""
    precision = 1 / S**2 + 1 / (lam * W)
    mean = (M / S**2 + C / (lam * W)) / precision
    std = precision**-0.5
    return mean, std, np.log(S / std) + (std**2 + (mean - M) ** 2) / (2 * S**2) - 0.5


def lambda_of_budget(budget):
    """Return the lambda at which the tilted Gaussian is `budget` nats from the base."""
    low, high = 1e-2, 1e3
    for _ in range(200):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if tilted(middle)[2] > budget else (low, middle)
    return middle


def policy_velocity(table):
    def velocity(x, t):
        k = jnp.round(jnp.ravel(t)[0] * K).astype(int)
        return base_velocity(x, t) + table[k, 0] + table[k, 1] * x

    return velocity


def delta_of(table, xs):
    return table[:, 0][:, None, None] + table[:, 1][:, None, None] * xs


def rollout_and_adjoints(table, key):
    key_x0, key_noise = jax.random.split(key)
    x0, noise = (
        jax.random.normal(key_x0, (B, 1)),
        jax.random.normal(key_noise, (K, B, 1)),
    )
    xs, x_final, *_ = memoryless_rollout(
        policy_velocity(table), base_velocity, x0, noise
    )
    return xs, lean_adjoint(
        base_velocity, xs, terminal_gradient(q, x_final, clip=False)
    )


def train(step_dual, dual, updates, lr):
    """Train by adjoint matching, with a dual step after each update.

    Returns the table, and (lam, KL, bound) of every update.
    """
    optimiser = optax.adam(optax.cosine_decay_schedule(lr, updates))

    def update(carry, key):
        table, opt_state, dual = carry
        xs, adjoints = rollout_and_adjoints(table, key)
        grads = jax.grad(
            lambda table: adjoint_matching_loss(
                delta_of(table, xs), adjoints, dual.lam, TS
            )
        )(table)
        kl = path_kl(delta_of(table, xs), TS)
        bound = path_kl_bound(adjoints, dual.lam, TS)
        change, opt_state = optimiser.update(grads, opt_state)
        return (
            optax.apply_updates(table, change),
            opt_state,
            step_dual(dual, kl),
        ), jnp.stack([dual.lam, kl, bound])

    table = jnp.zeros((K, 2))
    keys = jax.random.split(jax.random.key(0), updates)
    (table, _, _), history = jax.lax.scan(
        update, (table, optimiser.init(table), dual), keys
    )
    return table, history


def compiled(function):
    """Compile `function` with XLA's optimisations, which tests/conftest.py switches off.

    The loops here make thousands of updates.
    """
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 3})


def start(lam, budget, kl_ema=0.0):
    return Dual(*(jnp.array(value, jnp.float32) for value in (lam, kl_ema, budget)))


@pytest.mark.ci
def test_adjoint_matching_finds_the_tilted_gaussian():
    lam = 1.0
    mean, std, kl = tilted(lam)
    # These values are derived by hand.
    assert (round(mean, 3), round(std, 3), round(kl, 3)) == (0.533, 0.408, 0.145)
    table, history = compiled(
        lambda: train(lambda dual, _: dual, start(lam, 1.0), updates=1200, lr=0.03)
    )()
    samples = euler_sample(
        policy_velocity(table), jax.random.normal(jax.random.key(1), (200_000, 1)), K
    )
    assert float(samples.mean()) == pytest.approx(mean, rel=0.03)
    assert float(samples.std()) == pytest.approx(std, rel=0.03)
    # The process is memoryless: at the optimum the KL of the paths is that of their end points.
    xs, adjoints = rollout_and_adjoints(table, jax.random.key(2))
    settled = history[-300:, 1].mean()
    assert float(settled) == pytest.approx(kl, rel=0.05)
    assert float(path_kl(delta_of(table, xs), TS)) <= 1.01 * float(
        path_kl_bound(adjoints, lam, TS)
    )


@pytest.mark.parametrize(
    "mode", ["descent", pytest.param("closed_form", marks=pytest.mark.slow)]
)
def test_dual_loop_spends_its_budget_at_the_analytic_lambda(mode):
    config = SimpleNamespace(
        eta_lambda=0.04,
        dual_gain=0.03,
        kl_ema_coef=0.1,
        kl_clip_coef=2.0,
        lambda_min=0.01,
        lambda_max=100.0,
    )
    budgets = jnp.array([0.05, 0.1, 0.5])

    def run(budget):
        dual = start(1.0, budget, kl_ema=0.0 if mode == "descent" else budget)
        return train(
            lambda dual, kl: DUAL_STEPS[mode](dual, kl, config),
            dual,
            updates=3000,
            lr=0.03,
        )[1]

    histories = np.asarray(compiled(jax.vmap(run))(budgets))
    for budget, history in zip(np.asarray(budgets), histories, strict=True):
        lam, kl, bound = history[-800:].mean(axis=0)
        assert kl == pytest.approx(budget, rel=0.05)
        assert lam == pytest.approx(lambda_of_budget(budget), rel=0.10)
        assert kl <= bound


def settling(kl, budget, window=50):
    """Return when the KL settles, and its largest value relative to the budget.

    It settles at the update from which its mean over a window stays within 10 % of the budget.
    """
    smooth = np.convolve(kl, np.ones(window) / window, mode="valid") / budget
    outside = np.flatnonzero(np.abs(smooth - 1) > 0.1)
    return (outside[-1] + 1 if len(outside) else 0), smooth.max()


@pytest.mark.slow
def test_closed_form_settles_sooner_where_lambda_has_far_to_go(monkeypatch):
    """Lambda has to become 1/8, 1 and 8 times its first value.

    `descent` moves lam by at most eta epsilon (c - 1) per update, whatever lam is; `closed_form`
    multiplies it by a factor. K and B are small because the value at which the KL settles does
    not matter here.
    """
    monkeypatch.setitem(globals(), "K", 20)
    monkeypatch.setitem(globals(), "TS", time_grid(20))
    monkeypatch.setitem(globals(), "B", 128)
    config = SimpleNamespace(
        eta_lambda=0.01,
        dual_gain=0.03,
        kl_ema_coef=0.1,
        kl_clip_coef=2.0,
        lambda_min=1e-3,
        lambda_max=1e3,
    )
    budget, factors = 0.1, np.array([0.125, 1.0, 8.0])
    target = lambda_of_budget(budget)

    def run(mode, lam):
        dual = start(lam, budget, kl_ema=0.0 if mode == "descent" else budget)
        return train(
            lambda dual, kl: DUAL_STEPS[mode](dual, kl, config),
            dual,
            updates=3000,
            lr=0.03,
        )[1]

    settled = {}
    for mode in DUAL_STEPS:
        histories = np.asarray(
            compiled(jax.vmap(lambda lam, mode=mode: run(mode, lam)))(
                jnp.asarray(target / factors)
            )
        )
        for factor, history in zip(factors, histories, strict=True):
            settled[mode, factor], overshoot = settling(history[:, 1], budget)
            when = (
                f"settled at {settled[mode, factor]}"
                if settled[mode, factor] < 2900
                else "not settled in 3000"
            )
            print(
                f"{mode}: lambda has to become {factor} times the first: {when}, KL up to"
                f" {overshoot:.2f} of the budget"
            )
    # Measured: closed_form takes 189 and 231 updates; descent takes 2196 to 8 times the first
    # lambda, and more to 1/8 of it.
    for factor in (0.125, 8.0):
        assert 3 * settled["closed_form", factor] < settled["descent", factor]


@pytest.mark.ci
def test_exact_tilted_velocity_measures_the_known_path_kl():
    """The path KL of the tilted Gaussian's own velocity approaches 0.145 as K grows.

    The gap is the error of discretisation.
    """
    mean, std, kl = tilted(1.0)

    def exact(x, t):
        variance = (1 - t) ** 2 + (t * std) ** 2
        return mean + (t * std**2 - (1 - t)) / variance * (x - t * mean)

    measured = []
    for steps in (10, 30, 100, 300):
        x0 = jax.random.normal(jax.random.key(0), (20_000, 1))
        noise = jax.random.normal(jax.random.key(1), (steps, 20_000, 1))
        xs = memoryless_rollout(exact, base_velocity, x0, noise).xs
        ts = time_grid(steps)
        delta = exact(xs, ts[:, None, None]) - base_velocity(xs, ts[:, None, None])
        measured.append(float(path_kl(delta, ts)))
    np.testing.assert_allclose(measured, [0.132, 0.137, 0.142, 0.144], atol=0.002)
