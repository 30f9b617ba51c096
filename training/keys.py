"""Random keys by purpose, so that no key is used twice."""

import zlib

import jax

from training.run import Run


def stream(key: jax.Array, name: str) -> jax.Array:
    """A key for one use, by name: small numbers folded in, or a split, would meet the keys of
    other uses.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def keys_of(run: Run) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Three keys of a run, for its parameters, updates and actions; those of a base differ from
    those of its heirs.
    """
    role = "heir" if run.agent.STARTS_FROM_BASE else "base"
    root = jax.random.key(run.seed)
    return (
        stream(root, f"{role} parameters"),
        stream(root, f"{role} updates"),
        stream(root, f"{role} actions"),
    )
