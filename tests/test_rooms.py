"""No folder imports from one above it, so each can be read knowing only those below."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "utils": set(),
    "configs": {"utils"},
    "agents": {"utils"},
    "envs": {"utils"},
    "reports": {"configs", "envs", "utils"},
    "training": {"agents", "configs", "envs", "utils"},
    "sweeps": {"training", "configs", "envs", "utils"},
    "benchmarks": {
        "training",
        "sweeps",
        "reports",
        "agents",
        "configs",
        "envs",
        "utils",
    },
}
WITHOUT_JAX = {"reports", "envs"}
OURS = {*MAY_IMPORT, "main", "scripts", "tests"}
JAX = {"jax", "flax", "optax", "orbax", "chex"}


def imported(source):
    """The first name of every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def forbidden(room, source):
    """The imports that a file in a room (one of our folders) must not have."""
    beyond = OURS - MAY_IMPORT[room] - {room}
    return sorted(
        set(imported(source)) & (beyond | (JAX if room in WITHOUT_JAX else set()))
    )


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_down(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert len(files) > 1
    found = {
        str(path.relative_to(ROOT)): forbidden(room, path.read_text()) for path in files
    }
    assert {path: names for path, names in found.items() if names} == {}


def test_an_import_that_points_up_is_found_wherever_it_is():
    source = "import os\n\ndef f():\n    from training.run import Run\n    import jax.numpy as jnp\n"
    assert forbidden("envs", source) == ["jax", "training"]
    assert forbidden("training", source) == []


def test_every_folder_with_code_is_known():
    """A user's own folders are not tracked."""
    command = ["git", "-C", str(ROOT), "ls-files", "*/*.py"]
    tracked = subprocess.run(command, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a checkout of git")
    folders = {name.partition("/")[0] for name in tracked}
    assert folders - OURS == {"examples"}


def test_the_guide_for_developers_lists_these_rooms_and_names_files_that_exist():
    text = (ROOT / "docs" / "development.md").read_text()
    lines = re.findall(r"^\| `(\w+)/` \| .* \| (.*) \|$", text, re.MULTILINE)
    assert {
        room: set(re.findall(r"`(\w+)`", others)) for room, others in lines
    } == MAY_IMPORT
    paths = re.findall(r"`((?:\w+/)+\w*(?:\.py)?)`", text)
    missing = {path for path in paths if not (ROOT / path).exists()}
    # bc/ is a folder of runs
    assert missing == {"bc/"} and len(paths) > 20
    files = [ROOT / "main.py", *ROOT.glob("*/*.py")]
    code = "".join(path.read_text() for path in files)
    names = {name.split(".")[-1] for name in re.findall(r"`(\w+\.\w+|\w+_\w+)`", text)}
    assert {name for name in names if not re.search(rf"\b{name}\b", code)} == set()
