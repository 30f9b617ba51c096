"""Robomimic's tasks as Gymnasium environments, simulated by robosuite.

robosuite is imported only when such an environment is made.
"""

import importlib.metadata
import sys
import types
import warnings
from typing import Any

import gymnasium
import numpy as np

from envs.robomimic_data import Recipe, require_packages
from envs.tasks import robomimic_task
from utils.errors import UserError
from utils.messages import warn_once

CAMERA = "agentview"
FRAME_SIZE = 320  # the width and the height of frames

# robosuite reads its settings from this module, if there is one, when it is imported.
_SETTINGS = "robosuite.macros_private"

# Never the file's: no window, no images, and no end of an episode but our own.
_OURS = {
    "has_renderer": False,
    "has_offscreen_renderer": False,
    "use_camera_obs": False,
    "camera_depths": False,
    "use_object_obs": True,
    "ignore_done": True,
}


class RobosuiteEnv(gymnasium.Env):
    """A task of robomimic: observations [O] scaled to [-1, 1], actions [A] in [-1, 1].

    The reward is robosuite's minus 1. An episode ends with the first reward of robosuite above
    0, which is a success, or at the task's limit of steps.

    Args:
        recipe: the environment and the scaling, from the file of demonstrations.
        limit: the steps after which an episode ends without success.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, recipe: Recipe, limit: int):
        import robosuite

        self.recipe = recipe
        self.limit = limit
        self.simulator = robosuite.make(recipe.env_name, **(recipe.env_kwargs | _OURS))
        dim = (len(recipe.low),)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, dim)
        self.action_space = gymnasium.spaces.Box(-1, 1, (self.simulator.action_dim,))
        self.raw: dict[str, np.ndarray] = {}
        """The latest observations by robosuite's names."""
        self._steps = 0
        self._renderer: Any = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:  # what does not draw from the global generators
            self.simulator.rng = np.random.default_rng(seed)
        self._steps = 0
        self._close_renderer()  # every episode has a model of its own
        self.raw = self.simulator.reset()
        return self._observation(), {}

    def step(self, action):
        self.raw, reward, _, _ = self.simulator.step(np.asarray(action, np.float64))
        self._steps += 1
        success = reward > 0
        truncated = not success and self._steps >= self.limit
        info = {"success": float(success)}
        return self._observation(), reward - 1.0, success, truncated, info

    def _observation(self) -> np.ndarray:
        values = observed(self.raw, self.recipe.keys)
        return self.recipe.scale(np.concatenate([v.ravel() for v in values.values()]))

    def render(self) -> np.ndarray:
        """Return a frame [320, 320, 3] of the camera, without collision shapes."""
        import mujoco

        if self._renderer is None:
            model = self.simulator.sim.model._model
            model.vis.quality.shadowsize = 1024  # 4096 takes twice the time on a CPU
            self._renderer = mujoco.Renderer(model, FRAME_SIZE, FRAME_SIZE)
        shown = mujoco.MjvOption()
        shown.geomgroup[0] = 0
        data = self.simulator.sim.data._data
        self._renderer.update_scene(data, CAMERA, shown)
        return self._renderer.render()

    def _close_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def close(self) -> None:
        self._close_renderer()
        self.simulator.close()


def observed(raw: dict[str, Any], keys: list[str]) -> dict[str, np.ndarray]:
    """Return the observations of these keys by robomimic's names, as float64."""
    names = {"object": "object-state"}
    return {key: np.asarray(raw[names.get(key, key)], np.float64) for key in keys}


def make_simulator(recipe: Recipe, env_name: str) -> RobosuiteEnv:
    """Make the environment of a task; raise UserError if robosuite cannot make it.

    Args:
        recipe: the environment and the scaling.
        env_name: the task.
    """
    require_packages(f"--env_name={env_name}")
    import_robosuite()
    warn_of_version(recipe)
    task = robomimic_task(env_name)
    try:
        if recipe.env_name != task.environment:
            raise ValueError(f"{env_name} is {task.environment}")
        env = RobosuiteEnv(recipe, task.limit)
    except Exception as error:  # the file's arguments may be anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"--env_name: robosuite {_version()} cannot make {recipe.env_name} with the"
            f" arguments in the file of {env_name} ({reason:.200}); fetch the file of type"
            " low_dim of robomimic v0.5"
        ) from error
    return env


def import_robosuite() -> None:
    """Import robosuite without its messages and without any OpenGL library."""
    if "robosuite" in sys.modules:
        return
    # Otherwise robosuite sets MUJOCO_GL=egl for this process and its children.
    settings = types.ModuleType(_SETTINGS)
    settings.__dict__.update(MUJOCO_GPU_RENDERING=False, CONSOLE_LOGGING_LEVEL="ERROR")
    sys.modules.setdefault(_SETTINGS, settings)
    with warnings.catch_warnings(action="ignore"):  # of its invalid escape sequences
        import robosuite  # noqa: F401


def warn_of_version(recipe: Recipe) -> None:
    """Warn once if the file was made with another minor version of robosuite."""
    made, here = recipe.env_version, _version()
    if made and made.split(".")[:2] != here.split(".")[:2]:
        warn_once(
            f"the demonstrations were recorded with robosuite {made}, and {here} is installed:"
            " its tasks may behave differently"
        )


def _version() -> str:
    return importlib.metadata.version("robosuite")
