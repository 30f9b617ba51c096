"""Scalar Q-Adjoint Matching (arXiv 2610.10437): TRQAM without a vector-Jacobian product through
the flow.

    a_hat = Euler sample of v_th at s, no gradient, not clipped
    tau_j = j / N, j = 1..N;  h = 1 / N
    x_j = (1 - tau_j) e_j + tau_j a_hat,  e_j ~ N(0, I)    in place of TRQAM's rollout
    adj_j = -tau_j grad_a mean_e Q'_e(s, clip a_hat)       one gradient of the critic for all j
    descend  TRQAM's losses, with g_j^2 = 2 (1 - tau_j + h) / (tau_j + h) at these times
             + c mean_B ( mean_e Q_e(s, clip a_hat) - mean_e Q_e(s, a) )
             the value penalty, on both Q

lambda, its dual step and the path KL are TRQAM's. Where the base velocity does not depend on x,
TRQAM's adjoints are these: the recursion telescopes to adj_k = t_k adj_K.

    python main.py --env_name=cube-double --agent=agents/sqam.py --agent.gap_reg_coef=0.3
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from agents import trqam
from agents.base import q_values
from agents.flow import Velocity, euler_sample
from utils.replay import Batch


def bridge_states(noise: jax.Array, actions: jax.Array, ts: jax.Array) -> jax.Array:
    """x_j = (1 - tau_j) e_j + tau_j a as [N, B, D], for noise e [N, B, D], actions [B, D] and
    times ts [N].
    """
    tau = ts[:, None, None]
    return (1.0 - tau) * noise + tau * actions[None]


class SQAM(trqam.TRQAM):
    """TRQAM with other states in its loss, and a penalty on the policy's own actions."""

    def times(self) -> jax.Array:
        """tau_j = j / n_bridge, j = 1..n_bridge."""
        return jnp.arange(1, self.config.n_bridge + 1, dtype=jnp.float32) / self.config.n_bridge

    def draw_noise(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """TRQAM's, with policy_x0 [B, D], bridge [n_bridge, B, D] in place of the rollout's."""
        noise = super().draw_noise(key, batch_size)
        return noise | {"policy_x0": noise.pop("sde_x0"), "bridge": noise.pop("sde_noise")}

    def rollout(
        self, policy: Velocity, base: Velocity, noise: dict, samples_x0: jax.Array
    ) -> trqam.Rollout:
        """One more Euler sample, and the bridge that ends in it."""
        x0, ts = jnp.concatenate([samples_x0, noise["policy_x0"][None]]), self.times()
        samples = euler_sample(policy, x0, self.config.flow_steps)
        xs = bridge_states(noise["bridge"], samples[-1], ts)
        return trqam.Rollout(xs, samples[-1], None, base(xs, ts[:, None, None]), samples[:-1])

    def adjoints(self, base: Velocity, xs: jax.Array, terminal: jax.Array) -> jax.Array:
        """Scalar, whatever the base."""
        return trqam.scalar_adjoint(self.times(), terminal)

    def loss(
        self, params: dict, batch: Batch, noise: dict, fixed: dict
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """TRQAM's sum and the value penalty; the mean of Q_e(s, a) is the one that the critic
        loss has computed.
        """
        total, metrics = super().loss(params, batch, noise, fixed)
        q = q_values(
            params["critic"], batch["observations"], jnp.clip(fixed["x_final"], -1.0, 1.0)
        )
        value_gap = q.mean() - metrics["critic/q_mean"]
        return total + self.config.gap_reg_coef * value_gap, metrics | {
            "critic/value_gap": value_gap
        }


def get_config() -> ml_collections.ConfigDict:
    """TRQAM's settings with SQAM's defaults."""
    config: Any = trqam.get_config()
    del config.adjoint  # always scalar
    config.update(dict(kl_budget=0.5, n_bridge=10, gap_reg_coef=0.3))
    return config


AGENT = SQAM
