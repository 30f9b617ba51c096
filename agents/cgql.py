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

import jax
import jax.numpy as jnp

from agents.base import Agent, Loss
from agents.flow import Velocity, euler_sample
from agents.timed_critic import TimedCritic
from utils.options import Option
from utils.replay import Batch


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


class CGQL(TimedCritic, Agent):
    """Critic and base under one Adam; the guided base acts."""

    OPTIONS = Agent.OPTIONS | {
        "mode": Option(
            "linex", "loss of the critic at noisy actions", choices=(*NOISY_LOSSES,)
        ),
        "inv_temp": Option(10.0, "inverse temperature of the guidance; 0: none", at_least=0),
        "guidance_coef": Option(0.1, "weight of the guidance", at_least=0),
        "noisy_coef": Option(0.1, "weight of the loss at noisy actions", at_least=0),
        "isd_clip": Option(5.0, "exponent above which linex is linear", above=0),
    }

    INPUTS = Agent.INPUTS | TimedCritic.INPUTS

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Guided samples [n, B, D] from x0 [n, B, D], not clipped."""
        config, critic = self.config, self.params["critic"]

        def score(x: jax.Array, t: jax.Array) -> jax.Array:
            read_at = 1.0 if config.mode == "simple" else t

            def q(x: jax.Array) -> jax.Array:
                return self.values_at(critic, observations, x, read_at).mean(axis=0).sum()

            return config.inv_temp * jax.grad(q)(x)

        base = self.velocity(self.target_params["base"], observations)
        velocity = guided(base, score, config.guidance_coef) if config.inv_temp else base
        return euler_sample(velocity, x0, config.flow_steps)

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Besides, where they are read: noisy_x0 [B, D] and noisy_t [B, 1]."""
        noisy = {"noisy_x0": (batch_size, self.flat_action_dim), "noisy_t": (batch_size, 1)}
        return super().noise_shapes(batch_size) | (
            noisy if NOISY_LOSSES[self.config.mode] else {}
        )

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """The critic target, and Q'_e(s, a, 1) [E, B]."""
        q = self.values(self.target_params["critic"], batch["observations"])
        return self.acting_target(batch, noise) | {"q": q(self.flat_actions(batch))}

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + flow_loss + noisy_coef noisy_loss, all weighted by `valid`."""
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        loss, metrics = critic_loss + flow_loss, metrics | {"flow/loss": flow_loss}
        noisy_loss = NOISY_LOSSES[self.config.mode]
        if noisy_loss is None:
            return loss, metrics
        t = noise["noisy_t"]
        x_t = (1.0 - t) * noise["noisy_x0"] + t * self.flat_actions(batch)
        q = self.values_at(params["critic"], batch["observations"], x_t, t)
        noisy = jnp.mean(noisy_loss(q, fixed["q"], self.config) * batch["valid"][None, :, -1])
        return loss + self.config.noisy_coef * noisy, metrics | {"critic/noisy_loss": noisy}


get_config = CGQL.get_config
AGENT = CGQL
