"""Makes every test, and every process a test starts, strict and free of a GPU and of OpenGL.

Environment variables rather than `jax.config`: programs under test inherit them, and jax stays
unloaded here.
"""

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from utils.logging import warn_once

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MUJOCO_GL"] = "disabled"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Most of the time of these tests is XLA compiling the same small programs, in every worker and
# at every start.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"),
)
os.environ["XDG_CACHE_HOME"] = str(
    Path(__file__).resolve().parents[1] / ".pytest_cache" / "home"
)
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # a third less
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


class Printed(NamedTuple):
    """What was written to stdout and stderr."""

    out: str
    err: str


@pytest.fixture
def printed(capsys):
    """A function that returns what was printed since its last call, each wrapped message on one
    line.
    """
    return lambda: Printed(*(text.replace("\n  ", " ") for text in capsys.readouterr()))


@pytest.fixture(autouse=True)
def nothing_said_yet():
    """Every test may see a warning that the program prints once in a process."""
    warn_once.cache_clear()


@pytest.fixture
def no_key_twice():
    """JAX refuses a random key that is used twice. Not for every test: it costs a seventh of
    the time.
    """
    import jax

    jax.config.update("jax_debug_key_reuse", True)
    yield
    jax.config.update("jax_debug_key_reuse", False)
