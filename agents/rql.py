"""Reversal Q-learning (RQL, arXiv 2606.17551): the critic also values a flow's unfinished
actions, so that the flow climbs it one step at a time.

    Q_e(s, x, t)     t = 1: a finished action, t = 0: noise
    y = R + gamma^H m (mean_e Q'_e(s', z, 0) - rho std_e Q'_e(s', z, 0)),  z ~ N(0, I)
    (x_f, f)         the flow reversed from (a, 1) to f = 1 - d: K Euler steps of length d / K
    x_t = (1 - t) x0 + t a,  x0 ~ N(0, I), t ~ U[0, 1),  v = v(s, x_t, t)
    descend  mean_{E,B} w (y - Q_e(s, x_f, f))^2,  w = expectile where y >= Q_e, else
             1 - expectile
             + alpha mean (v - (a - x0))^2
             - mean_B mean_e Q_e(s, x_t + h v, t + h),  h = min(1/K, 1 - t)
    act:     clip flow'(s, z), the moving average of v

d is uniform on [0, 1) in the first half of a batch and on 0, 1/K, .., 1 in the second. Along a
reversed path no time passes and no reward falls due: one y for all d, and the backup samples no
action. As published: alpha multiplies imitation, which counts every step of a chunk up to the
end of its trajectory; the moving average of v is slower than the critic's; nothing is cloned
first.

    python main.py --env_name=cube-double --agent=agents/rql.py --agent.alpha=10
"""

from typing import Any

import jax
import jax.numpy as jnp

from agents.base import Agent, Loss
from agents.flow import Velocity, loop, on_grid
from agents.ifql import expectile_loss
from agents.options import LQL_OPTIONS, without
from agents.timed_critic import TimedCritic
from utils.options import Option
from utils.replay import Batch


def reverse(velocity: Velocity, actions: jax.Array, d: jax.Array, flow_steps: int) -> jax.Array:
    """x_f [B, D], f = 1 - d: `flow_steps` Euler steps of length d / K back from actions [B, D]
    at t = 1, for d [B, 1].
    """

    def step(x: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
        return x - d / flow_steps * velocity(x, 1.0 - k * d / flow_steps), None

    ks = jnp.arange(flow_steps, dtype=jnp.float32)
    return loop(step, actions, ks)[0]


class RQL(TimedCritic, Agent):
    """Critic and flow, "base", under one Adam; both have moving averages."""

    OPTIONS = without(Agent.OPTIONS, "best_of_n", *LQL_OPTIONS) | {
        "alpha": Option(1.0, "weight of imitation against the critic", at_least=0),
        "expectile": Option(0.5, "expectile of the critic", above=0, at_most=1),
        "policy_ema": Option(0.999, "decay of the flow's average", at_least=0, at_most=1),
    }

    INPUTS = Agent.INPUTS | TimedCritic.INPUTS

    @classmethod
    def phases(cls, config: Any) -> tuple[str, ...]:
        """No cloning."""
        return ("offline", "online")

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Samples [1, B, D] of the moving average of the flow, not clipped."""
        return self.flow_sample(self.target_params["base"], observations, x0)

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Besides: reverse_t [B, 1], from which d is made."""
        return super().noise_shapes(batch_size) | {"reverse_t": (batch_size, 1)}

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """The critic target [B], d [B, 1] and x_f [B, D]."""
        steps, u, z = self.config.flow_steps, noise["reverse_t"], noise["next_action"][0]
        d = jnp.where(jnp.arange(len(u))[:, None] < len(u) // 2, u, on_grid(u, steps))
        velocity = self.velocity(self.params["base"], batch["observations"])
        s_next = batch["next_observations"][:, -1]
        q = self.values_at(self.target_params["critic"], s_next, z, 0.0)
        return {
            "td_target": self.backup(batch, self.pessimistic(q)),
            "d": d,
            "reversed": reverse(velocity, self.flat_actions(batch), d, steps),
        }

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + actor_loss + alpha flow_loss."""
        s, a, config = batch["observations"], self.flat_actions(batch), self.config
        y, valid = fixed["td_target"], batch["valid"]
        q = self.values_at(params["critic"], s, fixed["reversed"], 1.0 - fixed["d"])
        critic_loss = expectile_loss(y[None] - q, config.expectile, valid[None, :, -1])
        x0, t = noise["flow_x0"], noise["flow_t"]
        x_t = (1.0 - t) * x0 + t * a
        v = self.velocity(params["base"], s)(x_t, t)
        of_steps = jnp.repeat(valid, batch["actions"].shape[-1], axis=1)[:, : a.shape[1]]
        flow_loss = jnp.mean((v - (a - x0)) ** 2 * of_steps)
        h = jnp.minimum(1.0 / config.flow_steps, 1.0 - t)
        critic = jax.lax.stop_gradient(params["critic"])
        q_flow = self.values_at(critic, s, x_t + h * v, t + h).mean(axis=0)
        actor_loss = -jnp.mean(q_flow * valid[:, -1])
        return critic_loss + actor_loss + config.alpha * flow_loss, {
            "critic/loss": critic_loss,
            "critic/q_mean": q.mean(),
            "critic/target_mean": y.mean(),
            "flow/loss": flow_loss,
            "actor/loss": actor_loss,
            "actor/q_mean": q_flow.mean(),
        }

    def averaging_step(self, name: str) -> float:
        """tau of the critic, 1 - policy_ema of the flow."""
        return 1.0 - self.config.policy_ema if name == "base" else self.config.tau


get_config = RQL.get_config
AGENT = RQL
