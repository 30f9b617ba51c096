"""An agent with only a critic, which learns by LQL from given actions as in its golden files."""

import jax

from agents.base import Agent
from agents.qgf import AGGREGATES
from utils.options import Option


class LQLCritic(Agent):
    """There is no actor: the next actions [B, n, D] are part of the noise."""

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
