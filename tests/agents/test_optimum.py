"""Every method finds the best action of the probe environment, a = s, from uniform actions.

Further tests compare what its networks learn with known values and gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp, softmax

from agents import (
    bam,
    cgql,
    dac,
    dsrl,
    fawac,
    fbrac,
    fedit,
    fql,
    ifql,
    qam,
    qgf,
    qpilots,
    qsm,
    rebrac,
    rlpd,
    rql,
    sqam,
    trqam,
    trqam_scalar_adjoint,
)
from envs.probe import ProbeReward
from tests.agents.straightforward import q_values
from tests.agents.tiny_agents import B, random_batch, tiny
from tests.envs.test_probe import train_on_probe

AGENTS = {
    "fql": (fql, {"alpha": 0.03}),
    "ifql": (ifql, {"kappa": 0.9}),
    # The target entropy, -1/2 of w in (-1, 1), alone spreads the actions by about 0.17.
    "dsrl": (dsrl, {"noise_scale": 2.0, "lr": 5e-3}),
    "cgql_simple": (cgql, {"mode": "simple", "flow_steps": 10}),
    # At t < 1 the critic averages over the actions that lead to x_t. Its gradients are smaller,
    # hence the larger inv_temp.
    "cgql_mse": (
        cgql,
        {"mode": "mse", "inv_temp": 100.0, "guidance_coef": 0.05, "noisy_coef": 1.0},
    ),
    "cgql_linex": (
        cgql,
        {
            "mode": "linex",
            "inv_temp": 100.0,
            "guidance_coef": 0.05,
            "noisy_coef": 0.001,
        },
    ),
}
AGENTS |= {
    "fedit": (fedit, {"edit_scale": 0.5, "best_of_n": 8}),
    "fbrac": (fbrac, {"alpha": 0.03}),
    "bam": (bam, {"inv_temp": 100.0, "flow_steps": 10}),
    # The weights are at most 100, and the best clone of data with such weights is 0.25 away. Few
    # flow steps draw its samples towards their mean.
    "fawac": (fawac, {"inv_temp": 7.0, "flow_steps": 2}),
    "qsm": (qsm, {"inv_temp": 4.0, "alpha": 1.0}),
    "dac": (dac, {"alpha": 0.08}),
    "rebrac": (rebrac, {"alpha_actor": 0.01}),
    # The target entropy alone spreads the actions by 0.12.
    "rlpd": (rlpd, {"lr": 5e-3}),
}
AGENTS |= {
    "rql": (rql, {"alpha": 0.03, "policy_ema": 0.95}),
    "qgf": (qgf, {"guidance_weight": 2.0}),
    # Steering uses only the direction of the gradient, and v still pulls elsewhere.
    "qpilots": (qpilots, {"alpha": 8.0, "flow_steps": 10}),
}
# Adjoint matching is biased at few flow steps, hence ten. 2 nats allow a spread of about 0.05
# around a = s.
TRUST_REGION = {"kl_budget": 2.0, "dual_mode": "closed_form", "flow_steps": 10}
QAM_SETTINGS = {"inv_temp": 30.0, "flow_steps": 10}
FLOWS = {
    "trqam": (trqam, TRUST_REGION),
    "trqam, scalar adjoint": (trqam_scalar_adjoint, TRUST_REGION),
    # The default gap_reg_coef of 0.3 would flatten a Q of this size.
    "sqam": (
        sqam,
        TRUST_REGION | {"gap_reg_coef": 0.03},
    ),
    "qam": (qam, QAM_SETTINGS),
    "qam, editor": (qam, QAM_SETTINGS | {"edit_scale": 0.1}),
    "qam, one-step actor": (qam, QAM_SETTINGS | {"fql_alpha": 0.03}),
}
MAX_DISTANCE = {
    "trqam": 0.15,
    "trqam, scalar adjoint": 0.15,
    "sqam": 0.15,
    "qam": 0.1,
    "qam, editor": 0.1,
    "qam, one-step actor": 0.05,
}
MAX_DISTANCE |= {
    "fql": 0.05,
    "ifql": 0.1,
    "dsrl": 0.2,
    "cgql_simple": 0.1,
    "cgql_mse": 0.2,
    "cgql_linex": 0.2,
}
MAX_DISTANCE |= {
    "fedit": 0.15,
    "fbrac": 0.08,
    "bam": 0.19,
    "fawac": 0.19,
    "qsm": 0.1,
    "dac": 0.15,
    "rebrac": 0.05,
    "rlpd": 0.19,
}
MAX_DISTANCE |= {"rql": 0.19, "qgf": 0.1, "qpilots": 0.35}


def distance_from_optimum(agent):
    """Return the mean of |a - s| over the policy's actions; 2/3 for uniform actions."""
    s = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (400, 1)), jnp.float32)
    return float(
        jnp.abs(
            agent.act(s, jax.random.normal(jax.random.key(0), (agent.draws, 400, 1)))
            - s
        ).mean()
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS | AGENTS)
def test_finds_the_known_optimum(tmp_path, name):
    module, settings = (FLOWS | AGENTS)[name]
    assert (
        distance_from_optimum(train_on_probe(tmp_path, module, ProbeReward, **settings))
        < MAX_DISTANCE[name]
    )


def known_noisy_q(s, x, t, inv_temp):
    """Return the exact Q(s, x, t) [N], by quadrature over uniform actions a.

    They are conditioned on (1 - t) e + t a = x. Without inv_temp, for CGQL-M, it is
    E[-(a - s)^2 | x]; with it, for CGQL-L, (1 / inv_temp) log E[exp(-inv_temp (a - s)^2) | x].
    """
    s, x, t, a = s[:, None], x[:, None], t[:, None], np.linspace(-1, 1, 4001)
    weights = softmax(-0.5 * ((x - t * a) / (1 - t)) ** 2, axis=1)
    q = -((a - s) ** 2)
    return (
        (weights * q).sum(axis=1)
        if inv_temp is None
        else logsumexp(inv_temp * q, b=weights, axis=1) / inv_temp
    )


@pytest.mark.slow
# Weights that are 0 overflow.
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning:scipy")
@pytest.mark.parametrize(
    ("mode", "inv_temp", "noisy_coef"), [("mse", None, 1.0), ("linex", 10.0, 0.01)]
)
def test_cgql_learns_the_known_q_of_noisy_actions(tmp_path, mode, inv_temp, noisy_coef):
    settings = {"mode": mode, "noisy_coef": noisy_coef, "inv_temp": inv_temp or 10.0}
    agent = train_on_probe(tmp_path, cgql, ProbeReward, **settings)
    rng, n = np.random.default_rng(0), 2000
    s, a, t = rng.uniform(-1, 1, n), rng.uniform(-1, 1, n), rng.uniform(0.3, 1, n)
    x = (1 - t) * rng.normal(size=n) + t * a
    known = known_noisy_q(s, x, t, inv_temp)
    s, inputs = (
        s[:, None].astype(np.float32),
        np.stack([x, t], axis=1).astype(np.float32),
    )
    q = np.asarray(q_values(agent.params["critic"], s, inputs)).mean(axis=0)
    assert np.abs(q - known).mean() < 0.1
    assert np.corrcoef(q, known)[0, 1] > 0.98


@pytest.mark.ci
@pytest.mark.parametrize("name", AGENTS)
def test_each_network_learns_from_its_own_loss(name):
    """Whatever the actor does, the base learns from flow matching and the critic from TD alone.

    Exceptions are a base that is also the actor of a loss, the critic of RQL, and that of CGQL
    with a loss at noisy actions.
    """
    module, settings = AGENTS[name]
    agent, batch = tiny(module, **settings), random_batch()
    noise = agent.draw_noise(jax.random.key(0), B)
    fixed = agent.fixed_quantities(batch, noise)
    grads = jax.grad(agent.loss, has_aux=True)(agent.params, batch, noise, fixed)[0]
    alone = {}
    if "base" in agent.params and name not in ("fbrac", "fawac", "rql"):
        alone["base"] = jax.grad(agent.flow_loss)(agent.params["base"], batch, noise)
    if name not in ("cgql_mse", "cgql_linex", "rql"):
        alone["critic"] = jax.grad(agent.critic_loss, has_aux=True)(
            agent.params["critic"], batch, fixed["td_target"]
        )[0]
    for network, expected in alone.items():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            grads[network],
            expected,
        )
    assert all(
        any(leaf.any() for leaf in jax.tree.leaves(grads[network]))
        for network in agent.params
    )


@pytest.mark.ci
@pytest.mark.parametrize("name", AGENTS)
def test_one_adam_takes_the_gradient_of_all_networks(name):
    """After one update its first moment is (1 - b1) times the gradient, however large that is.

    BAM, QSM and DAC clip the gradient to a norm of 1.
    """
    module, settings = AGENTS[name]
    agent, batch = tiny(module, **settings), random_batch()
    batch["rewards"] = batch["rewards"] * 1e4
    after, metrics = agent.update(batch, jax.random.key(0))
    moment = optax.tree.get(after.opt_state, "mu")
    assert set(moment) == set(agent.params)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(moment))) / 0.1
    assert metrics["grad_norm"] > 100.0
    clipped = name in ("bam", "qsm", "dac")
    np.testing.assert_allclose(
        norm, 1.0 if clipped else metrics["grad_norm"], rtol=1e-4
    )
