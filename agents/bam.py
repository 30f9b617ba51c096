"""Basic adjoint matching (BAM, baseline of QAM, arXiv 2601.14234): QAM's process, whose cost is
differentiated by backpropagation instead of by adjoints.

    x_0..x_K ~ memoryless process of v_th, with its gradient          trqam.memoryless_rollout
    descend  critic loss + flow-matching loss of the base
             - inv_temp mean_B (mean_e Q_e(s, x_K) - rho std_e Q_e(s, x_K))
             + mean_B sum_k (2 / g_k^2) || D_k ||^2,  k = 0..K-2
    act:     clip flow_th(s, z)

The gradient passes through v_th, and through x in the base's velocities; the base's parameters
are its moving average, constant. As published: Q is online and pessimistic, x_K is not clipped,
the last step has no cost and the cost no factor h: h times it is the path KL without that step.

    python main.py --env_name=cube-double --agent=agents/bam.py --agent.inv_temp=10
"""

from typing import Any

import jax
import jax.numpy as jnp

from agents.base import Agent, Loss, Networks
from agents.flow import step_and_noise, time_grid
from agents.options import CLIP_GRAD
from agents.trqam import memoryless_rollout
from utils.options import Option
from utils.replay import Batch


class BAM(Agent):
    """Critic, policy and base under one Adam."""

    OPTIONS = Agent.OPTIONS | {
        "clip_grad": CLIP_GRAD,
        "inv_temp": Option(0.3, "weight of the critic; 0: the base acts", at_least=0),
    }

    POLICY_FROM_BASE = False  # as published

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """Critic, base and policy, the last two alike."""
        networks = super().networks(config)
        return networks | {"policy": networks["base"]}

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Samples [n, B, D] of the policy or, with inv_temp = 0, of the base; not clipped."""
        actor = "policy" if self.config.inv_temp else "base"
        return self.flow_sample(self.params[actor], observations, x0)

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Besides: sde_x0 [B, D] and sde_noise [K, B, D]."""
        shape, steps = (batch_size, self.flat_action_dim), self.config.flow_steps
        own = {"sde_x0": shape, "sde_noise": (steps, *shape)}
        return super().noise_shapes(batch_size) | own

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + flow_loss + bam_loss; the last is bc_loss - inv_temp times Q."""
        s = batch["observations"]
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        policy = self.velocity(params["policy"], s)
        base = self.velocity(self.target_params["base"], s)
        x0, eps = noise["sde_x0"], noise["sde_noise"]
        rollout = memoryless_rollout(policy, base, x0, eps, constant=False)
        _, g = step_and_noise(time_grid(self.config.flow_steps))
        costs = 2.0 / g**2 * (rollout.policy - rollout.base) ** 2
        bc_loss = jnp.mean(jnp.sum(costs[:-1], axis=(0, 2)))
        value = self.pessimistic_value(params["critic"], s, rollout.x_final).mean()
        bam_loss = bc_loss - self.config.inv_temp * value
        own = {"flow/loss": flow_loss, "actor/bc_loss": bc_loss, "actor/loss": bam_loss}
        return critic_loss + flow_loss + bam_loss, metrics | own


get_config = BAM.get_config
AGENT = BAM
