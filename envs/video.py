"""Films episodes in a separate process, the only one that uses OpenGL."""

import ctypes
import functools
import math
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from envs.checks import success_of
from envs.evaluation import Policy, Values, evaluate
from envs.robomimic_data import Recipe
from envs.tasks import dataset_name, is_robomimic, is_user_env, world_name
from envs.workers import SLOTS, EnvWorkers, MakeEnv, WorkerError
from utils.errors import UserError
from utils.logging import say, short_path
from utils.progress import Counter

_SIZE = 320
_FPS = 15
_LINE = 16  # height of a caption's line in pixels
_NO_GL = ("disabled", "disable", "off", "false", "0", "")


def make_film_env(env_name: str, recipe: Recipe | None = None) -> gymnasium.Env:
    """Make an environment that renders, a user's own or one with frames of 320 x 320.

    Raises RuntimeError, which names what is missing, if MuJoCo cannot render.

    Args:
        env_name: the task.
        recipe: of a task of robomimic.
    """
    from envs.ogbench import SeededEnv, make_env, make_raw

    if is_user_env(env_name):
        return make_env(env_name, film=True)
    _check_rendering()
    if is_robomimic(env_name):
        return make_env(env_name, film=True, recipe=recipe)
    task = world_name(env_name) + env_name.removeprefix(dataset_name(env_name))
    env = SeededEnv(make_raw(task, film=True, width=_SIZE, height=_SIZE))
    # 4096 looks the same and takes twice the time on a CPU
    env.unwrapped.model.vis.quality.shadowsize = 1024
    return env


def film_maker(recipe: Recipe | None) -> MakeEnv:
    """Return `make_film_env` with a recipe; None for tasks that have none."""
    return functools.partial(make_film_env, recipe=recipe)


def film(
    env_name: str,
    policy: Policy,
    path: str | os.PathLike,
    episodes: int,
    seed: int,
    frame_skip: int = 3,
    *,
    make_env: MakeEnv = make_film_env,
    caption: str = "",
    values: Values | None = None,
) -> Path | None:
    """Film the first episodes of an evaluation into one mp4 or gif.

    The policy runs in this process and gets the same batches as in an evaluation, so every
    episode ends as it does there. MUJOCO_GL is the user's value, by default egl.

    Args:
        env_name: the task.
        policy: the policy.
        path: the file, written atomically; its ending selects mp4 or gif.
        episodes: the number of episodes.
        seed: the seed of the evaluation.
        frame_skip: environment steps per frame.
        make_env: as in EnvWorkers, for environments that render.
        caption: text over the frames, above episode, step and success; "" for none.
        values: the critic's values of the actions, for the caption.

    Returns:
        The path, or None, with one line on stderr, if filming fails.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    value = (
        multiprocessing.get_context("spawn").Value("d", math.nan) if values else None
    )
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    gl = "egl" if chosen in _NO_GL else chosen
    make_filmed = functools.partial(
        _make_filmed,
        part=part,
        episodes=episodes,
        frame_skip=frame_skip,
        make_env=make_env,
        caption=caption,
        value=value,
    )

    def act(observations: np.ndarray, keys: np.ndarray) -> np.ndarray:
        actions = policy.act(observations, keys)
        if value and values:
            # the only slot with an episode
            value.value = values(observations, actions)[episode % SLOTS]
        return actions

    say(f"filming {short_path(path)}, episodes: {episodes}")
    try:
        with (
            EnvWorkers(
                env_name, workers=1, make_env=make_filmed, environ={"MUJOCO_GL": gl}
            ) as workers,
            Counter("filming", episodes, unit=" ep", kept=False) as bar,
        ):
            for episode in range(episodes):
                evaluate(
                    policy._replace(act=act),
                    workers,
                    1,
                    seed,
                    first_episode=episode,
                    progress=False,
                )
                bar.update()
        os.replace(part, path)
    except (WorkerError, UserError) as error:  # UserError: it cannot be made to render
        reason = error.summary if isinstance(error, WorkerError) else error
        print(
            f"no video {path.name}, all else is unaffected: {reason}", file=sys.stderr
        )
        return None
    finally:
        part.unlink(missing_ok=True)
    return path


# Cached: all slots share one environment and one file, because episodes follow each other.
@functools.cache
def _make_filmed(
    env_name: str,
    part: Path,
    episodes: int,
    frame_skip: int,
    make_env: MakeEnv,
    caption: str,
    value: Any,
):
    # GL objects print errors if they are deleted at exit
    sys.unraisablehook = lambda _: None
    env = make_env(env_name)
    options: dict[str, Any] = {"duration": 1000 / _FPS, "loop": 0}
    if part.suffix != ".gif":
        # macro_block_size 1: no resizing, frames are cropped below
        options = {"fps": _FPS, "macro_block_size": 1}
    writer = imageio.get_writer(part, **options)
    return _Filmed(env, writer, episodes, frame_skip, caption, value)


class _Filmed(gymnasium.Wrapper):
    """Writes the first, every frame_skip-th and the last frame of each episode to a file.

    Args:
        env: an environment that renders.
        writer: imageio's writer, closed after the last episode.
        episodes: the number of episodes.
        frame_skip: environment steps per frame.
        caption: the first line of the caption; "" for no caption.
        value: a shared float with the critic's value; None without one.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        writer,
        episodes: int,
        frame_skip: int,
        caption: str,
        value: Any,
    ):
        super().__init__(env)
        self._writer = writer
        self._episodes = episodes
        self._frame_skip = frame_skip
        self._caption = caption
        self._value = value
        self._episode = -1
        self._steps = 0
        # the first frame, written once the value of the first actions is known
        self._first: np.ndarray | None = None

    def reset(self, **kwargs):
        result = self.env.reset(**kwargs)
        self._episode += 1
        self._steps = 0
        self._first = self.env.render()
        return result

    def step(self, action):
        if self._first is not None:
            self._film(self._first)
            self._first = None
        result = self.env.step(action)
        self._steps += 1
        done = result[2] or result[3]
        if done or self._steps % self._frame_skip == 0:
            self._film(self.env.render(), _outcome(success_of(result[4]), done))
        self._episodes -= done
        if not self._episodes:
            self._writer.close()
        return result

    def _film(self, frame: np.ndarray, outcome: str = "") -> None:
        height, width = frame.shape[:2]
        frame = frame[: height // 2 * 2, : width // 2 * 2]  # h264 wants even sizes
        if self._caption:
            value = f"  value {self._value.value:.2f}" if self._value else ""
            frame = _captioned(
                frame,
                [
                    self._caption,
                    f"episode {self._episode}  step {self._steps}{value}",
                    outcome,
                ],
            )
        self._writer.append_data(frame)


def _outcome(success: float, done: bool) -> str:
    """Return the caption's word for a success; "" if the environment reports none (NaN)."""
    if success > 0:
        return "success"
    return "no success" if done and success == 0 else ""


def _captioned(frame: np.ndarray, lines: list[str]) -> np.ndarray:
    """Write lines of outlined white text into the upper left corner of a frame."""
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=_LINE - 4)
    for i, line in enumerate(lines):
        draw.text(
            (4, 2 + _LINE * i), line, "white", font, stroke_width=1, stroke_fill="black"
        )
    return np.asarray(image)


def _check_rendering() -> None:
    """Render one tiny frame; raise RuntimeError that names the missing library.

    MuJoCo's own errors do not name it. MuJoCo is first imported here.
    """
    try:
        import mujoco

        model = mujoco.MjModel.from_xml_string("<mujoco/>")
        with mujoco.Renderer(model, 16, 16) as renderer:
            renderer.update_scene(mujoco.MjData(model))
            renderer.render()
    except Exception as error:
        gl = os.environ["MUJOCO_GL"]
        raise RuntimeError(
            f"MUJOCO_GL={gl} does not render here ({_advice(gl)})"
        ) from error


def _advice(gl: str) -> str:
    if gl == "egl" and not _library_loads("libEGL.so.1"):
        return "libEGL is missing: apt-get install libegl1 libgl1"
    if gl == "egl":
        return "libEGL finds no driver: apt-get install libegl-mesa0 libgl1-mesa-dri"
    if gl == "osmesa" and not _library_loads("libOSMesa.so.8"):
        return "libOSMesa is missing: apt-get install libosmesa6"
    return "unset MUJOCO_GL to use egl"


def _library_loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
