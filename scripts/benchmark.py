"""How fast an agent trains on this machine, what of the machine that uses, and where the time
goes.

    python scripts/benchmark.py --agent=agents/trqam.py --seeds=1,2,4 --json
    python scripts/benchmark.py --agent=agents/bc.py --evaluate --trace=/tmp/trace

Measured at the size of the paper (puzzle-4x4: O 83, A 5, H 5; 512x4, 10 critics, K 10, batch
256; --agent.KEY changes it) on synthetic data. Timed blocks of updates take turns with the
machine's own matrix product, (2560,512)x(512,512); the fraction of peak is the counted work
times the updates per second over the best median of that product. XLA counts the work of one
update compiled for the host's processor with its flow steps unrolled. An accelerator, which
such a product may not fill, is measured by (8192,8192)x(8192,8192) besides. With --json the
last line is one JSON object.
"""

import collections
import functools
import json
import math
import os
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from absl import flags
from ml_collections import config_flags

from configs.agent_file import load_source
from configs.flags import check_agent_values, define_agent_flag, parse_words, take_agent
from utils.errors import UserError

OBSERVATION_DIM, ACTION_DIM = 83, 5
PEAK_ROWS, PEAK_WIDTH = 2560, 512
LARGE = 8192
EVALUATED = "puzzle-4x4-play-singletask-task1-v0"


def define(argv: Sequence[str]) -> flags.FlagValues:
    """The flags of this script."""
    fv = flags.FlagValues()
    define_agent_flag(fv, argv, "agent file; --agent.KEY=VALUE overrides")
    flags.DEFINE_list(
        "seeds",
        ["1"],
        "numbers of seeds trained in one program, separated by commas",
        flag_values=fv,
    )
    flags.DEFINE_integer("blocks", 5, "timed blocks", lower_bound=5, flag_values=fv)
    doc = "updates in each block (one call); 0: what training uses on this device"
    flags.DEFINE_integer("updates", 0, doc, lower_bound=0, flag_values=fv)
    flags.DEFINE_integer(
        "transitions",
        1_000_000,
        "size of the synthetic dataset",
        lower_bound=1_000,
        flag_values=fv,
    )
    doc = "of matrix products, as in main.py"
    flags.DEFINE_enum(
        "matmul_precision",
        "default",
        ["default", "highest", "high", "bfloat16"],
        doc,
        flag_values=fv,
    )
    flags.DEFINE_boolean(
        "stages", False, "time the stages of an update one by one", flag_values=fv
    )
    flags.DEFINE_boolean(
        "evaluate",
        False,
        "time evaluations of puzzle-4x4 with 1, 2, 4, ... workers",
        flag_values=fv,
    )
    flags.DEFINE_integer(
        "episodes", 8, "episodes of a timed evaluation", lower_bound=1, flag_values=fv
    )
    flags.DEFINE_string(
        "trace", None, "folder for a trace of one block by jax.profiler", flag_values=fv
    )
    flags.DEFINE_boolean(
        "json", False, "end with one JSON object on the last line", flag_values=fv
    )
    return fv


# ---------------------------------------------------------------- what is measured


def synthetic(transitions: int) -> dict[str, np.ndarray]:
    """A compact dataset of random trajectories of 1,000 transitions."""
    rng = np.random.default_rng(0)
    rows = transitions + -(-transitions // 1000)
    final = np.arange(rows) % 1001 == 1000
    final[-1] = True
    return {
        "observations": rng.standard_normal((rows, OBSERVATION_DIM), np.float32),
        "actions": rng.uniform(-1, 1, (rows, ACTION_DIM)).astype(np.float32),
        "rewards": -np.ones(rows, np.float32),
        "masks": np.ones(rows, np.float32),
        "terminals": np.append(final[1:], True).astype(np.float32),
        "rows": np.flatnonzero(~final).astype(np.int32),
    }


def gflop_per_update(agent: Any) -> float | None:
    """XLA's count for one update on a batch; None where flow steps stay a loop, which XLA
    counts once.

    Of the program for the host's processor, whatever the device: calls of an accelerator's
    libraries count nothing.
    """
    import jax
    import jax.numpy as jnp

    from utils.sharding import host_device

    batch, horizon = agent.config.batch_size, agent.config.horizon_length
    shapes = dict.fromkeys(("rewards", "masks", "terminals", "valid"), (batch, horizon)) | {
        "observations": (batch, OBSERVATION_DIM),
        "actions": (batch, horizon, ACTION_DIM),
        "next_observations": (batch, horizon, OBSERVATION_DIM),
    }
    arguments = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()
    }
    noise = jax.eval_shape(lambda: agent.draw_noise(jax.random.key(0), batch))
    update = jax.jit(
        lambda agent, batch, noise: type(agent).update_with_noise(agent, batch, noise)[:2]
    )
    with jax.default_device(host_device()):
        compiled: Any = update.lower(jax.eval_shape(lambda: agent), arguments, noise).compile()
    return None if " while(" in compiled.as_text() else compiled.cost_analysis()["flops"] / 1e9


def matrix_product(rows: int, width: int) -> Callable[[], float]:
    """A function that returns the GFLOP/s of (rows,width)x(width,width), the median over a
    third of a second.
    """
    import jax

    from utils.networks import product  # in the precision of the update's

    # An accelerator is not measured by how fast calls reach it: there many products make one
    # call.
    repeats = 1 if jax.default_backend() == "cpu" else 200
    a, b = (
        jax.random.normal(jax.random.key(0), (count, width)) / math.sqrt(width)
        for count in (rows, width)
    )
    once = repeats == 1
    call = jax.jit(
        lambda a, b: (
            product(a, b)
            if once
            else jax.lax.fori_loop(0, repeats, lambda _, x: product(x, b), a)
        )
    )
    call(a, b).block_until_ready()

    def measure() -> float:
        times, start = [], time.perf_counter()
        while time.perf_counter() - start < 0.33:
            times.append(seconds(lambda: call(a, b)))
        return 2 * repeats * rows * width**2 / statistics.median(times) / 1e9

    return measure


def large_product() -> dict[str, float]:
    """`large_product_gflops` of (8192,8192)x(8192,8192), printed; nothing on a CPU."""
    import jax

    if jax.default_backend() == "cpu":
        return {}
    speed = matrix_product(LARGE, LARGE)()
    print(f"({LARGE},{LARGE})x({LARGE},{LARGE}): {speed:.0f} GFLOP/s")
    return {"large_product_gflops": speed}


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes until its results are there."""
    import jax

    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


class Training:
    """The training loop's own call, for some number of seeds, on a replay."""

    def __init__(self, agents: list[Any], replay: Any, updates: int):
        import jax

        from training.updates import Window, one_update, train_block
        from utils.sharding import mesh_for, share, stack_seeds

        self.mesh = mesh_for(len(agents))
        names = jax.eval_shape(one_update, agents[0], replay, jax.random.key(0))[1]
        windows = [Window.create(dict.fromkeys(names, 0.0)) for _ in agents]
        self.agents, self.windows = (
            stack_seeds(agents, self.mesh),
            stack_seeds(windows, self.mesh),
        )
        self.keys = stack_seeds(
            [jax.random.key_data(jax.random.key(i)) for i in range(len(agents))], self.mesh
        )
        self.replay, self.updates, self.train_block = (
            share(replay, self.mesh),
            updates,
            train_block,
        )
        self.compile_seconds = seconds(self.block)

    def block(self) -> Any:
        """One call."""
        self.agents, self.windows, done = self.train_block(
            self.agents,
            self.windows,
            self.replay,
            self.keys,
            updates=self.updates,
            mesh=self.mesh,
        )
        return done


def stages(agent: Any, replay: Any, repeats: int = 5) -> dict[str, float]:
    """Median seconds of the parts of an update, each compiled alone (together they share work,
    so the sum is larger).
    """
    import jax

    config, kind = agent.config, type(agent)
    pieces: dict[str, tuple[Callable, tuple]] = {}

    def add(name: str, function: Callable, *arguments: Any) -> Any:
        pieces[name] = jax.jit(function), arguments
        return pieces[name][0](*arguments)

    def draw(replay: Any, seed: int) -> Any:
        return replay.sample(
            jax.random.key(seed), config.batch_size, config.horizon_length, config.discount
        )

    batch = add("sampling", draw, replay, 0)
    noise = add(
        "noise",
        lambda agent, seed: kind.draw_noise(agent, jax.random.key(seed), config.batch_size),
        agent,
        1,
    )
    if "sde_noise" in noise:
        from agents.flow import VelocityField
        from agents.trqam import lean_adjoint, memoryless_rollout

        s = batch["observations"]
        x0 = jax.random.normal(jax.random.key(2), (agent.draws, *noise["sde_x0"].shape))
        add("backup", kind.act, agent, batch["next_observations"][:, -1], x0)

        def rollout(policy: dict, base: dict, s: jax.Array, noise: dict) -> Any:
            fields = VelocityField(policy, s[None]), VelocityField(base, s)
            return memoryless_rollout(*fields, noise["sde_x0"], noise["sde_noise"])

        path = add(
            "rollout", rollout, agent.params["policy"], agent.target_params["base"], s, noise
        )
        add("adjoint", lambda base, s, xs, end: lean_adjoint(VelocityField(base, s), xs, end),
            agent.target_params["base"], s, path.xs, path.x_final)  # fmt: skip
    fixed = add("fixed quantities", kind.fixed_quantities, agent, batch, noise)
    gradient = jax.grad(lambda params, agent, *rest: agent.loss(params, *rest)[0])
    grads = add("losses and gradients", gradient, agent.params, agent, batch, noise, fixed)
    add(
        "optimiser",
        lambda agent, grads: agent.optimiser(config).update(
            grads, agent.opt_state, agent.params
        ),
        agent,
        grads,
    )
    return {
        name: statistics.median(
            seconds(functools.partial(function, *arguments)) for _ in range(repeats + 1)
        )
        for name, (function, arguments) in pieces.items()
    }


def evaluation_speed(agent: Any, episodes: int) -> list[dict[str, float]]:
    """Evaluations of puzzle-4x4 by number of workers, the policy on the host's processor as
    beside a training on a device.

    0 workers: `one_process_loop`, on the device.
    """
    import jax

    from envs.evaluation import evaluate
    from envs.workers import SLOTS, EnvWorkers, default_workers
    from training.evaluator import without_optimiser
    from training.policy import evaluation_policy
    from utils.sharding import host_device

    result = [one_process_loop(agent, episodes)]
    policy = evaluation_policy(jax.device_put(without_optimiser(agent), host_device()))
    length = agent.config.horizon_length if agent.config.action_chunking else 1
    most = default_workers()
    for workers in sorted({1, 2, 4, SLOTS, most} & set(range(1, most + 1))):
        with EnvWorkers(EVALUATED, workers=workers) as processes:
            # makes the environments
            evaluate(policy, processes, SLOTS, 1, length, ACTION_DIM, progress=False)
            done = evaluate(policy, processes, episodes, 0, length, ACTION_DIM, progress=False)
        result.append(
            _evaluation_row(
                workers, done.env_steps, done.policy_rows, done.policy_calls, done.seconds
            )
        )
    return result


def one_process_loop(agent: Any, episodes: int) -> dict[str, float]:
    """The loop of the published code: one environment in this process, and the policy called at
    every step, also while actions of its last chunk are waiting.
    """
    from envs.evaluation import reset_seed
    from envs.ogbench import make_env
    from training.policy import evaluation_policy

    env, policy, steps = make_env(EVALUATED), evaluation_policy(agent), 0
    policy(np.zeros((1, OBSERVATION_DIM), np.float32), np.zeros((1, 3), np.uint32))  # compiles
    start = time.perf_counter()
    queue: list[np.ndarray] = []
    for episode in range(episodes):
        observation, done = env.reset(seed=reset_seed(0, episode))[0], False
        queue.clear()
        while not done:
            keys = np.array([[0, episode, steps]], np.uint32)
            chunk = np.clip(
                policy(observation[None].astype(np.float32), keys), -1.0, 1.0
            ).reshape(-1, ACTION_DIM)
            queue.extend(chunk if not queue else ())
            observation, _, terminated, truncated, _ = env.step(queue.pop(0))
            steps, done = steps + 1, terminated or truncated
    return _evaluation_row(0, steps, steps, steps, time.perf_counter() - start)


def _evaluation_row(
    workers: int, steps: int, rows: int, calls: int, taken: float
) -> dict[str, float]:
    found: dict[str, float] = {
        "workers": workers,
        "env_steps": steps,
        "policy_calls": calls,
        "policy_rows": rows,
    }
    return found | {"seconds": taken, "steps_per_s": steps / taken}


def profile(folder: str, call: Callable[[], Any]) -> dict[str, Any]:
    """Trace a call by jax.profiler -> the share of its time in which the device is at work, and
    what takes the device's time.

    On a CPU the device is XLA's thread pool; times are summed over its threads.
    """
    import jax

    with jax.profiler.trace(folder):
        seconds(call)
    newest = max(Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    accelerator = jax.default_backend() != "cpu"
    plane_name, line_name = (
        ("/device:", "Stream") if accelerator else ("/host:CPU", "tf_XLAEigen")
    )
    events: list[tuple[float, float, str]] = []
    for plane in jax.profiler.ProfileData.from_file(str(newest)).planes:
        for line in plane.lines if plane.name.startswith(plane_name) else ():
            if line.name.startswith(line_name):
                # On a CPU, names in C++ are of threads that wait for others; on an accelerator,
                # of kernels.
                own = (event for event in line.events if accelerator or "::" not in event.name)
                events += [(event.start_ns, event.duration_ns, event.name) for event in own]
    busy, end, shares = 0.0, 0.0, collections.defaultdict[str, float](float)
    for start, duration, name in sorted(events):
        busy += max(0.0, start + duration - max(start, end))
        end = max(end, start + duration)
        # fusion.12 and fusion.13 are of one kind
        shares[re.sub(r"[._]?\d+$", "", name)] += duration
    if not events:
        raise RuntimeError(f"the trace in {folder} holds no events of the device")
    longest = sorted(shares, key=lambda name: -shares[name])[:12]
    top = {name: shares[name] / sum(shares.values()) for name in longest}
    return {"device_busy": busy / (end - min(events)[0]), "kernels": len(events), "shares": top}


def peak_memory_bytes() -> int:
    """The most memory used so far: of the device where it tells, else of this process."""
    import jax

    told = jax.devices()[0].memory_stats() or {}
    return (
        told.get("peak_bytes_in_use")
        or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )


# ---------------------------------------------------------------- the program


def measure(fv: flags.FlagValues, agent_file: str) -> dict[str, Any]:
    """Everything that the flags ask for, printed as it comes."""
    import jax

    from training.updates import configure_jax, updates_per_call
    from utils.replay import Replay

    configure_jax({"matmul_precision": fv.matmul_precision, "compilation_cache_dir": ""})
    config = fv.agent
    if "action_chunking" not in config_flags.get_override_values(fv["agent"]):
        config.action_chunking = True
    check_agent_values(config.to_dict())
    kind, updates = load_source(agent_file).module.AGENT, fv.updates or updates_per_call(0)
    replay = Replay.create(synthetic(fv.transitions))

    def fresh(seed: int) -> Any:
        return kind.create(jax.random.key(seed), OBSERVATION_DIM, ACTION_DIM, config)

    gflop, product = gflop_per_update(fresh(0)), matrix_product(PEAK_ROWS, PEAK_WIDTH)
    result: dict[str, Any] = {
        "agent": agent_file,
        "device": (
            f"{jax.devices()[0].device_kind} ({len(jax.devices())} device(s), {os.cpu_count()}"
            " CPU cores)"
        ),
        "jax": jax.__version__,
        "matmul_precision": fv.matmul_precision,
        "updates_per_block": updates,
        "gflop_per_update": gflop,
    }
    runs = {
        int(count): Training([fresh(seed) for seed in range(int(count))], replay, updates)
        for count in fv.seeds
    }
    rates: dict[int, list[float]] = {count: [] for count in runs}
    products = []
    for _ in range(fv.blocks):
        products.append(product())
        for count, training in runs.items():
            rates[count].append(updates / seconds(training.block))
    peak = max(products)
    work = (
        "GFLOP not counted (a loop over flow steps)"
        if gflop is None
        else f"{gflop:.1f} GFLOP per update"
    )
    print(f"{result['device']}, {work}, blocks of {updates} updates, peak {peak:.0f} GFLOP/s")
    result |= {"peak_gflops": peak, "by_seeds": []} | large_product()
    for count, training in runs.items():
        rate = statistics.median(rates[count])
        devices = training.mesh.size if training.mesh else 1
        row = {
            "seeds": count,
            "updates_per_s": rate,
            "seed_updates_per_s": count * rate,
            "fraction_of_peak": gflop and count * gflop * rate / (devices * peak),
            "compile_seconds": training.compile_seconds,
        }
        result["by_seeds"].append(row)
        speed = f"{rate:9.2f} updates/s, {count * rate:9.2f} seed-updates/s"
        of_peak = f", {row['fraction_of_peak']:.2f} of peak" if gflop else ""
        print(
            f"{count:3d} seeds: {speed}{of_peak}, first call {training.compile_seconds:.1f} s"
        )
    first = result["by_seeds"][0]
    result |= {
        name: first[name]
        for name in (
            "updates_per_s",
            "seed_updates_per_s",
            "fraction_of_peak",
            "compile_seconds",
        )
    }
    if fv.trace:
        result["profile"] = profile(fv.trace, next(iter(runs.values())).block)
        print(
            f"trace of one block: {fv.trace}; the device is at work"
            f" {result['profile']['device_busy']:.1%} of the time"
        )
        for name, share in result["profile"]["shares"].items():
            print(f"{share:7.1%}  {name}")
    if fv.stages:
        result["stage_seconds"] = stages(fresh(0), replay)
        for name, duration in result["stage_seconds"].items():
            print(f"{name:22s} {1e3 * duration:9.2f} ms")
    if fv.evaluate:
        result["evaluation"] = evaluation_speed(fresh(0), fv.episodes)
        for row in result["evaluation"]:
            how = (
                f"with {row['workers']} workers"
                if row["workers"]
                else "in one process, the policy called at every step"
            )
            speed = f"{row['seconds']:.1f} s, {row['steps_per_s']:.0f} steps/s"
            print(
                f"evaluation {how}: {speed}, {row['policy_calls']} calls of the policy with"
                f" {row['policy_rows']} rows in use"
            )
    result["peak_memory_bytes"] = peak_memory_bytes()
    print(f"peak memory {result['peak_memory_bytes'] / 1e9:.2f} GB")
    return result


def main(argv: list[str]) -> int:
    """Parse, measure, print; returns the exit code."""
    try:
        agent_file, rest = take_agent(argv)
        words = [argv[0], f"--agent={agent_file}", *rest]
        known = list(load_source(agent_file).module.get_config())
        fv = define(words)
        if {"--help", "-help", "-h"} & set(argv):
            print(__doc__, fv.get_help(), sep="\n")
            return 0
        parse_words(fv, words, agent_file, known)
        if not all(count.isdigit() and int(count) for count in fv.seeds):
            raise UserError(
                f"--seeds={','.join(fv.seeds)}: give numbers of seeds, such as 1,2,4"
            )
        result = measure(fv, agent_file)
    except UserError as error:
        print("error:", str(error).partition("\n")[0], file=sys.stderr)
        return 2
    if fv.json:
        print(json.dumps(result | {"command": " ".join(["python", *argv])}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
