"""How much faster the update is than the straightforward one, and what of the machine each
uses; paired, dispatched alike.

    python tests/oracle_speed.py --rounds=61 --json=results/oracle_speed/9.json

Paper size (O 83, A 5, H 5; 512x4, 10 critics, K 10, batch 256). In each round the machine's
matrix product, a block of ours, two of tests/agents/straightforward.py and another of ours
follow each other in one process; a round's ratio is that of its two pairs' times, in which a
machine that gets faster or slower meanwhile cancels.
"""

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import scipy.stats
from absl import app, flags

from agents import trqam
from scripts.benchmark import (
    ACTION_DIM,
    OBSERVATION_DIM,
    PEAK_ROWS,
    PEAK_WIDTH,
    matrix_product,
    seconds,
    synthetic,
)
from tests.agents import straightforward
from training.updates import WITHOUT_COPIES
from utils.replay import Replay

FLAGS = flags.FLAGS
flags.DEFINE_integer(
    "rounds",
    9,
    "rounds, of two blocks of each; fewer than 6 have no 95 % interval",
    lower_bound=6,
)
flags.DEFINE_integer("updates", 4, "updates in a block", lower_bound=1)
flags.DEFINE_string("json", None, "file for the figures")


class Blocks:
    """Blocks of one of the two updates on one batch, the noise of each from its number."""

    def __init__(self, update: Any, batch: Any, updates: int):
        config = trqam.get_config()
        config.action_chunking = True
        agent = trqam.AGENT.create(jax.random.key(0), OBSERVATION_DIM, ACTION_DIM, config)

        def one(agent: Any, _: None) -> Any:
            noise = agent.draw_noise(
                jax.random.fold_in(jax.random.key(1), agent.step), config.batch_size
            )
            return update(agent, batch, noise)[:2]

        def block(agent: Any) -> Any:
            return jax.lax.scan(one, agent, length=updates)

        noise = agent.draw_noise(jax.random.key(1), config.batch_size)
        counted: Any = (
            jax.jit(lambda agent, noise: update(agent, batch, noise)[:2])
            .lower(agent, noise)
            .compile()
        )
        self.gflop = counted.cost_analysis()["flops"] / 1e9
        self.agent, self.block, self.updates = (
            agent,
            jax.jit(block, donate_argnums=0, compiler_options=WITHOUT_COPIES),
            updates,
        )
        self.seconds()

    def seconds(self) -> float:
        """Time one block, per update."""

        def call() -> Any:
            self.agent, metrics = self.block(self.agent)
            return self.agent, metrics

        return seconds(call) / self.updates


def main(_: list[str]) -> None:
    """Measure, print, and write the figures."""
    batch = Replay.create(synthetic(20_000)).sample(jax.random.key(2), 256, 5, 0.995)
    product = matrix_product(PEAK_ROWS, PEAK_WIDTH)
    ours = Blocks(trqam.AGENT.update_with_noise, batch, FLAGS.updates)
    oracle = Blocks(straightforward.update_with_noise, batch, FLAGS.updates)
    rounds = [
        (product(), *(blocks.seconds() for blocks in (ours, oracle, oracle, ours)))
        for _ in range(FLAGS.rounds)
    ]
    peak = max(peak for peak, *_ in rounds)
    ratios = [(b1 + b2) / (a1 + a2) for _, a1, b1, b2, a2 in rounds]
    found = {
        "device": f"{jax.devices()[0].device_kind} ({os.cpu_count()} CPU cores)",
        "jax": jax.__version__,
        "load": os.getloadavg()[0],
        "rounds": FLAGS.rounds,
        "updates_per_block": FLAGS.updates,
        "peak_gflops": peak,
        "speedup": statistics.median(ratios),
        "speedup_95": list(
            scipy.stats.quantile_test(ratios, q=1.0, p=0.5).confidence_interval(0.95)
        ),
    }
    for name, blocks, turns in (("ours", ours, (1, 4)), ("oracle", oracle, (2, 3))):
        median = statistics.median(times[turn] for times in rounds for turn in turns)
        found[name] = {
            "gflop": blocks.gflop,
            "seconds": median,
            "fraction_of_peak": blocks.gflop / median / peak,
        }
    print(json.dumps(found, indent=2))
    if FLAGS.json:
        Path(FLAGS.json).write_text(
            json.dumps(found | {"command": " ".join(["python", *sys.argv])}, indent=2) + "\n"
        )


if __name__ == "__main__":
    app.run(main)
