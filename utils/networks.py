"""The multilayer perceptron behind every velocity field and critic, and ensembles of it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn


class MLP(nn.Module):
    """`hidden_dims` gelu layers, each followed by LayerNorm where asked, and a linear output layer.

    Inputs [..., N], outputs [..., out_dim]. Parameters are named Dense_i and LayerNorm_i, as in the published checkpoints.
    """

    hidden_dims: Sequence[int]
    out_dim: int
    layer_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.hidden_dims:
            x = nn.gelu(nn.Dense(width, kernel_init=nn.initializers.xavier_uniform())(x))
            if self.layer_norm:
                x = nn.LayerNorm()(x)
        return nn.Dense(self.out_dim, kernel_init=nn.initializers.xavier_uniform())(x)


def init_mlp(key: jax.Array, mlp: MLP, in_dim: int) -> dict:
    """Fresh parameters of one MLP with `in_dim` inputs."""
    return mlp.init(key, jnp.zeros((1, in_dim)))["params"]


def init_ensemble(key: jax.Array, mlp: MLP, in_dim: int, size: int) -> dict:
    """Fresh parameters of `size` independent MLPs, stacked along a leading axis E of every leaf."""
    return jax.vmap(lambda k: init_mlp(k, mlp, in_dim))(jax.random.split(key, size))


def apply_mlp(params: dict, x: jax.Array) -> jax.Array:
    """Value [..., out_dim] of the MLP whose parameters are `params`, at x [..., N]; its shape is read off the parameters."""
    dense = sorted((name for name in params if name.startswith("Dense_")), key=lambda name: int(name[6:]))
    widths = [params[name]["kernel"].shape[-1] for name in dense]
    mlp = MLP(tuple(widths[:-1]), widths[-1], layer_norm="LayerNorm_0" in params)
    return jnp.asarray(mlp.apply({"params": params}, x))


def apply_ensemble(params: dict, x: jax.Array) -> jax.Array:
    """Values [E, ...] of an ensemble of scalar MLPs at the same x [..., N]."""
    return jax.vmap(apply_mlp, in_axes=(0, None))(params, x)[..., 0]
