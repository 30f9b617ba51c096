"""Flow BRAC (baseline of FQL, arXiv 2502.02538, and QAM, arXiv 2601.14234): the flow itself
climbs the critic, by backpropagation through all of its steps.

    a = clip flow(s, z), z ~ N(0, I)
    y = R + gamma^H m (mean_e Q'_e(s', a') - rho std_e Q'_e(s', a'))
    descend  critic loss + flow-matching loss - (1 / alpha) mean_B mean_e Q_e(s, a)
    act:     a

Both terms of the actor train the same flow. alpha divides the critic's term, as published;
FQL's alpha multiplies imitation.

    python main.py --env_name=cube-double --agent=agents/fbrac.py --agent.alpha=0.1
"""

import jax.numpy as jnp

from agents.base import Agent, Loss
from utils.options import Option
from utils.replay import Batch


class FBRAC(Agent):
    """Critic and flow under one Adam; the flow, "base", acts and has no moving average."""

    OPTIONS = Agent.OPTIONS | {
        "alpha": Option(100.0, "divides the critic's term: imitation against it", above=0),
    }

    TARGETS = ("critic",)

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Besides: z [B, D] of the action that climbs the critic."""
        z = (batch_size, self.flat_action_dim)
        return super().noise_shapes(batch_size) | {"z": z}

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + actor_loss; the latter is flow_loss - (1 / alpha) mean Q."""
        s = batch["observations"]
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        actions = jnp.clip(self.flow_sample(params["base"], s, noise["z"]), -1.0, 1.0)
        q_loss = self.critic_objective(params["critic"], s, actions)
        actor_loss = flow_loss + q_loss / self.config.alpha
        own = {"flow/loss": flow_loss, "actor/loss": actor_loss, "head/q_loss": q_loss}
        return critic_loss + actor_loss, metrics | own


get_config = FBRAC.get_config
AGENT = FBRAC
