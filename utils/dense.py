"""Layers with a program for each platform; results are equal up to rounding."""

import functools
import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn

xavier = nn.initializers.xavier_uniform()


class SplitDense(nn.Module):
    """A dense layer on the concatenation of its inputs, whose leading axes broadcast.

    A CPU computes one product for each input: a flow multiplies the observation once for all
    of its steps. An accelerator, limited by its number of kernels, computes one product.
    """

    features: int
    kernel_init: nn.initializers.Initializer = xavier

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        width = sum(x.shape[-1] for x in inputs)
        kernel = self.param("kernel", self.kernel_init, (width, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if len(inputs) == 1:
            x = joined(kernel, *inputs)
        else:
            x = jax.lax.platform_dependent(kernel, *inputs, cpu=split, default=joined)
        return x + jnp.broadcast_to(bias, x.shape)


def joined(kernel: jax.Array, *inputs: jax.Array) -> jax.Array:
    """One product of the inputs' concatenation."""
    axes = jnp.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    wide = [jnp.broadcast_to(x, (*axes, x.shape[-1])) for x in inputs]
    return jnp.concatenate(wide, axis=-1) @ kernel


def split(kernel: jax.Array, *inputs: jax.Array) -> jax.Array:
    """The same as a sum of one product for each input."""
    axes = jnp.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    ends = list(itertools.accumulate(x.shape[-1] for x in inputs))
    products = map(product, inputs, jnp.split(kernel, ends[:-1]))
    return functools.reduce(
        jnp.add, (jnp.broadcast_to(term, (*axes, kernel.shape[1])) for term in products)
    )


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel; of an input of width 1, as time is, a multiplication, which XLA fuses."""
    if x.shape[-1] > 1:
        return x @ kernel
    return x * kernel.reshape((1,) * (x.ndim - 1) + (-1,))


class LayerNorm(nn.Module):
    """`nn.LayerNorm` over the last axis, with its parameters.

    An accelerator takes the mean and then the variance about it, in one fused kernel; a CPU is
    faster with the mean of the squares.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1,) * (x.ndim - 1) + x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        mean, variance = jax.lax.platform_dependent(
            x, cpu=fast_moments, default=moments
        )
        factor = jax.lax.rsqrt(variance + 1e-6) * scale.reshape(shape)
        return (x - mean) * factor + bias.reshape(shape)


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean [..., 1] and the mean squared distance from it [..., 1]."""
    mean = x.mean(axis=-1, keepdims=True)
    return mean, jnp.square(x - mean).mean(axis=-1, keepdims=True)


def fast_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same from the means of x and its square."""
    mean = x.mean(axis=-1, keepdims=True)
    squares = jnp.square(x).mean(axis=-1, keepdims=True)
    return mean, jnp.maximum(squares - jnp.square(mean), 0.0)
