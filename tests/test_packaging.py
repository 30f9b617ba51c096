"""The files that install, start and check the project agree with each other."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
RUNTIME = ["requirements.txt", "requirements-cuda12.txt"]
PINNED = [*RUNTIME, "requirements-dev.txt"]
FORBIDDEN = {
    "d4rl",
    "distrax",
    "gym",
    "moviepy",
    "robomimic",
    "tensorflow",
    "tensorflow-probability",
    "torch",
    "wandb",
}


def read_pins(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    requirements = [
        Requirement(line)
        for line in lines
        if line.strip() and not line.lstrip().startswith("#")
    ]
    return {
        canonicalize_name(requirement.name): requirement for requirement in requirements
    }


def version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    return specifier.version


@pytest.mark.parametrize("name", PINNED)
def test_requirements_are_exact_and_hold_no_address(name):
    for pin in read_pins(name).values():
        assert pin.url is None and re.fullmatch(r"==[\w.]+", str(pin.specifier)), str(
            pin
        )
    assert not re.search(r"://|/|\\|@|^\s*--", (ROOT / name).read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", PINNED)
def test_no_forbidden_package_is_required(name):
    assert not FORBIDDEN & set(read_pins(name))


@pytest.mark.parametrize(
    ("name", "ranges"),
    [
        ("requirements.txt", PROJECT["dependencies"]),
        ("requirements-cuda12.txt", PROJECT["dependencies"] + EXTRAS["cuda12"]),
        ("requirements-dev.txt", EXTRAS["dev"]),
    ],
)
def test_pins_lie_in_the_ranges_of_pyproject(name, ranges):
    pins = read_pins(name)
    for requirement in map(Requirement, ranges):
        assert requirement.specifier.contains(
            version(pins[canonicalize_name(requirement.name)])
        ), requirement


@pytest.mark.parametrize("name", ["requirements-cuda12.txt", "requirements-dev.txt"])
def test_pins_agree_between_files(name):
    base, other = read_pins("requirements.txt"), read_pins(name)
    assert {key: version(base[key]) for key in base.keys() & other.keys()} == {
        key: version(other[key]) for key in base.keys() & other.keys()
    }


def test_only_the_cuda_file_brings_cuda():
    assert "jax-cuda12-plugin" in read_pins("requirements-cuda12.txt")
    assert not [
        key for key in read_pins("requirements.txt") if "cuda" in key or "nvidia" in key
    ]


def test_ranges_keep_the_physics_and_python_of_the_published_tables():
    ranges = {
        requirement.name: requirement.specifier
        for requirement in map(Requirement, PROJECT["dependencies"])
    }
    assert "3.3.7" in ranges["mujoco"] and "3.4.0" not in ranges["mujoco"]
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [minor for minor in range(9, 16) if f"3.{minor}.1" in supported] == [11, 12]


def test_every_file_that_pyproject_names_exists():
    files = [*PROJECT["license-files"], PROJECT["readme"]]
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_an_installation_brings_dependencies_and_no_module(tmp_path):
    """The wheel that `pip install .` would build and unpack into site-packages, from a copy."""
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    wheels.mkdir()
    for path in [*ROOT.glob("*.*"), ROOT / "LICENSE", *ROOT.glob("*/*.py")]:
        if path.is_file() and path.suffix in ("", ".py", ".toml", ".md"):  # no data
            copy = source / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", code, wheels]
    done = subprocess.run(
        command, cwd=source, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = wheels.glob("*.whl")
    info = f"{PROJECT['name']}-{PROJECT['version']}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} == {info}
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert metadata.get_all("Provides-Extra") == list(EXTRAS)
    required = {Requirement(line) for line in metadata.get_all("Requires-Dist")}
    assert set(map(Requirement, PROJECT["dependencies"])) < required
    for extra, lines in EXTRAS.items():
        for requirement in map(Requirement, lines):
            requirement.marker = Marker(f'extra == "{extra}"')
            assert requirement in required


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def fake_python(path: Path, minor: int) -> None:
    """Write an interpreter that runs `-c CODE` and claims to be Python 3.`minor`."""
    pretend = f"import sys; sys.version_info = (3, {minor}, 0); exec(sys.argv[1])"
    write_program(path, f'exec "{sys.executable}" -c "{pretend}" "$2"')


def make(*args: str, path: str) -> subprocess.CompletedProcess:
    """Run the project's Makefile as a new shell would; the test may itself run in `make test`."""
    outer = {
        "MAKEFLAGS",
        "MAKEOVERRIDES",
        "MAKELEVEL",
        "MFLAGS",
        "VENV",
        "PYTHON",
        "PYTEST_ARGS",
    }
    env = {key: value for key, value in os.environ.items() if key not in outer} | {
        "PATH": path
    }
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    command = [shutil.which("make"), "--no-print-directory", *args]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("exit 0", "requirements-cuda12.txt"), ("exit 9", "requirements.txt")],
)
def test_make_picks_the_build_of_jax_by_nvidia_smi(tmp_path, answer, expected):
    write_program(tmp_path / "nvidia-smi", answer)
    fake_python(tmp_path / "python3", 12)
    done = make("-n", "quickstart", f"VENV={tmp_path}/venv", path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.findall(r"pip install .*-r (\S+)", done.stdout) == [expected]


def test_make_installs_again_only_when_the_requirements_changed(tmp_path):
    fake_python(tmp_path / "python3", 12)
    stamp = tmp_path / "venv" / ".requirements.txt"
    stamp.parent.mkdir()
    stamp.touch()
    changed = (ROOT / "requirements.txt").stat().st_mtime
    installs = []
    for age in (1, -1):
        os.utime(stamp, (changed + age, changed + age))
        done = make("-n", "quickstart", f"VENV={tmp_path}/venv", path=str(tmp_path))
        installs.append("pip install" in done.stdout)
    assert installs == [False, True]


def test_make_passes_seed_and_arguments_on(tmp_path):
    fake_python(tmp_path / "python3", 12)
    call = [
        "-n",
        "quickstart",
        "SEED=1",
        "ARGS=--eval_episodes=100 --x=2",
        f"VENV={tmp_path}/venv",
    ]
    last = make(*call, path=str(tmp_path)).stdout.splitlines()[-1]
    assert (
        last
        == f"{tmp_path}/venv/bin/python scripts/quickstart.py --seed=1 --eval_episodes=100"
        " --x=2"
    )


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"python3": 12}, "python3"),
        ({"python3": 11}, "python3"),
        ({"python3": 13, "python3.11": 11}, "python3.11"),
        ({"python3.12": 12, "python3.11": 11}, "python3.12"),
        ({"python3": 10, "python": 12}, "python"),
    ],
)
def test_make_finds_a_supported_python(tmp_path, pythons, chosen):
    for name, minor in pythons.items():
        fake_python(tmp_path / name, minor)
    done = make("-n", "quickstart", f"VENV={tmp_path}/venv", path=str(tmp_path))
    assert re.findall(r'^"(\S+)" -m venv', done.stdout, re.MULTILINE) == [chosen]


@pytest.mark.parametrize("minor", [None, 10, 13])
def test_make_says_in_one_line_which_python_is_needed(tmp_path, minor):
    if minor is not None:
        fake_python(tmp_path / "python3", minor)
    done = make("quickstart", f"VENV={tmp_path}/venv", path=str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert (
        "Python 3.11 or 3.12" in line and "labmaze, which has no wheel for 3.13" in line
    )
    assert not (tmp_path / "venv").exists()


def test_ci_checks_style_and_types_and_runs_more_than_the_fast_tests(tmp_path):
    (steps,) = re.findall(
        r"^for step in (.*); do$", (ROOT / ".ci/run").read_text(), re.M
    )
    fake_python(tmp_path / "python3", 12)
    done = make("-n", *steps.split(), f"VENV={tmp_path}/venv", path=str(tmp_path))
    programs = re.findall(rf"^{tmp_path}/venv/bin/(.*)", done.stdout, re.MULTILINE)
    programs = [words for words in programs if "pip install" not in words]
    assert programs[:3] == ["ruff check .", "ruff format --check .", "mypy"]
    (tests,) = programs[3:]  # last, so that the output ends with their number
    assert tests.startswith('python -m pytest -m "not slow" ')
    fast = make("-n", "test", f"VENV={tmp_path}/venv", path=str(tmp_path)).stdout
    (options,) = PYPROJECT["tool"]["pytest"]["ini_options"]["addopts"][-1:]
    assert "pytest -m" not in fast and options == "not slow and not ci"


def test_the_workflow_runs_the_same_script_on_every_supported_python():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())[
        "jobs"
    ].values()
    commands = {
        step["run"]: step.get("if", "") for step in job["steps"] if "run" in step
    }
    assert commands["bash .ci/run"] == "" and "'schedule'" in commands["make test-slow"]
    prefix = "Programming Language :: Python :: "
    classified = [
        line.removeprefix(prefix)
        for line in PROJECT["classifiers"]
        if line.startswith(prefix)
    ]
    assert job["strategy"]["matrix"]["python"] == classified == ["3.11", "3.12"]


def test_the_hooks_run_targets_of_the_makefile():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [hook["entry"] for hook in repo["hooks"]] == ["make lint", "make test"]
    assert {"lint", "test", "test-ci", "test-slow", "quickstart"} <= set(targets)


def test_the_citation_names_the_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    papers = [
        reference["identifiers"][0]["value"] for reference in citation["references"]
    ]
    numbers = ["2605.27079", "2601.14234", "2610.10437", "2410.20092", "2502.02538"]
    assert papers == [f"arXiv:{number}" for number in numbers]
    assert (
        citation["version"] == PROJECT["version"]
        and citation["license"] == PROJECT["license"]
    )


@pytest.mark.usefixtures("no_key_twice")
def test_jax_is_strict_under_test():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)
    key = jax.random.key(0)
    jax.random.normal(key)
    with pytest.raises(jax.errors.KeyReuseError):
        jax.random.normal(key)


def test_recorded_commands_and_results_have_no_absolute_path():
    """Readers have other folders, so every path in results/ is relative and none is temporary."""
    texts = {
        path: path.read_text()
        for path in (ROOT / "results").rglob("*")
        if path.suffix in (".json", ".csv", ".txt", ".md")
    }
    found = [
        (path.name, words)
        for path, text in texts.items()
        if (words := re.findall(r"(?<![\w.<>])/\w+/\S+", text))
    ]
    assert texts and found == []
