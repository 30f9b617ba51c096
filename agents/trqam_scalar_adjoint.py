"""A fork of TRQAM that never differentiates the flow: each adjoint is the last one, scaled.

    adj_k = t_k adj_K                            in place of the lean adjoint's recursion

This is what the recursion gives where the base velocity does not depend on x, and cheaper.
Source: SQAM (arXiv 2610.10437), on TRQAM's own states.

    python main.py --env_name=cube-double --agent=agents/trqam_scalar_adjoint.py
"""

import jax

from agents import trqam
from agents.flow import Velocity


class ScalarAdjointTRQAM(trqam.TRQAM):
    """TRQAM with scalar adjoints."""

    def adjoints(self, base: Velocity, xs: jax.Array, terminal: jax.Array) -> jax.Array:
        """adj_k [K, B, D] from adj_K [B, D], wherever the states are."""
        return self.times()[:, None, None] * terminal[None]


get_config = ScalarAdjointTRQAM.get_config
AGENT = ScalarAdjointTRQAM
