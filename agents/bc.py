"""Behaviour cloning by flow matching: the base that every other agent starts from, and the
first row of the table.

    a ~ data, x0 ~ N(0, I), t ~ U[0, 1)
    descend  || v(s, (1-t) x0 + t a, t) - (a - x0) ||^2
    act:     integrate dx = v(s, x, t) dt from x0 ~ N(0, I), clip

Run it alone:  python main.py --env_name=cube-double --bc_only --offline_steps=300_000
"""

import jax
import ml_collections

from agents.base import Agent, common_config
from utils.replay import Batch


class BC(Agent):
    """One velocity field, the base; no critic and no target go through the optimiser."""

    NETWORKS = ("base",)
    TARGETS = ()
    ACTOR = "base"
    STARTS_FROM_BASE = False

    def fixed_quantities(
        self, batch: Batch, noise: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Nothing: the loss reads batch and noise alone."""
        return {}

    def loss(
        self, params: dict, batch: Batch, noise: dict, fixed: dict
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The flow-matching loss of the base."""
        loss = self.flow_loss(params["base"], batch, noise)
        return loss, {"flow/loss": loss}


def get_config() -> ml_collections.ConfigDict:
    """The published defaults."""
    return common_config()


AGENT = BC
