"""The multilayer perceptron behind every velocity field and critic, ensembles of it, and what
spares them repeated work.

Parameters are nested dictionaries named as in the published checkpoints: Dense_i of a kernel
and a bias, LayerNorm_i of a scale and a bias.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

Layers = tuple[jax.Array, ...]
"""The outputs of all dense layers of an MLP at some input, before their activation; the last
one is its value.
"""


class MLP(NamedTuple):
    """The shape of a network: gelu layers, LayerNorm after each if asked, and a linear layer.

    The last consists of `heads` layers of equal width, each initialised for its own width.
    """

    hidden_dims: Sequence[int]
    out_dim: int
    layer_norm: bool
    heads: int = 1


def init_mlp(key: jax.Array, mlp: MLP, in_dim: int) -> dict:
    """Fresh parameters of one MLP with `in_dim` inputs: Xavier-uniform kernels, no biases,
    neutral LayerNorms.
    """
    widths = [in_dim, *mlp.hidden_dims, mlp.out_dim]
    params = {}
    for i, layer_key in enumerate(jax.random.split(key, len(widths) - 1)):
        hidden = i < len(mlp.hidden_dims)
        kernel = init_kernel(layer_key, widths[i], widths[i + 1], 1 if hidden else mlp.heads)
        params[f"Dense_{i}"] = {"kernel": kernel, "bias": jnp.zeros(widths[i + 1])}
        if mlp.layer_norm and hidden:
            params[f"LayerNorm_{i}"] = {
                "scale": jnp.ones(widths[i + 1]),
                "bias": jnp.zeros(widths[i + 1]),
            }
    return params


def init_kernel(key: jax.Array, inputs: int, outputs: int, heads: int) -> jax.Array:
    """A kernel [inputs, outputs] of `heads` Xavier-uniform blocks [inputs, outputs / heads]."""
    keys = jax.random.split(key, heads) if heads > 1 else [key]
    xavier = jax.nn.initializers.xavier_uniform()
    return jnp.concatenate([xavier(k, (inputs, outputs // heads)) for k in keys], axis=1)


def init_ensemble(key: jax.Array, mlp: MLP, in_dim: int, size: int) -> dict:
    """Fresh parameters of `size` independent MLPs, stacked along a leading axis E of every
    leaf.
    """
    return jax.vmap(lambda k: init_mlp(k, mlp, in_dim))(jax.random.split(key, size))


def apply_mlp(params: dict, x: jax.Array) -> jax.Array:
    """Value [..., out_dim] of the MLP whose parameters are `params`, at x [..., N]."""
    return mlp_layers(params, x)[-1]


def apply_ensemble(params: dict, x: jax.Array) -> jax.Array:
    """Values [E, ...] of an ensemble of scalar MLPs at the same x [..., N]."""
    return jax.vmap(apply_mlp, in_axes=(0, None))(params, x)[..., 0]


def mlp_layers(params: dict, x: jax.Array, known: Layers | None = None) -> Layers:
    """All layers [..., width] of the MLP at x [..., N].

    `known`, these same layers from an earlier call, spares their computation: nothing is
    multiplied but what derivatives with respect to x and params need.
    """
    layers: list[jax.Array] = []
    for i in range(sum(name.startswith("Dense_") for name in params)):
        if i > 0:
            x = gelu(layers[-1])
            if f"LayerNorm_{i - 1}" in params:
                x = layer_norm(x, **params[f"LayerNorm_{i - 1}"])
        dense = params[f"Dense_{i}"]
        layers.append(
            affine(x, **dense)
            if known is None
            else known_affine(x, dense["kernel"], dense["bias"], known[i])
        )
    return tuple(layers)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x) by its tanh approximation, as in the published code."""
    return nn.gelu(x)


def gelu_slope(x: jax.Array) -> jax.Array:
    """The derivative of `gelu`. Written out it is one pass over x, where differentiating the
    code takes several.
    """
    c = math.sqrt(2.0 / math.pi)
    tanh = jnp.tanh(c * x * (1.0 + 0.044715 * x * x))
    return 0.5 * (1.0 + tanh) + 0.5 * c * x * (1.0 - tanh * tanh) * (
        1.0 + 3.0 * 0.044715 * x * x
    )


gelu.defjvps(lambda tangent, _, x: gelu_slope(x) * tangent)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., width] shifted and scaled to mean 0 and variance 1 along its last axis, then by
    scale and bias [width].

    Flax's LayerNorm to rounding. As x r - m r with m r a number per row, because for (x - m) r
    XLA on a CPU writes x - m to memory, to read it again in the derivative.
    """
    m, mean_of_squares = x.mean(axis=-1, keepdims=True), (x * x).mean(axis=-1, keepdims=True)
    r = jax.lax.rsqrt(jnp.maximum(mean_of_squares - m * m, 0.0) + 1e-6)
    return (x * r - m * r) * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(bias, x.shape)


def condition(params: dict, s: jax.Array) -> dict:
    """The MLP on concat(s, x) as an MLP on x alone, at fixed s [..., S].

    What s adds to the first layer is computed here, once for all x, and becomes that layer's
    bias [..., width].
    """
    kernel, bias = params["Dense_0"]["kernel"], params["Dense_0"]["bias"]
    rows = s.shape[-1]
    return params | {
        "Dense_0": {"kernel": kernel[rows:], "bias": affine(s, kernel[:rows], bias)}
    }


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x kernel + bias, for x [..., N] and bias [width] or, from `condition`, [B, width]."""
    y = product(x, kernel)
    return y + jnp.broadcast_to(bias, y.shape)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x kernel, for x [..., N] and kernel [N, width], in the matmul precision that JAX is set
    to.

    At "bfloat16", which JAX leaves to the device (TF32 on an H100, float32 on a CPU), both
    factors are bfloat16 on any device, in derivatives too; sums are in float32.
    """
    coarse = jax.config.jax_default_matmul_precision == "bfloat16"  # type: ignore[attr-defined]
    return coarse_product(x, kernel) if coarse else x @ kernel


@jax.custom_vjp
def coarse_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x kernel of factors rounded to bfloat16, summed in float32; its derivatives likewise."""
    return _coarse(x, kernel)


def _coarse(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # the same numbers, where XLA has no such product
    def rounded(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.reduce_precision(x, 8, 7) @ jax.lax.reduce_precision(kernel, 8, 7)

    def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.matmul(
            x.astype(jnp.bfloat16),
            kernel.astype(jnp.bfloat16),
            preferred_element_type=jnp.float32,
        )

    return jax.lax.platform_dependent(x, kernel, cpu=rounded, default=native)


def _coarse_transposed(
    factors: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = factors
    rows, columns = x.reshape(-1, x.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
    return _coarse(cotangent, kernel.T), _coarse(rows.T, columns)


coarse_product.defvjp(lambda x, kernel: (_coarse(x, kernel), (x, kernel)), _coarse_transposed)


@jax.custom_vjp
def known_affine(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, result: jax.Array
) -> jax.Array:
    """`affine(x, kernel, bias)` with its derivatives, where the result is known already."""
    return result


def known_affine_transposed(
    primals: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array | None, ...]:
    """The cotangents of `known_affine`'s arguments."""
    x, kernel, bias = primals
    _, transpose = jax.vjp(product, x.reshape(-1, x.shape[-1]), kernel)
    x_cotangent, kernel_cotangent = transpose(cotangent.reshape(-1, cotangent.shape[-1]))
    rows = cotangent.reshape(-1, *bias.shape)
    # Their sum as a product: XLA on a CPU takes a hundred times as long to sum over a leading
    # axis.
    bias_cotangent = jnp.tensordot(jnp.ones(len(rows)), rows, 1, precision="highest").astype(
        bias.dtype
    )
    return x_cotangent.reshape(x.shape), kernel_cotangent, bias_cotangent, None


known_affine.defvjp(
    lambda x, kernel, bias, result: (result, (x, kernel, bias)),
    known_affine_transposed,
)
