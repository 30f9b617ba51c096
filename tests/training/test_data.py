"""The flags about data reach the loader, and the cached checksum depends on them."""

import os

import numpy as np
import pytest

from configs.flags import parse_flags
from envs.probe import write_dataset
from training.data import data_fingerprint, load_data, warn_of_another_size
from training.plan import plan

ENV_NAME = "envs.probe:ProbeChain-v0"


@pytest.fixture
def dataset(tmp_path):
    """Return a file of four transitions, the third of which succeeds."""
    path = write_dataset(ENV_NAME, tmp_path / "mine.npz", 4)
    with np.load(path) as file:
        arrays = {name: array[:4] for name, array in file.items()}
    arrays["rewards"] = np.float32([-2, -2, 0, -2])
    arrays["actions"] = np.float32([[0.5], [-0.5], [0.25], [0.125]])
    arrays["masks"] = np.float32([1, 1, 0, 1])
    arrays["terminals"] = np.float32([0, 0, 1, 1])
    arrays |= {"next_observations": arrays["observations"]}
    np.savez(path, **arrays)
    os.utime(path, (0, 0))  # old enough for the cache
    return path


def run_of(dataset, *flags):
    place = [f"--env_name={ENV_NAME}", f"--dataset={dataset}"]
    place += ["--eval_episodes=0", "--online_steps=0", "--dataset_layout=flat"]
    return plan(parse_flags(["main.py", *place, *flags]))[0]


def actions_and_rewards(arrays):
    return arrays["actions"][arrays["rows"], 0], arrays["rewards"][arrays["rows"]]


def test_flags_about_data_reach_the_loader(dataset):
    actions, rewards = actions_and_rewards(load_data(run_of(dataset)))
    np.testing.assert_allclose(actions, [0.5, -0.5, 0.25, 0.125])
    np.testing.assert_array_equal(rewards, [-2, -2, 0, -2])
    _, rewards = actions_and_rewards(load_data(run_of(dataset, "--sparse")))
    np.testing.assert_array_equal(rewards, [-1, -1, 0, -1])
    scaled, _ = actions_and_rewards(load_data(run_of(dataset, "--action_scale=0.5")))
    np.testing.assert_allclose(scaled, 2 * actions, atol=2e-5)  # 1 is clipped
    part, _ = actions_and_rewards(
        load_data(run_of(dataset, "--dataset_proportion=0.75"))
    )
    np.testing.assert_allclose(part, actions[:3])


@pytest.mark.parametrize(
    "flag", ["--sparse", "--action_scale=0.5", "--dataset_proportion=0.75"]
)
def test_the_cached_checksum_depends_on_the_flags(flag, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runs = run_of(dataset), run_of(dataset, flag)
    first, second = (data_fingerprint(run) for run in runs)
    assert first != second
    monkeypatch.setattr("training.data.load_data", None)  # both are in the cache
    assert [data_fingerprint(run) for run in runs] == [first, second]


@pytest.mark.parametrize(
    ("domain", "transitions", "warns"),
    [
        ("scene", 499_999, True),
        ("scene", 2_000_000, False),
        ("scene", 2_000_001, True),
        ("pointmaze-medium", 100_000, False),  # nothing is published
    ],
)
def test_a_dataset_of_another_size_than_the_published_causes_a_warning(
    domain, transitions, warns, printed
):
    (run, *_) = plan(parse_flags(["main.py", f"--env_name={domain}"]))
    warn_of_another_size(run, transitions)
    warning = (
        f"gives {transitions:,} transitions; the published results are with 1,000,000"
    )
    assert (warning in printed().err) is warns
