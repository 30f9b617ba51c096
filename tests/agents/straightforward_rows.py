"""The updates of the table's other methods, written straight from the equations.

straightforward.py has TRQAM and QAM. LOSSES holds, under the name of an agent file, a function
that returns the constants of the loss, and the loss. Q in an actor's loss reads the agent's
parameters, not the differentiated ones, so it is constant.
"""

import functools
import math

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
    """Return tanh u for u = mean + std n, and its log-density.

    The density is that of u over the slope 1 / cosh^2 u.
    """
    mean, log_std = jnp.split(network(params, inputs), 2, axis=-1)
    std = jnp.exp(jnp.clip(log_std, -20, 2))
    u = mean + std * n
    log_cosh = jnp.logaddexp(u, -u) - jnp.log(2.0)
    return jnp.tanh(u), jnp.sum(norm.logpdf(u, mean, std) + 2 * log_cosh, axis=-1)


def entropy_losses(params, agent, log_probs):
    """Return alpha mean log p at constant alpha, alpha (H - H_target) at constant H, metrics."""
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
    """Return the best of actions [n, B, D] at s', and the critic target that follows."""
    s_next = batch["next_observations"][:, -1]
    best = best_of_n(actions, q_values(agent.params["critic"], s_next, actions))
    next_q = q_values(agent.target_params["critic"], s_next, best)
    return {"next_actions": best, "td_target": td_target(agent.config, batch, next_q)}


# ------------------------------------------------------------------------------ QAM-E, QAM-F


def edit(editor, config, s, actions, n):
    """Return clip(a_f + edit_scale e) and log p(e)."""
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
    return total + q_loss + entropy_loss + alpha_loss, metrics | own | {
        "head/q_loss": q_loss
    }


def one_step_constants(agent, batch, noise):
    s_next, mu = batch["next_observations"][:, -1], agent.params["one_step_actor"]
    own = backup(
        agent,
        batch,
        jnp.stack(
            [jnp.clip(network(mu, s_next, z), -1, 1) for z in noise["next_action"]]
        ),
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
    w = [
        tanh_gaussian(agent.params["noise_actor"], s_next, n)[0]
        for n in noise["next_action"]
    ]
    own = backup(
        agent, batch, jnp.stack([steered(agent, s_next, scale * one) for one in w])
    )
    return own | {
        "q": q_values(agent.params["critic"], s, steered(agent, s, noise["latent"]))
    }


def dsrl_loss(params, agent, batch, noise, fixed):
    config, s = agent.config, batch["observations"]
    q = q_values(params["critic"], s, flat_actions(config, batch))
    shared, metrics = shared_losses(params, config, batch, noise, q, fixed["td_target"])
    distilled = q_values(params["latent_critic"], s, noise["latent"])
    latent_loss = jnp.mean((distilled - fixed["q"]) ** 2)
    w, log_probs = tanh_gaussian(params["noise_actor"], s, noise["actor"])
    latent_q = q_values(agent.params["latent_critic"], s, config.noise_scale * w).mean()
    entropy_loss, alpha_loss, own = entropy_losses(params, agent, log_probs)
    return (
        shared + latent_loss - latent_q + entropy_loss + alpha_loss,
        metrics
        | own
        | {
            "latent/loss": latent_loss,
            "latent/q_mean": latent_q,
            "actor/loss": entropy_loss - latent_q,
        },
    )


# ---------------------------------------------------------------------------------- CGQL


def timed_q(critic, s, x, t):
    """Return Q_e(s, x, t) [E, ...]."""
    time = jnp.broadcast_to(t, (*x.shape[:-1], 1))
    return jax.vmap(lambda member: network(member, s, x, time)[..., 0])(critic)


def guided(agent, s, x):
    """Return a sample [B, D] of the guided flow from x [B, D]."""
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
    s, s_next, config = (
        batch["observations"],
        batch["next_observations"][:, -1],
        agent.config,
    )
    actions = jnp.stack([guided(agent, s_next, x0) for x0 in noise["next_action"]])
    best = best_of_n(actions, timed_q(agent.params["critic"], s_next, actions, 1.0))
    target = agent.target_params["critic"]
    return {
        "next_actions": best,
        "td_target": td_target(config, batch, timed_q(target, s_next, best, 1.0)),
        "q": timed_q(target, s, flat_actions(config, batch), 1.0),
    }


def cgql_loss(params, agent, batch, noise, fixed):
    config, s, a = (
        agent.config,
        batch["observations"],
        flat_actions(agent.config, batch),
    )
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
    return shared + config.noisy_coef * noisy_loss, metrics | {
        "critic/noisy_loss": noisy_loss
    }


# ------------------------------------------------------------------------------ FEdit, FBRAC


def base_flow(params, agent, s, x0):
    return flow(params["base"], s, x0, agent.config.flow_steps)


def base_constants(agent, batch, noise):
    """Return the constants of a method whose base acts."""
    s_next = batch["next_observations"][:, -1]
    actions = [
        base_flow(agent.params, agent, s_next, x0) for x0 in noise["next_action"]
    ]
    return backup(agent, batch, jnp.stack(actions))


def shared(params, agent, batch, noise, fixed):
    """Return critic_loss, flow_loss and their metrics."""
    config = agent.config
    q = q_values(params["critic"], batch["observations"], flat_actions(config, batch))
    _, metrics = shared_losses(params, config, batch, noise, q, fixed["td_target"])
    return metrics["critic/loss"], metrics["flow/loss"], metrics


def fedit_constants(agent, batch, noise):
    s_next, editor = batch["next_observations"][:, -1], agent.params["editor"]
    candidates = [
        edit(
            editor, agent.config, s_next, base_flow(agent.params, agent, s_next, x0), n
        )[0]
        for x0, n in zip(noise["next_action"], noise["edit"][:-1], strict=True)
    ]
    own = {"flow": base_flow(agent.params, agent, batch["observations"], noise["z"])}
    return backup(agent, batch, jnp.stack(candidates)) | own


def fedit_loss(params, agent, batch, noise, fixed):
    critic_loss, flow_loss, metrics = shared(params, agent, batch, noise, fixed)
    s, n = batch["observations"], noise["edit"][-1]
    actions, log_probs = edit(params["editor"], agent.config, s, fixed["flow"], n)
    q_loss = -q_values(agent.params["critic"], s, actions).mean()
    entropy_loss, alpha_loss, own = entropy_losses(params, agent, log_probs)
    actor_loss = flow_loss + q_loss + entropy_loss + alpha_loss
    own |= {"head/q_loss": q_loss, "actor/loss": actor_loss}
    return critic_loss + actor_loss, metrics | own


def fbrac_loss(params, agent, batch, noise, fixed):
    critic_loss, flow_loss, metrics = shared(params, agent, batch, noise, fixed)
    actions = base_flow(params, agent, batch["observations"], noise["z"])
    q_loss = -q_values(agent.params["critic"], batch["observations"], actions).mean()
    actor_loss = flow_loss + q_loss / agent.config.alpha
    return critic_loss + actor_loss, metrics | {
        "actor/loss": actor_loss,
        "head/q_loss": q_loss,
    }


# ---------------------------------------------------------------------------------- BAM, FAWAC


def bam_constants(agent, batch, noise):
    if agent.config.inv_temp == 0:
        return base_constants(agent, batch, noise)
    s_next = batch["next_observations"][:, -1]
    return backup(
        agent,
        batch,
        jnp.stack([policy_flow(agent, s_next, x) for x in noise["next_action"]]),
    )


def bam_loss(params, agent, batch, noise, fixed):
    critic_loss, flow_loss, metrics = shared(params, agent, batch, noise, fixed)
    config, s, h = agent.config, batch["observations"], 1 / agent.config.flow_steps
    x, bc_loss = noise["sde_x0"], 0.0
    for k in range(config.flow_steps - 1):
        t = k * h
        v = velocity(params["policy"], s, x, t)
        base = velocity(agent.target_params["base"], s, x, t)
        g_squared = 2 * (1 - t + h) / (t + h)
        bc_loss += jnp.mean(2 / g_squared * jnp.sum((v - base) ** 2, axis=-1))
        drift = 2 * v - x / (t + h)
        x = x + h * drift + jnp.sqrt(h * g_squared) * noise["sde_noise"][k]
    x = x + h * velocity(agent.target_params["base"], s, x, 1 - h)
    q = q_values(agent.params["critic"], s, x)
    bam_loss = bc_loss - config.inv_temp * jnp.mean(
        q.mean(axis=0) - config.rho * q.std(axis=0)
    )
    own = {"actor/bc_loss": bc_loss, "actor/loss": bam_loss}
    return critic_loss + flow_loss + bam_loss, metrics | own


def fawac_loss(params, agent, batch, noise, fixed):
    config, s, a = (
        agent.config,
        batch["observations"],
        flat_actions(agent.config, batch),
    )
    critic_loss, _, metrics = shared(params, agent, batch, noise, fixed)
    valid, v = batch["valid"][:, -1], network(params["value"], s)[:, 0]
    errors = q_values(agent.target_params["critic"], s, a) - v[None]
    value_loss = jnp.mean(errors**2 * valid[None])
    q = q_values(agent.params["critic"], s, a).mean(axis=0)
    advantage = q - network(agent.params["value"], s)[:, 0]
    w = jnp.minimum(jnp.exp(config.inv_temp * advantage), 100.0)
    x0, t = noise["flow_x0"], noise["flow_t"]
    error = velocity(params["base"], s, (1 - t) * x0 + t * a, t) - (a - x0)
    actor_loss = jnp.mean(jnp.mean(error**2, axis=-1) * w * valid)
    del metrics["flow/loss"]
    return critic_loss + value_loss + actor_loss, metrics | {
        "value/loss": value_loss,
        "value/mean": v.mean(),
        "actor/loss": actor_loss,
    }


# ------------------------------------------------------------------------------------ QSM, DAC


def mish_mlp(params, layer_norm, *inputs):
    """Apply dense layers to concat(inputs).

    Mish, then LayerNorm if `layer_norm`, follows all but the last layer.
    """
    lead = inputs[0].shape[:-1]
    x = jnp.concatenate(
        [jnp.broadcast_to(i, (*lead, i.shape[-1])) for i in inputs], axis=-1
    )
    layers = sum(name.startswith("Dense") for name in params)
    for i in range(layers):
        x = x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"][None]
        if i < layers - 1:
            x = x * jnp.tanh(jnp.log1p(jnp.exp(x)))
            if layer_norm:
                scale, bias = (
                    params[f"LayerNorm_{i}"][key][None] for key in ("scale", "bias")
                )
                centred = x - x.mean(axis=-1, keepdims=True)
                x = (
                    centred / jnp.sqrt(x.var(axis=-1, keepdims=True) + 1e-6) * scale
                    + bias
                )
    return x


def eps(params, agent, s, x, t):
    """Return eps(s, x, t) [B, D] at integers t [B]."""
    angles = 2 * jnp.pi * t[:, None] * params["time_features"]["kernel"].T
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    code = mish_mlp(params["time_encoder"], False, features)
    return mish_mlp(params["denoiser"], agent.config.actor_layer_norm, x, s, code)


def beta_of(config, i):
    """Return beta_i of the schedule, for i = 0..T."""
    steps = config.diffusion_steps
    if i == 0:
        return 0.0
    if config.beta_schedule == "linear":
        return 1e-4 + (2e-2 - 1e-4) * (i - 1) / (steps - 1)
    if config.beta_schedule == "cosine":
        kept = [
            math.cos((j / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for j in (i, i - 1)
        ]
        return min(max(1 - kept[0] / kept[1], 0.0), 0.999)
    return 1 - math.exp(-0.1 / steps - 9.9 * (2 * i - 1) / (2 * steps**2))


def kept_until(config, t):
    """Return abar_t."""
    return math.prod(1 - beta_of(config, i) for i in range(1, t + 1))


def denoised(agent, s, x, zs):
    """Return a sample [B, D] from x [B, D] and zs [T, B, D]."""
    config = agent.config
    for t, z in zip(range(config.diffusion_steps, 0, -1), zs, strict=True):
        beta, kept, before = (
            beta_of(config, t),
            kept_until(config, t),
            kept_until(config, t - 1),
        )
        noise = eps(agent.params, agent, s, x, jnp.full(len(x), float(t)))
        clean = (x - math.sqrt(1 - kept) * noise) / math.sqrt(kept)
        if config.clip_sampler_before:
            clean = math.sqrt(before) * beta * jnp.clip(clean, -1, 1)
            clean = (clean + math.sqrt(1 - beta) * (1 - before) * x) / (1 - kept)
        x = clean + math.sqrt(beta) * z if t > 1 else clean
        if config.clip_sampler_after:
            x = jnp.clip(x, -1, 1)
    return x


def denoiser_constants(agent, batch, noise):
    s_next = batch["next_observations"][:, -1]
    actions = denoised(agent, s_next, noise["next_action"][0], noise["next_noise"])
    return backup(agent, batch, jnp.clip(actions, -1, 1)[None])


def denoiser_loss(params, agent, batch, noise, fixed, method):
    config, s, a = (
        agent.config,
        batch["observations"],
        flat_actions(agent.config, batch),
    )
    q = q_values(params["critic"], s, a)
    valid, target, t = batch["valid"][:, -1], fixed["td_target"], noise["ddpm_t"]
    critic_loss = jnp.mean((q - target[None]) ** 2 * valid[None])
    table = jnp.array(
        [kept_until(config, i) for i in range(config.diffusion_steps + 1)]
    )
    kept, n = table[t][:, None], noise["ddpm_noise"]
    x = jnp.sqrt(kept) * a + jnp.sqrt(1 - kept) * n
    slope = jax.grad(
        lambda x: q_values(agent.target_params["critic"], s, x).sum() / config.num_qs
    )(x)
    predicted = eps(params, agent, s, x, t.astype(jnp.float32))
    errors = jnp.mean((n - predicted) ** 2, axis=-1)
    if method == "qsm":
        terms = jnp.mean((-config.inv_temp * slope - predicted) ** 2, axis=-1)
    else:
        terms = jnp.mean(jnp.sqrt(1 - kept) * slope * predicted, axis=-1)
    actor_loss = jnp.mean(terms**valid)
    total = critic_loss + config.alpha * jnp.mean(errors**valid) + actor_loss
    return total, {
        "critic/loss": critic_loss,
        "critic/q_mean": q.mean(),
        "actor/loss": actor_loss,
    }


# -------------------------------------------------------------------------------- ReBRAC, RLPD


def deterministic(actor, s):
    return jnp.tanh(network(actor, s))


def rebrac_constants(agent, batch, noise):
    config, s_next = agent.config, batch["next_observations"][:, -1]
    limit = config.actor_noise_clip
    blur = jnp.clip(config.actor_noise * noise["next_action"][0], -limit, limit)
    actions = jnp.clip(
        deterministic(agent.target_params["actor"], s_next) + blur, -1, 1
    )
    return backup(agent, batch, actions[None])


def rebrac_loss(params, agent, batch, noise, fixed):
    config, s, a = (
        agent.config,
        batch["observations"],
        flat_actions(agent.config, batch),
    )
    q, valid = q_values(params["critic"], s, a), batch["valid"][:, -1]
    critic_loss = jnp.mean((q - fixed["td_target"][None]) ** 2 * valid[None])
    actions = deterministic(params["actor"], s)
    own_q = q_values(agent.params["critic"], s, actions)
    own_q = own_q.mean(axis=0) - config.rho * own_q.std(axis=0)
    actor_loss = -own_q.mean() / jax.lax.stop_gradient(jnp.abs(own_q).mean())
    errors = jnp.sum((actions - a) ** 2, axis=-1)
    bc_loss = config.alpha_actor * jnp.mean(errors * valid)
    return critic_loss + actor_loss + bc_loss, {
        "critic/loss": critic_loss,
        "critic/q_mean": q.mean(),
        "actor/loss": actor_loss,
        "actor/bc_loss": bc_loss,
    }


def rebrac_update(agent, batch, noise):
    """Do one update; the targets move only in every actor_freq-th."""
    with_noise = straightforward.update_with_noise
    after, *rest = with_noise(agent, batch, noise, rebrac_constants, rebrac_loss)
    moves = after.step % agent.config.actor_freq == 0
    targets = jax.tree.map(
        lambda new, old: jnp.where(moves, new, old),
        after.target_params,
        agent.target_params,
    )
    return after.replace(target_params=targets), *rest


def rlpd_constants(agent, batch, noise):
    s_next, n = batch["next_observations"][:, -1], noise["next_action"][0]
    return backup(
        agent, batch, tanh_gaussian(agent.params["actor"], s_next, n)[0][None]
    )


def rlpd_loss(params, agent, batch, noise, fixed):
    config, s, a = (
        agent.config,
        batch["observations"],
        flat_actions(agent.config, batch),
    )
    q, valid = q_values(params["critic"], s, a), batch["valid"][:, -1]
    critic_loss = jnp.mean((q - fixed["td_target"][None]) ** 2 * valid[None])
    actions, log_probs = tanh_gaussian(params["actor"], s, noise["actor"])
    own_q = q_values(agent.params["critic"], s, actions)
    q_loss = -jnp.mean(own_q.mean(axis=0) - config.rho * own_q.std(axis=0))
    entropy_loss, alpha_loss, own = entropy_losses(params, agent, log_probs)
    mean, log_std = jnp.split(network(params["actor"], s), 2, axis=-1)
    a = jnp.clip(a, -(1 - 1e-5), 1 - 1e-5)
    u = 0.5 * jnp.log((1 + a) / (1 - a))
    density = norm.logpdf(u, mean, jnp.exp(jnp.clip(log_std, -20, 2))) - jnp.log(
        1 - a**2
    )
    bc_loss = -config.bc_alpha * jnp.mean(jnp.sum(density, axis=-1) * valid)
    return critic_loss + q_loss + entropy_loss + alpha_loss + bc_loss, own | {
        "critic/loss": critic_loss,
        "critic/q_mean": q.mean(),
        "actor/loss": entropy_loss + q_loss,
        "actor/bc_loss": bc_loss,
    }


LOSSES = {
    "fedit": (fedit_constants, fedit_loss),
    "fbrac": (base_constants, fbrac_loss),
    "bam": (bam_constants, bam_loss),
    "fawac": (base_constants, fawac_loss),
    "qsm": (denoiser_constants, functools.partial(denoiser_loss, method="qsm")),
    "dac": (denoiser_constants, functools.partial(denoiser_loss, method="dac")),
    "rlpd": (rlpd_constants, rlpd_loss),
    "qam_edit": (edit_constants, edit_loss),
    "qam_fql": (one_step_constants, one_step_loss),
    "dsrl": (dsrl_constants, dsrl_loss),
    "cgql": (cgql_constants, cgql_loss),
}


def update(name):
    """Return the function update_with_noise(agent, batch, noise) for this agent file."""
    if name == "rebrac":
        return rebrac_update
    constants, loss = LOSSES[name]
    with_noise = straightforward.update_with_noise
    return lambda agent, batch, noise: with_noise(agent, batch, noise, constants, loss)
