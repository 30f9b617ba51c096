"""The training speed of an agent, and how the time is spent.

    python scripts/benchmark.py update --agent=agents/trqam.py --seeds=1,2,4 --json
    python scripts/benchmark.py update --agent=agents/bc.py --evaluate --trace=/tmp/trace

Measured with the dimensions of puzzle-4x4 (O 83, A 5, H 5) and the networks of the domains of
width 512 (512x4, 10 critics, K 10, batch 256; --agent.KEY changes them) on synthetic data.
Timed blocks of updates alternate with the machine's own matrix product, (2560,512)x(512,512).
The fraction of peak is the work of an update times the updates per second, divided by the best
median of that product. XLA counts the work of one update compiled for the CPU with unrolled
flow steps. An accelerator, which such a product may not fill, is also measured by
(8192,8192)x(8192,8192).
"""

import argparse
import resource
import statistics
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import evaluation
from benchmarks.common import (
    ACTION_DIM,
    OBSERVATION_DIM,
    add_agent,
    add_output,
    chosen_agent,
    device,
    large_product,
    peak_product,
    seconds,
    synthetic,
)
from benchmarks.stages import stage_seconds
from benchmarks.trace import profile
from training.compile_options import CANDIDATES
from training.updates import (
    configure_jax,
    one_update,
    train_block_on,
    updates_per_call,
)
from training.windows import Window
from utils.command_line import at_least, each_at_least
from utils.progress import Counter
from utils.replay import Replay
from utils.sharding import host_device, mesh_for, replicate, stack_seeds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this benchmark."""
    add_agent(parser)
    doc = "numbers of seeds trained in one program, separated by commas (1)"
    parser.add_argument(
        "--seeds", type=each_at_least(1), default=[1], metavar="N,N", help=doc
    )
    parser.add_argument(
        "--blocks", type=at_least(5), default=5, metavar="N", help="timed blocks (5)"
    )
    doc = "updates in each block (one call); 0: what training uses on this device"
    parser.add_argument("--updates", type=at_least(0), default=0, metavar="N", help=doc)
    parser.add_argument(
        "--transitions",
        type=at_least(1_000),
        default=1_000_000,
        metavar="N",
        help="size of the synthetic dataset (1,000,000)",
    )
    parser.add_argument(
        "--matmul_precision",
        default="default",
        choices=["default", "highest", "high", "bfloat16"],
        help="of matrix products, as in main.py",
    )
    parser.add_argument(
        "--stages", action="store_true", help="time the stages of an update one by one"
    )
    doc = "time each of the compile options of training/compile_options.py, in turns"
    parser.add_argument("--candidates", action="store_true", help=doc)
    doc = "time evaluations of puzzle-4x4 with 1, 2, 4, ... workers"
    parser.add_argument("--evaluate", action="store_true", help=doc)
    doc = "episodes of a timed evaluation (8)"
    parser.add_argument(
        "--episodes", type=at_least(1), default=8, metavar="N", help=doc
    )
    doc = "trace one block by jax.profiler into this folder"
    parser.add_argument("--trace", metavar="FOLDER", help=doc)
    add_output(parser)


def gflop_per_update(agent: Any) -> float | None:
    """Return XLA's count of GFLOP for one update on a batch.

    Returns None if the flow steps are a loop, whose body XLA counts only once. The update is
    compiled for the CPU, because XLA does not count calls of an accelerator's libraries.
    """
    batch = agent.config.batch_size
    horizon = agent.config.horizon_length
    columns = ("rewards", "masks", "terminals", "valid", "row_rewards", "ends")
    shapes = dict.fromkeys(columns, (batch, horizon)) | {
        "observations": (batch, OBSERVATION_DIM),
        "actions": (batch, horizon, ACTION_DIM),
        "next_observations": (batch, horizon, OBSERVATION_DIM),
    }
    arguments = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()
    }
    noise = jax.eval_shape(lambda: agent.draw_noise(jax.random.key(0), batch))

    def update(agent: Any, batch: Any, noise: Any) -> Any:
        return type(agent).update_with_noise(agent, batch, noise)[:2]

    with jax.default_device(host_device()):
        shape = jax.eval_shape(lambda: agent)
        compiled: Any = jax.jit(update).lower(shape, arguments, noise).compile()
    if " while(" in compiled.as_text():
        return None
    return compiled.cost_analysis()["flops"] / 1e9


class Training:
    """Runs the training loop's own compiled call.

    Args:
        agents: the agent of each seed.
        replay: what batches are sampled from.
        updates: updates in a call.
        candidate: which compile options it has besides training's.
    """

    def __init__(
        self,
        agents: list[Any],
        replay: Replay,
        updates: int,
        candidate: str = "training",
    ):
        self.candidate = candidate
        self.train_block = train_block_on(jax.default_backend(), candidate)
        self.seeds = len(agents)
        self.updates = updates
        self.mesh = mesh_for(len(agents))
        names = jax.eval_shape(one_update, agents[0], replay, jax.random.key(0))[1]
        windows = [Window.create(dict.fromkeys(names, 0.0)) for _ in agents]
        keys = [jax.random.key_data(jax.random.key(i)) for i in range(len(agents))]
        self.agents = stack_seeds(agents, self.mesh)
        self.windows = stack_seeds(windows, self.mesh)
        self.keys = stack_seeds(keys, self.mesh)
        self.replay = replicate(replay, self.mesh)
        self.compile_seconds = seconds(self.block)

    def block(self) -> Any:
        """Run one call; return an array to wait for."""
        self.agents, self.windows, done = self.train_block(
            self.agents,
            self.windows,
            self.replay,
            self.keys,
            updates=self.updates,
            mesh=self.mesh,
        )
        return done

    def speed(
        self, updates_per_s: float, gflop: float | None, peak: float
    ) -> dict[str, Any]:
        """Return the figures for a speed.

        Args:
            updates_per_s: updates per second of each seed.
            gflop: the work of one update of one seed; None if not counted.
            peak: GFLOP/s of one device.
        """
        devices = self.mesh.size if self.mesh else 1
        work = self.seeds * updates_per_s
        return {
            "seeds": self.seeds,
            "compiled_as": self.candidate,
            "updates_per_s": updates_per_s,
            "seed_updates_per_s": work,
            "fraction_of_peak": gflop and work * gflop / (devices * peak),
            "compile_seconds": self.compile_seconds,
        }


def measure_in_turns(
    trainings: list[Training], blocks: int
) -> tuple[list[float], float]:
    """Time blocks of all trainings in turn with the machine's matrix product.

    Returns the median updates per second of each training, and the product's best GFLOP/s.
    """
    product = peak_product()
    rates: list[list[float]] = [[] for _ in trainings]
    products = []
    with Counter("blocks", blocks, kept=False) as bar:
        for _ in range(blocks):
            products.append(product())
            for training, measured in zip(trainings, rates, strict=True):
                measured.append(training.updates / seconds(training.block))
            bar.update()
    return [statistics.median(measured) for measured in rates], max(products)


def peak_memory_bytes() -> int:
    """Return the peak memory of the device if it reports it, else of this process."""
    reported = jax.devices()[0].memory_stats() or {}
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return reported.get("peak_bytes_in_use") or process


def measure_speeds(
    trainings: list[Training], blocks: int, gflop: float | None
) -> dict[str, Any]:
    """Measure and print the speeds of all trainings; the first ones are also at the top level.

    Args:
        trainings: one training per number of seeds.
        blocks: timed blocks of each training.
        gflop: the work of one update of one seed; None if not counted.
    """
    rates, peak = measure_in_turns(trainings, blocks)
    work = "GFLOP not counted (a loop over flow steps)"
    if gflop is not None:
        work = f"{gflop:.1f} GFLOP per update"
    updates = trainings[0].updates
    print(f"{device()}, {work}, blocks of {updates} updates, peak {peak:.0f} GFLOP/s")
    large = large_product()
    speeds = [
        training.speed(rate, gflop, peak)
        for training, rate in zip(trainings, rates, strict=True)
    ]
    print(*map(describe, speeds), sep="\n")
    return {
        "updates_per_block": updates,
        "gflop_per_update": gflop,
        "peak_gflops": peak,
        **large,
        "by_seeds": speeds,
        **speeds[0],
    }


def describe(speed: dict[str, Any]) -> str:
    """Describe the figures of one speed."""
    of_peak = ""
    if speed["fraction_of_peak"] is not None:
        of_peak = f", {speed['fraction_of_peak']:.2f} of peak"
    return (
        f"{speed['seeds']:3d} seeds: {speed['updates_per_s']:9.2f} updates/s,"
        f" {speed['seed_updates_per_s']:9.2f} seed-updates/s{of_peak},"
        f" first call {speed['compile_seconds']:.1f} s ({speed['compiled_as']})"
    )


def measure_trace(folder: str, training: Training) -> dict[str, Any]:
    """Trace one block and print how the device spends its time."""
    found = profile(folder, training.block)
    busy = found["device_busy"]
    print(f"trace of one block: {folder}; the device is at work {busy:.1%} of the time")
    for kind, of_time in found["shares"].items():
        print(f"{of_time:7.1%}  {kind}")
    return found


def measure_stages(agent: Any, replay: Replay) -> dict[str, float]:
    """Time the stages of an update and print them."""
    found = stage_seconds(agent, replay)
    for name, duration in found.items():
        print(f"{name:22s} {1e3 * duration:9.2f} ms")
    return found


def measure_evaluation(agent: Any, episodes: int) -> list[dict[str, float]]:
    """Time evaluations and print them."""
    found = evaluation.evaluation_speed(agent, episodes)
    print(*map(evaluation.describe, found), sep="\n")
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the measurements that the flags select, and print their results."""
    agent = chosen_agent(options)
    precision = options.matmul_precision
    configure_jax({"matmul_precision": precision, "compilation_cache_dir": ""})
    replay = Replay.create(synthetic(options.transitions))
    updates = options.updates or updates_per_call(0)
    gflop = gflop_per_update(agent.create(0))
    trainings = [
        Training(
            [agent.create(seed) for seed in range(count)], replay, updates, candidate
        )
        for count in options.seeds
        for candidate in (CANDIDATES if options.candidates else ["training"])
    ]
    result: dict[str, Any] = {"agent": agent.file, "matmul_precision": precision}
    result |= measure_speeds(trainings, options.blocks, gflop)
    if options.trace:
        result["profile"] = measure_trace(options.trace, trainings[0])
    if options.stages:
        result["stage_seconds"] = measure_stages(agent.create(0), replay)
    if options.evaluate:
        result["evaluation"] = measure_evaluation(agent.create(0), options.episodes)
    result["peak_memory_bytes"] = peak_memory_bytes()
    print(f"peak memory {result['peak_memory_bytes'] / 1e9:.2f} GB")
    return result
