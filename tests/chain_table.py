"""How many updates a critic needs on a long chain with one reward at its end, by TD and with
LQL's hinges along runs of n rows.

    python tests/chain_table.py --csv=results/chain.csv

A chain of 64 states (one-hot), of which every action leads to the next; the last step gives 1
and succeeds, all others 0. So the value of the start is 0.99^63 = 0.53 whatever the policy. The
figure is the number of updates after which mean_e Q_e of the start stays within 10 % of that
for five looks in a row, one every 25 updates: FQL on tiny networks, 128 rows in every batch.
"""

import argparse
import csv
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from agents import fql
from training.updates import Window, one_update, train_block
from utils.replay import Replay
from utils.sharding import stack_seeds

STATES, DISCOUNT = 200, 0.997
VALUE = DISCOUNT ** (STATES - 1)
EVERY, LOOKS, MOST = 25, 5, 8000
POINTS = (1, 2, 4, 8, 16)


def chain_dataset(trajectories: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """Walks along the chain with uniform actions, in the compact layout."""
    rows = STATES + 1  # a final state has a row of its own
    last = np.tile(np.arange(rows) == STATES - 1, trajectories).astype(np.float32)
    size = trajectories * rows
    states = np.eye(STATES, dtype=np.float32)
    return {
        "observations": np.tile(
            np.concatenate([states, np.zeros_like(states[:1])]), (trajectories, 1)
        ),
        "actions": np.random.default_rng(seed)
        .uniform(-1, 1, (size, 1))
        .astype(np.float32),
        "rewards": last,
        "masks": 1.0 - last,
        "terminals": last,
        "rows": np.flatnonzero(np.arange(size) % rows < STATES).astype(np.int32),
    }


def updates_needed(points: int, seeds: int, most: int = MOST) -> list[int | None]:
    """For each seed the updates until the start's value stays near; None if beyond `most`."""
    config = fql.get_config()
    config.update(
        dict(
            actor_hidden_dims=(16,), value_hidden_dims=(64, 64), num_qs=2, flow_steps=1, batch_size=128, tau=0.05,
            discount=DISCOUNT, rho=0.0, lr=1e-3, horizon_length=1, lql_points=points,
        )
    )  # fmt: skip
    agents = [
        fql.AGENT.create(jax.random.key(seed), STATES, 1, config)
        for seed in range(seeds)
    ]
    replay, keys = (
        Replay.create(chain_dataset()),
        jax.random.split(jax.random.key(7), seeds),
    )
    names = jax.eval_shape(one_update, agents[0], replay, keys[0])[1]
    windows = stack_seeds([Window.create(dict.fromkeys(names, 0.0))] * seeds, None)
    stacked, keys = stack_seeds(agents, None), jax.random.key_data(keys)
    start, actions = jnp.eye(STATES)[:1], jnp.linspace(-1, 1, 9)[:, None, None]
    value = jax.jit(
        jax.vmap(lambda agent: agent.expected_return(start, actions).mean())
    )
    near, found = np.zeros(seeds, int), [None] * seeds
    for update in range(EVERY, most + 1, EVERY):
        stacked, windows, _ = train_block(stacked, windows, replay, keys, updates=EVERY)
        close = np.abs(np.asarray(value(stacked)) / VALUE - 1) < 0.1
        near = np.where(close, near + 1, 0)
        for seed in np.flatnonzero(near == LOOKS):
            found[seed] = found[seed] or update - (LOOKS - 1) * EVERY
        if all(found):
            break
    return found


def main(arguments: list[str]) -> None:
    """Train, print, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--csv", help="file for the table")
    given = parser.parse_args(arguments)
    header = ["critic", "lql_points", *(f"seed {seed}" for seed in range(given.seeds))]
    rows = []
    for points in POINTS:
        found = updates_needed(points, given.seeds)
        counts = [f"over {MOST}" if count is None else count for count in found]
        rows.append(["LQL" if points > 1 else "TD", points, *counts])
        print(*rows[-1], sep="  ", flush=True)
    if given.csv:
        with Path(given.csv).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    main(sys.argv[1:])
