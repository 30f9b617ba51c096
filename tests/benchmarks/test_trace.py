"""The profile that is computed from a trace of a device."""

import contextlib
from types import SimpleNamespace

import jax
import pytest

from benchmarks import trace
from utils.errors import RunError


def test_events_with_cpp_names_count_as_kernels_on_an_accelerator_only(
    monkeypatch, tmp_path
):
    """On a CPU, events with such names are waiting threads."""
    names = ["void cutlass::Kernel2<gemm_1>", "fusion_2", "fusion_3"]
    events = [
        SimpleNamespace(name=name, start_ns=10.0 * i, duration_ns=5.0)
        for i, name in enumerate(names)
    ]
    planes = {
        "gpu": SimpleNamespace(
            name="/device:GPU:0",
            lines=[SimpleNamespace(name="Stream #15(Compute)", events=events)],
        ),
        "cpu": SimpleNamespace(
            name="/host:CPU",
            lines=[SimpleNamespace(name="tf_XLAEigen/1", events=events)],
        ),
    }
    (tmp_path / "a.xplane.pb").touch()
    monkeypatch.setattr(jax.profiler, "trace", contextlib.nullcontext)
    monkeypatch.setattr(
        jax.profiler.ProfileData,
        "from_file",
        lambda _: SimpleNamespace(planes=planes.values()),
    )
    found = {}
    for backend in planes:
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        found[backend] = trace.profile(str(tmp_path), lambda: None)
    assert found["cpu"] == {
        "device_busy": 10 / 15,
        "kernels": 2,
        "shares": {"fusion": 1.0},
    }
    assert (found["gpu"]["device_busy"], found["gpu"]["kernels"]) == (15 / 25, 3)


def test_kernels_that_overlap_are_counted_once():
    """The events last from 0 to 10, from 2 to 4 inside the first, and from 12 to 16."""
    events = [
        trace.Event(0.0, 10.0, "a.1"),
        trace.Event(2.0, 2.0, "b"),
        trace.Event(12.0, 4.0, "a.2"),
    ]
    assert trace.busy_share(events) == 14 / 16
    assert trace.shares_by_kind(events) == {"a": 14 / 16, "b": 2 / 16}


def test_a_trace_without_kernels_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "a.xplane.pb").touch()
    monkeypatch.setattr(jax.profiler, "trace", contextlib.nullcontext)
    empty = SimpleNamespace(planes=[])
    monkeypatch.setattr(jax.profiler.ProfileData, "from_file", lambda _: empty)
    with pytest.raises(RunError, match="holds no events"):
        trace.profile(str(tmp_path), lambda: None)
