"""Settings of every test and of every process that a test starts: strict, no GPU, no OpenGL.

Environment variables are used instead of `jax.config`: programs under test inherit them, and
jax is not imported here. The processes that run the tests are kept small, and a session fails
if one of them grew too large.
"""

import ctypes
import gc
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest

from utils.messages import warn_once

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MUJOCO_GL"] = "disabled"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*"  # the tests' servers are local
for name in (
    "SLURM_ARRAY_TASK_ID",
    "SWEEP_FIRST",
    "RAY_ADDRESS",
    "HF_ENDPOINT",
    "HF_TOKEN",
):
    os.environ.pop(name, None)
# These tests spend most of their time in XLA, which compiles the same small programs in every
# worker and at every start.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"),
)
os.environ["XDG_CACHE_HOME"] = str(
    Path(__file__).resolve().parents[1] / ".pytest_cache" / "home"
)
os.environ["XDG_DATA_HOME"] = str(
    Path(__file__).resolve().parents[1] / ".pytest_cache" / "data"
)
# this saves a third of the time
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# the same examples everywhere, and no limit of time on a busy machine
hypothesis.settings.register_profile(
    "same", deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("same")


class Printed(NamedTuple):
    """What was written to stdout and stderr."""

    out: str
    err: str


@pytest.fixture
def printed(capsys):
    """A function that returns what was printed since its last call.

    Each wrapped message is on one line.
    """
    return lambda: Printed(*(text.replace("\n  ", " ") for text in capsys.readouterr()))


@pytest.fixture(autouse=True)
def no_warnings_yet():
    """Forget past warnings: the program prints certain ones only once in a process."""
    warn_once.cache_clear()


@pytest.fixture
def no_key_twice():
    """Let JAX refuse a random key that is used twice.

    This is not done for every test, because it costs a seventh of the time.
    """
    import jax

    jax.config.update("jax_debug_key_reuse", True)
    yield
    jax.config.update("jax_debug_key_reuse", False)


# ------------------------------------------------------------------------------------- memory

# What a process may hold after a test. With less, tests take longer: those of a file often train
# with the same settings, and after a release JAX traces and loads the same programs again.
RELEASE_GB = 1.2
# Its memory maps after a test; Linux allows a process 65,530.
RELEASE_MAPS = 30_000
# What a process may hold at most; a run of --preset=smoke alone takes 1 GB.
PEAK_GB = 3.0
PEAKS = pytest.StashKey[dict[str, float]]()


@pytest.fixture(autouse=True)
def bounded_memory():
    """After a test, release the memory of a process that has grown large.

    JAX keeps every program that it compiled, each in its own memory maps, and the compiler
    crashes where no more of them are allowed.
    """
    yield
    if "jax" in sys.modules and has_grown():
        release_memory()


def has_grown() -> bool:
    """Whether this process holds more than it may after a test."""
    return memory_gb("VmRSS") > RELEASE_GB or memory_maps() > RELEASE_MAPS


def release_memory() -> None:
    """Drop all compiled programs, and return the freed memory to the system."""
    sys.modules["jax"].clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def memory_gb(name: str) -> float:
    """The memory of this process: now (VmRSS) or at its peak (VmHWM). It is 0 without /proc.

    `resource.getrusage` is not used: its peak includes that of the parent process.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return 0.0
    return int(re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)[1]) / (1 << 20)


def memory_maps() -> int:
    """The number of memory maps of this process. It is 0 without /proc."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def pytest_configure(config):
    config.stash[PEAKS] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Store the peak of a worker that has ended, in the process that distributes the tests."""
    # a worker that died reports none
    peak = getattr(node, "workeroutput", {}).get("peak_gb")
    if peak is not None:
        node.config.stash[PEAKS][node.gateway.id] = peak


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """Let the session fail if one of its processes grew beyond the limit."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak_gb"] = memory_gb("VmHWM")
        return
    peaks = session.config.stash[PEAKS]
    peaks["this process"] = memory_gb("VmHWM")
    if max(peaks.values()) > PEAK_GB:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    peaks = config.stash[PEAKS]
    found = ", ".join(f"{name} {peak:.2f}" for name, peak in sorted(peaks.items()))
    terminalreporter.write_line(f"peak memory in GB, at most {PEAK_GB:g}: {found}")
    if max(peaks.values()) > PEAK_GB:
        terminalreporter.write_line(
            "FAILED: a process took more memory than that", red=True
        )
