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

import jax
import jax.numpy as jnp
import ml_collections

from agents.base import Agent, critic_config
from utils.networks import apply_mlp
from utils.replay import Batch


def expectile_loss(error: jax.Array, kappa: float) -> jax.Array:
    """mean w error^2 with w = kappa where error >= 0 and 1 - kappa elsewhere; error = q - V of
    any shape.

    Minimised in V by the kappa-expectile of q. Source: IQL (arXiv 2110.06169), eq. 5.
    """
    return jnp.mean(jnp.where(error >= 0.0, kappa, 1.0 - kappa) * error**2)


class IFQL(Agent):
    """Critic, value and base under one Adam; the base acts."""

    NETWORKS = ("critic", "value", "base")
    TARGETS = ("critic",)
    ACTOR = "base"

    @property
    def samples(self) -> int:
        """num_samples."""
        return self.config.num_samples

    def fixed_quantities(
        self, batch: Batch, noise: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """The critic target and q, both [B]."""
        next_values = apply_mlp(self.params["value"], batch["next_observations"][:, -1])[:, 0]
        q = self.pessimistic_q(batch["observations"], self.flat_actions(batch))
        return {"td_target": self.backup(batch, next_values), "q": q}

    def loss(
        self, params: dict, batch: Batch, noise: dict, fixed: dict
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """value_loss + critic_loss + flow_loss; the first is not weighted by `valid`, as
        published.
        """
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        values = apply_mlp(params["value"], batch["observations"])[:, 0]
        value_loss = expectile_loss(fixed["q"] - values, self.config.kappa)
        return value_loss + critic_loss + flow_loss, metrics | {
            "flow/loss": flow_loss,
            "value/loss": value_loss,
            "value/mean": values.mean(),
        }


def get_config() -> ml_collections.ConfigDict:
    """The published defaults; kappa of a domain is in configs/domains.py."""
    config = critic_config()
    del config.best_of_n
    config.update(dict(kappa=0.9, num_samples=32))
    return config


AGENT = IFQL
