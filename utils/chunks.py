"""Transitions on the device and the chunks of H consecutive ones that every update trains on.

The compact layout holds each observation once: the observation after the transition in row r is the one in row r + 1, and a
trajectory's final observation has a row of its own that starts no transition. `rows` lists the rows that do, in time order.
"""

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from agents.base import Batch

FIELDS = ("observations", "actions", "rewards", "masks", "terminals")


class Transitions(flax.struct.PyTreeNode):
    """R rows, of which the first `size` entries of `rows` start transitions; the rest is room for online ones.

    observations [R, O], actions [R, A], rewards, masks, terminals [R] (of the transition that starts in the row: mask 0
    where the task succeeded, terminal 1 at the last of a trajectory), rows [N], size: scalar.
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
        """Put a compact dataset (`envs.datasets.load_dataset`) on the device, with room up to `transitions` of them."""
        size = len(dataset["rows"])
        capacity = size if transitions is None else transitions
        # A transition takes one row, and each trajectory one more for its final observation.
        rows = len(dataset["observations"]) if transitions is None else 2 * transitions
        fields = {name: jnp.asarray(padded(dataset[name], rows)) for name in FIELDS}
        starts = jnp.asarray(padded(dataset["rows"].astype(np.int32), capacity))
        return cls(**fields, rows=starts, size=jnp.array(size, jnp.int32))

    def append(self, transition: dict[str, jax.Array], starts_trajectory: jax.Array) -> Self:
        """Store one transition behind the last one, and its next observation in the row after it.

        transition: observations, next_observations [O], actions [A], rewards, masks, terminals: scalars. A transition that
        starts a trajectory skips the row of the previous trajectory's final observation.
        """
        last = jnp.where(self.size > 0, self.rows[self.size - 1], -1)
        row = last + jnp.where(starts_trajectory & (self.size > 0), 2, 1)
        stored = {name: getattr(self, name).at[row].set(transition[name]) for name in FIELDS}
        stored["observations"] = stored["observations"].at[row + 1].set(transition["next_observations"])
        return self.replace(**stored, rows=self.rows.at[self.size].set(row), size=self.size + 1)


Parts = tuple[Transitions, ...]
"""Transitions that follow each other in time; a trajectory does not go on in the next part."""


def look_up(parts: Parts, name: str, index: jax.Array, after: int = 0) -> jax.Array:
    """A field of the transitions number `index` [...], counted through all parts; of `after` rows further on."""
    values: jax.Array | None = None
    start: jax.Array | int = 0
    for part in parts:
        found = getattr(part, name)[part.rows[jnp.maximum(index - start, 0)] + after]
        inside = (index >= start).reshape(index.shape + (1,) * (found.ndim - index.ndim))
        values, start = found if values is None else jnp.where(inside, found, values), start + part.size
    return jnp.asarray(values)


def gather(parts: Parts, starts: jax.Array, horizon: int, discount: float) -> Batch:
    """The chunks [B, H, ...] that start at the given transitions [B].

    Column j holds the j-th action, the discounted reward sum, the mask and the next observation up to there; behind the
    end of a trajectory `valid` is 0 and sum, mask and next observation stay what they were at the end.
    """
    steps = jnp.arange(horizon)[None]
    index = starts[:, None] + steps
    terminals, masks = look_up(parts, "terminals", index), look_up(parts, "masks", index)
    ended = jnp.cumsum(terminals, axis=1) > 0
    valid = 1.0 - jnp.concatenate([jnp.zeros_like(ended[:, :1]), ended[:, :-1]], axis=1).astype(jnp.float32)
    last_valid = jax.lax.cummax(jnp.where(valid > 0, steps, 0), axis=1)
    powers = discount ** steps.astype(jnp.float32)
    return {
        "observations": look_up(parts, "observations", starts),
        "actions": look_up(parts, "actions", index),
        "rewards": jnp.cumsum(powers * look_up(parts, "rewards", index) * valid, axis=1),
        "masks": jax.lax.cummin(jnp.where(valid > 0, masks, 1.0), axis=1),
        "terminals": terminals,
        "valid": valid,
        "next_observations": look_up(parts, "observations", jnp.take_along_axis(index, last_valid, axis=1), after=1),
    }


def sample(parts: Parts, key: jax.Array, batch_size: int, horizon: int, discount: float) -> Batch:
    """Chunks that start uniformly at transitions 0..N-H, N of them in all parts."""
    size = sum(part.size for part in parts)
    return gather(parts, jax.random.randint(key, (batch_size,), 0, size - horizon + 1), horizon, discount)


class Replay(flax.struct.PyTreeNode):
    """What updates sample from: the dataset, and online transitions behind it.

    With balanced sampling the online ones make up half of every batch. Several seeds share `stored`; `online` is each one's.
    """

    stored: Transitions
    online: Transitions | None = None
    balanced: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def create(
        cls,
        dataset: dict[str, np.ndarray],
        room: int = 0,
        balanced: bool = False,
        online: dict[str, np.ndarray] | None = None,
    ) -> Self:
        """The dataset, with room for `room` online transitions, of which `online`, a compact dataset, is there already."""
        if not room:
            return cls(Transitions.create(dataset))
        empty = {name: dataset[name][:0] for name in (*FIELDS, "rows")}
        return cls(Transitions.create(dataset), Transitions.create(online or empty, room), balanced)

    def append(self, transition: dict[str, jax.Array], starts_trajectory: jax.Array) -> Self:
        """Store one online transition."""
        assert self.online is not None
        return self.replace(online=self.online.append(transition, starts_trajectory))

    def sample(self, key: jax.Array, batch_size: int, horizon: int, discount: float) -> Batch:
        """A batch of chunks."""
        if self.online is None:
            return sample((self.stored,), key, batch_size, horizon, discount)
        if not self.balanced:
            return sample((self.stored, self.online), key, batch_size, horizon, discount)
        key_stored, key_online = jax.random.split(key)
        half = batch_size // 2
        stored = sample((self.stored,), key_stored, batch_size - half, horizon, discount)
        online = sample((self.online,), key_online, half, horizon, discount)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), stored, online)


def padded(array: np.ndarray, rows: int) -> np.ndarray:
    """The array with rows of zeros behind it, up to `rows` of them."""
    if len(array) == rows:
        return array
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])
