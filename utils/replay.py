"""Transitions on the device, and batches of chunks of H consecutive transitions.

The compact layout stores each observation once. The transition that starts in row r ends at the
observation in row r + 1. A trajectory's final observation has a row in which no transition
starts; `rows` lists all other rows, in time order.
"""

from typing import Any, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Batch = dict[str, jax.Array]
"""Chunked batch: observations [B, O], actions [B, H, A], next_observations [B, H, O], and
rewards, masks, terminals, valid [B, H].
"""

FIELDS = ("observations", "actions", "rewards", "masks", "terminals")


class BatchSpec(NamedTuple):
    """What a batch consists of: B chunks of H steps, whose reward sums are discounted.

    points: n, how many chunks of a sequence follow each other; 1 without sequences.
    """

    batch_size: int
    horizon: int
    discount: float
    points: int = 1

    @classmethod
    def of(cls, config: Any) -> Self:
        """Return the batches that an agent with these settings is trained on."""
        points = chunks_per_sequence(config)
        return cls(config.batch_size, config.horizon_length, config.discount, points)


class Rows(flax.struct.PyTreeNode):
    """The raw rows of a batch of chunks: H transitions and H + 1 observations from each start.

    observations [..., H + 1, O]: the first, and the one after each transition; actions [...,
    H, A]; rewards, masks, terminals [..., H]. The rows may continue past the end of a
    trajectory; `chunks` masks what follows it.
    """

    observations: jax.Array
    actions: jax.Array
    rewards: jax.Array
    masks: jax.Array
    terminals: jax.Array


class Transitions(flax.struct.PyTreeNode):
    """Transitions in the compact layout, with spare room for online transitions.

    observations [R, O], actions [R, A], rewards, masks, terminals [R], rows [N], size: scalar.
    The first `size` entries of `rows` are used. masks is 0 where the task succeeded; terminals
    is 1 for the last transition of a trajectory.
    """

    observations: jax.Array
    actions: jax.Array
    rewards: jax.Array
    masks: jax.Array
    terminals: jax.Array
    rows: jax.Array
    size: jax.Array

    @classmethod
    def create(
        cls, dataset: dict[str, np.ndarray], transitions: int | None = None
    ) -> Self:
        """Put a compact dataset (`envs.datasets.load_dataset`) on the device.

        transitions: how many transitions to make room for; None: those of the dataset.
        """
        size = len(dataset["rows"])
        capacity = size
        rows = len(dataset["observations"])
        if transitions is not None:
            # A transition takes one row, a trajectory one more for its final observation.
            capacity = transitions
            rows = 2 * transitions
        fields = {name: jnp.asarray(pad_rows(dataset[name], rows)) for name in FIELDS}
        starts = jnp.asarray(pad_rows(dataset["rows"].astype(np.int32), capacity))
        return cls(**fields, rows=starts, size=jnp.array(size, jnp.int32))

    def append(
        self, transition: dict[str, jax.Array], starts_trajectory: jax.Array
    ) -> Self:
        """Append one transition, with its next observation in the row after it.

        Args:
            transition: observations, next_observations [O], actions [A], and the scalars
                rewards, masks, terminals.
            starts_trajectory: scalar. If true, the row of the previous trajectory's final
                observation is kept.
        """
        last = jnp.where(self.size > 0, self.rows[self.size - 1], -1)
        row = last + jnp.where(starts_trajectory & (self.size > 0), 2, 1)
        stored = {
            name: getattr(self, name).at[row].set(transition[name]) for name in FIELDS
        }
        following = transition["next_observations"]
        stored["observations"] = stored["observations"].at[row + 1].set(following)
        rows = self.rows.at[self.size].set(row)
        return self.replace(**stored, rows=rows, size=self.size + 1)

    def look_up(self, starts: jax.Array, horizon: int) -> Rows:
        """Gather the rows [B, ...] of the chunks that start at transitions `starts` [B].

        Entries of `starts` outside 0..N - 1 return arbitrary rows.
        """
        rows = self.rows[jnp.maximum(starts[:, None] + jnp.arange(horizon)[None], 0)]
        states = jnp.concatenate([rows[:, :1], rows + 1], axis=1)
        return Rows(
            observations=self.observations[states],
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            masks=self.masks[rows],
            terminals=self.terminals[rows],
        )


class HostFed(flax.struct.PyTreeNode):
    """`size` transitions on the host, and the `rows` read for an update (utils/prefetch.py)."""

    size: jax.Array
    rows: Rows | None = None

    def look_up(self, starts: jax.Array, horizon: int) -> Rows:
        """Return the rows [B, ...] read for this update, whose chunks start at `starts`."""
        assert self.rows is not None, "see Replay.feed"
        return self.rows


Parts = tuple[Transitions | HostFed, ...]
"""Consecutive blocks of transitions. No trajectory continues from one part to the next."""


def look_up(parts: Parts, starts: jax.Array, horizon: int) -> Rows:
    """Gather the rows [B, ...] of chunks whose starts are numbered through all parts.

    Args:
        parts: where to look.
        starts: [B] numbers of transitions, 0 for the first of the first part.
        horizon: H.
    """
    found = parts[0].look_up(starts, horizon)
    size = parts[0].size
    for part in parts[1:]:
        inside = starts[:, None] + jnp.arange(horizon)[None] >= size
        states = jnp.concatenate([inside[:, :1], inside], axis=1)
        choice = Rows(states[:, :, None], inside[:, :, None], inside, inside, inside)
        later = part.look_up(starts - size, horizon)
        found = jax.tree.map(jnp.where, choice, later, found)
        size += part.size
    return found


def chunks(rows: Rows, discount: float) -> Batch:
    """Turn raw rows into a batch of chunks [B, H, ...].

    Column j holds the j-th action, the discounted sum of rewards up to there, and the mask and
    next observation after it. After the end of a trajectory `valid` is 0, and the sum, the mask
    and the next observation keep their last valid value.
    """
    steps = jnp.arange(rows.rewards.shape[1])[None]
    ended = jnp.cumsum(rows.terminals, axis=1) > 0
    ended_before = jnp.concatenate(
        [jnp.zeros_like(ended[:, :1]), ended[:, :-1]], axis=1
    )
    valid = 1.0 - ended_before.astype(jnp.float32)
    last_valid = jax.lax.cummax(jnp.where(valid > 0, steps, 0), axis=1)
    powers = discount ** steps.astype(jnp.float32)
    rewards = powers * rows.rewards * valid
    next_observations = jnp.take_along_axis(
        rows.observations, last_valid[..., None] + 1, axis=1
    )
    return {
        "observations": rows.observations[:, 0],
        "actions": rows.actions,
        "rewards": jnp.cumsum(rewards, axis=1),
        "masks": jax.lax.cummin(jnp.where(valid > 0, rows.masks, 1.0), axis=1),
        "terminals": rows.terminals,
        "valid": valid,
        "next_observations": next_observations,
    }


def sequence_chunks(rows: Rows, discount: float) -> Batch:
    """Turn raw rows into the chunks [B, H, ...] of sequences, for LQL (agents/lql.py).

    A success ends a chunk too, even if the trajectory continues. Next observations are those
    after each raw row. The batch also has row_rewards and ends [B, H]: the reward of each row,
    and 1 where it is an end.
    """
    ends = jnp.maximum(rows.terminals, 1.0 - rows.masks)
    return chunks(rows.replace(terminals=ends), discount) | {
        "next_observations": rows.observations[:, 1:],
        "terminals": rows.terminals,
        "row_rewards": rows.rewards,
        "ends": ends,
    }


def gather_chunks(parts: Parts, starts: jax.Array, spec: BatchSpec) -> Batch:
    """Return the chunks [B, H, ...] that start at the transitions `starts` [B].

    Args:
        parts: where to look.
        starts: numbers of transitions, counted through all parts.
        spec: of the batch.
    """
    rows = look_up(parts, starts, spec.horizon)
    make = chunks if spec.points == 1 else sequence_chunks
    return make(rows, spec.discount)


def draw_starts(parts: Parts, key: jax.Array, spec: BatchSpec) -> jax.Array:
    """Draw the starts [B] of a batch, uniform on 0..N-H for N transitions in all parts.

    With sequences of n chunks, only the B / n first ones are drawn, from 0..N-nH.

    Args:
        parts: the transitions.
        key: the random key.
        spec: of the batch.
    """
    points, horizon = spec.points, spec.horizon
    last = sum(part.size for part in parts) - points * horizon
    first = jax.random.randint(key, (spec.batch_size // points,), 0, last + 1)
    if points == 1:
        return first
    return (first[:, None] + horizon * jnp.arange(points)[None]).ravel()


def chunk_length(config: Any) -> int:
    """Return the environment steps per policy call: H with action chunking, else 1."""
    return config.horizon_length if config.action_chunking else 1


def chunks_per_sequence(config: Any) -> int:
    """Return n, how many chunks of a batch follow each other; 1 for agents without LQL."""
    return getattr(config, "lql_points", 1)


def transitions_per_sequence(config: Any) -> int:
    """Return n H, how many consecutive transitions a batch needs."""
    return chunks_per_sequence(config) * config.horizon_length


def update_keys(key: jax.Array, update: jax.Array) -> jax.Array:
    """Return the two keys of an update: one samples its batch, one draws all other noise."""
    return jax.random.split(jax.random.fold_in(key, update))


class Replay(flax.struct.PyTreeNode):
    """What updates sample from: the dataset (`stored`) and the online transitions.

    With balanced sampling, half of every batch is online. All seeds share `stored`; each seed
    has its own `online`.
    """

    stored: Transitions | HostFed
    online: Transitions | HostFed | None = None
    balanced: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def create(cls, dataset: dict[str, np.ndarray]) -> Self:
        """Put a compact dataset on the device, without online transitions."""
        return cls(Transitions.create(dataset))

    def feed(self, rows: Rows | None) -> Self:
        """Use `rows` [B, ...] of a dataset on the host for one update; None changes nothing."""
        if rows is None:
            return self
        return self.replace(stored=HostFed(self.stored.size, rows))

    def draws(
        self, key: jax.Array, spec: BatchSpec
    ) -> list[tuple[Parts, jax.Array, BatchSpec]]:
        """Return the arguments of `draw_starts` for each part of a batch, the dataset first.

        The arguments are those of `sample`.
        """
        if self.online is None:
            return [((self.stored,), key, spec)]
        if not self.balanced:
            return [((self.stored, self.online), key, spec)]
        key_stored, key_online = jax.random.split(key)
        half = spec.batch_size // spec.points // 2 * spec.points  # of whole sequences
        rest = spec.batch_size - half
        return [
            ((self.stored,), key_stored, spec._replace(batch_size=rest)),
            ((self.online,), key_online, spec._replace(batch_size=half)),
        ]

    def stored_starts(self, key: jax.Array, spec: BatchSpec) -> jax.Array:
        """Return the starts [B'] of the chunks that are looked up in the dataset.

        Starts beyond the dataset's size are online transitions. The arguments are those of
        `sample`.
        """
        return draw_starts(*self.draws(key, spec)[0])

    def sample(self, key: jax.Array, spec: BatchSpec) -> Batch:
        """Sample a batch of chunks [B, H, ...].

        With balanced sampling each half of the batch has as many online chunks, because
        reversal Q-learning treats the halves differently.

        Args:
            key: the random key.
            spec: of the batch.
        """
        batches = [
            gather_chunks(parts, draw_starts(parts, part_key, share), share)
            for parts, part_key, share in self.draws(key, spec)
        ]
        if len(batches) == 1:
            return batches[0]
        online_sequences = len(batches[1]["rewards"]) // spec.points
        quarter = online_sequences // 2 * spec.points

        def join(stored: jax.Array, online: jax.Array) -> jax.Array:
            return jnp.concatenate(
                [stored[:quarter], online[:quarter], stored[quarter:], online[quarter:]]
            )

        return jax.tree.map(join, *batches)


def pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
    """Pad an array with rows of zeros to `rows` rows."""
    if len(array) == rows:
        return array
    zeros = np.zeros((rows - len(array), *array.shape[1:]), array.dtype)
    return np.concatenate([array, zeros])
