"""OGBench's and users' environments: seeds, actions, faults, time limits, and names."""

import os
import subprocess
import sys
import tempfile

import gymnasium
import numpy as np
import pytest

from envs import tasks
from envs.checks import EnvFault
from envs.ogbench import SeededEnv, make_env
from envs.tasks import ALL_TASKS, resolve_env_name, world_name
from tests.envs.stand_ins import Script, step_of
from utils.errors import UserError

KINDS = {
    "cube-double-play-singletask-task2-v0": (37, 5),
    "scene-play-singletask-task1-v0": (40, 5),
    "puzzle-3x3-play-singletask-task4-v0": (55, 5),
    "antmaze-large-navigate-singletask-task1-v0": (29, 8),
    "humanoidmaze-medium-navigate-singletask-task5-v0": (69, 21),
    "pointmaze-teleport-navigate-singletask-task3-v0": (2, 2),
}


POINTMAZE = "pointmaze-medium-navigate-singletask-task1-v0"


def episode(
    env: SeededEnv, seed: int, between=lambda: None
) -> tuple[np.ndarray, np.ndarray]:
    """Observations [26, O] and rewards [25] under random actions that the seed fixes."""
    actions = np.random.default_rng(seed).uniform(
        -1.3, 1.3, (25, *env.action_space.shape)
    )
    observations, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        between()
        observation, reward, *_ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    return np.array(observations), np.array(rewards)


@pytest.mark.parametrize("name", KINDS)
def test_a_seed_repeats_an_episode_to_the_bit(name):
    env, other, disturber = make_env(name), make_env(name), make_env(name)
    first, rewards = episode(env, 5)
    assert (
        first.dtype == np.float32
        and first.shape[1:] == env.observation_space.shape == KINDS[name][:1]
    )
    assert env.action_space.shape == KINDS[name][1:]

    # Neither earlier episodes nor other environments in between may matter.
    disturber.reset()
    episode(other, 1)

    def disturb():
        np.random.uniform(size=3)
        disturber.step(disturber.action_space.sample())

    again, rewards_again = episode(other, 5, disturb)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(rewards, rewards_again)
    assert not np.array_equal(first, episode(env, 6)[0])
    # OGBench acts at random to find the goal's observation, so samples of the action space
    # must follow the seed.
    goals = [env.reset(seed=7)[1]["goal"], other.reset(seed=7)[1]["goal"]]
    np.testing.assert_array_equal(*goals)
    np.testing.assert_array_equal(
        env.action_space.sample(), other.action_space.sample()
    )
    # A reset without a seed continues the environment's own random streams.
    np.testing.assert_array_equal(
        env.reset(seed=2) and env.reset()[0], other.reset(seed=2) and other.reset()[0]
    )


def test_teleports_follow_the_seed():
    """OGBench draws the exit of a portal from NumPy's global generator."""
    env = make_env("pointmaze-teleport-navigate-singletask-task3-v0")
    maze = env.unwrapped

    def exits(seed):
        env.reset(seed=seed)
        found = []
        for _ in range(12):
            np.random.seed(0)  # other code seeds NumPy
            maze.set_xy(np.array(maze._teleport_info["teleport_in_xys"][0]))
            env.step(np.zeros(2))
            found.append(tuple(maze.get_xy()))
        return found

    assert exits(1) == exits(1) and len(set(exits(1))) == 3
    assert exits(1) != exits(2)


def test_the_callers_random_numbers_do_not_change():
    np.random.seed(3)
    expected = np.random.uniform(size=4)
    np.random.seed(3)
    env = make_env("pointmaze-medium-navigate-singletask-task1-v0")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    np.testing.assert_array_equal(np.random.uniform(size=4), expected)


def test_actions_are_clipped():
    env = make_env("pointmaze-medium-navigate-singletask-task1-v0")
    env.reset(seed=0)
    far = env.step(np.array([50.0, -50.0]))[0]
    env.reset(seed=0)
    np.testing.assert_array_equal(far, env.step(np.array([1.0, -1.0]))[0])


def test_mazes_leave_no_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make_env("antmaze-large-navigate-singletask-task1-v0").reset(seed=0)
    assert not any(tmp_path.iterdir())


def test_the_users_gl_setting_is_kept_and_nothing_is_printed():
    """Without filming no GL library is loaded; MUJOCO_GL stays set for a child that films."""
    code = (
        "import os, sys\nfrom envs.ogbench import make_env\n"
        "make_env('cube-single-play-singletask-task1-v0').reset(seed=0)\n"
        "print(os.environ['MUJOCO_GL'], 'OpenGL' in sys.modules, 'jax' in sys.modules)"
    )
    environ = os.environ | {"MUJOCO_GL": "egl"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "egl False False" and done.stderr == ""


@pytest.mark.parametrize("name", ["cube-single-play-singletask-task1-v0", POINTMAZE])
def test_tasks_end_in_the_step_that_succeeds(name, monkeypatch):
    """Success at the last step is therefore success at any step."""
    env = make_env(name)
    env.reset(seed=0)
    _, _, terminated, _, info = env.step(np.zeros(env.action_space.shape))
    assert (terminated, info["success"]) == (False, 0.0)
    if tasks.is_manipulation(name):
        monkeypatch.setattr(env.unwrapped, "_compute_successes", lambda: [True])
    else:
        env.unwrapped.set_xy(env.unwrapped.cur_goal_xy)
    action = np.zeros(env.action_space.shape)
    # two steps, because the arm reports the success before a step
    steps = [env.step(action) for _ in range(2)]
    found = [(terminated, bool(info["success"])) for _, _, terminated, _, info in steps]
    assert (True, True) in found and set(found) <= {(True, True), (False, False)}


def played(*steps, limit=None):
    """An environment that plays the given steps, after its reset."""
    env = SeededEnv(Script(*steps), limit)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (step_of(observation=[0.0, np.nan]), "the observation has nan at index 1"),
        (
            step_of(observation=np.zeros(3)),
            "the observation has the shape (3,) instead of (2,)",
        ),
        (step_of(reward=np.inf), "the reward is inf"),
        (
            step_of(reward=np.zeros(2)),
            "the reward has the shape (2,) instead of one element",
        ),
    ],
)
def test_an_unusable_step_is_reported(step, message):
    env = played(step_of(), step)
    env.step(np.zeros(1))
    with pytest.raises(EnvFault) as caught:
        env.step(np.zeros(1))
    assert str(caught.value) == message


def test_an_unusable_reset_is_reported():
    env = played(step_of())
    env.unwrapped.start = np.zeros(5)
    with pytest.raises(
        EnvFault, match=r"^the observation of reset\(\) has the shape \(5,\)"
    ):
        env.reset(seed=1)


class SamplesItself(Script):
    """Like OGBench's, it draws from its own action space when it is reset."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.action_space.sample().repeat(2), {}


def test_the_action_space_of_a_wrapped_environment_is_seeded_too():
    def first(seed):
        low, high = np.float32([-0.5]), np.float32([0.5])
        rescaled = gymnasium.wrappers.RescaleAction(SamplesItself(step_of()), low, high)
        return SeededEnv(rescaled).reset(seed=seed)[0].tolist()

    assert first(1) == first(1) != first(2)


def test_a_reward_may_be_an_array_of_one_element():
    reward = played(step_of(reward=np.array([0.5]))).step(np.zeros(1))[1]
    assert reward == 0.5 and type(reward) is float


def test_an_observation_does_not_change_afterwards():
    """Not even if the environment writes the next one into the same array."""
    buffer = np.zeros(2, np.float32)
    env = played((buffer, 0.0, False, False, {}))
    observation = env.step(np.zeros(1))[0]
    buffer[:] = 7.0
    assert observation.tolist() == [0.0, 0.0]


def ends_of(env, steps):
    """Take steps; return (truncated, cut_at) of each."""
    results = [env.step(np.zeros(1)) for _ in range(steps)]
    assert not any(terminated for _, _, terminated, _, _ in results)
    return [(truncated, info.get("cut_at")) for _, _, _, truncated, info in results]


def test_an_endless_episode_is_truncated_at_the_limit():
    env = played(step_of(), limit=3)
    assert ends_of(env, 3) == [(False, None), (False, None), (True, 3)]
    env.reset(seed=1)
    assert ends_of(env, 3)[-1] == (True, 3)  # each episode has its own count
    env = played(step_of(), step_of(), step_of(end=True), limit=3)
    assert ends_of(env, 3)[-1] == (True, None)  # the environment truncated it itself
    assert not any(truncated for truncated, _ in ends_of(played(step_of()), 2000))


def test_a_users_environment_without_a_time_limit_gets_one():
    assert ends_of_user("tests.envs.stand_ins:Endless-v0", 1000) == (1000, 1000)
    # max_episode_steps=3
    assert ends_of_user("tests.envs.stand_ins:Limited-v0", 4) == (3, None)


def ends_of_user(name, steps):
    """The step that truncates an episode, and our limit (None if the environment did it)."""
    env = make_env(name)
    env.reset(seed=0)
    ends = enumerate(ends_of(env, steps), start=1)
    return next((step, cut) for step, (truncated, cut) in ends if truncated)


USERS = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Env(gymnasium.Env):
    def __init__(self, observations=Box(-1, 1, (3,)), actions=Box(-1, 1, (2,))):
        self.observation_space, self.action_space = observations, actions

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(size=3) + np.random.uniform(), {}

    def step(self, action):
        assert np.all(np.abs(action) <= 1)
        return np.ones(3) * np.random.uniform(), np.float64(1), np.bool_(False), False, {}


def broken():
    raise RuntimeError("no licence\\nsecond line")


gymnasium.register("Good-v0", Env, disable_env_checker=True)
gymnasium.register("Discrete-v0", Env, kwargs={"actions": Discrete(3)}, disable_env_checker=True)
gymnasium.register("Image-v0", Env, kwargs={"observations": Box(0, 1, (4, 4))}, disable_env_checker=True)
gymnasium.register("Wide-v0", Env, kwargs={"actions": Box(-2, 2, (2,))}, disable_env_checker=True)
gymnasium.register("Broken-v0", broken, disable_env_checker=True)
"""


@pytest.fixture
def users_module(tmp_path, monkeypatch):
    (tmp_path / "users_envs.py").write_text(USERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("users_envs", None)
    for name in ("Good", "Discrete", "Image", "Wide", "Broken"):
        gymnasium.registry.pop(f"{name}-v0", None)


def test_a_users_environment_is_seeded_clipped_and_converted(users_module):
    a, b = make_env("users_envs:Good-v0"), make_env("users_envs:Good-v0")
    np.testing.assert_array_equal(a.reset(seed=1)[0], b.reset(seed=1)[0])
    observation, reward, terminated, truncated, _ = a.step(np.array([9.0, 0.0]))
    np.testing.assert_array_equal(observation, b.step(np.array([9.0, 0.0]))[0])
    assert observation.dtype == np.float32 and reward == 1.0
    assert type(terminated) is bool and type(truncated) is bool


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Discrete-v0", "users_envs:Discrete-v0 has the action space Discrete"),
        ("Image-v0", "has the observation space"),
        ("Wide-v0", "are not bounded by -1 and 1"),
        ("Broken-v0", r"cannot be made \(RuntimeError: no licence\)"),
        ("Missing-v0", "cannot be made"),
    ],
)
def test_a_users_environment_that_does_not_fit_is_refused(
    users_module, env_id, message
):
    with pytest.raises(UserError, match=message) as error:
        make_env(f"users_envs:{env_id}")
    assert "--env_name" in str(error.value) and "\n" not in str(error.value)


def test_a_users_module_that_does_not_exist_is_reported():
    with pytest.raises(
        UserError,
        match="--env_name: no_such_module:Env-v0 cannot be made .*no_such_module",
    ):
        make_env("no_such_module:Env-v0")


def test_the_table_of_names_equals_what_ogbench_registers():
    make_env("pointmaze-medium-navigate-singletask-task1-v0")  # imports ogbench
    worlds = {
        env_id.removesuffix("-singletask-task1-v0")
        for env_id in gymnasium.registry
        if env_id.endswith("-singletask-task1-v0") and not env_id.startswith("visual-")
    }
    assert worlds == {
        world_name(task)
        for world in tasks._DATASETS
        for task in resolve_env_name(world)
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_TASKS)
def test_every_task_can_be_made_and_stepped(name):
    env = make_env(name)
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape and np.all(
        np.isfinite(observation)
    )
    for _ in range(3):
        observation, reward, terminated, truncated, info = env.step(
            env.action_space.sample()
        )
        assert np.all(np.isfinite(observation)) and reward <= 0
        assert not (terminated or truncated) and info["success"] in (0.0, 1.0)
