"""Random keys by purpose, so that no key is used twice."""

import zlib
from typing import NamedTuple

import jax

from training.run import Run


class Keys(NamedTuple):
    """The keys of one run, by what they are used for."""

    parameters: jax.Array
    updates: jax.Array
    actions: jax.Array


def stream(key: jax.Array, name: str) -> jax.Array:
    """A key for one use, by name: small numbers folded in, or a split, would meet the keys of
    other uses.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def keys_of(run: Run) -> Keys:
    """The keys of a run; a pretraining run has others than the runs that finetune its base."""
    # These names are part of every stored run: other ones would change its random numbers.
    role = "base" if run.cloning else "heir"
    root = jax.random.key(run.seed)
    return Keys(*(stream(root, f"{role} {use}") for use in Keys._fields))
