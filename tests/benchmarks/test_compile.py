"""Counts in a program compiled for a GPU, compile options, and the list of GPU measurements.

No test needs a GPU.
"""

import argparse
import json
import math
import re

import jax
import jax.numpy as jnp
import pytest

from benchmarks import compile as compile_benchmark
from benchmarks import gpu, hlo
from scripts import benchmark
from training import compile_options

# A shortened program as XLA prints it: a loop over updates with a library's matrix product, a
# fusion that reads one row of a table, a copy of 4 kB, and views that move no data.
PROGRAM = """HloModule jit_train_block

%fused_row (p0: f32[1000,64], p1: s32[]) -> f32[1,64] {
  %p0 = f32[1000,64]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,64]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,64}
}

%body (state: (s32[], f32[1000,64], f32[64,16])) -> (s32[], f32[1000,64], f32[64,16]) {
  %state = (s32[], f32[1000,64]{1,0}, /*index=2*/f32[64,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %table = f32[1000,64]{1,0} get-tuple-element(%state), index=1
  %w = f32[64,16]{1,0} get-tuple-element(%state), index=2
  %row.1 = f32[1,64]{1,0} fusion(%table, %i), kind=kLoop, calls=%fused_row
  %product = (f32[1,16]{1,0}, s8[4194304]{0}) custom-call(%row.1, %w), custom_call_target="__cublas$lt$matmul", metadata={op_name="a (b) c"}
  %result = f32[1,16]{1,0} get-tuple-element(%product), index=0
  %view = f32[16]{0} bitcast(%result)
  %copied = f32[64,16]{1,0} copy(%w)
  ROOT %next = (s32[], f32[1000,64]{1,0}, f32[64,16]{1,0}) tuple(%i, %table, %copied)
}

%condition (state.1: (s32[], f32[1000,64], f32[64,16])) -> pred[] {
  %state.1 = (s32[], f32[1000,64]{1,0}, f32[64,16]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (a: s32[], b: f32[1000,64], c: f32[64,16]) -> (s32[], f32[1000,64], f32[64,16]) {
  %a = s32[] parameter(0)
  %b = f32[1000,64]{1,0} parameter(1)
  %c = f32[64,16]{1,0} parameter(2)
  %start = (s32[], f32[1000,64]{1,0}, f32[64,16]{1,0}) tuple(%a, %b, %c)
  ROOT %while = (s32[], f32[1000,64]{1,0}, f32[64,16]{1,0}) while(%start), condition=%condition, body=%body
}
"""
THUNKS = """001: kCopy         [source | next=002 (1)] kCopy
002: kWhile        [prev=001 (1) | sink]
condition:
    003: kCustomKernel [source | sink] loop_compare_fusion
  body:
    000: kCommandBuffer [source | next=006]
        004: kCustomKernel   [source         | next=005 (1)  ] row_1
        005: kCublasLtMatmul [prev=004 (1)   | sink          ] product
    006: kCopy [prev=000 | sink] copied
"""


def test_the_kernels_in_the_loop_body_are_counted():
    found = hlo.count(PROGRAM)
    assert (found["kernels"], found["products"], found["chain"]) == (3, 1, 2)
    row, product, copied = 64 * 4, 64 * 16 * 4 + 64 * 4 + 16 * 4, 2 * 64 * 16 * 4
    # The fusion moves one row of the table and the index, not the table. The library's scratch
    # memory does not count.
    assert found["moved_gb"] == pytest.approx((2 * row + 4 + product + copied) / 1e9)
    assert found["copied_mb"] == pytest.approx(64 * 16 * 4 / 1e6)
    # The cache serves the row, and the matrix that the copy reads after the product.
    assert found["hbm_gb"] == pytest.approx((row + 4 + 64 * 16 * 4) / 1e9)


def test_values_that_do_not_fit_the_cache_are_read_from_memory(monkeypatch):
    cached = hlo.count(PROGRAM)["hbm_gb"]
    monkeypatch.setattr(hlo, "CACHE_BYTES", 300)
    assert cached < hlo.count(PROGRAM)["hbm_gb"] <= hlo.count(PROGRAM)["moved_gb"]


def test_graphs_and_kernels_outside_them_are_counted_in_the_loop_body():
    assert hlo.graphs(THUNKS) == {"graphs": 1, "outside_graphs": 1}
    assert hlo.graphs(THUNKS.replace("kCommandBuffer", "kSequential"))["graphs"] == 0


def test_a_program_compiled_by_xla_is_parsed():
    """Every instruction is parsed, and kernels are found."""

    def block(w, x):
        return jax.lax.fori_loop(0, 5, lambda _, x: jnp.tanh(x @ w), x)

    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    text = jax.jit(block).lower(shape, shape).compile().as_text()
    found = hlo.count(text)
    assert found["kernels"] >= 1 and 0 < found["hbm_gb"] <= found["moved_gb"]
    module = hlo.parse(text)
    lines = sum(
        bool(re.match(r"^\s+(ROOT )?%\S+ = ", line)) for line in text.splitlines()
    )
    assert lines == sum(map(len, module.computations.values()))
    assert math.isclose(hlo.size("(f32[2,3]{1,0}, s8[99]{0})"), 24)


def test_a_missing_plugin_is_reported_with_the_remedy(monkeypatch, capsys):
    monkeypatch.setattr(compile_benchmark, "PLUGINS", ("no_such_plugin",))
    assert benchmark.main(["benchmark.py", "compile"]) == 1
    error = capsys.readouterr().err
    assert "no_such_plugin is missing" in error and "requirements-cuda12.txt" in error


def test_an_option_without_a_value_is_refused(monkeypatch, capsys):
    given = compile_benchmark.given_options(["a=true", "b=2", "c=x=y"])
    assert given == {"a": True, "b": "2", "c": "x=y"}
    monkeypatch.setattr(
        compile_benchmark, "described_device", lambda text: jax.devices()[0]
    )
    assert benchmark.main(["benchmark.py", "compile", "--option=a"]) == 2
    assert "--option=a: give KEY=VALUE" in capsys.readouterr().err


def test_an_option_unknown_to_this_jax_is_left_out(monkeypatch):
    options = {"xla_gpu_graph_min_graph_size": 1, "xla_no_such_option": 1}
    monkeypatch.setitem(compile_options.OPTIONS, "gpu", options)
    assert compile_options.compile_options("gpu") == {"xla_gpu_graph_min_graph_size": 1}
    assert compile_options.compile_options("tpu") == {}


def test_every_gpu_measurement_is_a_valid_command_line_and_finished_ones_are_kept(
    tmp_path, monkeypatch, capsys
):
    measured, out = [], tmp_path / "speed.json"
    for words in gpu.MEASUREMENTS.values():
        benchmark.parse(["benchmark.py", *words])
    by_seeds = [
        {"seeds": 1, "compiled_as": name, "updates_per_s": rate}
        for name, rate in (("training", 2.0), ("concurrent", 3.0))
    ]
    known = {
        "compile options": {"by_seeds": []},
        "trqam": {"error": "took longer than 1 s"},
    }
    out.write_text(json.dumps(known))
    monkeypatch.setattr(
        gpu.table, "measure", lambda words, left: measured.append(words) or {}
    )
    monkeypatch.setattr(gpu.table, "tables", lambda found: "")
    gpu.run(argparse.Namespace(out=out, seconds=100.0, tiny=False))
    assert measured == [
        words for name, words in gpu.MEASUREMENTS.items() if name != "compile options"
    ]
    assert set(json.loads(out.read_text())) == set(gpu.MEASUREMENTS)
    assert "concurrent 1.50 (1 seeds)" in gpu.fastest_options(
        {"compile options": {"by_seeds": by_seeds}}
    )
    out.unlink()
    gpu.run(argparse.Namespace(out=out, seconds=1.0, tiny=False))
    assert not out.exists() and "trqam: no time left" in capsys.readouterr().err
