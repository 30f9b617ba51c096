"""A critic alone that learns by LQL from actions that are given, as its golden files do."""

import jax

from agents.base import Agent
from agents.qgf import AGGREGATES
from utils.options import Option


class LQLCritic(Agent):
    """No actor: the noise has the next actions [B, n, D]."""

    OPTIONS = Agent.OPTIONS | {
        "q_agg": Option("mean", "of the targets", choices=(*AGGREGATES,))
    }
    TARGETS = ("critic",)

    @classmethod
    def networks(cls, config):
        return {"critic": cls.critic_network(config)}

    def pessimistic(self, q):
        return AGGREGATES[self.config.q_agg](q, axis=0)

    def fixed_quantities(self, batch, noise):
        actions: jax.Array = noise["next_actions"]
        actions = actions.reshape(-1, actions.shape[-1])
        return {"td_target": self.td_target(batch, actions)}

    def loss(self, params, batch, noise, fixed):
        return self.critic_loss(params["critic"], batch, fixed["td_target"])


get_config = LQLCritic.get_config
AGENT = LQLCritic
