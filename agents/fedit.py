"""Flow and edit (FEdit, baseline of QAM, arXiv 2601.14234; after EXPO, arXiv 2507.07986): an
editor of the actions of a behaviour clone.

    a = clip(a_f + edit_scale e),  a_f = clip flow(s, z),  e ~ tanh-Gaussian editor(s, a_f)
    y = R + gamma^H m (mean_e Q'_e(s', a') - rho std_e Q'_e(s', a'))
    descend  critic loss + flow-matching loss of the base
             + the editor's loss: `editing.py` has its equations
    act:     a

The flow is the online base, which is cloned and nothing else: it has no moving average.

    python main.py --env_name=cube-double --agent=agents/fedit.py --agent.edit_scale=0.2
"""

from typing import Any

import jax

from agents.base import Agent, Loss, Networks
from agents.editing import Editing
from utils.options import Option
from utils.replay import Batch


class FEdit(Editing, Agent):
    """Critic, base, editor and temperature under one Adam."""

    OPTIONS = Agent.OPTIONS | {
        "edit_scale": Option(0.2, "reach of the editor", above=0),
    }

    INPUTS = Agent.INPUTS | Editing.INPUTS
    TARGETS = ("critic",)

    @classmethod
    def networks(cls, config: Any) -> Networks:
        """Critic, base, editor and temperature."""
        return super().networks(config) | cls.editor_networks(config)

    def sample(self, observations: jax.Array, x0: jax.Array) -> jax.Array:
        """Edited samples [n, B, D] of the base from x0 [2 n, B, D], not clipped."""
        samples = super().sample(observations, x0[: self.samples])
        return self.edited(self.params, observations, samples, x0[self.samples :])[0]

    def noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Besides: what the editor draws."""
        return super().noise_shapes(batch_size) | self.editor_noise_shapes(batch_size)

    def fixed_quantities(self, batch: Batch, noise: dict) -> dict[str, jax.Array]:
        """The critic target, and the base's action [B, D] at s from z."""
        flow = self.flow_sample(self.params["base"], batch["observations"], noise["z"])
        return self.acting_target(batch, self.with_edits(noise)) | {"flow_actions": flow}

    def loss(self, params: dict, batch: Batch, noise: dict, fixed: dict) -> Loss:
        """critic_loss + actor_loss; the latter is flow_loss and the editor's."""
        s, flow_actions = batch["observations"], fixed["flow_actions"]
        critic_loss, metrics = self.critic_loss(params["critic"], batch, fixed["td_target"])
        flow_loss = self.flow_loss(params["base"], batch, noise)
        editor_loss, own = self.editor_loss(params, s, flow_actions, noise)
        actor_loss = flow_loss + editor_loss
        own |= {"flow/loss": flow_loss, "actor/loss": actor_loss}
        return critic_loss + actor_loss, metrics | own


get_config = FEdit.get_config
AGENT = FEdit
