"""Diffusion steering (DSRL, arXiv 2506.15799) on a flow: reinforcement learning chooses the
noise that the flow starts from.

    flow(s, z)       integrates the moving average of the base from the latent action z
    w ~ actor(s)     tanh-Gaussian in (-1, 1)^D
    a' = clip flow(s', noise_scale w')
    y = R + gamma^H m (mean_e Q'_e(s', a') - rho std_e Q'_e(s', a'))
    descend  critic loss + flow-matching loss of the base
             + mean (Qz_e(s, z) - Q_e(s, clip flow(s, z)))^2,  z ~ N(0, I)        latent_loss
             - mean_B mean_e Qz_e(s, noise_scale w) + alpha mean log p(w) + alpha (H - H_target)
    act:     clip flow(s, noise_scale w)

Every member of the latent critic Qz is distilled from one of Q, so nothing is differentiated
through the flow. In the last line of the loss Qz, alpha, and then the entropy H of w are
constants; H_target = -D / 2.

    python main.py --env_name=cube-double --agent=agents/dsrl.py --agent.noise_scale=1
"""

from typing import Any

import jax
import jax.numpy as jnp

from agents.base import Agent, Loss, Networks
from agents.heads import TanhGaussian, Temperature, entropy_loss
from utils.options import Option
from utils.replay import Batch


def latent_loss(latent_q: jax.Array, q: jax.Array) -> jax.Array:
    """mean_{E,B} (Qz_e(s, z) - q_e)^2, member by member; both [E, B], q is constant."""
    return jnp.mean((latent_q - q) ** 2)


class DSRL(Agent):
    """Critic, latent critic, base, noise actor and temperature under one Adam."""

    OPTIONS = Agent.OPTIONS | {
        "noise_scale": Option(1.0, "bound of the flow's initial noise", above=0),
    }

    INPUTS = Agent.INPUTS | {"latent_critic": "sa", "noise_actor": "sa"}

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """Critic, latent critic, base, noise actor and temperature."""
        shared = super().networks(config)
        return shared | {
            "latent_critic": shared["critic"],
            "noise_actor": TanhGaussian(config.actor_hidden_dims),
            "temperature": Temperature(),
        }

    def flow(self, observations: jax.Array, z: jax.Array) -> jax.Array:
        """flow(s, z) [..., B, D] at s [B, O] from z [..., B, D], not clipped."""
        return self.flow_sample(self.target_params["base"], observations, z)

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """flow(s, noise_scale w) [n, B, D], with x0 [n, B, D] the Gaussian noise of w; not
        clipped.
        """
        w, _ = self.apply("noise_actor", self.params["noise_actor"], observations, x0)
        return self.flow(observations, self.config.noise_scale * w)

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Besides: latent [B, D], the z of Qz, and actor [B, D], that of w."""
        shape = (batch_size, self.flat_action_dim)
        return super().noise_shapes(batch_size) | {"latent": shape, "actor": shape}

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """The critic target, and Q_e(s, clip flow(s, z)) [E, B] of the online critic."""
        s = batch["observations"]
        actions = jnp.clip(self.flow(s, noise["latent"]), -1.0, 1.0)
        q = self.values(self.params["critic"], s)(actions)
        return self.acting_target(batch, noise) | {"q": q}

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + flow_loss + latent_loss + the noise actor's; only the first two are
        weighted by `valid`.
        """
        s, log_alpha = batch["observations"], params["temperature"]["log_alpha"]
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        latent = latent_loss(
            self.values(params["latent_critic"], s)(noise["latent"]), fixed["q"]
        )
        w, log_probs = self.apply("noise_actor", params["noise_actor"], s, noise["actor"])
        q_loss = self.critic_objective(params["latent_critic"], s, self.config.noise_scale * w)
        entropy, entropy_metrics = entropy_loss(log_alpha, log_probs, -self.flat_action_dim / 2)
        return (
            critic_loss + flow_loss + latent + q_loss + entropy,
            metrics
            | entropy_metrics
            | {
                "flow/loss": flow_loss,
                "latent/loss": latent,
                "latent/q_mean": -q_loss,
                "actor/loss": entropy_metrics["entropy/loss"] + q_loss,
            },
        )


get_config = DSRL.get_config
AGENT = DSRL
