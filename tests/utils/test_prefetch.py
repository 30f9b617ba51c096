"""Tests that training with data on the host equals training with data on the device, in bounded
memory, and that its threads end with it.
"""

import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import bc
from tests.small_datasets import make_dataset, online_transition
from tests.tiny_runs import TASK, only_run, train
from training.updates import train_block
from training.windows import Window
from utils import prefetch
from utils.errors import RunError
from utils.prefetch import Block, OnDevice, OnHost, place_dataset
from utils.replay import BatchSpec, Replay, Transitions, update_keys
from utils.sharding import mesh_for, stack_seeds

ROOT = Path(__file__).resolve().parents[2]
SPEC = BatchSpec(batch_size=8, horizon=3, discount=0.9)


def mapped(dataset, folder):
    """Return the dataset with observations and actions in memory-mapped files."""
    for name in ("observations", "actions"):
        np.save(folder / f"{name}.npy", dataset[name])
        dataset = dataset | {name: np.load(folder / f"{name}.npy", mmap_mode="r")}
    return dataset


def online_part(seed, room=9):
    """Return seven online transitions of three episodes."""
    rng = np.random.default_rng(seed)
    empty = {name: value[:0] for name, value in make_dataset([1]).items()}
    part, observation = (
        Transitions.create(empty, room),
        rng.normal(size=3).astype(np.float32),
    )
    for step in range(7):
        transition = online_transition(rng, observation, done=step in (2, 3))
        part = part.append(transition, jnp.array(step in (0, 3, 4)))
        observation = transition["next_observations"]
    return part


def threads():
    return [
        thread for thread in threading.enumerate() if thread.name.startswith("prefetch")
    ]


# ---------------------------------------------------------------- the same rows


def test_rows_looked_up_on_the_host_equal_those_of_the_device(tmp_path):
    dataset = make_dataset([4, 2, 1, 5])
    data, starts = OnHost(mapped(dataset, tmp_path), None), np.arange(10)
    rows = data.empty(10, 3)
    data.look_up(starts, rows)
    jax.tree.map(
        np.testing.assert_array_equal,
        rows,
        Transitions.create(dataset).look_up(jnp.array(starts), 3),
    )


@pytest.mark.parametrize("points", [1, 2])
@pytest.mark.parametrize("mode", ["offline", "union", "balanced"])
def test_batches_from_the_host_equal_those_of_the_device(mode, points, tmp_path):
    """They are equal to the bit, across trajectory ends and where online transitions follow."""
    dataset = mapped(make_dataset([4, 1, 3, 2]), tmp_path)
    online = None if mode == "offline" else online_part(0)
    sample = jax.jit(Replay.sample, static_argnames="spec")
    spec = SPEC._replace(points=points)
    device, host = (
        Replay(data.stored, online, mode == "balanced")
        for data in (OnDevice(dataset, None), OnHost(dataset, None))
    )
    keys = jax.random.key_data(jax.random.split(jax.random.key(1), 1))
    with OnHost(dataset, None).feed(
        host, keys, spec, [Block(7, 20, 7 * (online is not None))]
    ) as feed:
        rows = next(feed)
    for update in range(20):
        fed = host.feed(jax.tree.map(lambda leaf, update=update: leaf[0, update], rows))
        ours, theirs = (
            sample(
                replay,
                update_keys(jax.random.wrap_key_data(keys[0]), 7 + update)[0],
                spec,
            )
            for replay in (fed, device)
        )
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("seeds", "mode"),
    [
        (1, "offline"),
        pytest.param(2, "union", marks=pytest.mark.slow),
        pytest.param(2, "balanced", marks=pytest.mark.slow),
    ],
)
def test_training_on_the_host_equals_training_on_the_device(seeds, mode, tmp_path):
    """From any update on, it is equal to the bit in blocks of one length, and close in others."""
    dataset = mapped(make_dataset([4, 1, 3, 2]), tmp_path)
    config = bc.get_config()
    config.update(
        batch_size=8, horizon_length=3, action_chunking=True, actor_hidden_dims=(8, 8)
    )
    mesh, keys = (
        mesh_for(seeds),
        stack_seeds(
            [jax.random.key_data(jax.random.key(seed)) for seed in range(seeds)],
            mesh_for(seeds),
        ),
    )
    online = (
        None
        if mode == "offline"
        else stack_seeds([online_part(seed) for seed in range(seeds)], mesh)
    )

    def trained(where, updates, blocks):
        data = where(dataset, mesh)
        replay = Replay(data.stored, online, mode == "balanced")
        agent = bc.AGENT.create(jax.random.key(9), 3, 2, config).replace(
            step=jnp.array(5, jnp.int32)
        )
        agents = stack_seeds([agent] * seeds, mesh)
        windows = stack_seeds(
            [Window.create({"flow/loss": 0.0, "grad_norm": 0.0})] * seeds, mesh
        )
        numbers = [
            Block(5 + i * updates, updates, 0 if online is None else 7)
            for i in range(blocks)
        ]
        with data.feed(replay, keys, BatchSpec.of(config), numbers) as feed:
            for rows in feed:
                agents, windows, _ = train_block(
                    agents, windows, replay, keys, updates, rows, mesh
                )
        return agents.params, windows.sums

    device = trained(OnDevice, 4, 2)
    jax.tree.map(np.testing.assert_array_equal, trained(OnHost, 4, 2), device)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, trained(OnHost, 2, 4), device)


def test_starts_are_uniform_over_all_shards(tmp_path):
    """Each of ten shards of 100 transitions gives a tenth of the chunks, within 5 standard
    deviations.
    """
    dataset = mapped(make_dataset([50] * 20), tmp_path)
    dataset["observations"] = np.repeat(
        np.arange(1020, dtype=np.float32)[:, None], 3, axis=1
    )
    data, keys = (
        OnHost(dataset, None),
        jax.random.key_data(jax.random.split(jax.random.key(0), 1)),
    )
    spec = SPEC._replace(batch_size=1000)
    with data.feed(
        Replay(data.stored), keys, spec, [Block(i * 10, 10) for i in range(3)]
    ) as feed:
        rows = np.concatenate(
            [np.asarray(block.observations)[..., 0, 0].ravel() for block in feed]
        )
    shares = np.bincount((rows // 102).astype(int), minlength=10)
    assert (
        len(rows) == 30_000
        and abs(shares[:9] / (30_000 * 100 / 998) - 1).max() < 5 * 0.018
    )
    assert len(np.unique(rows)) == 998  # every possible start


# ---------------------------------------------------------------- host or device


def test_a_dataset_beyond_the_budget_stays_on_the_host(monkeypatch):
    dataset = make_dataset([5])
    size = sum(value.nbytes for value in dataset.values())
    assert isinstance(place_dataset(dataset, 0, None), OnHost)
    assert isinstance(place_dataset(dataset, size / 1e9, None), OnDevice)
    assert isinstance(place_dataset(dataset, (size - 1) / 1e9, None), OnHost)
    # By default, the budget is half of the available memory.
    assert isinstance(place_dataset(dataset, None, None), OnDevice)
    monkeypatch.setattr(prefetch, "device_budget", lambda device: size - 1)
    assert isinstance(place_dataset(dataset, None, None), OnHost)


MEMORY = """
import re, sys
from pathlib import Path
import jax, numpy as np
from envs.datasets import _compact
from utils.replay import BatchSpec, Replay
from utils.prefetch import Block, OnHost

folder, rows = Path(sys.argv[1]), 4_000_000
shapes = {"observations": (rows, 400), "actions": (rows, 50), "terminals": (rows,), "rewards": (rows,)}
shapes["masks"] = (rows,)
for name, shape in shapes.items():
    np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, shape)[:1000] = 0.5

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

jax.random.key(0)
before = anonymous()
raw = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in shapes}
dataset = _compact(raw, 1.0, "")
assert all(isinstance(dataset[name], np.memmap) for name in ("observations", "actions"))
data, keys = OnHost(dataset, None), jax.random.key_data(jax.random.split(jax.random.key(0), 1))
blocks, most = [Block(i * 4, 4) for i in range(60)], 0.0
with data.feed(Replay(data.stored), keys, BatchSpec(64, 5, 0.99), blocks) as feed:
    for fed in feed:
        most = max(most, anonymous())
print(most - before)
"""


def test_memory_stays_bounded(tmp_path):
    """The rows take 7 GB of a sparse file. In memory, each takes 16 bytes for its number and
    labels, in addition to the blocks that are read ahead.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 200  # MB


# ---------------------------------------------------------------- threads


def endless(data):
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 1))
    return data.feed(
        Replay(data.stored), keys, SPEC, (Block(i * 4, 4) for i in range(10**9))
    )


def test_no_thread_remains_after_an_interrupt():
    assert threads() == []
    with (
        pytest.raises(KeyboardInterrupt),
        endless(OnHost(make_dataset([9]), None)) as feed,
    ):
        next(feed)
        assert threads() != []
        raise KeyboardInterrupt
    assert threads() == []


def test_reading_ahead_ends_with_the_training(tmp_path, monkeypatch):
    dataset = mapped(make_dataset([9]), tmp_path)
    data, stop = OnHost(dataset, None), threading.Event()
    assert sorted(path.name for path in data.files) == [
        "actions.npy",
        "observations.npy",
    ]
    data.read_ahead(stop)
    data.files = [Path("/dev/zero")]  # a file without an end
    with endless(data) as feed:
        next(feed)
        assert [thread for thread in threads() if thread.is_alive()]
    assert threads() == []
    monkeypatch.setattr(prefetch, "available_memory", lambda: -1)
    data.read_ahead(stop)  # files that do not fit in memory are not read


def test_blocks_are_read_ahead_up_to_a_fixed_number_of_updates():
    with endless(OnHost(make_dataset([9]), None)) as feed:
        for _ in range(3):
            next(feed)
            assert len(feed.coming) == prefetch.UPDATES_AHEAD // 4


def test_an_error_of_the_storage_is_reported_in_one_line():
    data = OnHost(make_dataset([9]), None)
    data.look_up = lambda *_: open("/nowhere/observations.npy")
    message = r"the dataset cannot be read any more \(FileNotFoundError: .*/nowhere/obs"
    with pytest.raises(RunError, match=message), endless(data) as feed:
        next(feed)
    assert threads() == []


# ---------------------------------------------------------------- complete runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from envs.collect import collect_random

    root = tmp_path_factory.mktemp("data")
    collect_random(TASK, root / "good", 300)
    return root


def train_csv(run):
    return (run / "train.csv").read_text()


@pytest.mark.slow
def test_an_interrupted_run_on_the_host_writes_the_same_lines_as_on_the_device(
    data, tmp_path, monkeypatch, capsys
):
    from training import updates

    flags = [
        "--horizon_length=2",
        "--utd_ratio=2",
        "--balanced_sampling",
        "--bc_steps=0",
        "--eval_episodes=0",
    ]
    assert train(data, tmp_path / "device", *flags) == 0
    calls, real = iter(range(5)), updates.train_block  # the last of them online

    def failing(*args, **kwargs):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(updates, "train_block", failing)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "host", *flags, "--device_data_gb=0")
    assert threads() == []
    assert train(data, tmp_path / "host", *flags, "--device_data_gb=0") == 0
    assert "resumed at step" in capsys.readouterr().out
    assert train_csv(only_run(tmp_path / "host")) == train_csv(
        only_run(tmp_path / "device")
    )
    assert threads() == []


def test_a_run_whose_data_is_gone_ends_with_a_one_line_error(
    data, tmp_path, monkeypatch, capsys
):
    def gone(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(OnHost, "look_up", gone)
    assert (
        train(data, tmp_path, "--bc_only", "--eval_episodes=0", "--device_data_gb=0")
        == 1
    )
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == "error: the dataset cannot be read any more (OSError: [Errno 5] Input/output error)"
    )
    assert threads() == []
