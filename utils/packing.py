"""Packs the biases and norms of ensembles into one vector.

On an accelerator the optimiser runs one kernel per array. Flows' biases stay apart: matrix
libraries read them in place.
"""

import math
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

PACKED = ("bias", "scale")  # names of parameters that no matrix product reads


class Packed(NamedTuple):
    """A tree whose small arrays are in one vector."""

    vector: jax.Array
    others: list[jax.Array]


class Packing(NamedTuple):
    """Which arrays of trees like one tree are packed."""

    structure: Any
    shapes: list[tuple[int, ...] | None]  # None for an array that is not packed

    @classmethod
    def of(cls, tree: Any) -> Self:
        """Choose the arrays to pack in trees of this structure and these shapes."""
        leaves, structure = jax.tree.flatten_with_path(tree)
        shapes = [
            leaf.shape
            if path and getattr(path[-1], "key", None) in PACKED and leaf.ndim > 1
            else None
            for path, leaf in leaves
        ]
        return cls(structure, shapes)

    def pack(self, tree: Any) -> Packed:
        """Return the tree in its packed form."""
        pairs = list(zip(self.structure.flatten_up_to(tree), self.shapes, strict=True))
        small = [leaf.reshape(-1) for leaf, shape in pairs if shape is not None]
        vector = jnp.concatenate(small) if small else jnp.zeros(0)
        return Packed(vector, [leaf for leaf, shape in pairs if shape is None])

    def unpack(self, packed: Packed) -> Any:
        """Return the tree of a packed form."""
        others, start, leaves = iter(packed.others), 0, []
        for shape in self.shapes:
            if shape is None:
                leaves.append(next(others))
            else:
                end = start + math.prod(shape)
                leaves.append(packed.vector[start:end].reshape(shape))
                start = end
        return jax.tree.unflatten(self.structure, leaves)
