"""Small arrays of a tree in one vector: on an accelerator each array by itself would be a
kernel of the optimiser and two of the gradient's norm.
"""

import math
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

PACKED = ("bias", "scale")  # parameters that no product of matrices reads


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
        """The packing of trees of this structure and these shapes."""
        leaves, structure = jax.tree.flatten_with_path(tree)
        shapes = [
            leaf.shape
            if path and getattr(path[-1], "key", None) in PACKED and leaf.ndim > 1
            else None
            for path, leaf in leaves
        ]
        return cls(structure, shapes)

    def pack(self, tree: Any) -> Packed:
        """The tree in its packed form."""
        pairs = list(zip(self.structure.flatten_up_to(tree), self.shapes, strict=True))
        small = [leaf.reshape(-1) for leaf, shape in pairs if shape is not None]
        vector = jnp.concatenate(small) if small else jnp.zeros(0)
        return Packed(vector, [leaf for leaf, shape in pairs if shape is None])

    def unpack(self, packed: Packed) -> Any:
        """The tree again."""
        others, start, leaves = iter(packed.others), 0, []
        for shape in self.shapes:
            if shape is None:
                leaves.append(next(others))
            else:
                end = start + math.prod(shape)
                leaves.append(packed.vector[start:end].reshape(shape))
                start = end
        return jax.tree.unflatten(self.structure, leaves)

    def pack_within(self, tree: Any) -> Any:
        """A tree in which every part of this structure is packed, such as an optimiser's."""
        return jax.tree.map(
            lambda part: self.pack(part) if self.fits(part) else part,
            tree,
            is_leaf=self.fits,
        )

    def unpack_within(self, tree: Any) -> Any:
        """What `pack_within` was given."""

        def is_packed(part: Any) -> bool:
            return isinstance(part, Packed)

        return jax.tree.map(
            lambda part: self.unpack(part) if is_packed(part) else part,
            tree,
            is_leaf=is_packed,
        )

    def fits(self, tree: Any) -> bool:
        """Whether a tree has this structure."""
        return jax.tree.structure(tree) == self.structure
