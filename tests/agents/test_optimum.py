"""The other rows of the table on the probe environment, whose best action is a = s, from data of uniform actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import cgql, dsrl, fql, ifql
from envs.probe import ProbeReward
from tests.agents.test_trqam import B, random_batch, tiny
from tests.envs.test_probe import train_on_probe

AGENTS = {
    "fql": (fql, {"alpha": 0.03}),
    "ifql": (ifql, {"kappa": 0.9}),
    "dsrl": (dsrl, {"noise_scale": 1.5}),
    "cgql_simple": (cgql, {"mode": "simple", "guidance_coef": 0.5}),
    "cgql_mse": (cgql, {"mode": "mse", "guidance_coef": 0.5, "noisy_coef": 1.0}),
    "cgql_linex": (cgql, {"mode": "linex", "guidance_coef": 0.5, "noisy_coef": 0.1}),
}


def distance_from_optimum(agent, seed=0):
    """mean |a - s| over the policy's actions; 2/3 for uniform actions."""
    s = jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (400, 1)), jnp.float32)
    return float(jnp.abs(agent.act(s, jax.random.normal(jax.random.key(seed), (agent.samples, 400, 1))) - s).mean())


@pytest.mark.parametrize("name", AGENTS)
def test_finds_the_known_optimum(tmp_path, name):
    module, settings = AGENTS[name]
    agent = train_on_probe(tmp_path, module, ProbeReward, **settings)
    assert distance_from_optimum(agent) < 0.15


@pytest.mark.parametrize("name", AGENTS)
def test_each_network_learns_from_its_own_loss(name):
    """The base from flow matching and, but for CGQL's noisy term, the critic from its TD target, whatever the actor does."""
    module, settings = AGENTS[name]
    agent, batch = tiny(module, **settings), random_batch()
    noise = agent.draw_noise(jax.random.key(0), B)
    fixed = agent.fixed_quantities(batch, noise)
    grads = jax.grad(agent.loss, has_aux=True)(agent.params, batch, noise, fixed)[0]
    alone = {"base": jax.grad(agent.flow_loss)(agent.params["base"], batch, noise)}
    if name not in ("cgql_mse", "cgql_linex"):
        alone["critic"] = jax.grad(agent.critic_loss, has_aux=True)(agent.params["critic"], batch, fixed["td_target"])[0]
    for network, expected in alone.items():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads[network], expected)
    assert all(any(leaf.any() for leaf in jax.tree.leaves(grads[network])) for network in agent.params)


@pytest.mark.parametrize("name", AGENTS)
def test_one_adam_without_a_clip(name):
    """Adam's first moment after one update is (1 - b1) times the whole gradient, however large."""
    module, settings = AGENTS[name]
    agent, batch = tiny(module, **settings), random_batch()
    batch["rewards"] = batch["rewards"] * 1e4
    after, metrics = agent.update(batch, jax.random.key(0))
    moment = after.opt_state[0].mu
    assert set(moment) == set(agent.params)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(moment))) / 0.1
    assert metrics["grad_norm"] > 100.0
    np.testing.assert_allclose(norm, metrics["grad_norm"], rtol=1e-4)
