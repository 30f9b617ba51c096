"""Small datasets in the compact layout, and replays with online transitions."""

import jax
import numpy as np

from utils.replay import FIELDS, Replay, Transitions


def make_dataset(lengths, seed=0):
    """Return trajectories of these numbers of transitions in the compact layout.

    The first and every other one after it end in success (mask 0).
    """
    rng = np.random.default_rng(seed)
    size = sum(lengths) + len(lengths)
    finals = np.cumsum(np.array(lengths) + 1) - 1
    dataset = {
        "observations": rng.normal(size=(size, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (size, 2)).astype(np.float32),
        "rewards": -rng.integers(0, 2, size).astype(np.float32),
        "masks": np.ones(size, np.float32),
        "terminals": np.zeros(size, np.float32),
        "rows": np.setdiff1d(np.arange(size), finals).astype(np.int32),
    }
    dataset["terminals"][finals - 1] = 1.0
    dataset["masks"][finals[::2] - 1] = 0.0
    # No transition starts in a final state, so nothing may read these values.
    dataset["rewards"][finals] = np.nan
    dataset["actions"][finals] = np.nan
    return dataset


def online_transition(rng, observation, done, success=False):
    return {
        "observations": observation,
        "actions": rng.uniform(-1, 1, 2).astype(np.float32),
        "rewards": np.float32(-1.0),
        "terminals": np.float32(done),
        "masks": np.float32(not success),
        "next_observations": rng.normal(size=3).astype(np.float32),
    }


def online_replay(dataset, room, balanced=False, online=None):
    """Return a replay with room for online transitions, of which `online` are there already."""
    empty = {name: dataset[name][:0] for name in (*FIELDS, "rows")}
    return Replay(
        Transitions.create(dataset),
        Transitions.create(online or empty, room),
        balanced,
    )


@jax.jit
def append(replay, transition, starts_trajectory):
    """Append one online transition to a replay; see `Transitions.append`."""
    online = replay.online.append(transition, starts_trajectory)
    return replay.replace(online=online)
