"""Q-Adjoint Matching (arXiv 2601.14234): TRQAM with a fixed inverse temperature instead of a
trust region.

    adj_K = -inv_temp grad_a mean_e Q'_e(s, clip x_K)
    descend  critic loss + flow-matching loss + mean_B sum_k || 2 D_k / g_k + g_k adj_k ||^2
    sigma_k = g_k, that is lambda = 1;  no dual step

The policy so trained samples from  p(a|s) ~ base(a|s) exp(inv_temp mean_e Q(s, a)). TRQAM's
adjoint-matching loss at lambda is lambda times this one at inv_temp = 1 / lambda. The path KL
is logged all the same.

A head on top of the flow acts in its place, in the backup too; Q is online here and constant,
flow_th has no gradient:

QAM-E (edit_scale > 0)   a = clip(a_f + edit_scale e),  a_f = clip flow_th(s, z),
                         e ~ tanh-Gaussian editor(s, a_f)
    descend also  -mean Q_e(s, a) + alpha mean log p(e) + alpha (H - H_target),
                  in each alpha term the other factor is constant,
                  H = -mean log p(e),  H_target = -D/2
QAM-F (fql_alpha > 0)    a = clip mu(s, z)
    descend also  -mean Q_e(s, a) + fql_alpha mean (mu(s, z) - clip flow_th(s, z))^2

    python main.py --env_name=cube-triple --agent=agents/qam.py --agent.inv_temp=3
"""

from typing import Any, Self

import jax
import jax.numpy as jnp
import ml_collections

from agents.base import check_choice, critic_config, draw
from agents.heads import (
    critic_objective,
    distillation_loss,
    entropy_loss,
    one_step_actions,
    tanh_gaussian,
)
from agents.trqam import ADJOINTS, TRQAM
from utils.errors import UserError
from utils.replay import Batch


class QAM(TRQAM):
    """TRQAM's update at lambda = 1 with the terminal adjoint scaled by `inv_temp`, and at most
    one head.
    """

    @classmethod
    def init_state(cls, config: Any) -> dict[str, Any]:
        """No dual state."""
        check_choice(config, "adjoint", ADJOINTS)
        if config.edit_scale and config.fql_alpha:
            raise UserError(
                f"--agent.edit_scale={config.edit_scale} and"
                f" --agent.fql_alpha={config.fql_alpha}: set one to 0"
            )
        return {"dual": None}

    @classmethod
    def networks(cls, config: Any) -> tuple[str, ...]:
        """The flow's, and those of the head."""
        editor, one_step_actor = ("editor", "temperature"), ("one_step_actor",)
        return (
            cls.NETWORKS
            + editor * bool(config.edit_scale)
            + one_step_actor * bool(config.fql_alpha)
        )

    def trust_region(self) -> float:
        """lambda = 1: the inverse temperature sits in the terminal adjoint."""
        return 1.0

    def terminal_scale(self) -> float:
        """inv_temp."""
        return self.config.inv_temp

    def after_step(self, metrics: dict[str, jax.Array]) -> tuple[Self, dict[str, jax.Array]]:
        """No dual step."""
        return self, metrics

    # ---------------------------------------------------------------- the heads

    @property
    def draws(self) -> int:
        """Two rows of noise for each sample with an editor: the flow's, then the editor's."""
        return 2 * self.samples if self.config.edit_scale else self.samples

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Samples [n, B, D] of the head, or of the flow where there is none."""
        if self.config.fql_alpha:
            return one_step_actions(self.params["one_step_actor"], observations, x0)
        samples = super().sample(observations, x0[: self.samples])
        return (
            self.edited(self.params, observations, samples, x0[self.samples :])[0]
            if self.config.edit_scale
            else samples
        )

    def edited(
        self, params: dict, s: jax.Array, samples: jax.Array, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Edited flow samples [..., B, D] at s [B, O], not clipped, and the log-probabilities
        [..., B] of the edits.
        """
        actions = jnp.clip(samples, -1.0, 1.0)
        inputs = jnp.concatenate(
            [jnp.broadcast_to(s, (*actions.shape[:-1], s.shape[-1])), actions], axis=-1
        )
        edits, log_probs = tanh_gaussian(params["editor"], inputs, noise)
        return actions + self.config.edit_scale * edits, log_probs

    def draw_noise(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """TRQAM's; for a head z [B, D] besides, and for an editor edit [n + 1, B, D]: for each
        a' at s', then at s.
        """
        if not (self.config.edit_scale or self.config.fql_alpha):
            return super().draw_noise(key, batch_size)
        key, head_key = jax.random.split(key)
        shape = (batch_size, self.flat_action_dim)
        edit = {"edit": (self.samples + 1, *shape)} if self.config.edit_scale else {}
        return super().draw_noise(key, batch_size) | draw(head_key, z=shape, **edit)

    def wanted_samples(
        self, batch: Batch, noise: dict[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """The flow's at s', which a one-step actor does without, and for a head one at s from
        z.
        """
        at, x0 = super().wanted_samples(batch, noise)
        if "z" not in noise:
            return at, x0
        needed = self.samples if self.config.edit_scale else 0
        s, z = batch["observations"][None], noise["z"][None]
        return jnp.concatenate([at[:needed], s]), jnp.concatenate([x0[:needed], z])

    def next_actions(
        self, s_next: jax.Array, samples: jax.Array, noise: dict[str, jax.Array]
    ) -> jax.Array:
        """The head's, from the same noise as the flow's."""
        if self.config.fql_alpha:
            samples = one_step_actions(
                self.params["one_step_actor"], s_next, noise["next_action"]
            )
        elif self.config.edit_scale:
            samples, _ = self.edited(self.params, s_next, samples[:-1], noise["edit"][:-1])
        return super().next_actions(s_next, samples, noise)

    def loss(
        self, params: dict, batch: Batch, noise: dict, fixed: dict
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """TRQAM's sum, and the head's losses."""
        total, metrics = super().loss(params, batch, noise, fixed)
        if "z" not in noise:
            return total, metrics
        s, flow_actions = batch["observations"], fixed["samples"][-1]
        if self.config.fql_alpha:
            actions = one_step_actions(params["one_step_actor"], s, noise["z"])
            distill_loss = distillation_loss(actions, flow_actions)
            total, metrics = (
                total + self.config.fql_alpha * distill_loss,
                metrics | {"head/distill_loss": distill_loss},
            )
        else:
            actions, log_probs = self.edited(params, s, flow_actions, noise["edit"][-1])
            log_alpha = params["temperature"]["log_alpha"]
            head_loss, entropy = entropy_loss(log_alpha, log_probs, -0.5 * self.flat_action_dim)
            total, metrics = total + head_loss, metrics | entropy
        q_loss = critic_objective(params["critic"], s, jnp.clip(actions, -1.0, 1.0))
        return total + q_loss, metrics | {"head/q_loss": q_loss}


def get_config() -> ml_collections.ConfigDict:
    """The published defaults; the inverse temperature and head of a domain are in
    configs/domains.py.
    """
    config = critic_config()
    config.update(
        dict(
            clip_grad=True,
            clip_adj=True,
            adjoint="lean",  # or scalar
            inv_temp=1.0,
            edit_scale=0.0,  # above 0: QAM-E
            fql_alpha=0.0,  # above 0: QAM-F
        )
    )
    return config


AGENT = QAM
