"""Shared code of the benchmarks: data, clocks, the machine's own speed, agents and output."""

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from configs.agent_file import load_source
from configs.flags import (
    define_agent_flag,
    parse_words,
    take_agent,
)
from configs.suggestions import unknown_flag
from envs.workers import cores
from utils.command_line import output_file
from utils.files import write_json

OBSERVATION_DIM, ACTION_DIM = 83, 5  # puzzle-4x4
TRAJECTORY = 1001  # rows of a trajectory: 1,000 transitions and the final state
PEAK_ROWS = 2560
PEAK_WIDTH = 512
LARGE = 8192
LOAD = os.getloadavg()[0]
"""The load of the machine before this program adds to it."""

# ---------------------------------------------------------------- data


def trajectories(rows: int) -> dict[str, np.ndarray]:
    """Return a compact dataset of `rows` rows, without observations and actions.

    The last trajectory may be shorter than the others.
    """
    final = np.arange(rows) % TRAJECTORY == TRAJECTORY - 1
    final[-1] = True
    return {
        "rewards": -np.ones(rows, np.float32),
        "masks": np.ones(rows, np.float32),
        "terminals": np.append(final[1:], True).astype(np.float32),
        "rows": np.flatnonzero(~final).astype(np.int32),
    }


def synthetic(transitions: int) -> dict[str, np.ndarray]:
    """Return a compact dataset of random trajectories with the dimensions of puzzle-4x4."""
    rng = np.random.default_rng(0)
    rows = transitions + -(-transitions // (TRAJECTORY - 1))
    return {
        "observations": rng.standard_normal((rows, OBSERVATION_DIM), np.float32),
        "actions": rng.uniform(-1, 1, (rows, ACTION_DIM)).astype(np.float32),
    } | trajectories(rows)


# ---------------------------------------------------------------- clocks


def seconds(call: Callable[[], Any]) -> float:
    """Return how long a call takes until its results are ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def matrix_product(rows: int, width: int) -> Callable[[], float]:
    """Return a function that measures the GFLOP/s of a product (rows,width)x(width,width).

    It returns the median over a third of a second, in the precision of JAX's configuration.
    """
    # On an accelerator one call makes many products, so that the overhead of calls is small.
    repeats = 1 if jax.default_backend() == "cpu" else 200
    key = jax.random.key(0)
    scale = math.sqrt(width)
    a = jax.random.normal(key, (rows, width)) / scale
    b = jax.random.normal(key, (width, width)) / scale

    def products(a: jax.Array, b: jax.Array) -> jax.Array:
        if repeats == 1:
            return a @ b
        # unrolled: one CUDA graph and no copy of the result, which would halve the speed
        return jax.lax.fori_loop(0, repeats, lambda _, x: x @ b, a, unroll=8)

    call = jax.jit(products)
    call(a, b).block_until_ready()

    def measure() -> float:
        times = []
        start = time.perf_counter()
        while time.perf_counter() - start < 0.33:
            times.append(seconds(lambda: call(a, b)))
        return 2 * repeats * rows * width**2 / statistics.median(times) / 1e9

    return measure


def peak_product() -> Callable[[], float]:
    """Return the `matrix_product` whose speed counts as the machine's peak."""
    return matrix_product(PEAK_ROWS, PEAK_WIDTH)


def large_product() -> dict[str, float]:
    """Measure and print a product (8192,8192)x(8192,8192); return {} on a CPU."""
    if jax.default_backend() == "cpu":
        return {}
    speed = matrix_product(LARGE, LARGE)()
    print(f"({LARGE},{LARGE})x({LARGE},{LARGE}): {speed:.0f} GFLOP/s")
    return {"large_product_gflops": speed}


# ---------------------------------------------------------------- the agent


class ChosenAgent(NamedTuple):
    """The agent file, class and settings that a command line names."""

    file: str
    agent_class: Any
    config: ml_collections.ConfigDict

    def create(self, seed: int) -> Any:
        """Create an agent with the dimensions of puzzle-4x4."""
        return self.agent_class.create(
            jax.random.key(seed), OBSERVATION_DIM, ACTION_DIM, self.config
        )


def add_agent(parser: argparse.ArgumentParser) -> None:
    """Add --agent; `chosen_agent` reads --agent.KEY, which the parser does not know."""
    doc = "agent file (agents/trqam.py unless given); --agent.KEY=VALUE overrides a setting"
    parser.add_argument("--agent", metavar="FILE", help=doc)
    parser.set_defaults(agent_words=[])


def chosen_agent(options: argparse.Namespace) -> ChosenAgent:
    """Return the agent of --agent with the settings of --agent.KEY; raise UserError.

    It acts in chunks unless --agent.action_chunking is set.
    """
    named = [] if options.agent is None else [f"--agent={options.agent}"]
    file, words = take_agent(["benchmark.py", *named, *options.agent_words])
    module = load_source(file).module
    known = list(module.get_config())
    ours = set(vars(options)) - {"agent_words", "run"}
    for word in words:
        if word.startswith("--") and not word.startswith("--agent."):
            raise unknown_flag(word, ours, file, known)
    words = ["benchmark.py", f"--agent={file}", *words]
    fv = flags.FlagValues()
    define_agent_flag(fv, words, "agent file")
    parse_words(fv, words, file, known)
    if "action_chunking" not in config_flags.get_override_values(fv["agent"]):
        fv.agent.action_chunking = True
    module.AGENT.check(fv.agent)
    return ChosenAgent(file, module.AGENT, fv.agent)


# ---------------------------------------------------------------- figures


def device() -> str:
    """Describe the device: its name, the number of devices and of CPU cores."""
    devices = jax.devices()
    counts = f"{len(devices)} device(s), {cores()} CPU cores"
    return f"{devices[0].device_kind} ({counts})"


def machine() -> dict[str, Any]:
    """Return what figures depend on: device, cores, other load and versions."""
    return {
        "device": device(),
        "cores": cores(),
        "load": LOAD,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add --json and --out."""
    parser.add_argument(
        "--json", action="store_true", help="end with one JSON object on the last line"
    )
    parser.add_argument(
        "--out",
        type=output_file,
        metavar="FILE",
        help="write the same object to a file",
    )


def publish(result: dict[str, Any], options: argparse.Namespace, command: str) -> None:
    """Write and print figures with the machine and the command, for --out and --json.

    Args:
        result: the figures.
        options: the parsed flags.
        command: the command line.
    """
    record = machine() | result | {"command": command}
    if options.out:
        write_json(options.out, record)
    if options.json:
        print(json.dumps(record))
