"""A critic that reads a time, for CGQL and RQL: Q_e(s, x, t), with t = 1 for clean actions.
Shapes as in `trqam.py`.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

from agents.losses import Losses, Values


class TimedCritic(Losses):
    """Mixin for agents with such a critic, listed before their other parents."""

    INPUTS: ClassVar[dict[str, str]] = {"critic": "sat"}

    def values(self, params: dict, observations: jax.Array) -> Values:
        """Actions are clean: t = 1."""
        return lambda actions: self.values_at(params, observations, actions, 1.0)

    def values_at(
        self, params: dict, observations: jax.Array, x: jax.Array, t: jax.Array | float
    ) -> jax.Array:
        """Q_e(s, x, t) [E, ..., B] at s [B, O], x [..., B, D] and t, a number or [..., 1]."""
        return self.apply("critic", params, observations, x, jnp.atleast_1d(t))
