"""Gymnasium environments whose episodes a seed repeats exactly: OGBench's single tasks and a
user's own.
"""

import contextlib
import functools
import importlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs.checks import check_number, check_observation
from envs.tasks import dataset_name, is_manipulation, is_user_env, world_name
from utils.errors import UserError

EPISODE_LIMIT = 1000  # steps, for a user's own environment that has no limit

_State = dict[str, Any] | tuple[Any, ...]  # of NumPy's legacy generators


@contextlib.contextmanager
def _numpy_state(state: _State) -> Iterator[list[_State]]:
    """Run with this state in NumPy's global generator; yields a list that holds the state after
    the block.
    """
    outer = np.random.get_state()
    np.random.set_state(state)
    after = [state]
    try:
        yield after
    finally:
        after[0] = np.random.get_state()
        np.random.set_state(outer)


def _fresh_state() -> _State:
    return np.random.RandomState().get_state()


class SeededEnv(gymnasium.Wrapper):
    """An environment that `reset(seed)` and the actions since determine to the bit.

    OGBench draws from three generators: the environment's, its action space's and NumPy's
    global one. `reset(seed)` seeds all three, and the global one is this environment's own copy
    while it runs, so that other environments and callers in the process neither disturb it nor
    are disturbed. Observations are float32 [O]; actions [A] are clipped to the action space. An
    observation or a reward that cannot be used raises EnvFault.

    Args:
        env: the environment.
        limit: the step after which an episode is truncated if it has not ended; then it is
            info["cut_at"]. None: no limit.
    """

    def __init__(self, env: gymnasium.Env, limit: int | None = None):
        super().__init__(env)
        self._limit, self._steps = limit, 0
        self._state: _State = _fresh_state()
        with self._own_numpy_state():
            space = env.observation_space  # OGBench's arm resets itself to answer this
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, space.shape, np.float32)
        self.action_space = env.action_space

    @contextlib.contextmanager
    def _own_numpy_state(self) -> Iterator[None]:
        with _numpy_state(self._state) as after:
            yield
        self._state = after[0]

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start an episode; returns (observation [O], info)."""
        if seed is not None:
            self._state = np.random.RandomState(seed).get_state()
            self.action_space.seed(seed)
        with self._own_numpy_state():
            observation, info = self.env.reset(seed=seed, options=options)
        self._steps = 0
        return self._checked(observation, "observation of reset()"), info

    def step(self, action: np.ndarray):
        """Act; returns (observation [O], reward, terminated, truncated, info)."""
        action = np.clip(action, self.action_space.low, self.action_space.high)
        with self._own_numpy_state():
            observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        if self._steps == self._limit and not (terminated or truncated):
            truncated, info = True, {**info, "cut_at": self._limit}
        observation, reward = self._checked(observation), check_number(reward, "reward")
        return observation, reward, bool(terminated), bool(truncated), info

    def _checked(self, observation: Any, name: str = "observation") -> np.ndarray:
        return check_observation(observation, self.observation_space.shape, name)


def _import_simulator(film: bool, arm: bool) -> None:
    """Import MuJoCo and OGBench; without filming no OpenGL library is touched, so none needs to
    work.
    """
    users = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = (users or "egl") if film else "disabled"
    try:
        importlib.import_module("ogbench")
        importlib.import_module(
            "ogbench.manipspace.envs.manipspace_env" if arm else "ogbench.locomaze.maze"
        )
    # MuJoCo reads the variable at import; a child process that films must see the user's own
    # value
    finally:
        if users is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = users


def _cache_action_space() -> None:
    """Make the arm seedable: OGBench builds a new action space, seeded by the operating system,
    at each access, and samples it inside reset. Build it once per environment.
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
    """An OGBench environment by its Gymnasium id, quiet and seedable, without the `SeededEnv`
    around it.
    """
    arm = is_manipulation(env_id)
    _import_simulator(film, arm)
    if arm:
        _cache_action_space()
    with _numpy_state(_fresh_state()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting")
        env = gymnasium.make(env_id, disable_env_checker=True, **kwargs)
        env.action_space  # noqa: B018  built here, where its warning is silenced
    xml = Path(getattr(env.unwrapped, "fullpath", ""))
    # OGBench's mazes leave their model file behind
    if xml.parent == Path(tempfile.gettempdir()):
        xml.unlink(missing_ok=True)
    return env


def _make_users(env_name: str, film: bool) -> gymnasium.Env:
    """A user's 'module:EnvId', checked to fit: flat boxes, actions in [-1, 1]."""
    try:
        env = gymnasium.make(env_name, **({"render_mode": "rgb_array"} if film else {}))
    except Exception as error:  # whatever the user's module raises is the user's to read
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"--env_name: {env_name} cannot be made ({type(error).__name__}: {reason})"
        ) from error
    for kind, space in (("observation", env.observation_space), ("action", env.action_space)):
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
    """Whether a TimeLimit is among the wrappers, as `max_episode_steps` puts it there."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            return True
        env = env.env
    return False


def make_env(env_name: str, film: bool = False) -> SeededEnv:
    """Make one single task, or a user's 'module:EnvId'.

    A user's environment without a TimeLimit has its episodes truncated at EPISODE_LIMIT steps.
    `film` says that `render()` will be called: OpenGL then comes from MUJOCO_GL, or else EGL.
    Raises UserError if the name is unknown or the environment cannot be made.
    """
    if is_user_env(env_name):
        env = _make_users(env_name, film)
        return SeededEnv(env, None if _has_limit(env) else EPISODE_LIMIT)
    task = env_name.removeprefix(dataset_name(env_name))
    return SeededEnv(make_raw(world_name(env_name) + task, film))
