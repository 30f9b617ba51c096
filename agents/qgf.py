"""Q-guided flow (QGF, arXiv 2606.11087): implicit Q-learning beside a clone, which the critic's
gradient steers at test time.

    q = min_e Q'_e(s, a)
    descend  mean w (q - V(s))^2 valid,  w = kappa where q >= V(s), else 1 - kappa
             + mean (Q_e(s, a) - y)^2,  y = R + gamma^H m V(s')
             + flow-matching loss of the base, t uniform on 0, 1/K, .., 1
    act:     clip flow(s, z) of the velocity v + guidance_weight G, G by `steering.py`
             from t = 0 on; of best_of_n samples the one with the largest q

guidance_weight is absolute: it depends on the size of Q. The published one was chosen from
0.004 to 0.12 for each domain at evaluation. As published, cloning counts invalid chunks. Not as
published: LayerNorm comes after gelu here, and v reads t itself.

    python main.py --env_name=cube-triple --agent=agents/qgf.py --agent.guidance_weight=0.04
"""

from typing import Any

import jax
import jax.numpy as jnp

from agents.flow import euler_sample, on_grid
from agents.ifql import IFQL
from agents.options import CRITIC, without
from agents.steering import PATHS, steered
from utils.options import Option
from utils.replay import Batch

AGGREGATES: dict[str, Any] = {"min": jnp.min, "mean": jnp.mean}


class QGF(IFQL):
    """IFQL whose base acts steered."""

    OPTIONS = without(IFQL.OPTIONS, "num_samples", "rho") | {
        "num_qs": CRITIC["num_qs"]._replace(default=2),
        "best_of_n": CRITIC["best_of_n"],
        "q_agg": Option("min", "how target critics are combined", choices=(*AGGREGATES,)),
        "guidance": Option(
            "approx", "where and through what Q is differentiated", choices=PATHS
        ),
        "guidance_weight": Option(0.04, "factor of the gradient; 0: the base acts", at_least=0),
    }

    @property
    def samples(self) -> int:
        """best_of_n."""
        return 1 if self.cloning else self.config.best_of_n

    def pessimistic(self, q: jax.Array) -> jax.Array:
        """min_e q_e or mean_e q_e [...] of q [E, ...]."""
        return AGGREGATES[self.config.q_agg](q, axis=0)

    def preference(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """q(s, a) [...] of the target critic."""
        return self.pessimistic_q(observations, actions)

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Steered samples [n, B, D] of the base from x0 [n, B, D], not clipped."""
        velocity = self.velocity(self.params["base"], observations)
        guided = steered(
            velocity,
            lambda a: self.pessimistic_q(observations, a),
            self.config.guidance,
            lambda v, g, t: self.config.guidance_weight * g,
        )
        return euler_sample(guided, x0, self.config.flow_steps)

    def flow_loss(self, base: dict, batch: Batch, noise: dict) -> jax.Array:
        """That of flow matching, at times of the grid, with equal weights."""
        t = on_grid(noise["flow_t"], self.config.flow_steps)
        equal_weights = batch | {"valid": jnp.ones_like(batch["valid"])}
        return super().flow_loss(base, equal_weights, noise | {"flow_t": t})

    def value_weights(self, batch: Batch) -> jax.Array:
        """`valid`."""
        return batch["valid"][:, -1]


get_config = QGF.get_config
AGENT = QGF
