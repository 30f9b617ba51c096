"""The options with which XLA compiles training, by platform: the one place for them.

They are given with each compiled call, so that neither XLA_FLAGS nor another program in the
process changes them. What they do to kernels, memory and graphs is counted by
`python scripts/benchmark.py compile`, and timed on a GPU by `python scripts/benchmark.py gpu`.
"""

import functools
from typing import Any

import jax

OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {
        # XLA would else copy parameters and targets in every update, 75 MB at the paper's size
        # and 6 % of the time.
        "xla_cpu_copy_insertion_use_region_analysis": True,
    },
    "gpu": {
        # The body of the loop over updates is one CUDA graph, also where a library's call or a
        # loop over many flow steps leaves short sequences of kernels. The kinds of commands in
        # a graph stay XLA's: adding WHILE to them alone leaves no graph at all.
        "xla_gpu_graph_min_graph_size": 1,
        # a trace shows the graphs that training runs, not their kernels started one by one
        "xla_enable_command_buffers_during_profiling": True,
    },
}
# What may be faster on a GPU: `python scripts/benchmark.py gpu` times them in turns.
CANDIDATES: dict[str, dict[str, Any]] = {
    "training": {},
    "concurrent": {"xla_gpu_command_buffer_scheduling_mode": "CONCURRENT"},
    "cublaslt": {"xla_gpu_enable_triton_gemm": False},
    "concurrent cublaslt": {
        "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT",
        "xla_gpu_enable_triton_gemm": False,
    },
}


def compile_options(platform: str, candidate: str = "training") -> dict[str, Any]:
    """The options for a platform and a candidate's, without those that this JAX lacks."""
    options = OPTIONS.get(platform, {}) | CANDIDATES[candidate]
    return {name: value for name, value in options.items() if known(name, value)}


@functools.cache
def known(name: str, value: Any) -> bool:
    """Whether XLA takes an option: others are renamed or gone in another version."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
