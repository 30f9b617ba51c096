"""QPILOTS-U (arXiv 2606.14801), second hand: from notes on the paper, which has no code. A
clone steered by the direction of the critic's gradient.

    q = mean_e Q'_e - rho std_e Q'_e
    G = grad_x q(s, clip(x + (1 - t) v)) as if there were no clip         `steering.py`
    act:     clip flow(s, z) of the velocity v at t = 0, and after that
             v + alpha ||v|| G / ||G||
    y = R + gamma^H m q(s', a'),  a' an action as it acts
    descend  critic loss + flow-matching loss of the base

v is the moving average of the base. alpha is relative: scaling Q changes nothing. The notes
disagree on the clip (`clip`), and say nothing of optimiser and weights: those are FQL's.

    python main.py --env_name=cube-double --agent=agents/qpilots.py --agent.alpha=0.3
"""

import jax
import jax.numpy as jnp

from agents.base import Agent, Loss
from agents.flow import euler_sample
from agents.steering import steered
from utils.options import Option
from utils.replay import Batch

CLIPS = {"straight_through": "straight_through", "exact": "jacobian"}
EPSILON = 1e-8  # of the norm of G


class QPilots(Agent):
    """Critic and base under one Adam; both have moving averages, which act."""

    OPTIONS = Agent.OPTIONS | {
        "alpha": Option(0.3, "length of the steering relative to v", at_least=0),
        "clip": Option("straight_through", "gradient of the clip in q", choices=(*CLIPS,)),
    }

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Steered samples [n, B, D] of the base from x0 [n, B, D], not clipped."""
        guided = steered(
            self.velocity(self.target_params["base"], observations),
            lambda a: self.pessimistic_q(observations, a),
            CLIPS[self.config.clip],
            self.push,
        )
        return euler_sample(guided, x0, self.config.flow_steps)

    def push(self, v: jax.Array, g: jax.Array, t: jax.Array) -> jax.Array:
        """alpha ||v|| G / ||G|| for v and G [..., B, D], and 0 at t = 0."""
        of_v = jnp.linalg.norm(v, axis=-1, keepdims=True)
        of_g = jnp.linalg.norm(g, axis=-1, keepdims=True)
        return jnp.where(t > 0.0, self.config.alpha * of_v / (of_g + EPSILON), 0.0) * g

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + flow_loss."""
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        return critic_loss + flow_loss, metrics | {"flow/loss": flow_loss}


get_config = QPilots.get_config
AGENT = QPilots
