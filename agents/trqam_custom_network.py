"""A fork with a network of its own: residual blocks that read time by Fourier features.

A velocity field is any Flax module (s, x, t) -> [..., D]. The base is cloned with this network
too, in a cache of its own, and the policy starts from it.

    python main.py --env_name=cube-double --agent=agents/trqam_custom_network.py
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from agents import trqam
from agents.options import without
from utils.networks import SplitDense
from utils.options import Option


class ResidualField(nn.Module):
    """v(s, x, t) [..., D] at s [..., O], x [..., D], t [..., 1], of any leading axes."""

    width: int
    blocks: int
    frequencies: int

    @nn.compact
    def __call__(self, s: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
        angles = jnp.concatenate([2.0**i * jnp.pi * t for i in range(self.frequencies)], -1)
        h = SplitDense(self.width)(s, x, jnp.sin(angles), jnp.cos(angles))
        for _ in range(self.blocks):
            h = h + nn.Dense(self.width)(nn.gelu(nn.LayerNorm()(h)))
        return nn.Dense(x.shape[-1])(nn.gelu(h))


class CustomNetworkTRQAM(trqam.TRQAM):
    """TRQAM whose flows are residual networks of the settings' first width and depth."""

    OPTIONS = without(trqam.TRQAM.OPTIONS, "actor_layer_norm") | {
        "frequencies": Option(4, "octaves of the Fourier features of time", above=0),
    }

    @classmethod
    def networks(cls, config: Any) -> dict[str, nn.Module]:
        """TRQAM's critic, and this field as base and policy."""
        widths = config.actor_hidden_dims
        field = ResidualField(widths[0], len(widths), config.frequencies)
        return {"critic": cls.critic_network(config), "base": field, "policy": field}


get_config = CustomNetworkTRQAM.get_config
AGENT = CustomNetworkTRQAM
