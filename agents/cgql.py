"""Classifier-guided Q-learning (baseline of QAM, arXiv 2601.14234): the critic's gradient
steers the flow as it samples.

The critic also reads a time: Q_e(s, x, t), with t = 1 for clean actions. With x_t = (1 - t) e +
t a, e ~ N(0, I),

    guided velocity at t_k, k >= 1:
        v(s, x, t) + guidance_coef (x + (1 - t) inv_temp grad_x mean_e Q_e(s, x, t)) / t
    y = R + gamma^H m (mean_e Q'_e(s', a', 1) - rho std_e Q'_e(s', a', 1)),  a' a guided sample
    descend  critic loss at t = 1 + flow-matching loss of the base + noisy_coef times, by mode,
             simple   nothing: the gradient in the guidance is that at t = 1
             mse      mean (Q_e(s, x_t, t) - Q'_e(s, a, 1))^2  (CGQL-M)
             linex    mean exp(d) + inv_temp Q_e(s, x_t, t)  (CGQL-L),
                      d = inv_temp (Q'_e(s, a, 1) - Q_e(s, x_t, t))

v is the moving average of the base. With inv_temp = 0 there is no guidance, its x / t part
included: v alone acts.

A flow whose score is inv_temp grad Q has the velocity (x + (1 - t) score) / t: hence the
guidance. Linex is least where
exp(inv_temp Q(s, x, t)) = E[exp(inv_temp Q'(s, a, 1)) | x_t = x], whose gradient is the exact
guidance to the base tilted by exp(inv_temp Q').

    python main.py --env_name=cube-double --agent=agents/cgql.py --agent.mode=linex
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from agents.base import Agent, action_values, check_choice, critic_config, draw, q_values
from agents.flow import Velocity, VelocityField, euler_sample
from utils.replay import Batch


def at_time(x: jax.Array, t: jax.Array | float) -> jax.Array:
    """concat(x, t) [..., D + 1]: points x [..., D] as the critic reads them; t broadcasts to
    [..., 1].
    """
    return jnp.concatenate([x, jnp.broadcast_to(t, (*x.shape[:-1], 1))], axis=-1)


def guided(
    velocity: Velocity, score: Callable[[jax.Array, jax.Array], jax.Array], guidance_coef: float
) -> Velocity:
    """The velocity plus guidance_coef (x + (1 - t) score(x, t)) / t; at t = 0 the velocity
    alone.
    """

    def guided_velocity(x: jax.Array, t: jax.Array) -> jax.Array:
        weight = jnp.where(t > 0.0, guidance_coef / jnp.where(t > 0.0, t, 1.0), 0.0)
        return velocity(x, t) + weight * (x + (1.0 - t) * score(x, t))

    return guided_velocity


def linex_loss(q: jax.Array, target: jax.Array, inv_temp: float, isd_clip: float) -> jax.Array:
    """exp(d) + inv_temp q with d = inv_temp (target - q), and d itself above isd_clip;
    elementwise.

    Its slope in q is inv_temp (1 - exp(d)), and -inv_temp above the clip, where exp would
    overflow.
    """
    d = inv_temp * (target - q)
    return jnp.where(d > isd_clip, d, jnp.exp(jnp.minimum(d, isd_clip)) + inv_temp * q)


NOISY_LOSSES = {
    "simple": None,
    "mse": lambda q, target, config: (q - target) ** 2,
    "linex": lambda q, target, config: linex_loss(q, target, config.inv_temp, config.isd_clip),
}


class CGQL(Agent):
    """Critic and base under one Adam; the guided base acts."""

    NETWORKS = ("critic", "base")

    @classmethod
    def init_state(cls, config: Any) -> dict[str, Any]:
        """No further state; raises UserError for a mode that there is not."""
        check_choice(config, "mode", NOISY_LOSSES)
        return {}

    @classmethod
    def init_network(
        cls, name: str, key: jax.Array, observation_dim: int, flat_action_dim: int, config: Any
    ) -> dict:
        """The base class's networks, with the time as one more input of the critic."""
        flat_action_dim += name == "critic"
        return super().init_network(name, key, observation_dim, flat_action_dim, config)

    def critic_input(self, actions: jax.Array) -> jax.Array:
        """Actions are clean: t = 1."""
        return at_time(actions, 1.0)

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Guided samples [n, B, D] from x0 [n, B, D], not clipped."""
        config, q = self.config, action_values(self.params["critic"], observations)

        def score(x: jax.Array, t: jax.Array) -> jax.Array:
            read_at = 1.0 if config.mode == "simple" else t
            return config.inv_temp * jax.grad(
                lambda x: q(at_time(x, read_at)).mean(axis=0).sum()
            )(x)

        base = VelocityField(self.target_params["base"], observations)
        velocity = guided(base, score, config.guidance_coef) if config.inv_temp else base
        return euler_sample(velocity, x0, config.flow_steps)

    def draw_noise(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """next_action [n, B, D], flow_x0 [B, D], flow_t [B, 1]; noisy_x0, noisy_t if read."""
        shape, time = (batch_size, self.flat_action_dim), (batch_size, 1)
        noisy = {"noisy_x0": shape, "noisy_t": time} if NOISY_LOSSES[self.config.mode] else {}
        next_action = (self.samples, *shape)
        return draw(key, next_action=next_action, flow_x0=shape, flow_t=time, **noisy)

    def fixed_quantities(
        self, batch: Batch, noise: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """The critic target, and Q'_e(s, a, 1) [E, B]."""
        actions = self.critic_input(self.flat_actions(batch))
        return self.acting_target(batch, noise) | {
            "q": q_values(self.target_params["critic"], batch["observations"], actions)
        }

    def loss(
        self, params: dict, batch: Batch, noise: dict, fixed: dict
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """critic_loss + flow_loss + noisy_coef noisy_loss, all weighted by `valid`."""
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        loss, metrics = critic_loss + flow_loss, metrics | {"flow/loss": flow_loss}
        noisy_loss = NOISY_LOSSES[self.config.mode]
        if noisy_loss is None:
            return loss, metrics
        t = noise["noisy_t"]
        x_t = (1.0 - t) * noise["noisy_x0"] + t * self.flat_actions(batch)
        q = q_values(params["critic"], batch["observations"], at_time(x_t, t))
        noisy = jnp.mean(noisy_loss(q, fixed["q"], self.config) * batch["valid"][None, :, -1])
        return loss + self.config.noisy_coef * noisy, metrics | {"critic/noisy_loss": noisy}


def get_config() -> ml_collections.ConfigDict:
    """CGQL-L with the published inv_temp; configs/ has the coefficients by domain and mode."""
    config = critic_config()
    config.update(
        dict(
            mode="linex",  # or mse, or simple
            inv_temp=10.0,
            guidance_coef=0.1,
            noisy_coef=0.1,
            isd_clip=5.0,  # where the exponential of linex goes over into a line
        )
    )
    return config


AGENT = CGQL
