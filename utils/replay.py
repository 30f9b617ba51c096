"""Transitions on the device and the chunks of H consecutive ones that every update trains on.

The compact layout holds each observation once: the observation after the transition in row r is
the one in row r + 1, and a trajectory's final observation has a row of its own that starts no
transition. `rows` lists the rows that do, in time order.
"""

from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Batch = dict[str, jax.Array]
"""Chunked batch: observations [B, O], actions [B, H, A], rewards, masks, valid [B, H],
next_observations [B, H, O]. In runs of n chunks B / n runs lie one after the other; see
`run_chunks`.
"""

FIELDS = ("observations", "actions", "rewards", "masks", "terminals")


class Rows(flax.struct.PyTreeNode):
    """What is stored from given transitions on: all that their chunks are made of.

    observations [..., H + 1, O] of the row in which each starts, and after it and each of the
    H - 1 transitions behind it; actions [..., H, A], rewards, masks, terminals [..., H] of each
    of these, whatever trajectory they belong to.
    """

    observations: jax.Array
    actions: jax.Array
    rewards: jax.Array
    masks: jax.Array
    terminals: jax.Array


class Transitions(flax.struct.PyTreeNode):
    """R rows, of which the first `size` entries of `rows` start transitions; the rest is room
    for online ones.

    observations [R, O], actions [R, A], rewards, masks, terminals [R] (of the transition that
    starts in the row: mask 0 where the task succeeded, terminal 1 at the last of a trajectory),
    rows [N], size: scalar.
    """

    observations: jax.Array
    actions: jax.Array
    rewards: jax.Array
    masks: jax.Array
    terminals: jax.Array
    rows: jax.Array
    size: jax.Array

    @classmethod
    def create(cls, dataset: dict[str, np.ndarray], transitions: int | None = None) -> Self:
        """Put a compact dataset (`envs.datasets.load_dataset`) on the device, with room up to
        `transitions` of them.
        """
        size = len(dataset["rows"])
        capacity = size if transitions is None else transitions
        # A transition takes one row, and each trajectory one more for its final observation.
        rows = len(dataset["observations"]) if transitions is None else 2 * transitions
        fields = {name: jnp.asarray(padded(dataset[name], rows)) for name in FIELDS}
        starts = jnp.asarray(padded(dataset["rows"].astype(np.int32), capacity))
        return cls(**fields, rows=starts, size=jnp.array(size, jnp.int32))

    def append(self, transition: dict[str, jax.Array], starts_trajectory: jax.Array) -> Self:
        """Store one transition behind the last one, and its next observation in the row after
        it.

        transition: observations, next_observations [O], actions [A], rewards, masks, terminals:
        scalars. A transition that starts a trajectory skips the row of the previous
        trajectory's final observation.
        """
        last = jnp.where(self.size > 0, self.rows[self.size - 1], -1)
        row = last + jnp.where(starts_trajectory & (self.size > 0), 2, 1)
        stored = {name: getattr(self, name).at[row].set(transition[name]) for name in FIELDS}
        stored["observations"] = (
            stored["observations"].at[row + 1].set(transition["next_observations"])
        )
        return self.replace(**stored, rows=self.rows.at[self.size].set(row), size=self.size + 1)

    def look_up(self, starts: jax.Array, horizon: int) -> Rows:
        """The rows [B, ...] from the transitions number `starts` [B] on; of no meaning where
        that is outside 0..N - 1.
        """
        rows = self.rows[jnp.maximum(starts[:, None] + jnp.arange(horizon)[None], 0)]
        states = jnp.concatenate([rows[:, :1], rows + 1], axis=1)
        return Rows(
            self.observations[states], *(getattr(self, name)[rows] for name in FIELDS[1:])
        )


class HostFed(flax.struct.PyTreeNode):
    """`size` transitions that stay on the host, which feeds the `rows` of one update's chunks
    (utils/prefetch.py).
    """

    size: jax.Array
    rows: Rows | None = None

    def look_up(self, starts: jax.Array, horizon: int) -> Rows:
        """The rows [B, ...] that were looked up for this update, whose chunks start at
        `starts`.
        """
        assert self.rows is not None, "see Replay.feed"
        return self.rows


Parts = tuple[Transitions | HostFed, ...]
"""Transitions that follow each other in time; a trajectory does not go on in the next part."""


def look_up(parts: Parts, starts: jax.Array, horizon: int) -> Rows:
    """The rows [B, ...] from transition number `starts` [B] on, counted through all parts."""
    found, size = parts[0].look_up(starts, horizon), parts[0].size
    for part in parts[1:]:
        inside = starts[:, None] + jnp.arange(horizon)[None] >= size
        states = jnp.concatenate([inside[:, :1], inside], axis=1)
        choice = Rows(states[:, :, None], inside[:, :, None], inside, inside, inside)
        found, size = (
            jax.tree.map(jnp.where, choice, part.look_up(starts - size, horizon), found),
            size + part.size,
        )
    return found


def chunks(rows: Rows, discount: float) -> Batch:
    """The chunks [B, H, ...] that are made of the given rows.

    Column j holds the j-th action, the discounted reward sum, the mask and the next observation
    up to there; behind the end of a trajectory `valid` is 0 and sum, mask and next observation
    stay what they were at the end.
    """
    steps = jnp.arange(rows.rewards.shape[1])[None]
    ended = jnp.cumsum(rows.terminals, axis=1) > 0
    valid = 1.0 - jnp.concatenate([jnp.zeros_like(ended[:, :1]), ended[:, :-1]], axis=1).astype(
        jnp.float32
    )
    last_valid = jax.lax.cummax(jnp.where(valid > 0, steps, 0), axis=1)
    powers = discount ** steps.astype(jnp.float32)
    return {
        "observations": rows.observations[:, 0],
        "actions": rows.actions,
        "rewards": jnp.cumsum(powers * rows.rewards * valid, axis=1),
        "masks": jax.lax.cummin(jnp.where(valid > 0, rows.masks, 1.0), axis=1),
        "terminals": rows.terminals,
        "valid": valid,
        "next_observations": jnp.take_along_axis(
            rows.observations, last_valid[..., None] + 1, axis=1
        ),
    }


def run_chunks(rows: Rows, discount: float) -> Batch:
    """The chunks [B, H, ...] of runs, in which a success is an end too, even where the
    trajectory goes on.

    Next observations are those after each row, whatever trajectory it belongs to. Besides
    `chunks`: row_rewards and ends [B, H], the reward of each row and whether it is an end.
    """
    ends = jnp.maximum(rows.terminals, 1.0 - rows.masks)
    return chunks(rows.replace(terminals=ends), discount) | {
        "next_observations": rows.observations[:, 1:],
        "terminals": rows.terminals,
        "row_rewards": rows.rewards,
        "ends": ends,
    }


def gather(
    parts: Parts, starts: jax.Array, horizon: int, discount: float, points: int = 1
) -> Batch:
    """The chunks [B, H, ...] that start at the given transitions [B], in runs of `points`."""
    rows = look_up(parts, starts, horizon)
    return chunks(rows, discount) if points == 1 else run_chunks(rows, discount)


def draw_starts(
    parts: Parts, key: jax.Array, batch_size: int, horizon: int, points: int = 1
) -> jax.Array:
    """Where a batch's chunks [B] start: B / n runs of n = `points` chunks, which follow each
    other, start uniformly at transitions 0..N - n H, N of them in all parts.
    """
    size = sum(part.size for part in parts)
    first = jax.random.randint(key, (batch_size // points,), 0, size - points * horizon + 1)
    if points == 1:
        return first
    return (first[:, None] + horizon * jnp.arange(points)[None]).ravel()


def sample(
    parts: Parts,
    key: jax.Array,
    batch_size: int,
    horizon: int,
    discount: float,
    points: int = 1,
) -> Batch:
    """A batch of chunks that start where `draw_starts` says."""
    starts = draw_starts(parts, key, batch_size, horizon, points)
    return gather(parts, starts, horizon, discount, points)


def run_points(config: Any) -> int:
    """n: how many chunks of a batch follow each other; 1 for agents without such runs."""
    return getattr(config, "lql_points", 1)


def run_length(config: Any) -> int:
    """L = n H: how many transitions a batch needs in a row."""
    return run_points(config) * config.horizon_length


def update_keys(key: jax.Array, update: jax.Array) -> jax.Array:
    """The keys of update number `update`: one for its batch, one for the rest."""
    return jax.random.split(jax.random.fold_in(key, update))


class Replay(flax.struct.PyTreeNode):
    """What updates sample from: the dataset, and online transitions behind it.

    With balanced sampling the online ones make up half of every batch. Several seeds share
    `stored`; `online` is each one's.
    """

    stored: Transitions | HostFed
    online: Transitions | HostFed | None = None
    balanced: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def create(
        cls,
        dataset: dict[str, np.ndarray],
        room: int = 0,
        balanced: bool = False,
        online: dict[str, np.ndarray] | None = None,
    ) -> Self:
        """The dataset, with room for `room` online transitions, of which `online`, a compact
        dataset, is there already.
        """
        if not room:
            return cls(Transitions.create(dataset))
        empty = {name: dataset[name][:0] for name in (*FIELDS, "rows")}
        return cls(
            Transitions.create(dataset), Transitions.create(online or empty, room), balanced
        )

    def append(self, transition: dict[str, jax.Array], starts_trajectory: jax.Array) -> Self:
        """Store one online transition."""
        assert isinstance(self.online, Transitions)
        return self.replace(online=self.online.append(transition, starts_trajectory))

    def feed(self, rows: Rows | None) -> Self:
        """With the dataset's rows [B, ...] of one update; None where the dataset is at hand."""
        return self if rows is None else self.replace(stored=HostFed(self.stored.size, rows))

    def shares(
        self, key: jax.Array, batch_size: int, points: int = 1
    ) -> list[tuple[Parts, jax.Array, int]]:
        """What a batch is made of: parts, the key that draws from them, and how many chunks, in
        runs of `points`; the dataset's share first.
        """
        if self.online is None:
            return [((self.stored,), key, batch_size)]
        if not self.balanced:
            return [((self.stored, self.online), key, batch_size)]
        key_stored, key_online = jax.random.split(key)
        half = batch_size // points // 2 * points
        return [
            ((self.stored,), key_stored, batch_size - half),
            ((self.online,), key_online, half),
        ]

    def stored_starts(
        self, key: jax.Array, batch_size: int, horizon: int, points: int = 1
    ) -> jax.Array:
        """Where the chunks of the dataset's share start; those behind its size start online."""
        parts, key, count = self.shares(key, batch_size, points)[0]
        return draw_starts(parts, key, count, horizon, points)

    def sample(
        self, key: jax.Array, batch_size: int, horizon: int, discount: float, points: int = 1
    ) -> Batch:
        """A batch of chunks, in runs of `points`."""
        batches = [
            sample(parts, key, count, horizon, discount, points)
            for parts, key, count in self.shares(key, batch_size, points)
        ]
        return (
            batches[0]
            if len(batches) == 1
            else jax.tree.map(lambda *halves: jnp.concatenate(halves), *batches)
        )


def padded(array: np.ndarray, rows: int) -> np.ndarray:
    """The array with rows of zeros behind it, up to `rows` of them."""
    if len(array) == rows:
        return array
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])
