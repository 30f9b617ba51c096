"""Keeps a dataset on the device, or on the host if it does not fit, and feeds it to updates.

    data = place_dataset(dataset, gigabytes, mesh)
    replay = Replay(data.stored)
    with data.feed(replay, keys, spec, blocks) as feed:
        for rows in feed:  # one item for each block of updates
            train_block(..., rows)

A dataset on the host stays in its (memory-mapped) arrays. Threads read the rows of coming
blocks ahead of time. They read the same chunks that the device would draw, because the chunks
depend only on the key and the number of the update.
"""

import collections
import contextlib
import itertools
import math
import mmap
import operator
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
from utils.memory import available_memory, device_budget
from utils.replay import (
    FIELDS,
    BatchSpec,
    HostFed,
    Replay,
    Rows,
    Transitions,
    update_keys,
)
from utils.sharding import host_device, replicate, shard

READERS = 16  # threads; most of them wait for the disk (4 suffice for data in memory)
UPDATES_AHEAD = 32  # minimum of updates to prefetch, and at least two blocks


class Block(NamedTuple):
    """The updates of one compiled call.

    first: the number of the first update; online: how many online transitions are stored.
    """

    first: int
    updates: int
    online: int = 0


def place_dataset(
    dataset: dict[str, np.ndarray], gigabytes: float | None, mesh: Mesh | None
) -> "OnDevice | OnHost":
    """Put a dataset on the device if it is small enough, else leave it on the host.

    Args:
        dataset: a compact dataset, as `envs.datasets.load_dataset` returns it.
        gigabytes: the largest size for the device, in GB; None: `device_budget`.
        mesh: the devices that the seeds are sharded over.
    """
    budget = device_budget(jax.devices()[0]) if gigabytes is None else gigabytes * 1e9
    size = sum(dataset[name].nbytes for name in (*FIELDS, "rows"))
    return OnDevice(dataset, mesh) if size <= budget else OnHost(dataset, mesh)


class OnDevice:
    """A dataset with a copy on every device, where updates gather their own rows."""

    def __init__(self, dataset: dict[str, np.ndarray], mesh: Mesh | None):
        self.stored: Transitions | HostFed = replicate(
            Transitions.create(dataset), mesh
        )

    def feed(
        self, replay: Replay, keys: jax.Array, spec: BatchSpec, blocks: Iterable[Block]
    ) -> contextlib.AbstractContextManager[Iterator[Rows | None]]:
        """Yield None for each block; the arguments are those of `OnHost.feed`."""
        return contextlib.nullcontext(None for _ in blocks)


class OnHost:
    """A dataset in host memory or memory-mapped files, which threads read for the updates."""

    def __init__(self, dataset: dict[str, np.ndarray], mesh: Mesh | None):
        self.dataset = {name: np.asarray(array) for name, array in dataset.items()}
        self.mesh = mesh
        mapped = [array for array in dataset.values() if isinstance(array, np.memmap)]
        self.files = [Path(array.filename) for array in mapped if array.filename]
        for array in dataset.values():
            expect_random_reads(array)
        size = jnp.array(len(dataset["rows"]), jnp.int32)
        self.stored: Transitions | HostFed = replicate(HostFed(size), mesh)

    def feed(
        self, replay: Replay, keys: jax.Array, spec: BatchSpec, blocks: Iterable[Block]
    ) -> "Prefetch":
        """Return an iterator over the rows [S, U, B, ...] of each block of updates.

        Args:
            replay: what the updates sample from.
            keys: [S] the data of each seed's key for updates.
            spec: of the batches.
            blocks: the coming calls, in order.
        """
        return Prefetch(self, replay, keys, spec, blocks)

    def read_ahead(self, stop: threading.Event) -> None:
        """Read the files once if they fit in memory, to fill the page cache."""
        if sum(file.stat().st_size for file in self.files) > available_memory() / 2:
            return
        buffer = bytearray(1 << 24)
        for path in self.files:
            with path.open("rb", buffering=0) as file:
                while not stop.is_set() and file.readinto(buffer):
                    pass

    def empty(self, batch_size: int, horizon: int) -> Any:
        """Allocate `Rows` of NumPy arrays [B, ...]."""
        arrays: dict[str, Any] = {}
        for name in FIELDS:
            steps = horizon + 1 if name == "observations" else horizon
            arrays[name] = aligned((batch_size, steps, *self.dataset[name].shape[1:]))
        return Rows(**arrays)

    def look_up(self, starts: np.ndarray, rows: Any) -> None:
        """Fill `rows` [B, ...] as `Transitions.look_up` does, with NumPy.

        starts: [B] the numbers of the transitions at which the chunks start.
        """
        numbers = self.dataset["rows"]
        steps = np.arange(rows.rewards.shape[1])
        # A larger index is an online transition, whose rows the device fills in.
        last = len(numbers) - 1
        index = numbers[np.minimum(starts[:, None] + steps, last)]
        states = np.concatenate([index[:, :1], index + 1], axis=1)
        for name in FIELDS:
            where = states if name == "observations" else index
            # "clip" writes into `out` directly, and `take` releases the interpreter lock.
            np.take(
                self.dataset[name], where, axis=0, out=getattr(rows, name), mode="clip"
            )


class Prefetch:
    """An iterator that reads the rows of blocks ahead of time; a context manager.

    At the end of the context all threads are stopped. `waited` counts the seconds for which
    `next` had to wait.

    Args:
        data: the dataset.
        replay: as in `OnHost.feed`, like keys, spec and blocks.
        readers: the number of reading threads.
    """

    def __init__(
        self,
        data: OnHost,
        replay: Replay,
        keys: jax.Array,
        spec: BatchSpec,
        blocks: Iterable[Block],
        readers: int = READERS,
    ):
        self.data = data
        self.spec = spec
        self.blocks = iter(blocks)
        self.balanced = replay.balanced
        # On an accelerator the draws would wait for the running updates.
        self.keys = jax.device_put(keys, host_device())
        self.pieces = readers
        self.waited = 0.0
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
        # The readers first: the builder waits for them.
        self.readers.shutdown(cancel_futures=True)
        self.builder.shutdown(cancel_futures=True)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Rows:
        """Return the rows of the next block; raise RunError if they cannot be read."""
        if not self.coming:
            raise StopIteration
        start = time.perf_counter()
        try:
            rows = self.coming.popleft()[1].result()
        except Exception as error:  # storage may raise any type
            raise RunError(
                f"the dataset cannot be read any more ({type(error).__name__}: {error})"
            ) from error
        self.waited += time.perf_counter() - start
        self._order()
        return rows

    def _order(self) -> None:
        """Queue blocks until enough updates are ahead."""
        while len(self.coming) < 2 or self._updates_ahead() < UPDATES_AHEAD:
            if (block := next(self.blocks, None)) is None:
                return
            self.coming.append((block, self.builder.submit(self._build, block)))

    def _updates_ahead(self) -> int:
        return sum(block.updates for block, _ in self.coming)

    def _build(self, block: Block) -> Rows:
        """Read the rows [S, U, B, ...] of a block with all reader threads."""
        numbers = np.arange(block.first, block.first + block.updates, dtype=np.int32)
        sizes = (len(self.data.dataset["rows"]), block.online or None)
        spec = self.spec
        starts = np.asarray(starts_of(self.keys, numbers, *sizes, self.balanced, spec))
        rows = self.data.empty(starts.size, spec.horizon)
        cuts = np.linspace(0, starts.size, self.pieces + 1).astype(int)
        reading = []
        for first, end in itertools.pairwise(cuts):
            piece = slice(first, end)
            out = jax.tree.map(operator.itemgetter(piece), rows)
            reading.append(
                self.readers.submit(self.data.look_up, starts.ravel()[piece], out)
            )
        for future in reading:
            future.result()
        rows = jax.tree.map(
            lambda array: array.reshape(*starts.shape, *array.shape[1:]), rows
        )
        return shard(rows, self.data.mesh)


@partial(jax.jit, static_argnames=("balanced", "spec"))
def starts_of(
    keys: jax.Array,
    updates: jax.Array,
    stored: int,
    online: int | None,
    balanced: bool,
    spec: BatchSpec,
) -> jax.Array:
    """Draw the starts [S, U, B] of the chunks that the updates sample from the dataset.

    A start of `stored` or more is the number `start - stored` of an online transition.

    Args:
        keys: [S] the data of each seed's key for updates.
        updates: [U] numbers of the updates.
        stored: transitions of the dataset.
        online: online transitions; None without any.
        balanced: whether half of each batch is online.
        spec: of the batches.
    """
    later = None if online is None else HostFed(jnp.asarray(online, jnp.int32))
    replay = Replay(HostFed(jnp.asarray(stored, jnp.int32)), later, balanced)

    def one(key: jax.Array, update: jax.Array) -> jax.Array:
        key_batch, _ = update_keys(jax.random.wrap_key_data(key), update)
        return replay.stored_starts(key_batch, spec)

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(keys, updates)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Allocate a float32 array aligned so that a CPU device can use it without a copy."""
    size = 4 * math.prod(shape)
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(np.float32).reshape(shape)


def expect_random_reads(array: np.ndarray) -> None:
    """Turn off the kernel's read-ahead for a memory-mapped array, whose reads are random."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        base.madvise(mmap.MADV_RANDOM)
