"""Behaviour cloning by flow matching: the base that most agents start from, and a baseline.

    a ~ data, x0 ~ N(0, I), t ~ U[0, 1)
    descend  || v(s, (1-t) x0 + t a, t) - (a - x0) ||^2
    act:     integrate dx = v(s, x, t) dt from x0 ~ N(0, I), clip

Run it alone:  python main.py --env_name=cube-double --bc_only --offline_steps=300_000
"""

from typing import Any

from agents.base import Agent, Loss, Networks
from agents.options import COMMON
from utils.networks import VelocityField
from utils.replay import Batch


class BC(Agent):
    """An agent that does nothing but clone."""

    OPTIONS = COMMON
    CLONES_ALONE = True

    @classmethod
    def phases(cls, config: Any) -> tuple[str, ...]:
        """No cloning before its own."""
        return ("offline", "online")

    @classmethod
    def create(cls, key, observation_dim, action_dim, config, total_updates=0, cloning=True):
        """A fresh agent, which is always cloning."""
        sizes = observation_dim, action_dim
        return super().create(key, *sizes, config, total_updates, cloning=True)

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """The base alone."""
        return {"base": VelocityField(config.actor_hidden_dims, config.actor_layer_norm)}

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """That of cloning."""
        return self.cloning_loss(params, batch, noise, fixed)


get_config = BC.get_config
AGENT = BC
