"""How many updates a critic needs on a long chain with one reward at its end.

TD is compared with LQL, whose hinges lie along sequences of n chunks.

    python tests/chain_table.py --csv=results/chain.csv
    python tests/chain_table.py --tau=0.01 --updates=8000 --csv=results/chain_slow_targets.csv

The chain has 64 states (one-hot), and every action leads to the next state. The last step
gives 1 and succeeds, all others give 0, so the value of the start is 0.99^63 = 0.53 for every
policy. The figure is the number of updates after which mean_e Q_e of the start stays within
10 % of that value until the end (update 3,000); it is measured every 50 updates. The agent is
FQL with tiny networks and 128 chunks in every batch.
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
from training.updates import one_update, train_block
from training.windows import Window
from utils.replay import Replay
from utils.sharding import stack_seeds

STATES, DISCOUNT = 64, 0.99
VALUE = DISCOUNT ** (STATES - 1)
EVERY, UPDATES, TAU = 50, 3000, 0.05
POINTS = (1, 2, 4, 8, 16)
SETTINGS = {
    "actor_hidden_dims": (16,),
    "value_hidden_dims": (64, 64),
    "num_qs": 2,
    "flow_steps": 1,
    "batch_size": 128,
    "discount": DISCOUNT,
    "rho": 0.0,
    "lr": 1e-3,
    "horizon_length": 1,
}


def chain_dataset(trajectories: int = 40) -> dict[str, np.ndarray]:
    """Walks along the chain with uniform actions, in the compact layout."""
    rows = STATES + 1  # a final state has its own row
    size = trajectories * rows
    last = (np.arange(size) % rows == STATES - 1).astype(np.float32)
    states = np.eye(rows, STATES, dtype=np.float32)
    actions = np.random.default_rng(0).uniform(-1, 1, (size, 1))
    return {
        "observations": np.tile(states, (trajectories, 1)),
        "actions": actions.astype(np.float32),
        "rewards": last,
        "masks": 1.0 - last,
        "terminals": last,
        "rows": np.flatnonzero(np.arange(size) % rows < STATES).astype(np.int32),
    }


def start_values(
    points: int, seeds: int, tau: float = TAU, updates: int = UPDATES
) -> np.ndarray:
    """Train, and return mean_e Q_e of the start [measurements, seeds], a mean over nine actions.

    Args:
        points: chunks in a sequence; 1 for TD.
        seeds: number of seeds.
        tau: step of the moving averages.
        updates: number of updates to train for.
    """
    config = fql.get_config()
    config.update(SETTINGS | {"lql_points": points, "tau": tau})
    agents = [
        fql.AGENT.create(jax.random.key(seed), STATES, 1, config)
        for seed in range(seeds)
    ]
    replay = Replay.create(chain_dataset())
    keys = jax.random.split(jax.random.key(7), seeds)
    names = jax.eval_shape(one_update, agents[0], replay, keys[0])[1]
    windows = stack_seeds([Window.create(dict.fromkeys(names, 0.0))] * seeds, None)
    stacked, keys = stack_seeds(agents, None), jax.random.key_data(keys)
    start, actions = jnp.eye(STATES)[:1], jnp.linspace(-1, 1, 9)[:, None, None]
    value = jax.jit(
        jax.vmap(lambda agent: agent.expected_return(start, actions).mean())
    )
    found = []
    for _ in range(updates // EVERY):
        stacked, windows, _ = train_block(stacked, windows, replay, keys, updates=EVERY)
        found.append(np.asarray(value(stacked)))
    return np.array(found)


def updates_needed(values: np.ndarray) -> list[int]:
    """For each seed, the number of updates after which its value stays near the true one.

    If it does not, the result is one measurement beyond the last.
    """
    outside = np.abs(values / VALUE - 1) >= 0.1
    measurements = np.arange(1, len(values) + 1)[:, None]
    return [int(last + 1) * EVERY for last in (outside * measurements).max(axis=0)]


def main(arguments: list[str]) -> None:
    """Train, print, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tau", type=float, default=TAU)
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--csv", help="file for the table")
    options = parser.parse_args(arguments)
    header = [
        "critic",
        "lql_points",
        *(f"seed {seed}" for seed in range(options.seeds)),
    ]
    lines = []
    for points in POINTS:
        values = start_values(points, options.seeds, options.tau, options.updates)
        counts = updates_needed(values)
        name = "LQL" if points > 1 else "TD"
        lines.append([name, points, *counts])
        print(*lines[-1], sep="  ", flush=True)
    if options.csv:
        with Path(options.csv).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *lines])


if __name__ == "__main__":
    main(sys.argv[1:])
