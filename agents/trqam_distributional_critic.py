"""A fork with a critic of its own: classification over bins (HL-Gauss, arXiv 2403.03950)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from agents import trqam
from agents.losses import Loss, Values
from agents.options import LQL_OPTIONS, without
from utils.networks import Critic, ensemble
from utils.options import Option
from utils.replay import Batch


class DistributionalTRQAM(trqam.TRQAM):
    """TRQAM with critics that return logits; `values` says what they mean to all the rest."""

    OPTIONS = without(trqam.TRQAM.OPTIONS, *LQL_OPTIONS) | {
        "bins": Option(101, "bins of the critic between q_min and q_max", above=1),
        "q_min": Option(-200.0, "least value, the least reward / (1 - discount)"),
        "q_max": Option(0.0, "largest value, that of success"),
        "q_sigma": Option(0.75, "standard deviation of a target, in bins", above=0),
    }

    @classmethod
    def critic_network(cls, config: Any) -> Any:
        """Critics (s, a) -> logits [E, ..., B, bins]."""
        shape = config.value_hidden_dims, config.value_layer_norm, config.bins
        return ensemble(Critic, config.num_qs)(*shape)

    def values(self, params: dict, observations: jax.Array) -> Values:
        """The means of the distributions over the bins' centres."""
        edges, logits = self.edges(), super().values(params, observations)
        return lambda actions: jax.nn.softmax(logits(actions)) @ (edges[1:] + edges[:-1]) / 2

    def edges(self) -> jax.Array:
        """Where the bins end, [bins + 1]."""
        return jnp.linspace(self.config.q_min, self.config.q_max, self.config.bins + 1)

    def critic_loss(self, critic: dict, batch: Batch, td_target: jax.Array) -> Loss:
        """mean_{E,B} of the cross-entropy to the bins' shares of N(y, sigma)."""
        s, actions, edges = batch["observations"], self.flat_actions(batch), self.edges()
        y, sigma = jnp.clip(td_target, edges[0], edges[-1]), self.config.q_sigma
        below = jax.scipy.stats.norm.cdf(edges[None], y[:, None], sigma * (edges[1] - edges[0]))
        shares = jnp.diff(below) / (below[:, -1:] - below[:, :1])
        errors = optax.softmax_cross_entropy(super().values(critic, s)(actions), shares[None])
        loss = jnp.mean(errors * batch["valid"][None, :, -1])
        found = {"critic/loss": loss, "critic/clipped_targets": jnp.mean(y != td_target)}
        return loss, found | {"critic/q_mean": self.values(critic, s)(actions).mean()}

    def concerns(self, lines: list[dict[str, Any]]) -> dict[str, str]:
        """TRQAM's, and values outside the bins, which the critic cannot tell apart."""
        many = lines[-1].get("critic/clipped_targets", 0.0) > 0.1
        return super().concerns(lines) | ({"q": "targets clipped: widen bins"} if many else {})


get_config = DistributionalTRQAM.get_config
AGENT = DistributionalTRQAM
