"""Stacks the states of several seeds, [S, ...], and shards them over devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from utils.messages import warn

SEED = PartitionSpec("seed")


def mesh_for(seeds: int) -> Mesh | None:
    """Return a mesh of as many devices as divide the seeds evenly; None for one device.

    Warns if more of them could be used.
    """
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if seeds % n == 0)
    if count < min(seeds, len(devices)):
        remedy = f"a multiple of {len(devices)} seeds would use them all"
        warn(
            f"{seeds} seeds are trained by {count} of {len(devices)} devices: {remedy}"
        )
    return Mesh(np.array(devices[:count]), ("seed",)) if count > 1 else None


def host_device() -> jax.Device:
    """Return the CPU device, or the first device if JAX_PLATFORMS excludes the CPU."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return jax.devices()[0]


def stack_seeds(trees: Sequence[Any], mesh: Mesh | None) -> Any:
    """Stack the trees of all seeds into one tree of arrays [S, ...] on the devices."""
    return shard(_stack(tuple(trees)), mesh)


@jax.jit
def _stack(trees: tuple) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def shard(stacked: Any, mesh: Mesh | None) -> Any:
    """Put a tree of arrays [S, ...] on the devices, each seed on one device."""
    return jax.device_put(stacked, None if mesh is None else NamedSharding(mesh, SEED))


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Put a copy of a tree on every device."""
    return (
        tree
        if mesh is None
        else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
    )


def one_seed(stacked: Any, seed: int) -> Any:
    """Copy the tree of one seed out of a stacked tree to the first device."""
    return jax.device_put(_one_seed(stacked, seed), jax.devices()[0])


@jax.jit
def _one_seed(stacked: Any, seed: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[seed], stacked)


def for_each_seed(
    function: Callable, axes: tuple[int | None, ...], mesh: Mesh | None
) -> Callable:
    """Vectorise a function over seeds; its results are stacked [S, ...].

    Args:
        function: the function for one seed.
        axes: for each argument 0 if it is stacked [S, ...], None if all seeds share it.
        mesh: the devices that the seeds are sharded over; None for one device.
    """

    def local(*arguments: Any) -> Any:
        stacked = arguments[axes.index(0)]
        if jax.tree.leaves(stacked)[0].shape[0] > 1:
            return jax.vmap(function, in_axes=axes)(*arguments)
        # Without vmap, one seed runs exactly the program of an unstacked agent.
        single = list(arguments)
        for i, axis in enumerate(axes):
            if axis == 0:
                single[i] = jax.tree.map(lambda leaf: leaf[0], arguments[i])
        return jax.tree.map(lambda leaf: leaf[None], function(*single))

    if mesh is None:
        return local
    specs = tuple(PartitionSpec() if axis is None else SEED for axis in axes)
    return jax.shard_map(
        local, mesh=mesh, in_specs=specs, out_specs=SEED, check_vma=False
    )
