"""Environments whose episodes a seed reproduces: OGBench's, robomimic's and a user's own."""

import contextlib
import functools
import importlib
import os
import random
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs.checks import check_number, check_observation
from envs.rendering import check_rendering
from envs.robomimic_data import Recipe
from envs.tasks import (
    dataset_name,
    is_manipulation,
    is_robomimic,
    is_user_env,
    world_name,
)
from utils.errors import UserError

_FILM_SIZE = 320
EPISODE_LIMIT = 1000  # steps, for a user's own environment without a time limit


class RandomState:
    """A state of NumPy's and Python's global generators, which they have inside `with`.

    It changes as the block draws, and the next block continues from there.

    Args:
        seed: determines the state; None: an unpredictable one.
    """

    def __init__(self, seed: int | None = None):
        self._inside = (
            np.random.RandomState(seed).get_state(),
            random.Random(seed).getstate(),
        )

    def __enter__(self) -> None:
        self._outside = np.random.get_state(), random.getstate()
        self._set(self._inside)

    def __exit__(self, *_) -> None:
        self._inside = np.random.get_state(), random.getstate()
        self._set(self._outside)

    @staticmethod
    def _set(states: tuple[Any, Any]) -> None:
        numpy_state, python_state = states
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """Yield an environment and what it wraps, from the outside in."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


class SeededEnv(gymnasium.Wrapper):
    """An environment that is determined to the bit by `reset(seed)` and the actions since then.

    OGBench draws from three generators: the environment's, its action space's and NumPy's
    global one. robosuite draws from Python's global one too. `reset(seed)` seeds all four, and
    the action space of each wrapped environment.
    While the environment runs, the global generators have a state of their own, so other code
    in the process and this environment do not affect each other. Observations are float32 [O];
    actions [A] are clipped to the action space. An unusable observation or reward raises
    EnvFault.

    Args:
        env: the environment.
        limit: the step at which an unfinished episode is truncated, with info["cut_at"] set to
            it; None: no limit.
    """

    def __init__(self, env: gymnasium.Env, limit: int | None = None):
        super().__init__(env)
        self._limit = limit
        self._steps = 0
        self._random = RandomState()
        with self._random:
            space = env.observation_space  # OGBench's arm resets itself to answer this
        self.observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, space.shape, np.float32
        )
        self.action_space = env.action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start an episode; return (observation [O], info)."""
        if seed is not None:
            self._random = RandomState(seed)
            for env in _layers(self):
                env.action_space.seed(seed)
        with self._random:
            observation, info = self.env.reset(seed=seed, options=options)
        self._steps = 0
        return self._checked(observation, "observation of reset()"), info

    def step(self, action: np.ndarray):
        """Act; return (observation [O], reward, terminated, truncated, info)."""
        action = np.clip(action, self.action_space.low, self.action_space.high)
        with self._random:
            observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        if self._steps == self._limit and not (terminated or truncated):
            truncated = True
            info = {**info, "cut_at": self._limit}
        observation = self._checked(observation)
        reward = check_number(reward, "reward")
        return observation, reward, bool(terminated), bool(truncated), info

    def _checked(self, observation: Any, name: str = "observation") -> np.ndarray:
        return check_observation(observation, self.observation_space.shape, name)


@contextlib.contextmanager
def imports_gl(film: bool) -> Iterator[None]:
    """Import MuJoCo in the block, without any OpenGL library unless `film` is set."""
    users = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = (users or "egl") if film else "disabled"
    try:
        yield
    # MuJoCo reads the variable at import; a child process that films needs the user's value
    finally:
        if users is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = users


def _fix_action_space_seeding() -> None:
    """Make OGBench's arm build its action space once, so that it can be seeded.

    OGBench builds a new, randomly seeded space at each access, and samples from it in reset.
    """
    from ogbench.manipspace.envs.manipspace_env import ManipSpaceEnv

    space = ManipSpaceEnv.__dict__["action_space"]
    if isinstance(space, property):
        cached: functools.cached_property = functools.cached_property(
            lambda env: space.__get__(env)
        )
        cached.__set_name__(ManipSpaceEnv, "action_space")
        ManipSpaceEnv.action_space = cached


def make_raw(env_id: str, film: bool = False, **kwargs) -> gymnasium.Env:
    """Make an OGBench environment by its Gymnasium id, without the `SeededEnv` around it.

    Args:
        env_id: the id.
        film: whether it has to render.
        kwargs: further arguments of gymnasium.make.
    """
    arm = is_manipulation(env_id)
    with imports_gl(film):
        importlib.import_module("ogbench")
        importlib.import_module(
            "ogbench.manipspace.envs.manipspace_env" if arm else "ogbench.locomaze.maze"
        )
    if arm:
        _fix_action_space_seeding()
    with RandomState(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting")
        env = gymnasium.make(env_id, disable_env_checker=True, **kwargs)
        env.action_space  # noqa: B018  built here, where its warning is silenced
    xml = Path(getattr(env.unwrapped, "fullpath", ""))
    # OGBench's mazes do not delete their temporary model file
    if xml.parent == Path(tempfile.gettempdir()):
        xml.unlink(missing_ok=True)
    return env


def _make_users(env_name: str, film: bool) -> gymnasium.Env:
    """Make a user's 'module:EnvId'; raise UserError unless its spaces fit."""
    try:
        env = gymnasium.make(env_name, **({"render_mode": "rgb_array"} if film else {}))
    except Exception as error:  # the user's module may raise any type
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"--env_name: {env_name} cannot be made ({type(error).__name__}: {reason})"
        ) from error
    for kind, space in (
        ("observation", env.observation_space),
        ("action", env.action_space),
    ):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise UserError(
                f"--env_name: {env_name} has the {kind} space {space}; only one-dimensional Box"
                " spaces work"
            )
    if not (np.all(env.action_space.low == -1) and np.all(env.action_space.high == 1)):
        raise UserError(
            f"--env_name: the actions of {env_name} are not bounded by -1 and 1; register it"
            " with gymnasium.wrappers.RescaleAction(env, -1, 1) around it"
        )
    return env


def _has_limit(env: gymnasium.Env) -> bool:
    """Whether an environment has a TimeLimit wrapper, which `max_episode_steps` adds."""
    time_limit = gymnasium.wrappers.TimeLimit
    return any(isinstance(layer, time_limit) for layer in _layers(env))


def repeats_episodes(env: gymnasium.Env, steps: int = 5) -> bool:
    """Whether `reset(seed)` and the same actions lead to the same observations and rewards.

    Randomness that begins after `steps` steps goes unnoticed.

    Args:
        env: observations are [O], actions [A] in [-1, 1].
        steps: how many to compare.
    """
    shape = (steps, *env.action_space.shape)
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)

    def play() -> np.ndarray:
        seen = [env.reset(seed=0)[0]]
        for action in actions:
            observation, reward, terminated, truncated, _ = env.step(action)
            seen += [observation, np.array([reward])]
            if terminated or truncated:
                break
        return np.concatenate(seen)

    return np.array_equal(play(), play())


def _make_robomimic(env_name: str, film: bool, recipe: Recipe | None) -> gymnasium.Env:
    """Make a task of robomimic; raise UserError without its recipe."""
    if recipe is None:
        raise UserError(
            f"--env_name={env_name}: its environment is described in its file of"
            " demonstrations; load that first"
        )
    with imports_gl(film), RandomState():
        from envs.robomimic import make_simulator

        return make_simulator(recipe, env_name)


def make_env(
    env_name: str, film: bool = False, recipe: Recipe | None = None
) -> SeededEnv:
    """Make an OGBench single task, a task of robomimic or a user's 'module:EnvId'.

    A user's environment without a TimeLimit is truncated after EPISODE_LIMIT steps. Raises
    UserError if the name is unknown or the environment cannot be made, and RuntimeError, which
    names what is missing, if MuJoCo cannot render.

    Args:
        env_name: the task.
        film: whether it renders, by the OpenGL library in MUJOCO_GL, a user's own in its size
            and others in 320 x 320.
        recipe: of a task of robomimic, from its file of demonstrations.
    """
    if is_user_env(env_name):
        env = _make_users(env_name, film)
        return SeededEnv(env, None if _has_limit(env) else EPISODE_LIMIT)
    if film:
        check_rendering()
    if is_robomimic(env_name):
        return SeededEnv(_make_robomimic(env_name, film, recipe))
    task = world_name(env_name) + env_name.removeprefix(dataset_name(env_name))
    if not film:
        return SeededEnv(make_raw(task))
    env = SeededEnv(make_raw(task, film=True, width=_FILM_SIZE, height=_FILM_SIZE))
    # 4096 looks the same and takes twice the time on a CPU
    env.unwrapped.model.vis.quality.shadowsize = 1024
    return env
