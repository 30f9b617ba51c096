"""Tests that seeds trained in one program equal seeds trained alone, on one device and several."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from agents import trqam
from tests.small_datasets import make_dataset
from training.seeds import run_name
from training.updates import one_update, train_block, train_block_on
from training.windows import Window
from utils.replay import Replay
from utils.sharding import host_device, one_seed, stack_seeds

SEEDS = 4


@functools.cache
def tiny_agents():
    config = trqam.get_config()
    config.update(
        dict(
            actor_hidden_dims=(16, 16),
            value_hidden_dims=(16, 16),
            num_qs=2,
            flow_steps=2,
            batch_size=16,
            horizon_length=2,
        )
    )
    config.action_chunking = True
    return [
        trqam.TRQAM.create(jax.random.key(seed), 3, 2, config) for seed in range(SEEDS)
    ]


def train(agents, keys, replay, calls):
    """Return the agents after `calls` updates, and for each agent the metrics of every update."""
    names = jax.eval_shape(one_update, agents[0], replay, jax.random.key(0))[1]
    stacked, metrics = stack_seeds(agents, None), []
    for _ in range(calls):
        windows = stack_seeds(
            [Window.create(dict.fromkeys(names, 0.0)) for _ in agents], None
        )
        stacked, windows, _ = train_block(stacked, windows, replay, keys, updates=1)
        metrics.append(windows.by_name(windows.sums))
    count = range(len(agents))
    return [one_seed(stacked, i) for i in count], [
        {name: np.array([m[i][name] for m in metrics]) for name in names} for i in count
    ]


@pytest.mark.ci
def test_seeds_trained_together_equal_seeds_trained_alone():
    """Parameters agree within 1e-5 after one update, and every metric within 1 % in each of a
    hundred updates.
    """
    replay = Replay.create(
        {name: np.nan_to_num(value) for name, value in make_dataset([30, 20]).items()}
    )
    keys = np.random.default_rng(0).integers(0, 1 << 32, (2, 2), np.uint32)
    together, _ = train(tiny_agents()[:2], keys, replay, 1)
    _, metrics = train(tiny_agents()[:2], keys, replay, 100)
    for i in range(2):
        (alone,), _ = train([tiny_agents()[i]], keys[i : i + 1], replay, 1)
        _, (own,) = train([tiny_agents()[i]], keys[i : i + 1], replay, 100)
        deviation = max(
            np.abs(own[name] - metrics[i][name]).max() / np.abs(own[name]).max()
            for name in own
            if own[name].any()
        )
        print(
            f"seed {i}: parameters after one update {difference(together[i], alone):.1e},"
            f" metrics of 100 updates {deviation:.1e}"
        )
        assert difference(together[i], alone) <= 1e-5
        assert deviation < 0.01
        for name in own:
            np.testing.assert_allclose(
                own[name], metrics[i][name], rtol=0.01, atol=1e-6, err_msg=name
            )
            assert own[name].mean() == pytest.approx(metrics[i][name].mean(), rel=0.01)
    assert difference(*together) > 0.1


def difference(one, other):
    """Return the largest difference between the parameters of two agents."""
    return max(
        jax.tree.leaves(
            jax.tree.map(
                lambda a, b: float(np.abs(a - b).max()), one.params, other.params
            )
        )
    )


DEVICES = """
import json, sys
import jax, numpy as np
sys.path.insert(0, {root!r})
from tests.training.test_seeds import tiny_agents, train, SEEDS
from tests.small_datasets import make_dataset
from utils.replay import Replay
from utils.sharding import mesh_for, one_seed, replicate, stack_seeds
from training.updates import one_update, train_block
from training.windows import Window

replay = Replay.create({{name: np.nan_to_num(value) for name, value in make_dataset([30, 20]).items()}})
keys = np.random.default_rng(0).integers(0, 1 << 32, (SEEDS, 2), np.uint32)
one_device, _ = train(tiny_agents(), keys, replay, 1)
mesh = mesh_for(SEEDS)
names = jax.eval_shape(one_update, tiny_agents()[0], replay, jax.random.key(0))[1]
windows = stack_seeds([Window.create(dict.fromkeys(names, 0.0)) for _ in range(SEEDS)], mesh)
agents, _, _ = train_block(
    stack_seeds(tiny_agents(), mesh), windows, replicate(replay, mesh), stack_seeds(list(keys), mesh), updates=1, mesh=mesh
)
leaf = jax.tree.leaves(agents.params)[0]
difference = max(
    float(np.abs(np.asarray(a) - np.asarray(b)).max())
    for i in range(SEEDS)
    for a, b in zip(jax.tree.leaves(one_seed(agents, i).params), jax.tree.leaves(one_device[i].params))
)
print(json.dumps({{"devices": len(leaf.sharding.device_set), "shards": len(leaf.addressable_shards), "difference": difference,
                  "meshes": [None if mesh_for(n) is None else mesh_for(n).size for n in (1, 2, 3, 5, 8)]}}))
"""


@pytest.mark.slow
def test_seeds_on_four_devices_equal_seeds_on_one():
    environ = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    program = DEVICES.format(root=str(Path(__file__).resolve().parents[2]))
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environ,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["devices"], result["shards"], result["meshes"]) == (
        4,
        4,
        [None, 2, 3, None, 4],
    )
    (warning,) = (line for line in done.stderr.splitlines() if "devices" in line)
    assert (
        "5 seeds are trained by 1 of 4 devices: a multiple of 4 seeds would use them all"
        in warning
    )
    assert result["difference"] < 1e-5


@pytest.mark.ci
def test_a_block_copies_no_parameters_from_one_update_to_the_next():
    """The loop updates its state in place; otherwise XLA would copy every 16 x 16 kernel in each
    update.
    """
    agent, replay = tiny_agents()[0], Replay.create(make_dataset([30, 20]))
    names = jax.eval_shape(one_update, agent, replay, jax.random.key(0))[1]
    arguments = (
        stack_seeds([agent], None),
        stack_seeds([Window.create(dict.fromkeys(names, 0.0))], None),
    )
    keys = jax.random.key_data(jax.random.key(0))[None]
    text = (
        train_block_on("cpu")
        .lower(*arguments, replay, keys, updates=3)
        .compile()
        .as_text()
    )
    assert "f32[2,16,16]" in text
    assert not re.findall(r"= f32\[(?:2,)?16,16\]\S* copy\(%(?!transpose)", text)


def test_the_host_device_is_found_if_jax_knows_only_the_accelerator(monkeypatch):
    """With JAX_PLATFORMS=cuda, for example, there is no backend called cpu."""
    real = jax.devices

    def devices(backend=None):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return real()

    assert host_device().platform == "cpu"
    monkeypatch.setattr(jax, "devices", devices)
    assert host_device() == real()[0]


@pytest.mark.parametrize(
    ("env_name", "seeds", "name"),
    [
        (
            "cube-double-play-singletask-task2-v0",
            [0],
            "trqam cube-double-play-task2 s0",
        ),
        ("scene-play", [3, 4, 5], "trqam scene-play s3-5"),
        ("my_module:MyEnv-v0", [0, 2], "trqam my_module:MyEnv s0,2"),
    ],
)
def test_the_name_of_a_bar_has_agent_task_and_seeds(env_name, seeds, name):
    assert run_name("trqam", env_name, seeds) == name
