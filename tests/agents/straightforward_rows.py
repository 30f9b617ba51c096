"""QAM's heads, DSRL and CGQL straight from the equations; straightforward.py has TRQAM and QAM.

An agent file's update is a pair (constants of the losses, loss) under its name. Q in an actor's
loss reads the agent's parameters, not the differentiated ones: it is constant.
"""

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from tests.agents import straightforward
from tests.agents.straightforward import (
    best_of_n,
    flat_actions,
    flow,
    network,
    q_values,
    shared_losses,
    td_target,
    velocity,
)


def tanh_gaussian(params, inputs, n):
    """tanh u and its log-density, u = mean + std n: that of u over the slope 1 / cosh^2 u."""
    mean, log_std = jnp.split(network(params, inputs), 2, axis=-1)
    std = jnp.exp(jnp.clip(log_std, -20, 2))
    u = mean + std * n
    log_cosh = jnp.logaddexp(u, -u) - jnp.log(2.0)
    return jnp.tanh(u), jnp.sum(norm.logpdf(u, mean, std) + 2 * log_cosh, axis=-1)


def entropy_losses(params, agent, log_probs):
    """alpha mean log p, alpha constant; alpha (H - H_target), H constant; the metrics."""
    alpha, entropy = jnp.exp(params["temperature"]["log_alpha"]), -log_probs.mean()
    entropy_loss = -jnp.exp(agent.params["temperature"]["log_alpha"]) * entropy
    alpha_loss = alpha * (jax.lax.stop_gradient(entropy) + 0.5 * agent.flat_action_dim)
    return (
        entropy_loss,
        alpha_loss,
        {
            "entropy/alpha": alpha,
            "entropy/mean": entropy,
            "entropy/loss": entropy_loss,
            "entropy/alpha_loss": alpha_loss,
        },
    )


def backup(agent, batch, actions):
    """The best of actions [n, B, D] at s', and the critic target they give."""
    s_next = batch["next_observations"][:, -1]
    best = best_of_n(actions, q_values(agent.params["critic"], s_next, actions))
    next_q = q_values(agent.target_params["critic"], s_next, best)
    return {"next_actions": best, "td_target": td_target(agent.config, batch, next_q)}


# ------------------------------------------------------------------------------ QAM-E, QAM-F


def edit(editor, config, s, actions, n):
    """clip(a_f + edit_scale e) and log p(e)."""
    edits, log_probs = tanh_gaussian(editor, jnp.concatenate([s, actions], axis=-1), n)
    return jnp.clip(actions + config.edit_scale * edits, -1, 1), log_probs


def policy_flow(agent, s, x0):
    return flow(agent.params["policy"], s, x0, agent.config.flow_steps)


def edit_constants(agent, batch, noise):
    s_next, editor = batch["next_observations"][:, -1], agent.params["editor"]
    candidates = [
        edit(editor, agent.config, s_next, policy_flow(agent, s_next, x0), n)[0]
        for x0, n in zip(noise["next_action"], noise["edit"][:-1], strict=True)
    ]
    own = backup(agent, batch, jnp.stack(candidates))
    own["flow"] = policy_flow(agent, batch["observations"], noise["z"])
    return straightforward.fixed_quantities(agent, batch, noise) | own


def edit_loss(params, agent, batch, noise, fixed):
    total, metrics = straightforward.loss(params, agent, batch, noise, fixed)
    s = batch["observations"]
    n = noise["edit"][-1]
    actions, log_probs = edit(params["editor"], agent.config, s, fixed["flow"], n)
    q_loss = -q_values(agent.params["critic"], s, actions).mean()
    entropy_loss, alpha_loss, own = entropy_losses(params, agent, log_probs)
    return total + q_loss + entropy_loss + alpha_loss, metrics | own | {"head/q_loss": q_loss}


def one_step_constants(agent, batch, noise):
    s_next, mu = batch["next_observations"][:, -1], agent.params["one_step_actor"]
    own = backup(
        agent,
        batch,
        jnp.stack([jnp.clip(network(mu, s_next, z), -1, 1) for z in noise["next_action"]]),
    )
    own["flow"] = policy_flow(agent, batch["observations"], noise["z"])
    return straightforward.fixed_quantities(agent, batch, noise) | own


def one_step_loss(params, agent, batch, noise, fixed):
    total, metrics = straightforward.loss(params, agent, batch, noise, fixed)
    s = batch["observations"]
    actions = network(params["one_step_actor"], s, noise["z"])
    distill_loss = jnp.mean((actions - fixed["flow"]) ** 2)
    q_loss = -q_values(agent.params["critic"], s, jnp.clip(actions, -1, 1)).mean()
    own = {"head/distill_loss": distill_loss, "head/q_loss": q_loss}
    return total + agent.config.fql_alpha * distill_loss + q_loss, metrics | own


# ---------------------------------------------------------------------------------- DSRL


def steered(agent, s, w):
    return flow(agent.target_params["base"], s, w, agent.config.flow_steps)


def dsrl_constants(agent, batch, noise):
    s, s_next, scale = (
        batch["observations"],
        batch["next_observations"][:, -1],
        agent.config.noise_scale,
    )
    w = [tanh_gaussian(agent.params["noise_actor"], s_next, n)[0] for n in noise["next_action"]]
    own = backup(agent, batch, jnp.stack([steered(agent, s_next, scale * one) for one in w]))
    return own | {"q": q_values(agent.params["critic"], s, steered(agent, s, noise["latent"]))}


def dsrl_loss(params, agent, batch, noise, fixed):
    config, s = agent.config, batch["observations"]
    q = q_values(params["critic"], s, flat_actions(config, batch))
    shared, metrics = shared_losses(params, config, batch, noise, q, fixed["td_target"])
    distilled = q_values(params["latent_critic"], s, noise["latent"])
    latent_loss = jnp.mean((distilled - fixed["q"]) ** 2)
    w, log_probs = tanh_gaussian(params["noise_actor"], s, noise["actor"])
    latent_q = q_values(agent.params["latent_critic"], s, config.noise_scale * w).mean()
    entropy_loss, alpha_loss, own = entropy_losses(params, agent, log_probs)
    return shared + latent_loss - latent_q + entropy_loss + alpha_loss, metrics | own | {
        "latent/loss": latent_loss,
        "latent/q_mean": latent_q,
        "actor/loss": entropy_loss - latent_q,
    }


# ---------------------------------------------------------------------------------- CGQL


def timed_q(critic, s, x, t):
    """Q_e(s, x, t) [E, ...]."""
    time = jnp.broadcast_to(t, (*x.shape[:-1], 1))
    return jax.vmap(lambda member: network(member, s, x, time)[..., 0])(critic)


def guided(agent, s, x):
    """A sample [B, D] of the guided flow from x [B, D]."""
    config, critic = agent.config, agent.params["critic"]
    for k in range(config.flow_steps):
        t = k / config.flow_steps
        v = velocity(agent.target_params["base"], s, x, t)
        if k > 0 and config.inv_temp > 0:
            read_at = 1.0 if config.mode == "simple" else t
            slope = jax.grad(lambda x, at=read_at: timed_q(critic, s, x, at).sum())(x)
            slope = slope / config.num_qs
            v = v + config.guidance_coef * (x + (1 - t) * config.inv_temp * slope) / t
        x = x + v / config.flow_steps
    return jnp.clip(x, -1, 1)


def cgql_constants(agent, batch, noise):
    s, s_next, config = batch["observations"], batch["next_observations"][:, -1], agent.config
    actions = jnp.stack([guided(agent, s_next, x0) for x0 in noise["next_action"]])
    best = best_of_n(actions, timed_q(agent.params["critic"], s_next, actions, 1.0))
    target = agent.target_params["critic"]
    return {
        "next_actions": best,
        "td_target": td_target(config, batch, timed_q(target, s_next, best, 1.0)),
        "q": timed_q(target, s, flat_actions(config, batch), 1.0),
    }


def cgql_loss(params, agent, batch, noise, fixed):
    config, s, a = agent.config, batch["observations"], flat_actions(agent.config, batch)
    q = timed_q(params["critic"], s, a, 1.0)
    shared, metrics = shared_losses(params, config, batch, noise, q, fixed["td_target"])
    if config.mode == "simple":
        return shared, metrics
    t = noise["noisy_t"]
    noisy_q = timed_q(params["critic"], s, (1 - t) * noise["noisy_x0"] + t * a, t)
    delta = config.inv_temp * (fixed["q"] - noisy_q)
    bounded = jnp.exp(jnp.minimum(delta, config.isd_clip)) + config.inv_temp * noisy_q
    linex = jnp.where(delta > config.isd_clip, delta, bounded)
    terms = linex if config.mode == "linex" else (noisy_q - fixed["q"]) ** 2
    noisy_loss = jnp.mean(terms * batch["valid"][None, :, -1])
    return shared + config.noisy_coef * noisy_loss, metrics | {"critic/noisy_loss": noisy_loss}


ROWS = {
    "qam_edit": (edit_constants, edit_loss),
    "qam_fql": (one_step_constants, one_step_loss),
    "dsrl": (dsrl_constants, dsrl_loss),
    "cgql": (cgql_constants, cgql_loss),
}


def update(name):
    """The function update_with_noise(agent, batch, noise) of the agent file of this name."""
    constants, loss = ROWS[name]
    with_noise = straightforward.update_with_noise
    return lambda agent, batch, noise: with_noise(agent, batch, noise, constants, loss)
