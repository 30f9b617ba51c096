"""Flow AWAC (baseline of FQL, arXiv 2502.02538, and QAM, arXiv 2601.14234): a behaviour clone
of the data's better actions.

    w = min(exp(inv_temp (mean_e Q_e(s, a) - V(s))), 100), constant
    y = R + gamma^H m (mean_e Q'_e(s', a') - rho std_e Q'_e(s', a'))
    descend  critic loss + mean_{E,B} (Q'_e(s, a) - V(s))^2 + flow-matching loss, weighted by w
    act:     clip flow(s, z)

Every member of the target ensemble regresses V by itself, without pessimism.

    python main.py --env_name=cube-double --agent=agents/fawac.py --agent.inv_temp=0.8
"""

from typing import Any

import jax
import jax.numpy as jnp

from agents.base import Agent, Loss, Networks
from agents.options import without
from utils.options import Option
from utils.replay import Batch

LARGEST_WEIGHT = 100.0


class FAWAC(Agent):
    """Critic, value and flow under one Adam; the flow, "base", acts."""

    TARGETS = ("critic",)
    OPTIONS = without(Agent.OPTIONS, "best_of_n") | {
        "inv_temp": Option(10.0, "inverse temperature of the advantage", at_least=0),
    }

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """Critic, value and flow."""
        return super().networks(config) | {"value": cls.value_network(config)}

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """The critic target, Q'_e(s, a) [E, B], and w [B]."""
        s, actions = batch["observations"], self.flat_actions(batch)
        values = self.apply("value", self.params["value"], s)
        advantage = self.expected_return(s, actions) - values
        return self.acting_target(batch, noise) | {
            "q": self.values(self.target_params["critic"], s)(actions),
            "weights": jnp.minimum(jnp.exp(self.config.inv_temp * advantage), LARGEST_WEIGHT),
        }

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + value_loss + actor_loss, all weighted by `valid`."""
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        values = self.apply("value", params["value"], batch["observations"])
        valid = batch["valid"]
        value_loss = jnp.mean((fixed["q"] - values[None]) ** 2 * valid[None, :, -1])
        weighted = batch | {"valid": valid * fixed["weights"][:, None]}
        actor_loss = self.flow_loss(params["base"], weighted, noise)
        return critic_loss + value_loss + actor_loss, metrics | {
            "value/loss": value_loss,
            "value/mean": values.mean(),
            "actor/loss": actor_loss,
            "actor/weight": fixed["weights"].mean(),
        }


get_config = FAWAC.get_config
AGENT = FAWAC
