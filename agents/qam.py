"""Q-Adjoint Matching (arXiv 2601.14234): TRQAM with a fixed inverse temperature instead of a
trust region.

    adj_K = -inv_temp grad_a mean_e Q'_e(s, clip x_K)
    descend  critic loss + flow-matching loss + mean_B sum_k || 2 D_k / g_k + g_k adj_k ||^2
    sigma_k = g_k, that is lambda = 1;  no dual step

The trained policy samples from  p(a|s) ~ base(a|s) exp(inv_temp mean_e Q(s, a)). TRQAM's
adjoint-matching loss at lambda is lambda times this one at inv_temp = 1 / lambda. The path KL
is logged all the same.

A head on top of the flow acts in its place, in the backup too; Q is online here and constant,
flow_th has no gradient:

QAM-E (edit_scale > 0)   an editor of flow_th's actions: `editing.py` has its equations
QAM-F (fql_alpha > 0)    a = clip mu(s, z)
    descend also  -mean Q_e(s, a) + fql_alpha mean (mu(s, z) - clip flow_th(s, z))^2

    python main.py --env_name=cube-triple --agent=agents/qam.py --agent.inv_temp=3
"""

from typing import Any, Self

import jax
import jax.numpy as jnp

from agents.base import Agent, Loss, Networks
from agents.editing import Editing
from agents.heads import OneStepActor, distillation_loss
from agents.trqam import TRQAM
from utils.errors import UserError
from utils.options import Option
from utils.replay import Batch


class QAM(Editing, TRQAM):
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
    INPUTS = TRQAM.INPUTS | Editing.INPUTS | {"one_step_actor": "sa"}

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """The flow's, and those of the head."""
        networks = super().networks(config)
        if config.edit_scale:
            networks |= cls.editor_networks(config)
        if config.fql_alpha:
            actor = OneStepActor(config.actor_hidden_dims, config.actor_layer_norm)
            networks |= {"one_step_actor": actor}
        return networks

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise UserError for values that no run can use, and for two heads."""
        super().check(config)
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

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Samples [n, B, D] of the head, or of the flow where there is none."""
        if self.config.fql_alpha:
            return self.apply("one_step_actor", self.params["one_step_actor"], observations, x0)
        samples = super().sample(observations, x0[: self.samples])
        if not self.config.edit_scale:
            return samples
        return self.edited(self.params, observations, samples, x0[self.samples :])[0]

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Besides, for a head: z [B, D], and what the editor draws."""
        own = {}
        if self.config.edit_scale:
            own = self.editor_noise_shapes(batch_size)
        if self.config.fql_alpha:
            own = {"z": (batch_size, self.flat_action_dim)}
        return super().noise_shapes(batch_size) | own

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """TRQAM's, of the head; for a head also the flow's action [B, D] at s from z."""
        noise = self.with_edits(noise) if "edit" in noise else noise
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
        if self.config.edit_scale:
            head_loss, own = self.editor_loss(params, s, flow_actions, noise)
            return total + head_loss, metrics | own
        actions = self.apply("one_step_actor", params["one_step_actor"], s, noise["z"])
        distill_loss = distillation_loss(actions, flow_actions)
        q_loss = self.critic_objective(params["critic"], s, jnp.clip(actions, -1.0, 1.0))
        own = {"head/distill_loss": distill_loss, "head/q_loss": q_loss}
        return total + self.config.fql_alpha * distill_loss + q_loss, metrics | own


get_config = QAM.get_config
AGENT = QAM
