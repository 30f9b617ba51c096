"""One update of TRQAM and its variants, written straight from the equations.

It is the oracle for the numbers of agents/trqam.py and for the work that it saves: each
quantity is computed where an equation has it, and nothing is shared, reused or batched beyond
what the equations say. From the agent under test it takes the state, the settings, and the
hooks that define QAM and the forks. Everything else is written again, networks included.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from agents import heads
from agents.trqam import TRQAM


class MLP(nn.Module):
    """Layers with gelu, each followed by LayerNorm if `layer_norm`, and a linear output layer."""

    widths: tuple[int, ...]
    layer_norm: bool

    @nn.compact
    def __call__(self, x):
        for width in self.widths[:-1]:
            x = nn.gelu(nn.Dense(width)(x))
            if self.layer_norm:
                x = nn.LayerNorm()(x)
        return nn.Dense(self.widths[-1])(x)


def network(params, *inputs):
    """Apply the MLP to concat(inputs); leading axes are broadcast to those of the last input."""
    lead = inputs[-1].shape[:-1]
    x = jnp.concatenate(
        [jnp.broadcast_to(part, (*lead, part.shape[-1])) for part in inputs], axis=-1
    )
    dense = sorted(name for name in params if name.startswith("Dense_"))
    mlp = MLP(
        tuple(params[name]["kernel"].shape[-1] for name in dense),
        "LayerNorm_0" in params,
    )
    return mlp.apply({"params": params}, x)


def init(key, inputs, hidden_dims, outputs, layer_norm=True):
    """Return fresh parameters of such an MLP."""
    mlp = MLP((*hidden_dims, outputs), layer_norm)
    return mlp.init(key, jnp.zeros((1, inputs)))["params"]


def field(params, s):
    """Return the velocity v(s, x, t) at fixed s, as a function of x and t."""
    return lambda x, t: velocity(params, s, x, t)


def velocity(params, s, x, t):
    return network(params, s, x, jnp.broadcast_to(t, (*x.shape[:-1], 1)))


def one_step_actions(params, s, z):
    return network(params, s, z)


def tanh_gaussian(params, inputs, noise):
    """Return actions and log-probabilities; the network returns mean and log-std."""
    halves = jnp.split(network(params, inputs), 2, axis=-1)
    return heads.squash(
        *(jnp.broadcast_to(half, noise.shape) for half in halves), noise
    )


def states(agent, batch, noise, fixed):
    """Return the states and adjoints along the rollout that the agent's own loss reads."""
    policy, s = agent.params["policy"], batch["observations"]
    rollout, adjoints = agent.matching(policy, s, noise, fixed)
    return {"xs": rollout.xs, "x_final": rollout.x_final, "adjoints": adjoints}


def q_values(critic, s, a):
    return jax.vmap(lambda member: network(member, s, a)[..., 0])(critic)


def flow(params, s, x, flow_steps):
    """Return the end of the Euler steps x <- x + h v(s, x, t_k), clipped."""
    for k in range(flow_steps):
        x = x + velocity(params, s, x, k / flow_steps) / flow_steps
    return jnp.clip(x, -1, 1)


def best_of_n(actions, q):
    """Return the actions [B, D], of [n, B, D], with the highest mean of q [E, n, B]."""
    return jnp.take_along_axis(
        actions, q.mean(axis=0).argmax(axis=0)[None, :, None], axis=0
    )[0]


def act(agent, s, x0):
    """Return flow samples of the policy, the best of n by the mean of the online critic."""
    actions = flow(agent.params["policy"], s, x0, agent.config.flow_steps)
    if len(actions) == 1:
        return actions[0]
    return best_of_n(actions, q_values(agent.params["critic"], s, actions))


def td_target(config, batch, q):
    """Return R + gamma^H m (mean_e q - rho std_e q) [B] for the target critic's q [E, B]."""
    pessimistic = q.mean(axis=0) - config.rho * q.std(axis=0)
    discount = config.discount**config.horizon_length
    return batch["rewards"][:, -1] + discount * batch["masks"][:, -1] * pessimistic


def flat_actions(config, batch):
    """Return the chunk, or without chunking its first action, as [B, D]."""
    chunk = batch["actions"] if config.action_chunking else batch["actions"][:, :1]
    return chunk.reshape(len(chunk), -1)


def shared_losses(params, config, batch, noise, q, target):
    """Return critic_loss of q [E, B] plus flow_loss, and their metrics."""
    s, a, valid = (
        batch["observations"],
        flat_actions(config, batch),
        batch["valid"][:, -1],
    )
    critic_loss = jnp.mean((q - target[None]) ** 2 * valid[None])
    x0, t = noise["flow_x0"], noise["flow_t"]
    error = velocity(params["base"], s, (1 - t) * x0 + t * a, t) - (a - x0)
    flow_loss = jnp.mean(jnp.mean(error**2, axis=-1) * valid)
    return critic_loss + flow_loss, {
        "critic/loss": critic_loss,
        "critic/q_mean": q.mean(),
        "critic/target_mean": target.mean(),
        "flow/loss": flow_loss,
    }


def fixed_quantities(agent, batch, noise):
    """Return the quantities that the losses treat as constant."""
    config, s, s_next = (
        agent.config,
        batch["observations"],
        batch["next_observations"][:, -1],
    )
    policy, base, critic = (
        agent.params["policy"],
        agent.target_params["base"],
        agent.target_params["critic"],
    )
    flow_steps, h = config.flow_steps, 1 / config.flow_steps
    next_actions = act(agent, s_next, noise["next_action"])
    x, xs = noise["sde_x0"], []
    for k in range(flow_steps - 1):
        t = k * h
        xs.append(x)
        drift = 2 * velocity(policy, s, x, t) - x / (t + h)
        x = (
            x
            + h * drift
            + jnp.sqrt(h * 2 * (1 - t + h) / (t + h)) * noise["sde_noise"][k]
        )
    xs.append(x)
    x = x + h * velocity(base, s, x, 1 - h)
    squash = (lambda a: jnp.clip(a, -1, 1)) if config.clip_adj else (lambda a: a)
    adjoint = -agent.terminal_scale() * jax.grad(
        lambda x: q_values(critic, s, squash(x)).mean(axis=0).sum()
    )(x)
    lean_adjoints = type(agent).adjoints is TRQAM.adjoints
    adjoints = []
    for k in reversed(range(flow_steps)):
        t = (k + 1) * h
        _, transpose = jax.vjp(
            lambda x, t=t: 2 * velocity(base, s, x, t) - x / t, xs[k]
        )
        lean = adjoint + h * transpose(adjoint)[0]
        # The scalar adjoint is the lean one of a velocity that does not depend on x.
        adjoint = lean if lean_adjoints else adjoint * k / (k + 1)
        adjoints.append(adjoint)
    return {
        "next_actions": next_actions,
        "td_target": td_target(config, batch, q_values(critic, s_next, next_actions)),
        "xs": jnp.stack(xs),
        "adjoints": jnp.stack(adjoints[::-1]),
        "x_final": x,
    }


def loss(params, agent, batch, noise, fixed):
    """Return critic_loss + flow_loss + adj_loss, and the metrics."""
    config, s = agent.config, batch["observations"]
    q = q_values(params["critic"], s, flat_actions(config, batch))
    shared, metrics = shared_losses(params, config, batch, noise, q, fixed["td_target"])
    h, lam = 1 / config.flow_steps, agent.trust_region()
    ts = jnp.arange(config.flow_steps)[:, None, None] * h
    xs, adjoints = fixed["xs"], fixed["adjoints"]
    delta = velocity(params["policy"], s, xs, ts) - velocity(
        agent.target_params["base"], s, xs, ts
    )
    g_squared = 2 * (1 - ts + h) / (ts + h)
    sigma = jnp.sqrt(g_squared / lam)
    adj_loss = ((2 * delta / sigma + sigma * adjoints) ** 2).sum(axis=(0, 2)).mean()
    per_action = config.horizon_length if config.action_chunking else 1
    return shared + adj_loss, metrics | {
        "adjoint/loss": adj_loss,
        "adjoint/clipped": jnp.mean(jnp.abs(fixed["x_final"]) > 1),
        "dual/path_kl": (2 * h / g_squared * delta**2).sum(axis=(0, 2)).mean()
        / per_action,
        "dual/kl_bound": (
            (h * g_squared * adjoints**2).sum(axis=(0, 2)).mean()
            / (2 * lam**2)
            / per_action
        ),
    }


def update_with_noise(
    agent, batch, noise, fixed_quantities=fixed_quantities, loss=loss
):
    """Do one update, by default TRQAM's or QAM's; return the next agent, metrics and constants."""
    fixed = fixed_quantities(agent, batch, noise)
    grads, metrics = jax.grad(loss, has_aux=True)(
        agent.params, agent, batch, noise, fixed
    )
    adam = optax.adam(agent.config.lr)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), adam)
    optimiser = clipped if agent.config.get("clip_grad") else adam
    updates, opt_state = optimiser.update(grads, agent.opt_state, agent.params)
    tau = agent.config.tau
    targets = {name: jax.tree.map(lambda p, t: tau * p + (1 - tau) * t, agent.params[name], agent.target_params[name])
               for name in agent.target_params}  # fmt: skip
    agent = agent.replace(
        params=optax.apply_updates(agent.params, updates),
        target_params=targets,
        opt_state=opt_state,
        step=agent.step + 1,
    )
    agent, metrics = agent.after_step(metrics | {"grad_norm": optax.tree.norm(grads)})
    return agent, metrics, fixed
