"""The multilayer perceptron behind every velocity field and critic, ensembles of it, and what spares them repeated work.

Parameters are nested dictionaries named as in the published checkpoints: Dense_i of a kernel and a bias, LayerNorm_i of
a scale and a bias.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

Layers = tuple[jax.Array, ...]
"""The outputs of all dense layers of an MLP at some input, before their activation; the last one is its value."""


class MLP(NamedTuple):
    """The shape of a network: gelu layers, each followed by LayerNorm where asked, and a linear output layer."""

    hidden_dims: Sequence[int]
    out_dim: int
    layer_norm: bool


def init_mlp(key: jax.Array, mlp: MLP, in_dim: int) -> dict:
    """Fresh parameters of one MLP with `in_dim` inputs: Xavier-uniform kernels, no biases, neutral LayerNorms."""
    widths = [in_dim, *mlp.hidden_dims, mlp.out_dim]
    params = {}
    for i, layer_key in enumerate(jax.random.split(key, len(widths) - 1)):
        kernel = jax.nn.initializers.xavier_uniform()(layer_key, (widths[i], widths[i + 1]))
        params[f"Dense_{i}"] = {"kernel": kernel, "bias": jnp.zeros(widths[i + 1])}
        if mlp.layer_norm and i < len(mlp.hidden_dims):
            params[f"LayerNorm_{i}"] = {"scale": jnp.ones(widths[i + 1]), "bias": jnp.zeros(widths[i + 1])}
    return params


def init_ensemble(key: jax.Array, mlp: MLP, in_dim: int, size: int) -> dict:
    """Fresh parameters of `size` independent MLPs, stacked along a leading axis E of every leaf."""
    return jax.vmap(lambda k: init_mlp(k, mlp, in_dim))(jax.random.split(key, size))


def apply_mlp(params: dict, x: jax.Array) -> jax.Array:
    """Value [..., out_dim] of the MLP whose parameters are `params`, at x [..., N]."""
    return mlp_layers(params, x)[-1]


def apply_ensemble(params: dict, x: jax.Array) -> jax.Array:
    """Values [E, ...] of an ensemble of scalar MLPs at the same x [..., N]."""
    return jax.vmap(apply_mlp, in_axes=(0, None))(params, x)[..., 0]


def mlp_layers(params: dict, x: jax.Array, known: Layers | None = None) -> Layers:
    """All layers [..., width] of the MLP at x [..., N].

    `known`, these same layers from an earlier call, spares their computation: nothing is multiplied but what derivatives
    with respect to x and params need.
    """
    layers = []
    for i in range(sum(name.startswith("Dense_") for name in params)):
        if i > 0:
            x = nn.gelu(layers[-1])
            if f"LayerNorm_{i - 1}" in params:
                x = nn.LayerNorm().apply({"params": params[f"LayerNorm_{i - 1}"]}, x)
        kernel, bias = params[f"Dense_{i}"]["kernel"], params[f"Dense_{i}"]["bias"]
        bias = jnp.broadcast_to(bias, (*x.shape[:-1], kernel.shape[-1]))
        layers.append(affine(x, kernel, bias) if known is None else known_affine(x, kernel, bias, known[i]))
    return tuple(layers)


def condition(params: dict, s: jax.Array) -> dict:
    """The MLP on concat(s, x) as an MLP on x alone, at fixed s [..., S].

    What s adds to the first layer is computed here, once for all x, and becomes that layer's bias [..., width].
    """
    kernel, bias = params["Dense_0"]["kernel"], params["Dense_0"]["bias"]
    bias = affine(s, kernel[: s.shape[-1]], jnp.broadcast_to(bias, (*s.shape[:-1], len(bias))))
    return params | {"Dense_0": {"kernel": kernel[s.shape[-1] :], "bias": bias}}


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x kernel + bias, with bias of the result's shape."""
    return x @ kernel + bias


@jax.custom_vjp
def known_affine(x: jax.Array, kernel: jax.Array, bias: jax.Array, result: jax.Array) -> jax.Array:
    """`affine(x, kernel, bias)` with its derivatives, where the result is known already."""
    return result


known_affine.defvjp(
    lambda x, kernel, bias, result: (result, (x, kernel, bias)),
    lambda primals, cotangent: (*jax.vjp(affine, *primals)[1](cotangent), None),
)
