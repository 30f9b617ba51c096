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
from flax import linen as nn

from agents.base import Agent, Loss
from agents.heads import (
    OneStepActor,
    TanhGaussian,
    Temperature,
    distillation_loss,
    entropy_loss,
)
from agents.trqam import TRQAM
from utils.errors import UserError
from utils.options import Option
from utils.replay import Batch


class QAM(TRQAM):
    """TRQAM's update at lambda = 1 with the terminal adjoint scaled by `inv_temp`, and at most
    one head.
    """

    OPTIONS = Agent.OPTIONS | {
        "clip_grad": TRQAM.OPTIONS["clip_grad"],
        "clip_adj": TRQAM.OPTIONS["clip_adj"],
        "inv_temp": Option(1.0, "inverse temperature: factor of the adjoint", above=0),
        "edit_scale": Option(0.0, "reach of the editor of QAM-E; 0: no editor", at_least=0),
        "fql_alpha": Option(0.0, "weight of imitation in QAM-F; 0: no actor", at_least=0),
    }
    POLICY_FROM_BASE = False  # as published
    INPUTS = TRQAM.INPUTS | {"editor": "saa", "temperature": "", "one_step_actor": "sa"}

    @classmethod
    def networks(cls, config: Any) -> dict[str, nn.Module]:
        """The flow's, and those of the head."""
        networks = super().networks(config)
        if config.edit_scale:
            editor = TanhGaussian(config.actor_hidden_dims)
            networks |= {"editor": editor, "temperature": Temperature()}
        if config.fql_alpha:
            actor = OneStepActor(config.actor_hidden_dims, config.actor_layer_norm)
            networks |= {"one_step_actor": actor}
        return networks

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise UserError for values that no run can use, and for two heads."""
        super(TRQAM, cls).check(config)
        if config.edit_scale and config.fql_alpha:
            raise UserError(
                f"--agent.edit_scale={config.edit_scale} and"
                f" --agent.fql_alpha={config.fql_alpha}: set one to 0"
            )

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

    # ---------------------------------------------------------------- the heads

    @property
    def draws(self) -> int:
        """Two rows of noise for each sample with an editor: the flow's, then the editor's."""
        edits = self.config.edit_scale and not self.cloning
        return 2 * self.samples if edits else self.samples

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Samples [n, B, D] of the head, or of the flow where there is none."""
        if self.config.fql_alpha:
            return self.apply("one_step_actor", self.params["one_step_actor"], observations, x0)
        samples = super().sample(observations, x0[: self.samples])
        if not self.config.edit_scale:
            return samples
        return self.edited(self.params, observations, samples, x0[self.samples :])[0]

    def edited(
        self, params: dict, s: jax.Array, samples: jax.Array, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Edited flow samples [..., B, D] at s [B, O], not clipped, and the log-probabilities
        [..., B] of the edits.
        """
        actions = jnp.clip(samples, -1.0, 1.0)
        edits, log_probs = self.apply("editor", params["editor"], s, actions, noise)
        return actions + self.config.edit_scale * edits, log_probs

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """For a head also z [B, D]; for an editor edit [n + 1, B, D], of each a', then at s."""
        shape, own = (batch_size, self.flat_action_dim), {}
        if self.config.edit_scale:
            own = {"z": shape, "edit": (self.samples + 1, *shape)}
        if self.config.fql_alpha:
            own = {"z": shape}
        return super().noise_shapes(batch_size) | own

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """TRQAM's, of the head; for a head also the flow's action [B, D] at s from z."""
        if "edit" in noise:  # the rows of noise that `sample` takes
            rows = jnp.concatenate([noise["next_action"], noise["edit"][:-1]])
            fixed = super().fixed_quantities(batch, noise | {"next_action": rows})
        else:
            fixed = super().fixed_quantities(batch, noise)
        if "z" not in noise:
            return fixed
        s, policy = batch["observations"], self.params["policy"]
        return fixed | {"flow_actions": self.flow_sample(policy, s, noise["z"])}

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """TRQAM's sum, and the head's losses."""
        total, metrics = super().loss(params, batch, noise, fixed)
        if "z" not in noise:
            return total, metrics
        s, flow_actions = batch["observations"], fixed["flow_actions"]
        if self.config.fql_alpha:
            actions = self.apply("one_step_actor", params["one_step_actor"], s, noise["z"])
            distill_loss = distillation_loss(actions, flow_actions)
            head_loss = self.config.fql_alpha * distill_loss
            metrics |= {"head/distill_loss": distill_loss}
        else:
            actions, log_probs = self.edited(params, s, flow_actions, noise["edit"][-1])
            log_alpha = params["temperature"]["log_alpha"]
            head_loss, entropy = entropy_loss(log_alpha, log_probs, -0.5 * self.flat_action_dim)
            metrics |= entropy
        q_loss = self.critic_objective(params["critic"], s, jnp.clip(actions, -1.0, 1.0))
        return total + head_loss + q_loss, metrics | {"head/q_loss": q_loss}


get_config = QAM.get_config
AGENT = QAM
