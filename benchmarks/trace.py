"""Analyses what a device does during a call, from a trace by jax.profiler."""

import collections
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.common import seconds
from utils.errors import RunError

LONGEST = 12  # kinds of kernels that are listed


class Event(NamedTuple):
    """One run of a kernel, in nanoseconds."""

    start: float
    duration: float
    name: str


def profile(folder: str, call: Callable[[], Any]) -> dict[str, Any]:
    """Trace a call into a folder and analyse the trace.

    Returns "device_busy", the share of the time in which the device works; "kernels", their
    number; and "shares", the share of the device's time by kind of kernel. On a CPU the device
    is XLA's thread pool, and times are summed over its threads. Raises RunError for a trace
    without kernels.
    """
    with jax.profiler.trace(folder):
        seconds(call)
    newest = max(
        Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime
    )
    events = sorted(device_events(newest))
    if not events:
        raise RunError(f"the trace in {folder} holds no events of the device")
    return {
        "device_busy": busy_share(events),
        "kernels": len(events),
        "shares": shares_by_kind(events),
    }


def device_events(trace: Path) -> Iterator[Event]:
    """Yield the kernels in a trace file."""
    on_cpu = jax.default_backend() == "cpu"
    plane_name, line_name = "/device:", "Stream"
    if on_cpu:
        plane_name, line_name = "/host:CPU", "tf_XLAEigen"
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for line in plane.lines if plane.name.startswith(plane_name) else ():
            for event in line.events if line.name.startswith(line_name) else ():
                # On a CPU, events with C++ names are waiting threads; on an accelerator they
                # are kernels.
                if not (on_cpu and "::" in event.name):
                    yield Event(event.start_ns, event.duration_ns, event.name)


def busy_share(events: list[Event]) -> float:
    """Return the share of the total time in which at least one event runs.

    events: ordered by their starts.
    """
    busy = 0.0
    end = events[0].start
    for event in events:
        stop = event.start + event.duration
        busy += max(0.0, stop - max(event.start, end))
        end = max(end, stop)
    return busy / (end - events[0].start)


def shares_by_kind(events: list[Event]) -> dict[str, float]:
    """Return the shares of the total duration by kind, for the kinds that take the most."""
    durations = collections.defaultdict[str, float](float)
    for event in events:
        # fusion.12 and fusion.13 are of one kind
        durations[re.sub(r"[._]?\d+$", "", event.name)] += event.duration
    total = sum(durations.values())
    longest = sorted(durations, key=lambda kind: -durations[kind])[:LONGEST]
    return {kind: durations[kind] / total for kind in longest}
