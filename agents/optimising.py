"""The gradient's norm and its clipping, with few kernels on an accelerator."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

SMALL = 65_536_000  # elements of the arrays that are summed together


def gradient_norm(gradient: Any) -> jax.Array:
    """The Euclidean norm of a tree of arrays, as `optax.tree.norm` has it.

    Small arrays are summed as one: each by itself would be a kernel on an accelerator.
    """
    leaves = jax.tree.leaves(gradient)
    small = [leaf.reshape(-1) for leaf in leaves if leaf.size <= SMALL]
    others = [leaf for leaf in leaves if leaf.size > SMALL]
    vectors = [jnp.concatenate(small)] if small else []
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in (*vectors, *others)))


def clip_norm() -> optax.GradientTransformation:
    """The norm of the joint gradient clipped to 1, as by `optax.clip_by_global_norm`."""

    def clip(gradient: Any, _: Any) -> Any:
        norm = gradient_norm(gradient)
        return jax.tree.map(lambda leaf: jnp.where(norm < 1.0, leaf, leaf / norm), gradient)

    return optax.stateless(clip)
