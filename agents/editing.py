"""An editor on top of a flow, for QAM-E and FEdit. Shapes as in `trqam.py`.

    a = clip(a_f + edit_scale e),  a_f = clip flow(s, z),  e ~ tanh-Gaussian editor(s, a_f)
    descend  -mean Q_e(s, a) + alpha mean log p(e) + alpha (H - H_target)
             in each alpha term the other factor is constant, H = -mean log p(e),
             H_target = -D/2

Q is online here and constant, the flow has no gradient, and the edited action acts in the
flow's place, in the backup too.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from agents.heads import TanhGaussian, Temperature, entropy_loss
from agents.losses import Loss, Losses


class Editing(Losses):
    """Mixin for agents with the setting `edit_scale`, listed before their other parents; with 0
    there is no editor.
    """

    if TYPE_CHECKING:  # of the agent
        cloning: bool
        flat_action_dim: int
        samples: int

    INPUTS: ClassVar[dict[str, str]] = {"editor": "saa"}

    @classmethod
    def editor_networks(cls, config: Any) -> dict[str, nn.Module]:
        """Editor and temperature."""
        return {"editor": TanhGaussian(config.actor_hidden_dims), "temperature": Temperature()}

    @property
    def draws(self) -> int:
        """Two draws of noise for each sample with an editor: the flow's, then the editor's."""
        edits = self.config.edit_scale and not self.cloning
        return 2 * self.samples if edits else self.samples

    def edited(
        self, params: dict, s: jax.Array, samples: jax.Array, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Edited flow samples [..., B, D] at s [B, O], not clipped, and the log-probabilities
        [..., B] of the edits.
        """
        actions = jnp.clip(samples, -1.0, 1.0)
        edits, log_probs = self.apply("editor", params["editor"], s, actions, noise)
        return actions + self.config.edit_scale * edits, log_probs

    def editor_noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """next_action [n, B, D] and z [B, D] of the flow, at s' and s, and edit [n + 1, B, D],
        of each a', then at s.
        """
        shape, n = (batch_size, self.flat_action_dim), self.samples
        return {"next_action": (n, *shape), "z": shape, "edit": (n + 1, *shape)}

    def with_edits(self, noise: dict) -> dict:
        """The noise whose next_action has all the draws that `act` takes."""
        draws = jnp.concatenate([noise["next_action"], noise["edit"][:-1]])
        return noise | {"next_action": draws}

    def editor_loss(self, params: dict, s: jax.Array, flow: jax.Array, noise: dict) -> Loss:
        """The sum above at s [B, O] for the flow's samples [B, D], and its metrics."""
        actions, log_probs = self.edited(params, s, flow, noise["edit"][-1])
        log_alpha = params["temperature"]["log_alpha"]
        loss, metrics = entropy_loss(log_alpha, log_probs, -0.5 * self.flat_action_dim)
        q_loss = self.critic_objective(params["critic"], s, jnp.clip(actions, -1.0, 1.0))
        return loss + q_loss, metrics | {"head/q_loss": q_loss}
