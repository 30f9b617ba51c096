"""RQL, QGF, QPILOTS-U and LQL's critic loss, written straight from the equations.

Losses and constants are as in straightforward_rows.py. Every sum of LQL is a loop.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.agents import straightforward
from tests.agents.straightforward import (
    best_of_n,
    flat_actions,
    network,
    q_values,
    shared_losses,
    td_target,
    velocity,
)
from tests.agents.straightforward_rows import timed_q

# ------------------------------------------------------------------------------------------ RQL


def rql_constants(agent, batch, noise):
    config, s, k = agent.config, batch["observations"], agent.config.flow_steps
    u, half = noise["reverse_t"], len(noise["reverse_t"]) // 2
    d = jnp.concatenate([u[:half], jnp.floor((k + 1) * u[half:]) / k])
    x, f = flat_actions(config, batch), jnp.ones_like(d)
    for _ in range(k):
        x, f = x - (d / k) * velocity(agent.params["base"], s, x, f), f - d / k
    s_next, z = batch["next_observations"][:, -1], noise["next_action"][0]
    q = timed_q(agent.target_params["critic"], s_next, z, 0.0)
    return {"td_target": td_target(config, batch, q), "reversed": x, "d": d}


def rql_loss(params, agent, batch, noise, fixed):
    config, s, a = (
        agent.config,
        batch["observations"],
        flat_actions(agent.config, batch),
    )
    valid, width = batch["valid"], batch["actions"].shape[-1]
    q = timed_q(params["critic"], s, fixed["reversed"], 1 - fixed["d"])
    error = fixed["td_target"][None] - q
    weight = jnp.where(error >= 0, config.expectile, 1 - config.expectile)
    critic_loss = jnp.mean(weight * error**2 * valid[None, :, -1])
    x0, t = noise["flow_x0"], noise["flow_t"]
    x_t = (1 - t) * x0 + t * a
    v = velocity(params["base"], s, x_t, t)
    columns = [
        (v[:, i] - a[:, i] + x0[:, i]) ** 2 * valid[:, i // width]
        for i in range(a.shape[1])
    ]
    flow_loss = jnp.mean(jnp.stack(columns))
    following = x_t + jnp.minimum(1 / config.flow_steps, 1 - t) * v
    reached = jnp.minimum(t + 1 / config.flow_steps, 1)
    q_flow = timed_q(agent.params["critic"], s, following, reached).mean(axis=0)
    actor_loss = -jnp.mean(q_flow * valid[:, -1])
    return critic_loss + actor_loss + config.alpha * flow_loss, {
        "critic/loss": critic_loss,
        "critic/q_mean": q.mean(),
        "critic/target_mean": fixed["td_target"].mean(),
        "flow/loss": flow_loss,
        "actor/loss": actor_loss,
        "actor/q_mean": q_flow.mean(),
    }


def rql_update(agent, batch, noise):
    """Do one update; the flow's moving average is slower than the critic's."""
    with_noise = straightforward.update_with_noise
    after, *rest = with_noise(agent, batch, noise, rql_constants, rql_loss)
    stays = agent.config.policy_ema
    base = jax.tree.map(
        lambda p, t: (1 - stays) * p + stays * t,
        agent.params["base"],
        agent.target_params["base"],
    )
    return after.replace(target_params=after.target_params | {"base": base}), *rest


# ------------------------------------------------------------------------------ QGF, QPILOTS-U


def slope(q, x, path, v):
    """Return dq/dx by forward differentiation; x is a pair (x, t), v a function of x and t."""

    def end(x, t):
        return x + (1 - t) * v(x, t)

    def at(x, t):
        a = jnp.clip(end(x, t), -1, 1)
        if path == "noisy":
            return jax.jacfwd(lambda x: q(x).sum())(x)
        direct = jax.jacfwd(lambda a: q(a).sum())(a)
        if path == "approx":
            return direct
        passes = (
            jnp.ones_like(a) if path == "straight_through" else (jnp.abs(end(x, t)) < 1)
        )
        jacobian = jax.jacfwd(lambda x: end(x, t))(x)  # [B, D, B, D]
        return jnp.einsum("bi,bicj->cj", direct * passes, jacobian)

    return at(x[0], x[1])


def steered(agent, base, q, path, s, x, push):
    """Return a sample [B, D] of the steered flow from x [B, D], clipped."""
    k = agent.config.flow_steps
    v = functools.partial(velocity, base, s)
    for i in range(k):
        t = i / k
        g = slope(q, (x, t), path, v)
        x = x + (v(x, t) + push(v(x, t), g, t)) / k
    return jnp.clip(x, -1, 1)


def qgf_act(agent, s, x0):
    """Return the best of n steered samples by the target critic."""
    config, critic = agent.config, agent.target_params["critic"]
    aggregate = (
        (lambda q: q.min(axis=0))
        if config.q_agg == "min"
        else (lambda q: q.mean(axis=0))
    )

    def q(a):
        return aggregate(q_values(critic, s, a))

    def push(v, g, t):
        return config.guidance_weight * g

    actions = [
        steered(agent, agent.params["base"], q, config.guidance, s, x, push) for x in x0
    ]
    values = jnp.stack([q(a) for a in actions])
    return best_of_n(jnp.stack(actions), values[None])


def qgf_constants(agent, batch, noise):
    config, s = agent.config, batch["observations"]
    q = q_values(agent.target_params["critic"], s, flat_actions(config, batch))
    v = network(agent.params["value"], batch["next_observations"][:, -1])[:, 0]
    y = (
        batch["rewards"][:, -1]
        + config.discount**config.horizon_length * batch["masks"][:, -1] * v
    )
    return {
        "td_target": y,
        "q": q.min(axis=0) if config.q_agg == "min" else q.mean(axis=0),
    }


def qgf_loss(params, agent, batch, noise, fixed):
    config, s, a = (
        agent.config,
        batch["observations"],
        flat_actions(agent.config, batch),
    )
    valid, k = batch["valid"][:, -1], config.flow_steps
    critic = (q_values(params["critic"], s, a) - fixed["td_target"][None]) ** 2
    critic_loss = jnp.mean(critic * valid[None])
    values = network(params["value"], s)[:, 0]
    error = fixed["q"] - values
    value_loss = jnp.mean(
        jnp.where(error > 0, config.kappa, 1 - config.kappa) * error**2 * valid
    )
    x0, t = noise["flow_x0"], jnp.floor(noise["flow_t"] * (k + 1)) / k
    v = velocity(params["base"], s, (1 - t) * x0 + t * a, t)
    flow_loss = jnp.mean((v - (a - x0)) ** 2)
    return critic_loss + value_loss + flow_loss, {
        "critic/loss": critic_loss,
        "critic/q_mean": q_values(params["critic"], s, a).mean(),
        "critic/target_mean": fixed["td_target"].mean(),
        "value/loss": value_loss,
        "value/mean": values.mean(),
        "flow/loss": flow_loss,
    }


def qpilots_act(agent, s, x0):
    config, critic = agent.config, agent.target_params["critic"]
    path = "jacobian" if config.clip == "exact" else "straight_through"

    def q(a):
        values = q_values(critic, s, a)
        return values.mean(axis=0) - config.rho * values.std(axis=0)

    def push(v, g, t):
        lengths = [jnp.sqrt((x**2).sum(axis=-1, keepdims=True)) for x in (v, g)]
        return config.alpha * lengths[0] / (lengths[1] + 1e-8) * g if t else 0.0 * v

    actions = [
        steered(agent, agent.target_params["base"], q, path, s, x, push) for x in x0
    ]
    return best_of_n(
        jnp.stack(actions),
        jnp.stack([q_values(agent.params["critic"], s, a) for a in actions], 1),
    )


def qpilots_constants(agent, batch, noise):
    s_next = batch["next_observations"][:, -1]
    actions = qpilots_act(agent, s_next, noise["next_action"])
    q = q_values(agent.target_params["critic"], s_next, actions)
    return {"next_actions": actions, "td_target": td_target(agent.config, batch, q)}


def qpilots_loss(params, agent, batch, noise, fixed):
    q = q_values(
        params["critic"], batch["observations"], flat_actions(agent.config, batch)
    )
    return shared_losses(params, agent.config, batch, noise, q, fixed["td_target"])


UPDATES = {
    "rql": rql_update,
    "qgf": functools.partial(
        straightforward.update_with_noise, fixed_quantities=qgf_constants, loss=qgf_loss
    ),
    "qpilots": functools.partial(
        straightforward.update_with_noise,
        fixed_quantities=qpilots_constants,
        loss=qpilots_loss,
    ),
}

# ------------------------------------------------------------------------------------------ LQL


def sequence_losses(q, y, v, rewards, ends, horizon, discount):
    """Return LQL's three losses of sequences and the number of terms in each, in float64.

    Args:
        q: [E, B, n].
        y, v: [B, n].
        rewards, ends: of the raw rows [B, L].
        horizon: H.
        discount: gamma.
    """
    q, y, v, rewards, ends = (
        np.asarray(x, np.float64) for x in (q, y, v, rewards, ends)
    )
    members, sequences, points = q.shape
    gap = rewards.shape[1] // points
    found = {"td": [], "lower": [], "upper": []}

    def total(b, i, j):
        return sum(discount ** (row - i) * rewards[b, row] for row in range(i, j))

    for b in range(sequences):
        for k in range(points):
            o_k = k * gap
            if ends[b, o_k : o_k + horizon - 1].any():
                continue
            found["td"].append((q[:, b, k] - y[b, k]) ** 2)
            for j in range(k):
                o_j = j * gap
                if not ends[b, o_j:o_k].any():
                    bound = total(b, o_j, o_k) + discount ** (o_k - o_j) * y[b, k]
                    found["lower"].append(np.maximum(0, bound - q[:, b, j]) ** 2)
                if not ends[b, o_j + horizon - 1 : o_k].any():
                    later = total(b, o_j + horizon, o_k)
                    later = later + discount ** (o_k - o_j - horizon) * q[:, b, k]
                    found["upper"].append(np.maximum(0, later - v[b, j]) ** 2)
    losses = {
        name: np.sum(terms) / members / max(1, len(terms))
        for name, terms in found.items()
    }
    return losses, {name: len(terms) for name, terms in found.items()}
