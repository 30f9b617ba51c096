"""Q-Adjoint Matching (arXiv 2601.14234): TRQAM with a fixed inverse temperature instead of a trust region.

    adj_K = -inv_temp grad_a mean_e Q'_e(s, clip x_K)                         sigma_k = g_k, that is lambda = 1
    descend  critic loss + flow-matching loss + mean_B sum_k || 2 D_k / g_k + g_k adj_k ||^2;  no dual step

The policy so trained samples from  p(a|s) ~ base(a|s) exp(inv_temp mean_e Q(s, a)). TRQAM's adjoint-matching loss at
lambda is lambda times this one at inv_temp = 1 / lambda. The path KL is logged all the same.

    python main.py --env_name=cube-triple --agent=agents/qam.py --agent.inv_temp=3
"""

from typing import Any, Self

import jax
import ml_collections

from agents.base import critic_config
from agents.trqam import TRQAM


class QAM(TRQAM):
    """TRQAM's update at lambda = 1 with the terminal adjoint scaled by `inv_temp`."""

    @classmethod
    def init_state(cls, config: Any) -> dict[str, Any]:
        """No dual state."""
        return {"dual": None}

    def trust_region(self) -> float:
        """lambda = 1: the inverse temperature sits in the terminal adjoint."""
        return 1.0

    def terminal_scale(self) -> float:
        """inv_temp."""
        return self.config.inv_temp

    def after_step(self, metrics: dict[str, jax.Array]) -> tuple[Self, dict[str, jax.Array]]:
        """No dual step."""
        return self, metrics


def get_config() -> ml_collections.ConfigDict:
    """The published defaults; the inverse temperature of a domain is in configs/domains.py."""
    config = critic_config()
    config.update(dict(clip_grad=True, clip_adj=True, inv_temp=1.0))
    return config


AGENT = QAM
