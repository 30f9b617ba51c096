"""The compiled update, counted for a GPU but without one.

    python scripts/benchmark.py compile --agent=agents/trqam.py --seeds=1,8
    python scripts/benchmark.py compile --products=triton --option=KEY=VALUE --keep=DIR

XLA compiles a block of updates for the device that --device describes, by default an H100, with
the options that training uses there. The sizes are the paper's (O 51, A 5, H 5; 512x4, 10
critics, K 10, batch 256; --agent.KEY changes them). It needs the CUDA build of JAX and no GPU.

Without a device there is no autotuning: products are cuBLASLt's or Triton's, by --products, and
the truth lies between. Fusions, layouts, copies, graphs and memory are XLA's own decisions.

kernels, products, chain    of one update of all seeds; the longest chain of kernels that wait
                            for each other
moved_gb, hbm_gb            bytes read and written, and those outside a cache of 40 MB
copied_mb                   copies of values in the loop over updates and around it
graphs, outside_graphs      CUDA graphs of the loop's body, and kernels in none
temp_mb                     memory besides the arguments
"""

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from benchmarks import hlo
from benchmarks.common import ChosenAgent, add_agent, add_output, chosen_agent
from training.updates import one_update, train_block_on
from training.windows import Window
from utils.command_line import at_least, each_at_least, existing_file
from utils.errors import RunError, UserError
from utils.replay import Replay, Transitions

DEVICE = Path(__file__).with_name("h100_sxm.txtpb")
PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
PRODUCTS = {"cublaslt": False, "triton": True}  # xla_gpu_enable_triton_gemm
COLUMNS = (
    *("kernels", "products", "chain", "moved_gb", "hbm_gb", "copied_mb"),
    *("graphs", "outside_graphs", "temp_mb"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    add_agent(parser)
    doc = "numbers of seeds trained in one program, separated by commas (1)"
    parser.add_argument(
        "--seeds", type=each_at_least(1), default=[1], metavar="N,N", help=doc
    )
    doc = "updates in a block (20)"
    parser.add_argument(
        "--updates", type=at_least(1), default=20, metavar="N", help=doc
    )
    for name, default, doc in (
        ("observation_dim", 51, "O, width of an observation (51)"),
        ("action_dim", 5, "A, width of an action (5)"),
        ("transitions", 1_000_000, "size of the dataset (1,000,000)"),
    ):
        parser.add_argument(
            f"--{name}", type=at_least(1), default=default, metavar="N", help=doc
        )
    doc = "XLA's description of the device, as text (an H100's)"
    parser.add_argument(
        "--device", type=existing_file, default=DEVICE, metavar="F", help=doc
    )
    doc = "which library multiplies matrices (cublaslt)"
    parser.add_argument(
        "--products", choices=(*PRODUCTS,), default="cublaslt", help=doc
    )
    doc = "a compile option besides training's own; may be given several times"
    parser.add_argument(
        "--option", action="append", default=[], metavar="K=V", help=doc
    )
    doc = "leave XLA's dump in this folder (for several numbers of seeds, in folders in it)"
    parser.add_argument("--keep", type=Path, metavar="DIR", help=doc)
    add_output(parser)


def described_device(description: str) -> jax.Device:
    """The device that a description is of; raises RunError where JAX cannot compile for it."""
    if not any(map(importlib.util.find_spec, PLUGINS)):
        raise RunError(
            f"{PLUGINS[0]} is missing: compile needs the CUDA build of JAX, but no GPU;"
            " pip install -r requirements-cuda12.txt (6 GB) in an environment of its own"
        )
    try:
        topology: Any = topologies.get_topology_desc(
            platform="cuda", target_config=description, topology="1x1x1"
        )
    except Exception as error:  # of whatever kind the plugin raises
        reason = str(error).splitlines()[0]
        raise RunError(
            f"jax {jax.__version__} cannot compile for CUDA: {reason}"
        ) from error
    return topology.devices[0]


def stacked(tree: Any, seeds: int) -> Any:
    """The shapes of a tree for each seed [S, ...]."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype), tree
    )


def replay_shapes(transitions: int, observation_dim: int, action_dim: int) -> Replay:
    """The shapes of a dataset on the device."""

    def of(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct((transitions, *shape), dtype)

    size: Any = jax.ShapeDtypeStruct((), jnp.int32)
    fields = of(observation_dim), of(action_dim), of(), of(), of()
    return Replay(Transitions(*fields, rows=of(dtype=jnp.int32), size=size))


def block_shapes(
    chosen: ChosenAgent, options: argparse.Namespace, seeds: int
) -> tuple[Any, ...]:
    """The shapes of what `train_block` takes: agents, windows, replay, keys."""
    widths = options.observation_dim, options.action_dim
    agent = jax.eval_shape(
        lambda: chosen.agent_class.create(jax.random.key(0), *widths, chosen.config)
    )
    replay = replay_shapes(options.transitions, *widths)
    key = jax.eval_shape(lambda: jax.random.key(0))
    names = jax.eval_shape(one_update, agent, replay, key)[1]
    window = jax.eval_shape(lambda: Window.create(dict.fromkeys(names, 0.0)))
    keys = jax.ShapeDtypeStruct((seeds, 2), np.uint32)
    return stacked(agent, seeds), stacked(window, seeds), replay, keys


def given_options(words: list[str]) -> dict[str, Any]:
    """The options of --option; raises UserError for one without a value."""
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--option={word}: give KEY=VALUE")
        options[name] = {"true": True, "false": False}.get(value.lower(), value)
    return options


def compile_block(
    shapes: tuple[Any, ...], device: jax.Device, options: dict[str, Any], updates: int
) -> Any:
    """The block of updates compiled for a device; raises RunError for what XLA refuses.

    Args:
        shapes: see `block_shapes`.
        device: see `described_device`.
        options: compile options besides training's.
        updates: in the block.
    """
    sharding = jax.sharding.SingleDeviceSharding(device)
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
    )
    lowered = train_block_on("gpu").lower(*placed, updates=updates)
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        raise RunError(f"XLA: {str(error).splitlines()[0]}") from error


def measure(
    shapes: tuple[Any, ...],
    device: jax.Device,
    options: argparse.Namespace,
    folder: Path,
) -> dict[str, Any]:
    """Compile and count; XLA's dump goes to the folder.

    Args:
        shapes: see `block_shapes`.
        device: see `described_device`.
        options: those of the command line.
        folder: exists, and holds no other dump.
    """
    settings: dict[str, Any] = {
        "xla_dump_to": str(folder),
        "xla_dump_hlo_as_text": True,
        "xla_dump_hlo_module_re": ".*train_block.*",
        "xla_gpu_enable_triton_gemm": PRODUCTS[options.products],
    }
    settings |= given_options(options.option)
    compiled = compile_block(shapes, device, settings, options.updates)
    text = compiled.as_text()
    (folder / "optimised.hlo").write_text(text)
    [thunks] = folder.glob("*.thunk_sequence_after_thunk_passes.txt")
    memory = compiled.memory_analysis().temp_size_in_bytes / 1e6
    return hlo.count(text) | hlo.graphs(thunks.read_text()) | {"temp_mb": memory}


def format_line(row: dict[str, Any]) -> str:
    """A line of the table."""
    return f"{row['seeds']:5d} " + " ".join(
        f"{row[name]:>{max(len(name), 8)}.{2 if isinstance(row[name], float) else 0}f}"
        for name in COLUMNS
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Compile for each number of seeds and print the counts."""
    # the device is only described: JAX itself runs on the processor
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    chosen = chosen_agent(options)
    device = described_device(options.device.read_text())
    print(
        f"{device.device_kind}, {chosen.file}, {options.products}, one update of all seeds"
    )
    print("seeds " + " ".join(f"{name:>8}" for name in COLUMNS))
    rows = []
    for seeds in options.seeds:
        with tempfile.TemporaryDirectory(prefix="compile-") as temporary:
            folder = Path(temporary)
            if options.keep:
                several = len(options.seeds) > 1
                folder = options.keep / f"seeds{seeds}" if several else options.keep
                folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("*train_block*"):
                old.unlink()
            shapes = block_shapes(chosen, options, seeds)
            rows.append({"seeds": seeds} | measure(shapes, device, options, folder))
        print(format_line(rows[-1]), flush=True)
    return {
        "agent": chosen.file,
        "compiled_for": device.device_kind,
        "products_by": options.products,
        "options": given_options(options.option),
        "by_seeds": rows,
        **rows[0],
    }
