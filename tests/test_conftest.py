"""The memory of the processes that run the tests is bounded; a session beyond it fails."""

import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tests import conftest


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux limits the number of maps"
)
def test_compiled_programs_are_given_back():
    kept = [jax.jit(lambda x, i=i: jnp.sin(x) * i) for i in range(20)]
    assert [function(1.0) for function in kept][0] == 0
    compiled = conftest.memory_maps()
    conftest.release_memory()
    given_back = compiled - conftest.memory_maps()
    assert given_back >= 3 * 20  # code, constants and data of each


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("limit", ["RELEASE_GB", "RELEASE_MAPS"])
def test_memory_and_maps_each_have_a_limit(limit, monkeypatch):
    monkeypatch.setattr(conftest, "RELEASE_GB", math.inf)
    monkeypatch.setattr(conftest, "RELEASE_MAPS", math.inf)
    assert not conftest.has_grown()
    monkeypatch.setattr(conftest, limit, 0)
    assert conftest.has_grown()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("workers", "limit", "code"), [(0, "0.01", 1), (1, "0.01", 1), (1, "2.0", 0)]
)
def test_a_session_with_a_process_beyond_the_limit_fails(
    tmp_path, workers, limit, code
):
    text = Path(conftest.__file__).read_text()
    assert "\nPEAK_GB = 3.0\n" in text
    (tmp_path / "conftest.py").write_text(
        text.replace("PEAK_GB = 3.0", f"PEAK_GB = {limit}")
    )
    (tmp_path / "test_it.py").write_text("def test_it(): pass")
    command = [sys.executable, "-m", "pytest", tmp_path, f"--rootdir={tmp_path}"]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [*command, f"-n{workers}"],
        capture_output=True,
        text=True,
        cwd=root,
        timeout=100,
    )
    assert done.returncode == code, done.stdout
    names = ["gw0", "this process"][1 - workers :]
    peaks = r", ".join(rf"{name} 0\.\d+" for name in names)
    assert re.search(
        rf"^peak memory in GB, at most {float(limit):g}: {peaks}$", done.stdout, re.M
    )
    assert ("FAILED: a process took more memory" in done.stdout) == bool(code)
    assert re.search("1 passed in .* ==+$", done.stdout.splitlines()[-1])
