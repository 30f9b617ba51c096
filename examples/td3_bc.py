"""TD3+BC (arXiv 2106.06860): an agent written from scratch, with a network of its own.

    a' = clip(mu'(s') + clip(noise n, +-noise_clip)), n ~ N(0, I)
    y = R + gamma^H m min_e Q'_e(s', a')
    descend  critic loss + mean (mu(s) - a)^2 - alpha mean_B Q(s, mu(s)) / mean_B |Q(s, mu(s))|
    act:     mu(s)

Q is the mean of the ensemble. The actor learns in every update, where TD3's learns in every
second one.

    python main.py --env_name=cube-double --agent=examples/td3_bc.py --agent.alpha=2.5
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from agents.base import Agent, Loss, Networks
from agents.options import LQL_OPTIONS, without
from utils.options import Option
from utils.replay import Batch


class Actor(nn.Module):
    """mu(s) + noise [..., D] at s [..., O] and noise [..., D], whose width is D."""

    hidden_dims: Sequence[int]

    @nn.compact
    def __call__(self, s: jax.Array, noise: jax.Array) -> jax.Array:
        for width in self.hidden_dims:
            s = nn.relu(nn.Dense(width)(s))
        return nn.tanh(nn.Dense(noise.shape[-1])(s)) + noise


UNUSED = ("flow_steps", "best_of_n", "actor_layer_norm", "rho", *LQL_OPTIONS)


class TD3BC(Agent):
    """Critic and deterministic actor under one Adam; both have moving averages."""

    OPTIONS = without(Agent.OPTIONS, *UNUSED) | {
        "num_qs": Agent.OPTIONS["num_qs"]._replace(default=2),
        "alpha": Option(2.5, "weight of the critic against imitation", at_least=0),
        "noise": Option(0.2, "standard deviation of target noise", at_least=0),
        "noise_clip": Option(0.5, "bound of the noise", at_least=0),
    }
    TARGETS = ("critic", "actor")

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """Critic and actor."""
        actor = Actor(config.actor_hidden_dims)
        return {"critic": cls.critic_network(config), "actor": actor}

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """mu(s) [1, B, D]; x0 [1, B, D] is not used."""
        zeros = jnp.zeros_like(x0[0])
        return self.apply("actor", self.params["actor"], observations, zeros)[None]

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """smoothing [B, D], the noise of the next actions."""
        return {"smoothing": (batch_size, self.flat_action_dim)}

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """The next actions of the target actor, and the critic target at them."""
        s_next, limit = batch["next_observations"][:, -1], self.config.noise_clip
        smoothing = jnp.clip(self.config.noise * noise["smoothing"], -limit, limit)
        actions = self.apply("actor", self.target_params["actor"], s_next, smoothing)
        actions = jnp.clip(actions, -1.0, 1.0)
        return {"next_actions": actions, "td_target": self.td_target(batch, actions)}

    def td_target(self, batch: Batch, next_actions: jax.Array) -> jax.Array:
        """y = R + gamma^H m min_e Q'_e(s', a') [B]."""
        values = self.values(self.target_params["critic"], batch["next_observations"][:, -1])
        return self.backup(batch, values(next_actions).min(axis=0))

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + imitation + value."""
        s, data = batch["observations"], self.flat_actions(batch)
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        actions = self.apply("actor", params["actor"], s, jnp.zeros_like(data))
        errors = jnp.mean((actions - data) ** 2, axis=-1)
        imitation = jnp.mean(errors * batch["valid"][:, -1])
        critic = jax.lax.stop_gradient(params["critic"])
        q = self.values(critic, s)(actions).mean(axis=0)
        scale = self.config.alpha / jax.lax.stop_gradient(jnp.abs(q).mean())
        own = {"actor/imitation": imitation, "actor/q_mean": q.mean()}
        return critic_loss + imitation - scale * q.mean(), metrics | own


get_config = TD3BC.get_config
AGENT = TD3BC
