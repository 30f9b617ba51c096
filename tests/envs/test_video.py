"""Films: captions, frames, the episodes that they show, and messages without OpenGL."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest

from envs.evaluation import Policy, evaluate
from envs.video import _captioned, _outcome, film
from envs.workers import EnvWorkers, Task
from tests.envs.stand_ins import Small

H, A = 5, 2


def act(observations, keys):
    return (
        np.stack([np.random.default_rng(key).normal(size=H * A) for key in keys])
        + observations[:, :1]
    )


POLICY = Policy(act, (H, A))


@pytest.fixture(autouse=True)
def no_fork_for_ffmpeg(monkeypatch):
    """The tests read videos in a process that may have imported jax, which must not fork."""
    monkeypatch.setenv("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")


def frames(path) -> np.ndarray:
    with imageio.get_reader(path) as reader:
        return np.stack([frame for frame in reader])  # noqa: C416  its len() is infinite


def test_captions_show_the_episode_the_step_the_value_and_the_outcome(tmp_path):
    """The film is a gif, whose few colours are exact.

    The value must be that of the actions that are being executed, in the slot in use.
    """
    path, starts = tmp_path / "counter.gif", {}

    def values(observations, actions):
        episode = 0 if not observations[1].any() else 1
        starts[episode] = observations[episode, 0]
        # the steps so far, plus 100 times the slot
        return observations[:, 1] + 100 * np.arange(len(observations))

    assert (
        film(
            Small("counter"),
            POLICY,
            path,
            2,
            0,
            caption="counter-task1",
            values=values,
        )
        == path
    )
    found = imageio.mimread(path)
    shown = [(episode, step) for episode in (0, 1) for step in (0, 3, 6, 7)]
    assert len(found) == len(shown)
    for frame, (episode, step) in zip(found, shown, strict=True):
        value = 100 * episode + (5 if step > 5 else 0)
        outcome = "" if step < 7 else "success" if starts[episode] > 0 else "no success"
        plain = np.full((256, 300, 3), 20 * step, np.uint8)
        expected = _captioned(
            plain,
            [
                "counter-task1",
                f"episode {episode}  step {step}  value {value:.2f}",
                outcome,
            ],
        )
        assert (expected != plain).any()
        np.testing.assert_allclose(frame[..., :3].astype(int), expected, atol=8)


def test_a_caption_has_no_outcome_if_no_success_is_reported():
    found = [
        [_outcome(success, done) for success in (1.0, 0.0, np.nan)]
        for done in (True, False)
    ]
    assert found == [["success", "no success", ""], ["success", "", ""]]


class Recorder:
    """Acts as POLICY does and keeps the observation of each key."""

    def __init__(self):
        self.rows = {}

    def __call__(self, observations, keys):
        for observation, key in zip(observations, keys, strict=True):
            self.rows[tuple(key.tolist())] = observation
        return act(observations, keys)


def test_an_mp4_has_every_frame_skipth_frame_of_each_episode(tmp_path, capfd):
    path = tmp_path / "videos" / "counter.mp4"
    assert film(Small("counter"), POLICY, str(path), 2, 0, frame_skip=3) == path
    assert list(path.parent.iterdir()) == [path]
    video = frames(path)
    # steps 0 3 6 7 of two episodes; odd sizes are made even
    assert video.shape == (8, 256, 300, 3)
    levels = video.mean((1, 2, 3))
    np.testing.assert_allclose(levels, [0, 60, 120, 140] * 2, atol=4)
    out, err = capfd.readouterr()
    assert out.split() == ["filming", f"{path},", "episodes:", "2"] and err == ""


def test_filmed_episodes_equal_those_of_the_evaluation(tmp_path):
    filmed, evaluated = Recorder(), Recorder()
    path, walk = tmp_path / "walk.mp4", Small("walk")
    assert film(walk, POLICY._replace(act=filmed), path, 3, 7)
    with EnvWorkers(walk, workers=2) as workers:
        evaluate(POLICY._replace(act=evaluated), workers, 3, 7)
    shared = [key for key in filmed.rows if key[0] == 7]
    assert {key[1] for key in shared} == {0, 1, 2} and len(shared) > 3
    for key in shared:
        np.testing.assert_array_equal(filmed.rows[key], evaluated.rows[key])


class Short(Task):
    """Episodes of 6 steps."""

    def make(self, film=False):
        return gymnasium.wrappers.TimeLimit(super().make(film), 6)


def egl_renders() -> bool:
    code = "import mujoco; mujoco.GLContext(16, 16).make_current()"
    environ = {**os.environ, "MUJOCO_GL": "egl"}
    return (
        subprocess.run(
            [sys.executable, "-c", code], env=environ, stderr=subprocess.DEVNULL
        ).returncode
        == 0
    )


@pytest.mark.ci
@pytest.mark.parametrize(
    "name, action_dim",
    [
        ("pointmaze-medium-navigate-singletask-task1-v0", 2),
        ("cube-single-play-singletask-task1-v0", 5),
    ],
)
def test_ogbench_is_filmed_large_enough_to_see(
    name, action_dim, tmp_path, monkeypatch, capfd
):
    # a training process may have set this for itself
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    path = tmp_path / "ogbench.mp4"
    policy = Policy(lambda *_: np.ones((8, 3, action_dim)), (3, action_dim))
    filmed = film(Short(name), policy, path, 1, 0)
    err = capfd.readouterr().err
    # without GL the message must say so, and the test must not fail
    if not egl_renders():
        assert filmed is None and not path.exists() and "apt-get install libegl" in err
        return
    assert filmed == path and err == ""
    video = frames(path)
    assert len(video) == 3 and min(video.shape[1:3]) >= 256
    assert np.std(video[0]) > 10  # a picture, not a black frame
    assert np.abs(video[-1].astype(float) - video[0]).max() > 20  # and it moves


def without_libegl(folder, monkeypatch):
    """Make the loader find broken libraries first; return the expected advice."""
    folder.mkdir()
    for suffix in ("", *(f".{i}" for i in range(10))):
        (folder / f"libEGL.so{suffix}").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    return "MUJOCO_GL=egl does not render here (libEGL is missing: apt-get install libegl1 libgl1)"


def without_driver(folder, monkeypatch):
    """Leave the vendor-neutral libEGL without a vendor's driver; return the expected advice."""
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent")
    monkeypatch.setenv("MUJOCO_GL", "EGL")
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return "libEGL is missing: apt-get install libegl1 libgl1"
    return "libEGL finds no driver: apt-get install libegl-mesa0 libgl1-mesa-dri"


def with_a_wrong_choice(folder, monkeypatch):
    """Set MUJOCO_GL to an unknown value; return the expected advice."""
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    return "MUJOCO_GL=nonsense does not render here (unset MUJOCO_GL to use egl)"


@pytest.mark.parametrize(
    "breakage", [without_libegl, without_driver, with_a_wrong_choice]
)
def test_without_gl_there_is_one_line_that_says_what_to_install(
    breakage, tmp_path, monkeypatch, capfd
):
    advice = breakage(tmp_path / "lib", monkeypatch)
    gl = os.environ["MUJOCO_GL"]
    path = tmp_path / "videos" / "a.mp4"
    task = Task("cube-single-play-singletask-task1-v0")
    assert film(task, POLICY, path, 1, 0) is None
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out.startswith("filming") and len(lines) == 1
    assert (
        lines[0].startswith("no video a.mp4, all else is unaffected: ")
        and advice in lines[0]
    )
    assert list(path.parent.iterdir()) == []
    assert os.environ["MUJOCO_GL"] == gl


def test_a_failing_environment_leaves_no_partial_video(tmp_path, capfd):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"an earlier video")
    assert film(Small("raises"), POLICY, path, 1, 0) is None
    assert path.read_bytes() == b"an earlier video" and list(tmp_path.iterdir()) == [
        path
    ]
    assert "ValueError: the cube melted" in capfd.readouterr().err


def test_an_environment_that_cannot_render_gives_no_video(tmp_path, capfd):
    """The class of the example takes no render_mode. A run resumes where its film fails."""
    path = tmp_path / "a.mp4"
    name = "examples.own_environment:Reach-v0"
    assert film(Task(name), POLICY, path, 1, 0) is None
    line = capfd.readouterr().err.splitlines()[-1]  # after a warning of Gymnasium's
    assert line.startswith("no video a.mp4, all else is unaffected: ") and name in line
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_returns_nan_gives_no_video(tmp_path, capfd):
    failing = POLICY._replace(act=lambda *_: np.full((8, H, A), np.nan))
    path = tmp_path / "a.mp4"
    assert film(Small("counter"), failing, path, 1, 0) is None
    assert "the policy's actions for counter are not finite" in capfd.readouterr().err
    assert list(Path(tmp_path).iterdir()) == []
