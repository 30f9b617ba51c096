"""The ablation "external KL": the KL budget is kept by a penalty beside adjoint matching, not
by lambda inside it.

    descend  critic loss + flow-matching loss + mean_B sum_k || 2 D_k / g_k + g_k adj_k ||^2 +
    lambda KL

lambda inside the matching is 1 (sigma_k = g_k, the terminal adjoint unscaled); outside it,
lambda = lam_scale * lam takes TRQAM's dual step on the same path KL. For given adjoints the sum
is least where D_k = -g_k^2 E[adj_k | x_k] / (2 mu), mu = 1 + h lambda / (2 H): the penalty acts
as TRQAM's lambda would at mu. So it can hold the policy back but never let it go further than
lambda = 1 does, and to act like TRQAM at mu it needs lambda = 2 H K (mu - 1), which is
100 (mu - 1) at H = 5 and K = 10. lambda is at most lam_scale * lambda_max, 300 by default. So
mu is at most 4 there: raise lambda_max for more.

    python main.py --env_name=cube-double --agent=agents/trqam_external_kl.py
"""

from agents import trqam
from agents.base import Loss
from utils.replay import Batch


class ExternalKLTRQAM(trqam.TRQAM):
    """TRQAM with lambda as the factor of a KL penalty."""

    def trust_region(self) -> float:
        """1: nothing inside the matching."""
        return 1.0

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """TRQAM's sum and lambda KL, differentiated through the policy."""
        total, metrics = super().loss(params, batch, noise, fixed)
        penalty = super().trust_region() * metrics["dual/path_kl"]
        return total + penalty, metrics | {"adjoint/penalty": penalty}


get_config = ExternalKLTRQAM.get_config
AGENT = ExternalKLTRQAM
