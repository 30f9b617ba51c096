"""ReBRAC (arXiv 2305.09836) as QAM's authors ran it (arXiv 2601.14234): a deterministic actor
between the critic and the data.

    a' = clip(mu'(s') + clip(actor_noise n, +-actor_noise_clip)), n ~ N(0, I)
    y = R + gamma^H m (mean_e Q'_e(s', a') - rho std_e Q'_e(s', a'))
    q = mean_e Q_e(s, mu(s)) - rho std_e Q_e(s, mu(s))
    descend  critic loss - mean_B q / mean_B |q| + alpha_actor mean_B || mu(s) - a ||^2
    act:     clip(mu(s) + clip(actor_noise n, +-actor_noise_clip)), in evaluation too

mu' is the moving average of the actor; mean |q| is constant. As published, the critic's target
has no penalty, and actor_freq delays the moving averages alone: they move in every
actor_freq-th update, the actor in every one.

    python main.py --env_name=cube-double --agent=agents/rebrac.py --agent.alpha_actor=0.01
"""

from typing import Any

import jax
import jax.numpy as jnp

from agents.base import Agent, Loss, Networks
from agents.heads import DeterministicActor
from agents.options import without
from utils.options import Option
from utils.replay import Batch


class ReBRAC(Agent):
    """Critic and deterministic actor under one Adam; both have moving averages."""

    OPTIONS = without(Agent.OPTIONS, "flow_steps", "best_of_n") | {
        "alpha_actor": Option(0.01, "weight of imitation", at_least=0),
        "actor_freq": Option(2, "updates for each step of the moving averages", above=0),
        "actor_noise": Option(0.0, "standard deviation of the noise", at_least=0),
        "actor_noise_clip": Option(0.5, "bound of the noise", at_least=0),
    }

    TARGETS = ("critic", "actor")

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """Critic and actor."""
        actor = DeterministicActor(config.actor_hidden_dims, config.actor_layer_norm)
        return {"critic": cls.critic_network(config), "actor": actor}

    def noisy(self, actor: dict, s: jax.Array, n: jax.Array) -> jax.Array:
        """mu(s) and clipped noise [..., B, D] at s [B, O] and n [..., B, D], not clipped."""
        limit = self.config.actor_noise_clip
        noise = jnp.clip(self.config.actor_noise * n, -limit, limit)
        return self.apply("actor", actor, s, noise)

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Noisy actions [1, B, D] of the online actor, not clipped."""
        return self.noisy(self.params["actor"], observations, x0)

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """next_action [1, B, D] of the backup."""
        return {"next_action": (1, batch_size, self.flat_action_dim)}

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """The next actions of the target actor, and their critic target."""
        s_next, n = batch["next_observations"][:, -1], noise["next_action"][0]
        actions = jnp.clip(self.noisy(self.target_params["actor"], s_next, n), -1.0, 1.0)
        return {"next_actions": actions, "td_target": self.td_target(batch, actions)}

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + actor_loss + bc_loss; the last is alpha_actor times imitation."""
        s, data = batch["observations"], self.flat_actions(batch)
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        actions = self.apply("actor", params["actor"], s, jnp.zeros_like(data))
        q = self.pessimistic_value(params["critic"], s, actions)
        actor_loss = -q.mean() / jax.lax.stop_gradient(jnp.abs(q).mean())
        errors = jnp.sum((actions - data) ** 2, axis=-1)
        bc_loss = self.config.alpha_actor * jnp.mean(errors * batch["valid"][:, -1])
        own = {"actor/loss": actor_loss, "actor/bc_loss": bc_loss}
        return critic_loss + actor_loss + bc_loss, metrics | own

    def averaging_step(self, name: str) -> jax.Array:
        """tau in every actor_freq-th update, counted from 1, and else 0."""
        moves = (self.step + 1) % self.config.actor_freq == 0
        return jnp.where(moves, self.config.tau, 0.0)


get_config = ReBRAC.get_config
AGENT = ReBRAC
