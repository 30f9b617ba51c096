"""Flow Q-learning (arXiv 2502.02538): a one-step actor that imitates the flow and climbs the
critic.

    a' = clip mu(s', z'), z' ~ N(0, I)
    y = R + gamma^H m (mean_e Q'_e(s', a') - rho std_e Q'_e(s', a'))
    descend  critic loss + flow-matching loss of the base
             + alpha mean (mu(s, z) - clip flow(s, z))^2 - mean_B mean_e Q_e(s, clip mu(s, z))
    act:     clip mu(s, z)

flow(s, z) integrates the base from z; it and the critic in the actor's loss are constants.

    python main.py --env_name=cube-double --agent=agents/fql.py --agent.alpha=300
"""

import jax
import jax.numpy as jnp
import ml_collections

from agents.base import Agent, critic_config, draw
from agents.flow import VelocityField, euler_sample
from agents.heads import critic_objective, distillation_loss, one_step_actions
from utils.replay import Batch


class FQL(Agent):
    """Critic, base and one-step actor under one Adam; the base has no moving average."""

    NETWORKS = ("critic", "base", "one_step_actor")
    TARGETS = ("critic",)

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """mu(s, z) [n, B, D] from noise z = x0 [n, B, D], not clipped."""
        return one_step_actions(self.params["one_step_actor"], observations, x0)

    def draw_noise(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """next_action [n, B, D], flow_x0 [B, D], flow_t [B, 1] and distill [B, D], the z of the
        actor's loss.
        """
        shape = (batch_size, self.flat_action_dim)
        return draw(
            key,
            next_action=(self.samples, *shape),
            flow_x0=shape,
            flow_t=(batch_size, 1),
            distill=shape,
        )

    def fixed_quantities(
        self, batch: Batch, noise: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """The critic target, and flow(s, z) [B, D], not clipped."""
        base = VelocityField(self.params["base"], batch["observations"])
        flow_actions = euler_sample(base, noise["distill"], self.config.flow_steps)
        return self.acting_target(batch, noise) | {"flow_actions": flow_actions}

    def loss(
        self, params: dict, batch: Batch, noise: dict, fixed: dict
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """critic_loss + actor_loss; the latter is flow_loss + alpha distill_loss - mean Q."""
        s = batch["observations"]
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        actions = one_step_actions(params["one_step_actor"], s, noise["distill"])
        distill_loss = distillation_loss(actions, fixed["flow_actions"])
        q_loss = critic_objective(params["critic"], s, jnp.clip(actions, -1.0, 1.0))
        actor_loss = flow_loss + self.config.alpha * distill_loss + q_loss
        return critic_loss + actor_loss, metrics | {
            "flow/loss": flow_loss,
            "actor/loss": actor_loss,
            "actor/distill_loss": distill_loss,
        }


def get_config() -> ml_collections.ConfigDict:
    """The published defaults; alpha of a domain is in configs/domains.py."""
    config = critic_config()
    config.alpha = 10.0  # weight of imitation against the critic
    return config


AGENT = FQL
