"""Networks as Flax modules, with the parameter names of the published checkpoints.

A module takes several inputs [..., N], whose leading axes broadcast. Its parameters are those
of the same network on the concatenated inputs: Dense_i has a kernel and a bias, LayerNorm_i a
scale and a bias.
"""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn

from utils.dense import LayerNorm, SplitDense, xavier


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
        norm = LayerNorm(name=f"LayerNorm_{i}")
        inputs = (norm(x) if layer_norm else x,)
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
