"""Networks as Flax modules, with the parameter names of the published checkpoints.

A module takes several inputs [..., N], whose leading axes broadcast. Its parameters are those
of the same network on the concatenated inputs: Dense_i has a kernel and a bias, LayerNorm_i a
scale and a bias.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

xavier = nn.initializers.xavier_uniform()


class SplitDense(nn.Module):
    """A dense layer on the concatenation of its inputs, computed as one product per input: a
    flow multiplies the observation once for all of its steps.
    """

    features: int
    kernel_init: nn.initializers.Initializer = xavier

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        ends = list(itertools.accumulate(x.shape[-1] for x in inputs))
        kernel = self.param("kernel", self.kernel_init, (ends[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        shape = (*jnp.broadcast_shapes(*(x.shape[:-1] for x in inputs)), self.features)
        products = map(jnp.matmul, inputs, jnp.split(kernel, ends[:-1]))
        terms = (jnp.broadcast_to(term, shape) for term in (*products, bias))
        return functools.reduce(jnp.add, terms)


def mlp(
    inputs: Sequence[jax.Array],
    hidden_dims: Sequence[int],
    out_dim: int,
    layer_norm: bool,
    out_init: nn.initializers.Initializer = xavier,
    activation: Callable[[jax.Array], jax.Array] = nn.gelu,
) -> jax.Array:
    """Apply hidden layers and a linear output layer; called inside an `@nn.compact` method.

    Args:
        inputs: arrays [..., N] whose leading axes broadcast.
        hidden_dims: widths of the hidden layers.
        out_dim: width of the output.
        layer_norm: whether LayerNorm follows each activation.
        out_init: initialiser of the output kernel.
        activation: of the hidden layers.
    """
    for i, width in enumerate(hidden_dims):
        x = activation(SplitDense(width, name=f"Dense_{i}")(*inputs))
        inputs = (nn.LayerNorm(name=f"LayerNorm_{i}")(x) if layer_norm else x,)
    return SplitDense(out_dim, out_init, name=f"Dense_{len(hidden_dims)}")(*inputs)


class VelocityField(nn.Module):
    """Returns v(s, x, t) [..., D] for s [..., O], x [..., D], t [..., 1]."""

    hidden_dims: Sequence[int]
    layer_norm: bool

    @nn.compact
    def __call__(self, s: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
        return mlp((s, x, t), self.hidden_dims, x.shape[-1], self.layer_norm)


class Critic(nn.Module):
    """Returns a number [...], such as Q(s, a) or V(s); with `bins`, logits [..., bins]."""

    hidden_dims: Sequence[int]
    layer_norm: bool
    bins: int = 0

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        outputs = mlp(inputs, self.hidden_dims, self.bins or 1, self.layer_norm)
        return outputs if self.bins else outputs[..., 0]


def ensemble(module: type[nn.Module], size: int) -> type[nn.Module]:
    """`size` copies on the same inputs; parameters and results have a leading axis [E]."""
    return nn.vmap(
        module, {"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=size
    )
