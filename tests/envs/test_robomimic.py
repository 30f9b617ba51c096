"""Robomimic's tasks in robosuite: seeds, how episodes end, and collected demonstrations."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("robosuite", reason="needs pip install '.[robomimic]'")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # robosuite warns when it is imported
    pytest.mark.timeout(600),
]

from envs.collect import collect, collect_random, collection_settings  # noqa: E402
from envs.datasets import load_dataset, load_recipe  # noqa: E402
from envs.ogbench import make_env  # noqa: E402
from envs.robomimic import RobosuiteEnv  # noqa: E402
from envs.robomimic_data import Recipe, observation_keys  # noqa: E402
from envs.robomimic_script import env_args_of  # noqa: E402
from envs.workers import EnvWorkers, LocalEnvs, Task  # noqa: E402
from utils.errors import UserError  # noqa: E402

LIFT = "lift-mh-low_dim"


def recipe_of(env_name, width):
    """A recipe that leaves observations almost as they are."""
    args = env_args_of(env_name)
    keys = observation_keys(args["env_kwargs"])
    bounds = {"low": [-1.0] * width, "high": [1.0] * width}
    described = {name: args[f"env_{name}"] for name in ("name", "version", "kwargs")}
    described = {f"env_{name}": value for name, value in described.items()}
    return Recipe(**described, keys=keys, **bounds)


@pytest.fixture(scope="module")
def recipe():
    return recipe_of(LIFT, 19)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with five demonstrations by the script."""
    folder = tmp_path_factory.mktemp("robomimic")
    collect(LIFT, folder, workers=1, demonstrations=5, episode_steps=50)
    return folder


def test_a_seed_repeats_an_episode_in_every_process_and_after_other_episodes(recipe):
    chunks = np.random.default_rng(0).uniform(-1, 1, (2, 5, 7)).astype(np.float32)
    local = LocalEnvs(Task(LIFT, recipe))
    first = local.reset([0], [11])
    steps = local.run_chunks([0], chunks[:1])[0].observations
    local.reset([0], [12])
    local.run_chunks([0], chunks[1:])
    np.random.seed(3)
    np.testing.assert_array_equal(local.reset([0], [11]), first)
    with EnvWorkers(Task(LIFT, recipe), 2, 2) as workers:
        starts = workers.reset([0, 1], [12, 11])
        np.testing.assert_array_equal(starts[1], first[0])
        # the cube is in another place
        assert np.abs(starts[0] - starts[1]).max() > 1e-3
        again = workers.run_chunks([0, 1], chunks[[1, 0]])[1]
    np.testing.assert_array_equal(again.observations, steps)
    assert again.rewards.tolist() == [-1] * 5 and not again.done and again.success == 0
    local.close()


class Rewarding:
    """A simulator with given rewards."""

    action_dim = 7
    rng = None

    def __init__(self, rewards):
        self.rewards = iter(rewards)

    def reset(self):
        return self._raw(0)

    def step(self, action):
        return self._raw(1), next(self.rewards), False, {}

    def _raw(self, value):
        widths = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
        return {
            name: np.full(width, value)
            for name, width in (widths | {"object-state": 10}).items()
        }


@pytest.mark.parametrize(
    ("rewards", "limit", "ends"),
    [
        ([0, 0, 0.5], 9, (-0.5, True, False, 1.0)),  # the first reward above 0
        ([0, 0, 0], 3, (-1.0, False, True, 0.0)),  # the limit
        # a success at the limit does not count as a time limit
        ([0, 0, 1], 3, (0.0, True, False, 1.0)),
    ],
)
def test_an_episode_ends_with_a_success_or_at_the_limit(
    monkeypatch, recipe, rewards, limit, ends
):
    import robosuite

    monkeypatch.setattr(robosuite, "make", lambda *_, **__: Rewarding(rewards))
    env = RobosuiteEnv(recipe, limit)
    start, _ = env.reset(seed=4)
    assert env.simulator.rng.random() == np.random.default_rng(4).random()
    np.testing.assert_allclose(start, 2 * (1 / (2 + 1e-6) - 0.5), atol=1e-6)
    found = [env.step(np.zeros(7)) for _ in rewards]
    assert [step[1:4] for step in found[:-1]] == [(-1, False, False)] * 2
    _, reward, terminated, truncated, info = found[-1]
    assert (reward, terminated, truncated, info["success"]) == ends


@pytest.mark.parametrize(
    ("task", "width", "action_dim", "limit"),
    [
        ("can-ph-low_dim", 23, 7, 300),
        ("square-mh-low_dim", 23, 7, 400),
        ("transport-mh-low_dim", 59, 14, 800),
        ("tool_hang-ph-low_dim", 53, 7, 1000),
    ],
)
def test_the_other_tasks_can_be_made_and_stepped(task, width, action_dim, limit):
    env = make_env(task, recipe=recipe_of(task, width))
    assert env.reset(seed=0)[0].shape == (width,)
    action = np.zeros(action_dim)
    _, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated) == (-1.0, False, False)
    assert info == {"success": 0.0} and env.unwrapped.limit == limit
    env.close()


def test_data_of_the_script_agrees_with_the_environment(data):
    """For the same seed, the environment returns the first observations of the data, scaled."""
    loaded = load_dataset(LIFT, data)
    assert loaded["observations"].min() == -1 and loaded["observations"].max() <= 1
    assert loaded["actions"].shape[1] == 7
    rows = loaded["rows"]
    ended = loaded["masks"][rows] == 0
    rewards = loaded["rewards"][rows]
    assert np.all(rewards[ended] == 0)
    # of five demonstrations; each success holds the cube for 10 more steps
    assert 1 <= ended.sum() <= 3
    assert np.sum(rewards == 0) == 11 * ended.sum() and set(rewards) == {-1, 0}
    settings = collection_settings(data / "lift" / "mh" / "low_dim_v15.hdf5")
    assert settings["demonstrations"] == 5 and settings["behaviour"] == "script"
    env = make_env(LIFT, recipe=load_recipe(LIFT, data))
    seed = int(np.random.SeedSequence([0, 0, 0]).generate_state(1)[0])
    observation, _ = env.reset(seed=seed)
    np.testing.assert_allclose(observation, loaded["observations"][0], atol=1e-5)
    for row in range(3):
        observation, *_ = env.step(loaded["actions"][row])
        expected = loaded["observations"][row + 1]
        np.testing.assert_allclose(observation, expected, atol=1e-3)
    env.close()


def test_a_second_collection_keeps_the_file_and_other_settings_are_refused(data):
    path = data / "lift" / "mh" / "low_dim_v15.hdf5"
    before = path.stat().st_mtime_ns
    same = {"workers": 2, "episode_steps": 50}
    assert collect(LIFT, data, demonstrations=5, **same) == path
    assert path.stat().st_mtime_ns == before
    with pytest.raises(
        UserError, match="--robomimic_dataset_dir: .*demonstrations: 5 there, 6 now"
    ):
        collect(LIFT, data, demonstrations=6, **same)
    with pytest.raises(UserError, match="--demonstrations must be positive"):
        collect(LIFT, data, demonstrations=0, **same)
    with pytest.raises(UserError, match="there is a script for lift alone"):
        collect("can-mh-low_dim", data, **same)


def test_random_data_is_collected_for_a_task_without_a_script(tmp_path):
    path = collect_random("can-mh-low_dim", tmp_path, 9, episode_steps=5)
    assert collection_settings(path)["demonstrations"] == 2
    assert len(load_dataset("can-mh-low_dim", tmp_path)["rows"]) == 10


def test_arguments_that_robosuite_does_not_know_are_refused(recipe):
    wrong = recipe._replace(env_kwargs={"robots": ["Panda"], "legs": 2})
    with pytest.raises(
        UserError, match="cannot make Lift with the arguments in the file"
    ):
        make_env(LIFT, recipe=wrong)
    with pytest.raises(UserError, match="can-mh-low_dim is PickPlaceCan"):
        make_env("can-mh-low_dim", recipe=recipe)


def test_another_version_of_robosuite_is_mentioned(recipe, printed):
    make_env(LIFT, recipe=recipe._replace(env_version="1.4.1")).close()
    assert "recorded with robosuite 1.4.1, and 1.5" in printed().err


def test_without_filming_no_opengl_is_loaded_and_nothing_is_printed(data):
    code = (
        "import sys, os; from envs.datasets import load_dataset;"
        f"load_dataset({LIFT!r}, {str(data)!r});"
        "print('MUJOCO_GL' in os.environ, 'robosuite' in sys.modules,"
        " [name for name in sys.modules if name.startswith('OpenGL')])"
    )
    environ = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "False True []" and not done.stderr
