"""Where a dataset lies while agents train on it: on the device, or, where it does not fit
there, on the host.

    data = place_dataset(dataset, gigabytes, mesh)
    replay = Replay(data.stored)
    with data.feed(replay, keys, config, blocks) as feed:
        for rows in feed:  # one item for each block of updates
            train_block(..., rows)

On the host it stays in its (memory-mapped) arrays. Threads look up the rows of the blocks to
come, for the same chunks that the device would draw, since those follow from the key and the
number of the update alone.
"""

import collections
import contextlib
import itertools
import math
import mmap
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from utils.errors import RunError
from utils.replay import FIELDS, HostFed, Replay, Rows, Transitions, run_points, update_keys
from utils.sharding import host_device, replicate, shard

READERS = 16  # threads, most of which wait for the disk; what is in memory needs four
UPDATES_AHEAD = 32  # at the least, and at the least two blocks


class Block(NamedTuple):
    """Updates `first`, `first` + 1, ... of one call, while there are `online` online
    transitions.
    """

    first: int
    updates: int
    online: int = 0


def place_dataset(
    dataset: dict[str, np.ndarray], gigabytes: float | None, mesh: Mesh | None
) -> "OnDevice | OnHost":
    """The dataset on the device if it takes at most that many gigabytes (None:
    `device_budget`), else on the host.
    """
    budget = device_budget(jax.devices()[0]) if gigabytes is None else gigabytes * 1e9
    size = sum(dataset[name].nbytes for name in (*FIELDS, "rows"))
    return OnDevice(dataset, mesh) if size <= budget else OnHost(dataset, mesh)


def device_budget(device: jax.Device) -> float:
    """Bytes of a device that a dataset may take: half of what is free, on a CPU of the memory
    that is available.

    0 for an accelerator that does not tell, as with XLA_PYTHON_CLIENT_ALLOCATOR=platform.
    """
    if device.platform == "cpu":
        return available_memory() / 2
    stats = device.memory_stats() or {}
    return (stats["bytes_limit"] - stats["bytes_in_use"]) / 2 if "bytes_limit" in stats else 0.0


def available_memory() -> float:
    """Bytes that the host can give, what it only caches included; where it does not say, all
    that it has.
    """
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class OnDevice:
    """A dataset of which every device holds a copy; updates look up their rows themselves."""

    def __init__(self, dataset: dict[str, np.ndarray], mesh: Mesh | None):
        self.stored: Transitions | HostFed = replicate(Transitions.create(dataset), mesh)

    def feed(
        self, replay: Replay, keys: jax.Array, config: Any, blocks: Iterable[Block]
    ) -> contextlib.AbstractContextManager[Iterator[Rows | None]]:
        """None for each block."""
        return contextlib.nullcontext(None for _ in blocks)


class OnHost:
    """A dataset that stays where it is; threads look up what the coming updates read."""

    def __init__(self, dataset: dict[str, np.ndarray], mesh: Mesh | None):
        self.dataset, self.mesh = (
            {name: np.asarray(array) for name, array in dataset.items()},
            mesh,
        )
        self.files = [
            Path(a.filename)
            for a in dataset.values()
            if isinstance(a, np.memmap) and a.filename
        ]
        for array in dataset.values():
            expect_random_reads(array)
        self.stored: Transitions | HostFed = replicate(
            HostFed(jnp.array(len(dataset["rows"]), jnp.int32)), mesh
        )

    def feed(
        self, replay: Replay, keys: jax.Array, config: Any, blocks: Iterable[Block]
    ) -> "Prefetch":
        """The dataset's rows [S, U, B, ...] for each block, along [S] as the keys [S] of the
        seeds.
        """
        return Prefetch(self, replay, keys, config, blocks)

    def read_ahead(self, stop: threading.Event) -> None:
        """Read the files from start to end, where memory can keep them: single pages then need
        not come from the disk.
        """
        if sum(file.stat().st_size for file in self.files) > available_memory() / 2:
            return
        buffer = bytearray(1 << 24)
        for path in self.files:
            with path.open("rb", buffering=0) as file:
                while not stop.is_set() and file.readinto(buffer):
                    pass

    def empty(self, batch_size: int, horizon: int) -> Any:
        """Room for `Rows` of NumPy arrays [B, ...]."""
        steps = {"observations": horizon + 1}
        shapes = {
            name: (batch_size, steps.get(name, horizon), *self.dataset[name].shape[1:])
            for name in FIELDS
        }
        arrays: dict[str, Any] = {name: aligned(shape) for name, shape in shapes.items()}
        return Rows(**arrays)

    def look_up(self, starts: np.ndarray, rows: Any) -> None:
        """Fill `rows` [B, ...] with those from the transitions number `starts` [B] on:
        `Transitions.look_up` in NumPy.
        """
        numbers, steps = self.dataset["rows"], np.arange(rows.rewards.shape[1])
        # an index behind it is one of an online transition: anything will do
        last = len(numbers) - 1
        index = numbers[np.minimum(starts[:, None] + steps, last)]
        states = np.concatenate([index[:, :1], index + 1], axis=1)
        for name in FIELDS:
            # "clip" writes into `out` directly, and take lets other threads run.
            source, where = self.dataset[name], states if name == "observations" else index
            np.take(source, where, axis=0, out=getattr(rows, name), mode="clip")


class Prefetch:
    """An iterator over the rows of blocks that stays ahead of its reader; a context manager
    that leaves no thread behind.

    waited: seconds for which `next` had to wait so far.
    """

    def __init__(
        self,
        data: OnHost,
        replay: Replay,
        keys: jax.Array,
        config: Any,
        blocks: Iterable[Block],
        readers: int = READERS,
    ):
        self.data, self.config, self.blocks = data, config, iter(blocks)
        self.balanced = replay.balanced
        # Not on an accelerator, where the draws would queue behind the updates that are under
        # way.
        self.keys = jax.device_put(keys, host_device())
        self.pieces, self.waited = readers, 0.0
        self.builder = ThreadPoolExecutor(1, "prefetch")
        self.readers = ThreadPoolExecutor(readers + 1, "prefetch-reader")
        self.stop = threading.Event()
        self.readers.submit(data.read_ahead, self.stop)
        self.coming: collections.deque[tuple[Block, Future[Rows]]] = collections.deque()
        self._order()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        # The readers first: without them the builder does not go on.
        self.readers.shutdown(cancel_futures=True)
        self.builder.shutdown(cancel_futures=True)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Rows:
        """The rows of the next block; raises RunError where they cannot be read."""
        if not self.coming:
            raise StopIteration
        start = time.perf_counter()
        try:
            rows = self.coming.popleft()[1].result()
        except Exception as error:  # of whatever kind the storage has
            raise RunError(
                f"the dataset cannot be read any more ({type(error).__name__}: {error})"
            ) from error
        self.waited += time.perf_counter() - start
        self._order()
        return rows

    def _order(self) -> None:
        """Have the blocks to come built, one after the other."""
        while (
            len(self.coming) < 2
            or sum(block.updates for block, _ in self.coming) < UPDATES_AHEAD
        ):
            if (block := next(self.blocks, None)) is None:
                return
            self.coming.append((block, self.builder.submit(self._build, block)))

    def _build(self, block: Block) -> Rows:
        numbers = np.arange(block.first, block.first + block.updates, dtype=np.int32)
        sizes = (len(self.data.dataset["rows"]), block.online or None)
        horizon = self.config.horizon_length
        batch = self.config.batch_size, horizon, run_points(self.config)
        starts = np.asarray(starts_of(self.keys, numbers, *sizes, self.balanced, *batch))
        rows = self.data.empty(starts.size, horizon)
        cuts = np.linspace(0, starts.size, self.pieces + 1).astype(int)
        reading = [
            self.readers.submit(
                self.data.look_up,
                starts.ravel()[a:b],
                jax.tree.map(lambda array, a=a, b=b: array[a:b], rows),
            )
            for a, b in itertools.pairwise(cuts)
        ]
        for piece in reading:
            piece.result()
        return shard(
            jax.tree.map(lambda array: array.reshape(*starts.shape, *array.shape[1:]), rows),
            self.data.mesh,
        )


@partial(jax.jit, static_argnames=("balanced", "batch_size", "horizon", "points"))
def starts_of(
    keys: jax.Array,
    updates: jax.Array,
    stored: int,
    online: int | None,
    balanced: bool,
    batch_size: int,
    horizon: int,
    points: int,
) -> jax.Array:
    """Where the chunks [S, U, B] of the dataset's share start, for the seeds with `keys` [S] in
    the updates number [U].

    stored, online: the transitions there are. What starts at `stored` or behind it starts at an
    online one.
    """
    behind = None if online is None else HostFed(jnp.asarray(online, jnp.int32))
    replay = Replay(HostFed(jnp.asarray(stored, jnp.int32)), behind, balanced)

    def one(key: jax.Array, update: jax.Array) -> jax.Array:
        return replay.stored_starts(
            update_keys(jax.random.wrap_key_data(key), update)[0], batch_size, horizon, points
        )

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(keys, updates)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty array whose memory a CPU device can take as it is, without a copy."""
    size = 4 * math.prod(shape)
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(np.float32).reshape(shape)


def expect_random_reads(array: np.ndarray) -> None:
    """Have the kernel read of a memory-mapped array what is asked for alone, not the 128 kB
    around it.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        base.madvise(mmap.MADV_RANDOM)
