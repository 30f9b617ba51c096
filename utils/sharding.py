"""Several seeds in one program: their states are stacked along an axis [S], which is sharded
over the devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from utils.logging import warn

SEED = PartitionSpec("seed")


def mesh_for(seeds: int) -> Mesh | None:
    """As many of the devices as divide the seeds evenly; None where that is one. Warns of
    devices left unused.
    """
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if seeds % n == 0)
    if count < min(seeds, len(devices)):
        all_of_them = f"a multiple of {len(devices)} seeds would use them all"
        warn(f"{seeds} seeds are trained by {count} of {len(devices)} devices: {all_of_them}")
    return Mesh(np.array(devices[:count]), ("seed",)) if count > 1 else None


def host_device() -> jax.Device:
    """The host's processor; where JAX_PLATFORMS names an accelerator alone, that one."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return jax.devices()[0]


def stack_seeds(trees: Sequence[Any], mesh: Mesh | None) -> Any:
    """One tree of arrays [S, ...] from a tree for each seed."""
    return shard(_stack(tuple(trees)), mesh)


@jax.jit
def _stack(trees: tuple) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def shard(stacked: Any, mesh: Mesh | None) -> Any:
    """Put a tree of arrays [S, ...] on the devices, each seed on one of them."""
    return jax.device_put(stacked, None if mesh is None else NamedSharding(mesh, SEED))


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Put a tree that all seeds read on every device."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def one_seed(stacked: Any, seed: int) -> Any:
    """The tree of seed number `seed` out of a stacked one, on the first device."""
    return jax.device_put(_one_seed(stacked, seed), jax.devices()[0])


@jax.jit
def _one_seed(stacked: Any, seed: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[seed], stacked)


def for_each_seed(
    function: Callable, axes: tuple[int | None, ...], mesh: Mesh | None
) -> Callable:
    """`function` for every seed: arguments with axis 0 are stacked, those with None are shared;
    results are stacked.
    """

    def local(*arguments: Any) -> Any:
        stacked = next(
            argument for argument, axis in zip(arguments, axes, strict=True) if axis == 0
        )
        if jax.tree.leaves(stacked)[0].shape[0] > 1:
            return jax.vmap(function, in_axes=axes)(*arguments)
        # One seed is trained by the program that it would be trained by alone, without an axis
        # more.
        single = [
            a if axis is None else jax.tree.map(lambda leaf: leaf[0], a)
            for a, axis in zip(arguments, axes, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[None], function(*single))

    if mesh is None:
        return local
    specs = tuple(PartitionSpec() if axis is None else SEED for axis in axes)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=SEED, check_vma=False)
