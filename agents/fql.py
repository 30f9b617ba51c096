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

from typing import Any

import jax
import jax.numpy as jnp

from agents.base import Agent, Loss, Networks
from agents.heads import OneStepActor, distillation_loss
from utils.options import Option
from utils.replay import Batch


class FQL(Agent):
    """Critic, base and one-step actor under one Adam; the base has no moving average."""

    OPTIONS = Agent.OPTIONS | {
        "alpha": Option(10.0, "weight of imitation against the critic", at_least=0),
    }

    INPUTS = Agent.INPUTS | {"one_step_actor": "sa"}
    TARGETS = ("critic",)

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """Critic, base and one-step actor."""
        actor = OneStepActor(config.actor_hidden_dims, config.actor_layer_norm)
        return super().networks(config) | {"one_step_actor": actor}

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """mu(s, z) [n, B, D] from noise z = x0 [n, B, D], not clipped."""
        return self.apply("one_step_actor", self.params["one_step_actor"], observations, x0)

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Besides: distill [B, D], the z of the actor's loss."""
        distill = (batch_size, self.flat_action_dim)
        return super().noise_shapes(batch_size) | {"distill": distill}

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """The critic target, and flow(s, z) [B, D], not clipped."""
        s = batch["observations"]
        flow_actions = self.flow_sample(self.params["base"], s, noise["distill"])
        return self.acting_target(batch, noise) | {"flow_actions": flow_actions}

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + actor_loss; the latter is flow_loss + alpha distill_loss - mean Q."""
        s = batch["observations"]
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        actions = self.apply("one_step_actor", params["one_step_actor"], s, noise["distill"])
        distill_loss = distillation_loss(actions, fixed["flow_actions"])
        q_loss = self.critic_objective(params["critic"], s, jnp.clip(actions, -1.0, 1.0))
        actor_loss = flow_loss + self.config.alpha * distill_loss + q_loss
        return critic_loss + actor_loss, metrics | {
            "flow/loss": flow_loss,
            "actor/loss": actor_loss,
            "actor/distill_loss": distill_loss,
        }


get_config = FQL.get_config
AGENT = FQL
