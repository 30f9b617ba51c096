"""Tests that every agent acts the same from an exported file in a process without the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.export
import numpy as np
import pytest

from configs.agent_file import load_source
from training.export_policy import READER, describe, export_agent, write_policy
from training.policy import chunks_from_seed

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "agents").glob("*.py"))
SETTINGS = {
    path.stem: (path.stem, {}) for path in FILES if "\nAGENT = " in path.read_text()
}
SETTINGS |= {
    "trqam, best of 3": ("trqam", {"best_of_n": 3}),
    "bc, no chunks": ("bc", {"action_chunking": False}),
    "bc, LayerNorm, a loop": ("bc", {"actor_layer_norm": True, "flow_steps": 30}),
    "cgql, simple": ("cgql", {"mode": "simple"}),
}
CI_NAMES = ["trqam", "cgql", "dsrl", "ifql"]
SLOW_NAMES = [name for name in SETTINGS if name not in CI_NAMES]
WIDTH, A, B = 4, 2, 5  # O, A and B
NUMBERS = np.uint32(3), np.uint32(7)  # seed and call
OBSERVATIONS = np.random.default_rng(0).normal(size=(B, WIDTH)).astype(np.float32)
ELSEWHERE = """
import importlib.util, json, os, runpy, sys
import numpy as np

def message(observations):
    try:
        policy(observations, 0, 0)
    except ValueError as error:
        return str(error)

observations, home = np.load("observations.npy"), os.getcwd()
for name in sys.argv[1:]:
    os.chdir(os.path.join(home, name))
    policy = runpy.run_path("reader.py")["policy"]
    np.save("chunks.npy", policy(observations, 3, 7))
nan, infinite = (np.where(observations > 0, x, observations) for x in (np.nan, -np.inf))
ours = ("agents", "configs", "envs", "utils", "flax", "optax")
print(json.dumps({
    "messages": [message(x) for x in (observations[:, 1:], observations[0], nan, infinite)],
    "loaded": [name for name in ours if name in sys.modules],
    "importable": [name for name in ours[:4] if importlib.util.find_spec(name)],
}))
"""


def agent_of(name, **changes):
    """Return a tiny agent whose networks and moving averages all differ."""
    stem, settings = SETTINGS[name]
    module = load_source(f"agents/{stem}.py").module
    config = module.get_config()
    tiny = {"actor_hidden_dims": (8, 8), "value_hidden_dims": (8, 8), "num_qs": 2}
    tiny |= {"flow_steps": 3, "horizon_length": 3, "action_chunking": True}
    wanted = tiny | settings | changes
    config.update({key: value for key, value in wanted.items() if key in config})
    agent = module.AGENT.create(jax.random.key(0), WIDTH, A, config)
    rng = np.random.default_rng(1)

    def moved(leaf):
        return leaf + rng.normal(0, 0.2, leaf.shape).astype(np.float32)

    params, targets = jax.tree.map(moved, (agent.params, agent.target_params))
    return agent.replace(params=params, target_params=targets)


def act(agent, observations=OBSERVATIONS):
    """Return the chunks of an agent in this process."""
    return jax.jit(chunks_from_seed)(agent, observations, *NUMBERS)


def export(agent):
    return export_agent(agent, WIDTH)


@pytest.mark.ci
@pytest.mark.parametrize(
    "names", [CI_NAMES, pytest.param(SLOW_NAMES, marks=pytest.mark.slow)]
)
def test_every_exported_agent_acts_in_another_process_as_it_does_here(tmp_path, names):
    """One process runs all of them, since it takes seconds to import JAX."""
    np.save(tmp_path / "observations.npy", OBSERVATIONS)
    for name in names:
        write_policy(tmp_path / name / "policy.zip", export(agent_of(name)), {})
        with zipfile.ZipFile(tmp_path / name / "policy.zip") as archive:
            archive.extract("reader.py", tmp_path / name)
    command = [sys.executable, "-I", "-c", ELSEWHERE, *names]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found, errors = json.loads(done.stdout.splitlines()[-1]), {}
    assert found["loaded"] == found["importable"] == []
    shapes = [(B, WIDTH - 1), (WIDTH,), (B, WIDTH), (B, WIDTH)]
    expected = [
        f"observations {shape} must be [B, {WIDTH}] and finite" for shape in shapes
    ]
    assert found["messages"] == expected
    for name in names:
        agent, chunks = agent_of(name), np.load(tmp_path / name / "chunks.npy")
        assert chunks.shape == (B, 3 if agent.config.action_chunking else 1, A)
        assert chunks.dtype == np.float32
        assert np.abs(chunks).max() <= 1.0 < np.ptp(chunks)
        errors[name] = np.abs(chunks - act(agent)).max()
    assert {name: error for name, error in errors.items() if not error <= 1e-6} == {}


def test_the_reader_has_ten_lines():
    code = READER.read_text().partition('"""\n\n')[2]
    assert len([line for line in code.splitlines() if line.strip()]) == 10


def test_files_of_the_checkout_may_be_dated_before_1980(tmp_path, monkeypatch):
    """As those of reproducible container images and of Nix are."""
    copy = tmp_path / "copy.py"
    copy.write_bytes(READER.read_bytes())
    os.utime(copy, (0, 0))
    monkeypatch.setattr("training.export_policy.READER", copy)
    exported = SimpleNamespace(serialize=bytes)
    write_policy(tmp_path / "policy.zip", exported, {})
    with zipfile.ZipFile(tmp_path / "policy.zip") as archive:
        assert archive.read("reader.py") == READER.read_bytes()


def test_an_observation_that_is_not_finite_gives_nan():
    """The agent alone turns infinity into actions of 1 if its networks have no negative weights."""
    agent = agent_of("bc")
    agent = agent.replace(params=jax.tree.map(np.abs, agent.params))
    call = jax.export.deserialize(export(agent).serialize()).call
    observations = OBSERVATIONS.copy()
    observations[1, 2], observations[3, 0] = np.nan, np.inf
    assert (act(agent, observations)[3] == 1.0).all()
    chunks, clean = (
        np.asarray(call(x, *NUMBERS)) for x in (observations, OBSERVATIONS)
    )
    assert np.isnan(chunks[[1, 3]]).all()
    np.testing.assert_array_equal(chunks[[0, 2, 4]], clean[[0, 2, 4]])


def test_other_seeds_and_calls_give_other_noise():
    call = jax.jit(export(agent_of("bc")).call)
    numbers = np.array([(0, 0), (0, 1), (1, 0)], np.uint32)
    chunks = np.concatenate([call(OBSERVATIONS, *pair) for pair in numbers]).reshape(
        3 * B, -1
    )
    assert np.unique(chunks, axis=0).shape == chunks.shape


def test_an_export_is_for_every_platform_and_states_its_sizes():
    exported = export(agent_of("trqam"))
    about = describe(exported)
    assert about["platforms"] == exported.platforms == ("cpu", "cuda", "tpu")
    arguments = "observations float32[B,4], seed uint32[], call uint32[]"
    assert about["function"] == f"({arguments}) -> float32[B,3,2]"
    sizes = [about[key] for key in ("observation_dim", "action_dim", "chunk_length")]
    assert sizes == [4, 2, 3]
    assert about["versions"]["jax"] == jax.__version__ and about["versions"]["trqam"]


@pytest.mark.parametrize(
    ("name", "networks"),
    [
        ("trqam", ["policy"]),
        ("trqam, best of 3", ["policy", "critic"]),
    ],
)
def test_the_file_holds_the_parameters_that_act_and_no_others(tmp_path, name, networks):
    def size(tree):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    wide = (256, 256)
    agent = agent_of(name, actor_hidden_dims=wide, value_hidden_dims=wide)
    write_policy(tmp_path / "policy.zip", export(agent), {})
    needed = sum(size(agent.params[network]) for network in networks)
    rest = (tmp_path / "policy.zip").stat().st_size - needed
    assert 0 < rest < 60_000 < size(agent.params["base"])
