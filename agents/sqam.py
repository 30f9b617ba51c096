"""Scalar Q-Adjoint Matching (arXiv 2610.10437): TRQAM without a vector-Jacobian product through
the flow.

    a_hat = Euler sample of v_th at s, no gradient, not clipped
    tau_j = j / N, j = 1..N;  h = 1 / N
    x_j = (1 - tau_j) e_j + tau_j a_hat,  e_j ~ N(0, I)    in place of TRQAM's rollout
    adj_j = -tau_j grad_a mean_e Q'_e(s, clip a_hat)       one gradient of the critic for all j
    descend  TRQAM's losses, with g_j^2 = 2 (1 - tau_j + h) / (tau_j + h) at these times
             + c mean_B ( mean_e Q_e(s, clip a_hat) - mean_e Q_e(s, a) )
             the value penalty, which trains both Q

lambda, its dual step and the path KL are TRQAM's. Where the base velocity does not depend on x,
TRQAM's adjoints are these: the recursion telescopes to adj_k = t_k adj_K.

    python main.py --env_name=cube-double --agent=agents/sqam.py --agent.gap_reg_coef=0.3
"""

import jax
import jax.numpy as jnp

from agents import trqam
from agents.base import Loss
from agents.flow import Velocity
from utils.options import Option
from utils.replay import Batch


def bridge_states(noise: jax.Array, actions: jax.Array, ts: jax.Array) -> jax.Array:
    """x_j = (1 - tau_j) e_j + tau_j a as [N, B, D], for noise e [N, B, D], actions [B, D] and
    times ts [N].
    """
    tau = ts[:, None, None]
    return (1.0 - tau) * noise + tau * actions[None]


class SQAM(trqam.TRQAM):
    """TRQAM with other states in its loss, and a penalty on the policy's own actions."""

    OPTIONS = trqam.TRQAM.OPTIONS | {
        "kl_budget": trqam.TRQAM.OPTIONS["kl_budget"]._replace(default=0.5),
        "n_bridge": Option(10, "N, times of the bridge in the loss", above=0),
        "gap_reg_coef": Option(0.3, "c, weight of the value penalty", at_least=0),
    }

    def times(self) -> jax.Array:
        """tau_j = j / n_bridge, j = 1..n_bridge."""
        return jnp.arange(1, self.config.n_bridge + 1, dtype=jnp.float32) / self.config.n_bridge

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """TRQAM's, with policy_x0 [B, D], bridge [n_bridge, B, D] in place of the rollout's."""
        shapes = super().noise_shapes(batch_size)
        return shapes | {"policy_x0": shapes.pop("sde_x0"), "bridge": shapes.pop("sde_noise")}

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """TRQAM's, and a_hat [B, D]."""
        s, x0 = batch["observations"], noise["policy_x0"]
        a_hat = self.flow_sample(self.params["policy"], s, x0)
        return super().fixed_quantities(batch, noise) | {"a_hat": a_hat}

    def rollout(
        self, policy: Velocity, base: Velocity, noise: dict, fixed: dict
    ) -> trqam.Rollout:
        """The bridge that ends in a_hat."""
        ts = self.times()
        xs = bridge_states(noise["bridge"], fixed["a_hat"], ts)
        velocities = (velocity(xs, ts[:, None, None]) for velocity in (policy, base))
        return trqam.Rollout(xs, fixed["a_hat"], *velocities)

    def adjoints(self, base: Velocity, xs: jax.Array, terminal: jax.Array) -> jax.Array:
        """adj_j = tau_j adj: nothing differentiates the flow."""
        return self.times()[:, None, None] * terminal[None]

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """TRQAM's sum and the value penalty; the mean of Q_e(s, a) is the one that the critic
        loss has computed.
        """
        total, metrics = super().loss(params, batch, noise, fixed)
        q = self.values(params["critic"], batch["observations"])
        value_gap = q(jnp.clip(fixed["a_hat"], -1.0, 1.0)).mean() - metrics["critic/q_mean"]
        return total + self.config.gap_reg_coef * value_gap, metrics | {
            "critic/value_gap": value_gap
        }


get_config = SQAM.get_config
AGENT = SQAM
