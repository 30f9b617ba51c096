"""RLPD (arXiv 2302.02948) as QAM's authors ran it (arXiv 2601.14234): soft actor-critic on
batches that are half data, half replay. It has no offline phase.

    a ~ tanh-Gaussian actor(s), with log p(a|s)
    y = R + gamma^H m (mean_e Q'_e(s', a') - rho std_e Q'_e(s', a'))      no entropy in it
    descend  critic loss + mean_B (alpha log p(a|s) - mean_e Q_e(s, a) + rho std_e Q_e(s, a))
             + alpha (H - H_target) - bc_alpha mean_B log p(data's action|s)
    act:     a sample, in evaluation too

In each alpha term the other factor is constant; H_target = -D / 2. Actions are uniformly random
until start_training; then one update follows each environment step.

    python main.py --env_name=cube-double --agent=agents/rlpd.py
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from agents.base import Agent, Loss, Networks
from agents.heads import TanhGaussian, Temperature, entropy_loss
from agents.options import without
from utils.options import Option
from utils.replay import Batch

INSIDE = 1.0 - 1e-5  # where a density of tanh is finite


class RLPD(Agent):
    """Critic, actor and temperature under one Adam."""

    OPTIONS = without(Agent.OPTIONS, "flow_steps", "best_of_n", "actor_layer_norm") | {
        "bc_alpha": Option(0.0, "weight of imitation", at_least=0),
    }

    TARGETS = ("critic",)
    FLAGS: ClassVar[dict[str, Any]] = {"balanced_sampling": True}

    @classmethod
    def phases(cls, config: Any) -> tuple[str, ...]:
        """Online alone."""
        return ("online",)

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """Critic, actor and temperature."""
        actor = TanhGaussian(config.actor_hidden_dims)
        critic = cls.critic_network(config)
        return {"critic": critic, "actor": actor, "temperature": Temperature()}

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Actions [1, B, D] from the Gaussian noise x0 [1, B, D]."""
        return self.apply("actor", self.params["actor"], observations, x0)[0]

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """next_action [1, B, D] of the backup and actor [B, D] of the actor's loss."""
        shape = (batch_size, self.flat_action_dim)
        return {"next_action": (1, *shape), "actor": shape}

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + actor_loss + alpha_loss + bc_loss; the first and the last are weighted
        by `valid`.
        """
        s, actor = batch["observations"], params["actor"]
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        actions, log_probs = self.apply("actor", actor, s, noise["actor"])
        q_loss = -self.pessimistic_value(params["critic"], s, actions).mean()
        log_alpha = params["temperature"]["log_alpha"]
        entropy, own = entropy_loss(log_alpha, log_probs, -0.5 * self.flat_action_dim)
        data = jnp.clip(self.flat_actions(batch), -INSIDE, INSIDE)
        of_data = self.apply("actor", actor, s, data, method="log_prob")
        bc_loss = -self.config.bc_alpha * jnp.mean(of_data * batch["valid"][:, -1])
        actor_loss = own["entropy/loss"] + q_loss
        own |= {"actor/loss": actor_loss, "actor/bc_loss": bc_loss}
        return critic_loss + q_loss + entropy + bc_loss, metrics | own


get_config = RLPD.get_config
AGENT = RLPD
