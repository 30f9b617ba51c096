"""Random keys by purpose, so that no key is used for two purposes."""

import zlib
from typing import NamedTuple

import jax

from training.run import Run


class Keys(NamedTuple):
    """The keys of one run by purpose."""

    parameters: jax.Array
    updates: jax.Array
    actions: jax.Array


def stream(key: jax.Array, name: str) -> jax.Array:
    """Derive the key of a named purpose.

    Folding in a small number, or splitting, could produce the key of another purpose.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def keys_of(run: Run) -> Keys:
    """Return the keys of a run. A pretraining run has other keys than a finetuning run."""
    # "heir" means finetune. These names determine the random numbers of every stored run, so
    # they cannot be renamed.
    role = "base" if run.cloning else "heir"
    root = jax.random.key(run.seed)
    return Keys(*(stream(root, f"{role} {use}") for use in Keys._fields))
