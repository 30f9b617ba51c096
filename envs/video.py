"""Films episodes in a separate process, the only one that uses OpenGL."""

import functools
import math
import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from envs.checks import success_of
from envs.evaluation import Policy, Values, evaluate
from envs.workers import SLOTS, EnvWorkers, Task, WorkerError
from utils.errors import UserError
from utils.files import put_in_place
from utils.messages import say, short_path
from utils.progress import Counter

_FPS = 15
_LINE = 16  # height of a caption's line in pixels
_NO_GL = ("disabled", "disable", "off", "false", "0", "")


def film(
    task: Task,
    policy: Policy,
    path: str | os.PathLike,
    episodes: int,
    seed: int,
    frame_skip: int = 3,
    *,
    caption: str = "",
    values: Values | None = None,
) -> Path | None:
    """Film the first episodes of an evaluation into one mp4 or gif.

    The policy runs in this process and gets the same batches as in an evaluation, so every
    episode ends as it does there. MUJOCO_GL is the user's value, by default egl.

    Args:
        task: the task.
        policy: the policy.
        path: the file, written atomically; its ending selects mp4 or gif.
        episodes: the number of episodes.
        seed: the seed of the evaluation.
        frame_skip: environment steps per frame.
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
    filmed = _FilmedTask(
        env_name=task.env_name,
        task=task,
        part=part,
        episodes=episodes,
        frame_skip=frame_skip,
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
            EnvWorkers(filmed, workers=1, environ={"MUJOCO_GL": gl}) as workers,
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
        put_in_place(part, path)
    except (WorkerError, UserError) as error:  # UserError: it cannot be made to render
        reason = error.summary if isinstance(error, WorkerError) else error
        print(
            f"no video {path.name}, all else is unaffected: {reason}", file=sys.stderr
        )
        return None
    finally:
        part.unlink(missing_ok=True)
    return path


@dataclass(frozen=True, kw_only=True)
class _FilmedTask(Task):
    """A task whose environment writes a film of itself."""

    task: Task
    part: Path
    """The file until it is complete."""
    episodes: int
    frame_skip: int
    """Environment steps per frame."""
    caption: str
    """The first line of the caption; "" for no caption."""
    value: Any
    """A shared float with the critic's value; None without one."""

    def make(self, film: bool = False) -> gymnasium.Env:
        return self._filmed

    # All slots share one environment and one file, because episodes follow each other.
    @functools.cached_property
    def _filmed(self) -> gymnasium.Env:
        # GL objects print errors if they are deleted at exit
        sys.unraisablehook = lambda _: None
        return _Filmed(self.task.make(film=True), self)


class _Filmed(gymnasium.Wrapper):
    """Writes the first, every frame_skip-th and the last frame of each episode to a file.

    Args:
        env: an environment that renders.
        task: says what to film. The file is closed after its last episode.
    """

    def __init__(self, env: gymnasium.Env, task: _FilmedTask):
        super().__init__(env)
        options: dict[str, Any] = {"duration": 1000 / _FPS, "loop": 0}
        if task.part.suffix != ".gif":
            # macro_block_size 1: no resizing, frames are cropped below
            options = {"fps": _FPS, "macro_block_size": 1}
        self._writer = imageio.get_writer(task.part, **options)
        self._task = task
        self._left = task.episodes
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
        if done or self._steps % self._task.frame_skip == 0:
            self._film(self.env.render(), _outcome(success_of(result[4]), done))
        self._left -= done
        if not self._left:
            self._writer.close()
        return result

    def _film(self, frame: np.ndarray, outcome: str = "") -> None:
        height, width = frame.shape[:2]
        frame = frame[: height // 2 * 2, : width // 2 * 2]  # h264 wants even sizes
        caption, shared = self._task.caption, self._task.value
        if caption:
            value = f"  value {shared.value:.2f}" if shared else ""
            frame = _captioned(
                frame,
                [
                    caption,
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
