"""The speedup of the update over a straightforward one.

    python scripts/benchmark.py oracle --rounds=61 --out=results/oracle_speed.json

Measured at the size of the domains of width 512 (O 83, A 5, H 5; 512x4, 10 critics, K 10, batch
256). A round times the machine's matrix product, one block of our updates, two blocks of the
straightforward version, and another block of ours, in one process. The round's ratio divides
the times of the two pairs, so a gradual change of the machine's speed cancels.

The straightforward version is tests/agents/straightforward.py, the only file of the tests that
a benchmark loads.
"""

import argparse
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np
import scipy.stats

from agents import trqam
from benchmarks.common import (
    ACTION_DIM,
    OBSERVATION_DIM,
    add_output,
    peak_product,
    seconds,
    synthetic,
)
from configs.agent_source import ROOT
from training.compile_options import compile_options
from utils.command_line import at_least
from utils.progress import Counter
from utils.replay import BatchSpec, Replay

STRAIGHTFORWARD = ROOT / "tests" / "agents" / "straightforward.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this benchmark."""
    doc = (
        "rounds with two blocks of each version (9); a 95 %% interval needs at least 6"
    )
    parser.add_argument("--rounds", type=at_least(6), default=9, metavar="N", help=doc)
    doc = "updates in a block (4)"
    parser.add_argument("--updates", type=at_least(1), default=4, metavar="N", help=doc)
    add_output(parser)


def load_straightforward() -> ModuleType:
    """Load the straightforward version, which is not part of the program."""
    spec: Any = importlib.util.spec_from_file_location(
        "straightforward", STRAIGHTFORWARD
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Blocks:
    """Runs blocks of an update on one batch; the noise depends on the update's number.

    Args:
        update: (agent, batch, noise) -> (agent, metrics, ...).
        agent: the agent to start with.
        batch: the batch of all updates.
        updates: updates in a block.
    """

    def __init__(self, update: Callable, agent: Any, batch: Any, updates: int):
        size = agent.config.batch_size

        def one(agent: Any, _: None) -> Any:
            key = jax.random.fold_in(jax.random.key(1), agent.step)
            return update(agent, batch, agent.draw_noise(key, size))[:2]

        def block(agent: Any) -> Any:
            return jax.lax.scan(one, agent, length=updates)

        noise = agent.draw_noise(jax.random.key(1), size)
        counted = jax.jit(lambda agent, noise: update(agent, batch, noise)[:2])
        analysis: Any = counted.lower(agent, noise).compile().cost_analysis()
        self.gflop = analysis["flops"] / 1e9
        self.agent, self.updates = agent, updates
        compiled_as = compile_options(jax.default_backend())
        self.block = jax.jit(block, donate_argnums=0, compiler_options=compiled_as)
        self.seconds()  # compiles

    def seconds(self) -> float:
        """Time one block; return the seconds per update."""

        def call() -> Any:
            self.agent, metrics = self.block(self.agent)
            return self.agent, metrics

        return seconds(call) / self.updates


def compare(config: Any, rounds: int, updates: int) -> dict[str, Any]:
    """Measure the speedup with its 95 % interval, and the work and time of each version.

    Args:
        config: the settings of TRQAM.
        rounds: the number of rounds, at least 6.
        updates: updates in a block.
    """

    def blocks(update: Callable) -> Blocks:
        agent = trqam.AGENT.create(
            jax.random.key(0), OBSERVATION_DIM, ACTION_DIM, config
        )
        return Blocks(update, agent, batch, updates)

    replay = Replay.create(synthetic(20_000))
    batch = replay.sample(jax.random.key(2), BatchSpec.of(config))
    product = peak_product()
    ours = blocks(trqam.AGENT.update_with_noise)
    oracle = blocks(load_straightforward().update_with_noise)
    versions = (ours, oracle, oracle, ours)
    peaks = []
    times = np.empty((rounds, len(versions)))
    with Counter("rounds", rounds, kept=False) as bar:
        for turn in times:
            peaks.append(product())
            turn[:] = [version.seconds() for version in versions]
            bar.update()
    ours_times = times[:, [0, 3]]
    oracle_times = times[:, 1:3]
    ratios = oracle_times.sum(1) / ours_times.sum(1)
    interval = scipy.stats.quantile_test(ratios, q=1.0, p=0.5).confidence_interval(0.95)
    return {
        "rounds": rounds,
        "updates_per_block": updates,
        "peak_gflops": max(peaks),
        "speedup": float(np.median(ratios)),
        "speedup_95": list(map(float, interval)),
        "ours": figures(ours.gflop, ours_times, max(peaks)),
        "oracle": figures(oracle.gflop, oracle_times, max(peaks)),
    }


def figures(gflop: float, times: np.ndarray, peak: float) -> dict[str, float]:
    """Return the work of an update, its median time and the share of the peak.

    Args:
        gflop: the work of an update.
        times: seconds per update of all blocks.
        peak: the machine's peak in GFLOP/s.
    """
    median = float(np.median(times))
    return {
        "gflop": gflop,
        "seconds": median,
        "fraction_of_peak": gflop / median / peak,
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure at the size of the paper and print the figures."""
    config = trqam.get_config()
    config.action_chunking = True
    found = compare(config, options.rounds, options.updates)
    for name in ("ours", "oracle"):
        version = found[name]
        print(
            f"{name:6} {version['gflop']:6.1f} GFLOP, {version['seconds']:.3f} s per update,"
            f" {version['fraction_of_peak']:.2f} of peak"
        )
    low, high = found["speedup_95"]
    print(f"speedup {found['speedup']:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    return found
