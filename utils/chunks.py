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
    def create(cls, dataset: dict[str, np.ndarray], room: int = 0, online: dict[str, np.ndarray] | None = None) -> Self:
        """Put a compact dataset (`envs.datasets.load_dataset`) on the device, with room for `room` more transitions.

        `online`, another compact dataset, is what that room already holds: the same arrays as if it had been appended.
        """
        before = {name: dataset[name] for name in (*FIELDS, "rows")}
        more = online or {name: array[:0] for name, array in before.items()}
        more = more | {"rows": more["rows"] + len(before["observations"])}
        # An online transition takes one row, and each online trajectory one more for its final observation.
        capacity = {name: len(before[name]) + (room if name == "rows" else 2 * room) for name in before}
        fields = {name: jnp.asarray(joined(before[name], more[name], capacity[name])) for name in before}
        fields["rows"] = fields["rows"].astype(jnp.int32)
        return cls(**fields, size=jnp.array(len(before["rows"]) + len(more["rows"]), jnp.int32))

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

    def sample(self, key: jax.Array, batch_size: int, horizon: int, discount: float) -> Batch:
        """Chunks that start uniformly at transitions 0..size-H."""
        starts = jax.random.randint(key, (batch_size,), 0, self.size - horizon + 1)
        return self.gather(starts, horizon, discount)

    def gather(self, starts: jax.Array, horizon: int, discount: float) -> Batch:
        """The chunks [B, H, ...] that start at the given transitions [B].

        Column j holds the j-th action, the discounted reward sum, the mask and the next observation up to there; behind the
        end of a trajectory `valid` is 0 and sum, mask and next observation stay what they were at the end.
        """
        steps = jnp.arange(horizon)[None]
        rows = self.rows[starts[:, None] + steps]
        ended = jnp.cumsum(self.terminals[rows], axis=1) > 0
        valid = 1.0 - jnp.concatenate([jnp.zeros_like(ended[:, :1]), ended[:, :-1]], axis=1).astype(jnp.float32)
        last_valid = jax.lax.cummax(jnp.where(valid > 0, steps, 0), axis=1)
        powers = discount ** steps.astype(jnp.float32)
        return {
            "observations": self.observations[rows[:, 0]],
            "actions": self.actions[rows],
            "rewards": jnp.cumsum(powers * self.rewards[rows] * valid, axis=1),
            "masks": jax.lax.cummin(jnp.where(valid > 0, self.masks[rows], 1.0), axis=1),
            "terminals": self.terminals[rows],
            "valid": valid,
            "next_observations": self.observations[jnp.take_along_axis(rows, last_valid, axis=1) + 1],
        }


class Replay(flax.struct.PyTreeNode):
    """What updates sample from: stored transitions, to which online ones are appended.

    With balanced sampling the online ones are kept apart and make up half of every batch.
    """

    stored: Transitions
    online: Transitions | None = None

    @classmethod
    def create(
        cls,
        dataset: dict[str, np.ndarray],
        room: int = 0,
        balanced: bool = False,
        online: dict[str, np.ndarray] | None = None,
    ) -> Self:
        """The dataset, with room for `room` online transitions, of which `online`, a compact dataset, is there already."""
        if not balanced:
            return cls(Transitions.create(dataset, room, online))
        empty = {name: dataset[name][:0] for name in (*FIELDS, "rows")}
        return cls(Transitions.create(dataset), Transitions.create(empty, room, online))

    def append(self, transition: dict[str, jax.Array], starts_trajectory: jax.Array) -> Self:
        """Store one online transition."""
        if self.online is None:
            return self.replace(stored=self.stored.append(transition, starts_trajectory))
        return self.replace(online=self.online.append(transition, starts_trajectory))

    def sample(self, key: jax.Array, batch_size: int, horizon: int, discount: float) -> Batch:
        """A batch of chunks."""
        if self.online is None:
            return self.stored.sample(key, batch_size, horizon, discount)
        key_stored, key_online = jax.random.split(key)
        half = batch_size // 2
        stored = self.stored.sample(key_stored, batch_size - half, horizon, discount)
        online = self.online.sample(key_online, half, horizon, discount)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), stored, online)


def joined(array: np.ndarray, more: np.ndarray, capacity: int) -> np.ndarray:
    """Both arrays, one behind the other, and rows of zeros up to `capacity`."""
    if len(array) == capacity:
        return array
    zeros = np.zeros((capacity - len(array) - len(more), *array.shape[1:]), array.dtype)
    return np.concatenate([array, more, zeros])
