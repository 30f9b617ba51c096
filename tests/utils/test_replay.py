"""Tests chunk sampling against a naive loop over OGBench's regular layout, across trajectory ends,
and the storage of online transitions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_datasets import append, make_dataset, online_replay, online_transition
from utils.replay import BatchSpec, Replay, Transitions, gather_chunks

GAMMA = 0.9


def naive_chunk(dataset, start, horizon):
    """Return one chunk, computed column by column as the regular layout with its explicit next
    observations defines it.
    """
    rows = dataset["rows"][start : start + horizon]
    chunk = {
        name: []
        for name in (
            "actions",
            "rewards",
            "masks",
            "terminals",
            "valid",
            "next_observations",
        )
    }
    valid, total, mask, following = 1.0, 0.0, 1.0, None
    for j, row in enumerate(rows):
        if j and dataset["terminals"][rows[j - 1]]:
            valid = 0.0
        if valid:
            total += GAMMA**j * dataset["rewards"][row]
            mask = min(mask, dataset["masks"][row])
            following = dataset["observations"][row + 1]
        values = (
            dataset["actions"][row],
            total,
            mask,
            dataset["terminals"][row],
            valid,
            following,
        )
        for name, value in zip(chunk, values, strict=True):
            chunk[name].append(value)
    return {name: np.array(values) for name, values in chunk.items()} | {
        "observations": dataset["observations"][rows[0]]
    }


def assert_chunks(batch, dataset, starts, horizon):
    for i, start in enumerate(starts):
        expected = naive_chunk(dataset, start, horizon)
        assert set(batch) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(
                batch[name][i],
                value,
                rtol=1e-5,
                atol=1e-6,
                err_msg=f"{name} at {start}",
            )


@pytest.mark.ci
@settings(max_examples=4, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=2, max_size=6),
    horizon=st.integers(1, 5),
)
def test_every_chunk_equals_the_naive_one(lengths, horizon):
    if sum(lengths) < horizon:
        return
    dataset = make_dataset(lengths)
    starts = np.arange(sum(lengths) - horizon + 1)
    assert_chunks(
        gather_chunks(
            (Transitions.create(dataset),),
            jnp.array(starts),
            BatchSpec(len(starts), horizon, GAMMA),
        ),
        dataset,
        starts,
        horizon,
    )


def test_starts_are_uniform_over_the_transitions():
    dataset = make_dataset([4, 2, 5])
    spec = BatchSpec(90_000, 3, GAMMA)
    batch = Replay.create(dataset).sample(jax.random.key(0), spec)
    starts = [
        int(np.flatnonzero((dataset["observations"] == row).all(axis=1))[0])
        for row in np.unique(batch["observations"], axis=0)
    ]
    # The starts are 0 .. N - H, never a final state.
    assert sorted(starts) == list(dataset["rows"][:9])
    counts = np.unique(np.asarray(batch["observations"])[:, 0], return_counts=True)[1]
    assert abs(counts / 10_000 - 1).max() < 0.05  # 5 standard deviations


def test_online_transitions_are_stored_in_time_order():
    """After every append, every complete chunk equals the naive one, for the dataset followed by
    the online transitions.
    """
    rng = np.random.default_rng(1)
    dataset = make_dataset([4, 3])
    replay = online_replay(dataset, 9)
    kept = dict(dataset)
    rows, first, observation = len(kept["actions"]), True, np.ones(3, np.float32)
    spec = BatchSpec(500, 3, GAMMA)
    chunks_at = jax.jit(lambda parts, starts: gather_chunks(parts, starts, spec))
    draw = jax.jit(lambda replay, key: replay.sample(key, spec))
    for step in range(9):
        done = step in (2, 3)
        transition = online_transition(rng, observation, done, success=step == 3)
        replay = append(replay, transition, jnp.array(first))
        if not first:
            # This transition takes the row of the previous next observation.
            kept = {
                name: value if name == "rows" else value[:-1]
                for name, value in kept.items()
            }
            rows -= 1
        for name in ("observations", "actions", "rewards", "masks", "terminals"):
            final = (
                transition["next_observations"]
                if name == "observations"
                else np.zeros_like(transition[name])
            )
            kept[name] = np.concatenate(
                [kept[name], np.stack([transition[name], final])]
            )
        kept["rows"] = np.append(kept["rows"], rows)
        rows += 2
        first, observation = (
            done,
            rng.normal(size=3).astype(np.float32)
            if done
            else transition["next_observations"],
        )
        count = int(replay.stored.size + replay.online.size)
        assert count == len(kept["rows"])
        starts = np.arange(16) % (count - 2)  # always of one shape, to compile once
        assert_chunks(
            chunks_at((replay.stored, replay.online), starts), kept, starts, 3
        )
        seen = draw(replay, jax.random.key(step))
        assert np.isfinite(seen["next_observations"]).all()
        # Batches are drawn from both parts.
        assert len(np.unique(seen["observations"], axis=0)) == count - 2


def test_balanced_batches_are_half_online():
    dataset = make_dataset([6, 6])
    replay = online_replay(dataset, 5, balanced=True)
    rng = np.random.default_rng(0)
    for step in range(5):
        transition = online_transition(rng, np.full(3, 100.0 + step, np.float32), False)
        replay = append(
            replay,
            transition | {"next_observations": np.full(3, 101.0 + step, np.float32)},
            jnp.array(step == 0),
        )
    batch = replay.sample(jax.random.key(0), BatchSpec(32, 2, GAMMA))
    assert (np.asarray(batch["observations"])[:, 0] >= 100.0).sum() == 16


# ----------------------------------------------------------------------------------- sequences


def naive_sequence_chunk(dataset, start, horizon):
    """Return one chunk of a sequence: raw rows of any trajectory, where a success is an end too."""
    rows = dataset["rows"][start : start + horizon]
    ends = np.maximum(dataset["terminals"][rows], 1 - dataset["masks"][rows])
    valid = np.array([float(not ends[:j].any()) for j in range(horizon)])
    return {
        "observations": dataset["observations"][rows[0]],
        "actions": dataset["actions"][rows],
        "rewards": np.cumsum(
            GAMMA ** np.arange(horizon) * dataset["rewards"][rows] * valid
        ),
        "row_rewards": dataset["rewards"][rows],
        "terminals": dataset["terminals"][rows],
        "ends": ends,
        "valid": valid,
        "next_observations": dataset["observations"][rows + 1],
    }


def test_sequences_are_raw_rows_across_trajectory_ends():
    dataset = make_dataset([4, 2, 1, 5, 6])
    # The trajectory continues after this success.
    dataset["masks"][dataset["rows"][15]] = 0.0
    starts = np.arange(16)
    spec = BatchSpec(16, 3, GAMMA, points=2)
    batch = gather_chunks((Transitions.create(dataset),), jnp.array(starts), spec)
    for i, start in enumerate(starts):
        for name, value in naive_sequence_chunk(dataset, start, 3).items():
            np.testing.assert_allclose(
                batch[name][i], value, rtol=1e-5, err_msg=f"{name} {i}"
            )
        if batch["valid"][i, -1]:
            assert batch["masks"][i, -1] == dataset["masks"][dataset["rows"][start + 2]]
    assert set(batch["valid"][:, -1].tolist()) == {0.0, 1.0}


def test_chunks_of_a_sequence_follow_each_other_from_uniform_starts():
    dataset = make_dataset([4, 2, 5])
    replay = Replay.create(dataset)
    batch = replay.sample(jax.random.key(0), BatchSpec(60_000, 2, GAMMA, points=3))
    rows = {
        tuple(row): i for i, row in enumerate(dataset["observations"][dataset["rows"]])
    }
    starts = [rows[tuple(row)] for row in np.asarray(batch["observations"])]
    starts = np.reshape(starts, (20_000, 3))
    np.testing.assert_array_equal(
        starts - starts[:, :1], np.tile([0, 2, 4], (20_000, 1))
    )
    counts = np.bincount(starts[:, 0])
    assert len(counts) == 6  # 0 .. N - n H
    assert abs(counts / (20_000 / 6) - 1).max() < 0.1


def test_a_sequence_continues_into_the_online_transitions():
    """It does so as in one dataset of both parts, but never in balanced batches."""
    dataset, rng = make_dataset([4, 3]), np.random.default_rng(0)
    online = make_dataset([5, 2], seed=1)
    both = {
        name: np.concatenate([dataset[name], online[name]])
        for name in dataset
        if name != "rows"
    }
    shift = len(dataset["observations"])
    both["rows"] = np.concatenate([dataset["rows"], online["rows"] + shift])
    replay = online_replay(dataset, 9, online=online)
    starts = jnp.array(rng.permutation(14 - 3 + 1))
    found, expected = (
        gather_chunks(parts, starts, BatchSpec(12, 3, GAMMA, points=2))
        for parts in ((replay.stored, replay.online), (Transitions.create(both),))
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    balanced = online_replay(dataset, 9, online=online, balanced=True)
    batch = balanced.sample(jax.random.key(0), BatchSpec(18, 1, GAMMA, points=3))
    stored = {tuple(row) for row in dataset["observations"]}
    where = [tuple(row) in stored for row in np.asarray(batch["observations"])]
    assert where == ([True] * 3 + [False] * 3) + ([True] * 6 + [False] * 6)
    batch = balanced.sample(jax.random.key(0), BatchSpec(32, 1, GAMMA))
    where = [tuple(row) in stored for row in np.asarray(batch["observations"])]
    assert sum(where[:16]) == sum(where[16:]) == 8


def test_sequences_need_no_additional_gather():
    """Sequences gather each field once, as chunks do, and the row numbers once."""
    replay = Replay.create(make_dataset([30]))
    gathers = {}
    for points in (1, 4):
        spec = BatchSpec(8, 2, 0.9, points)
        sample = jax.jit(
            lambda replay, spec=spec: replay.sample(jax.random.key(0), spec)
        )
        gathers[points] = sample.lower(replay).as_text().count('"stablehlo.gather"')
    # Chunks also gather the last valid next observation; sequences do not.
    assert 0 < gathers[4] < gathers[1]
