"""What is measured between two logs: the metrics of the updates, and the time."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from utils.sharding import stack_seeds

EMPTY_WINDOW: dict[str, Any] = {"updates": 0, "sums": {}}
"""A seed's window in a checkpoint right after a log: the number of updates, and their metrics
added by name."""


class Window(flax.struct.PyTreeNode):
    """The metrics since the last log.

    sums [M]: the sum of each metric; broken [M]: the first update at which it was not finite,
    or -1; names: of the metrics. They are vectors because on an accelerator each number of its
    own would take two kernels.
    """

    sums: jax.Array
    broken: jax.Array
    names: tuple[str, ...] = flax.struct.field(pytree_node=False)

    @classmethod
    def create(cls, sums: dict[str, Any]) -> Self:
        """Create a window with these sums, all finite."""
        values = jnp.array(list(sums.values()), jnp.float32)
        return cls(values, jnp.full(values.shape, -1, jnp.int32), tuple(sums))

    def add(self, metrics: dict[str, jax.Array], update: jax.Array) -> Self:
        """Add the metrics of one update, whose number is `update`."""
        values = jnp.stack([metrics[name] for name in self.names])
        first = (self.broken < 0) & ~jnp.isfinite(values)
        return self.replace(
            sums=self.sums + values, broken=jnp.where(first, update, self.broken)
        )

    def by_name(self, values: jax.Array) -> list[dict[str, Any]]:
        """Return each seed's `sums` or `broken` [S, M] as a dict from the metrics' names."""
        host = jax.device_get(values).tolist()
        return [dict(zip(self.names, row, strict=True)) for row in host]


def stack_windows(sums: Sequence[dict[str, Any]], mesh: Mesh | None) -> Window:
    """Create the windows [S, ...] of all seeds from their sums; missing sums are 0."""
    zeros = {name: 0.0 for each in sums for name in each}
    return stack_seeds([Window.create(zeros | each) for each in sums], mesh)


class WindowClock:
    """Measures the training time since the last log, and an upper bound of the device's idle
    time; counts the updates in that time.

    After a resume within a window it knows only the updates of this process.
    """

    def __init__(self) -> None:
        self.start = self.busy_until = time.perf_counter()
        self.idle = 0.0
        self.updates = 0

    def seen_busy(self) -> None:
        """Record that the device has worked until now."""
        self.busy_until = time.perf_counter()

    def seen_idle(self) -> None:
        """Record that the device is idle, counted from the last `seen_busy`."""
        self.idle += time.perf_counter() - self.busy_until

    @contextlib.contextmanager
    def untimed(self) -> Iterator[None]:
        """Do not count the time of this block as training time."""
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        self.start += spent
        self.busy_until += spent

    def seconds(self) -> float:
        """Return the training time since the last log."""
        return time.perf_counter() - self.start

    def restart(self) -> None:
        """Start measuring anew."""
        self.start = time.perf_counter()
        self.idle = 0.0
        self.updates = 0
