"""Implicit flow Q-learning: IDQL (arXiv 2304.10573) with a flow for its behaviour policy, as in
FQL (arXiv 2502.02538).

    q = mean_e Q'_e(s, a) - rho std_e Q'_e(s, a)
    descend  mean w (q - V(s))^2,  w = kappa where q >= V(s), else 1 - kappa     expectile_loss
             + mean (Q_e(s, a) - y)^2,  y = R + gamma^H m V(s')
             + flow-matching loss of the base
    act:     of num_samples samples of the base, the best by mean_e Q_e

The value is the kappa-expectile of q over the data's actions: no loss asks for an action
outside the data.

    python main.py --env_name=cube-double --agent=agents/ifql.py --agent.kappa=0.9
"""

from typing import Any

import jax
import jax.numpy as jnp

from agents.base import Agent, Loss, Networks
from agents.options import without
from utils.options import Option
from utils.replay import Batch


def expectile_loss(error: jax.Array, kappa: float, valid: jax.Array | float = 1.0) -> jax.Array:
    """mean w error^2 valid with w = kappa where error >= 0 and 1 - kappa elsewhere; error = q -
    V of any shape, `valid` broadcasts to it.

    Minimised in V by the kappa-expectile of q. Source: IQL (arXiv 2110.06169), eq. 5.
    """
    return jnp.mean(jnp.where(error >= 0.0, kappa, 1.0 - kappa) * error**2 * valid)


class IFQL(Agent):
    """Critic, value and base under one Adam; the base acts."""

    OPTIONS = without(Agent.OPTIONS, "best_of_n") | {
        "kappa": Option(0.9, "expectile of the value", above=0, at_most=1),
        "num_samples": Option(32, "actions drawn for each one taken", above=0),
    }

    TARGETS = ("critic",)

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """Critic, value and base."""
        return super().networks(config) | {"value": cls.value_network(config)}

    @property
    def samples(self) -> int:
        """num_samples."""
        return 1 if self.cloning else self.config.num_samples

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Those of the flow's loss alone: the backup draws no action."""
        return self.flow_noise_shapes(batch_size)

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """The critic target and q, both [B]."""
        s_next = batch["next_observations"][:, -1]
        next_values = self.apply("value", self.params["value"], s_next)
        q = self.pessimistic_q(batch["observations"], self.flat_actions(batch))
        return {"td_target": self.backup(batch, next_values), "q": q}

    def value_weights(self, batch: Batch) -> jax.Array | float:
        """Hook: the weight of each chunk [B] in value_loss; none, as published."""
        return 1.0

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """value_loss + critic_loss + flow_loss."""
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        values = self.apply("value", params["value"], batch["observations"])
        error, weights = fixed["q"] - values, self.value_weights(batch)
        value_loss = expectile_loss(error, self.config.kappa, weights)
        return value_loss + critic_loss + flow_loss, metrics | {
            "flow/loss": flow_loss,
            "value/loss": value_loss,
            "value/mean": values.mean(),
        }


get_config = IFQL.get_config
AGENT = IFQL
