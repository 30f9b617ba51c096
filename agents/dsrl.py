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

import jax
import jax.numpy as jnp
import ml_collections

from agents.base import Agent, critic_config, draw, q_values
from agents.flow import VelocityField, euler_sample
from agents.heads import critic_objective, entropy_loss, tanh_gaussian
from utils.replay import Batch


def latent_loss(
    latent_critic: dict, observations: jax.Array, z: jax.Array, q: jax.Array
) -> jax.Array:
    """mean_{E,B} (Qz_e(s, z) - q_e)^2, member by member, at s [B, O] and z [B, D]; q [E, B] is
    constant.
    """
    return jnp.mean((q_values(latent_critic, observations, z) - q) ** 2)


class DSRL(Agent):
    """Critic, latent critic, base, noise actor and temperature under one Adam."""

    NETWORKS = ("critic", "latent_critic", "base", "noise_actor", "temperature")
    TARGETS = ("critic", "base")

    def flow(self, observations: jax.Array, z: jax.Array) -> jax.Array:
        """flow(s, z) [..., B, D] at s [B, O] from z [..., B, D], not clipped."""
        return euler_sample(
            VelocityField(self.target_params["base"], observations), z, self.config.flow_steps
        )

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """flow(s, noise_scale w) [n, B, D], with x0 [n, B, D] the Gaussian noise of w; not
        clipped.
        """
        w, _ = tanh_gaussian(self.params["noise_actor"], observations, x0)
        return self.flow(observations, self.config.noise_scale * w)

    def draw_noise(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """next_action [n, B, D], flow_x0 [B, D], flow_t [B, 1], latent [B, D], the z of Qz, and
        actor [B, D], that of w.
        """
        shape = (batch_size, self.flat_action_dim)
        next_action = (self.samples, *shape)
        return draw(
            key,
            next_action=next_action,
            flow_x0=shape,
            flow_t=(batch_size, 1),
            latent=shape,
            actor=shape,
        )

    def fixed_quantities(
        self, batch: Batch, noise: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """The critic target, and Q_e(s, clip flow(s, z)) [E, B] of the online critic."""
        s = batch["observations"]
        q = q_values(
            self.params["critic"], s, jnp.clip(self.flow(s, noise["latent"]), -1.0, 1.0)
        )
        return self.acting_target(batch, noise) | {"q": q}

    def loss(
        self, params: dict, batch: Batch, noise: dict, fixed: dict
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """critic_loss + flow_loss + latent_loss + the noise actor's; only the first two are
        weighted by `valid`.
        """
        s, log_alpha = batch["observations"], params["temperature"]["log_alpha"]
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        latent = latent_loss(params["latent_critic"], s, noise["latent"], fixed["q"])
        w, log_probs = tanh_gaussian(params["noise_actor"], s, noise["actor"])
        q_loss = critic_objective(params["latent_critic"], s, self.config.noise_scale * w)
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


def get_config() -> ml_collections.ConfigDict:
    """The published defaults; noise_scale of a domain is in configs/domains.py."""
    config = critic_config()
    # how far from the origin the flow may start, in standard deviations of its own noise
    config.noise_scale = 1.0
    return config


AGENT = DSRL
