"""Collected datasets: contents, reproducibility, refused settings, and killed programs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from envs import collect as module
from envs.collect import (
    _Job,
    _make_world,
    _Task,
    collect,
    collect_random,
    collection_settings,
)
from envs.ogbench import make_raw
from envs.oracles import ArmOracle, PointOracle, run_episode
from utils.errors import UserError

ROOT = Path(__file__).parents[2]


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files if key != "collection"}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.ci
def test_the_number_of_workers_does_not_change_the_data(tmp_path):
    """One worker and two write the same bytes, with OGBench's keys, shapes and types."""
    kwargs = {"transitions": 90, "episode_steps": 40, "seed": 3}
    dataset = "scene-noisy"
    path = collect(dataset, tmp_path / "two", workers=2, **kwargs)
    collect(dataset, tmp_path / "one", workers=1, **kwargs)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert set(files(tmp_path / "one")) == {
        f"{dataset}-v0.npz",
        f"{dataset}-v0-val.npz",
    }

    data = load(path)
    assert {key: value.dtype.name for key, value in data.items()} == {
        "observations": "float32",
        "actions": "float32",
        "terminals": "bool",
        "qpos": "float32",
        "qvel": "float32",
        "button_states": "int64",
    }
    # 40 + 40 + 10 transitions; each episode has one more row for its final state
    assert {len(value) for value in data.values()} == {93}
    np.testing.assert_array_equal(np.flatnonzero(data["terminals"]), [40, 81, 92])
    assert np.max(np.abs(data["actions"])) <= 1
    assert not np.array_equal(data["observations"][:41], data["observations"][41:82])
    validation = load(tmp_path / "one" / f"{dataset}-v0-val.npz")
    assert len(validation["terminals"]) == 10  # 9 transitions
    assert not np.array_equal(validation["observations"], data["observations"][:10])


@pytest.mark.parametrize(
    "dataset",
    ["cube-double-noisy", "scene-play", "puzzle-3x3-play", "puzzle-3x3-noisy"],
)
def test_an_episode_depends_only_on_its_seed(dataset):
    """Earlier episodes of the same process do not matter.

    The oracle must also move an object, and press a button of a puzzle.
    """
    env, oracle = _make_world(_Job(dataset, dataset.rpartition("-")[2], 80, 0))
    first, other, again = (run_episode(env, oracle, seed, 80) for seed in (1, 2, 1))
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])
        assert (
            key == "terminals"
            or key == "button_states"
            or not np.array_equal(value, other[key])
        )
    # The first 14 positions are the arm's, the others the objects'.
    assert np.max(np.abs(first["qpos"][:, 14:] - first["qpos"][0, 14:])) > 0.01
    if dataset.startswith("puzzle"):
        assert np.any(first["button_states"] != first["button_states"][0])


def test_a_row_holds_a_state_and_the_action_that_leads_to_the_next_row(tmp_path):
    """The observation of a row matches its qpos, and its action leads to the next row."""
    data = load(collect("pointmaze-medium", tmp_path, 300, 1, episode_steps=150))
    np.testing.assert_array_equal(data["observations"], data["qpos"])
    moved = np.diff(data["observations"], axis=0)[:149]
    free = np.all(np.abs(moved - 0.2 * data["actions"][:149]) < 1e-4, axis=1)
    assert np.mean(free) > 0.8  # the rest slide along walls


def test_the_seed_changes_the_data(tmp_path):
    one = load(collect("pointmaze-medium", tmp_path / "1", 50, 1, seed=1))
    two = load(collect("pointmaze-medium", tmp_path / "2", 50, 1, seed=2))
    assert not np.array_equal(one["observations"], two["observations"])


def test_ogbench_itself_loads_the_files(cube_data):
    import ogbench

    name, path = (
        "cube-single-play-singletask-task2-v0",
        cube_data / "cube-single-play-v0.npz",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OGBench's own warnings
        env, train, val = ogbench.make_env_and_datasets(
            name, dataset_dir=str(cube_data)
        )
        same, _ = ogbench.make_env_and_datasets(
            name, dataset_path=str(path), dataset_only=True, cur_env=env
        )
    assert train["observations"].shape == (200, *env.observation_space.shape)
    assert len(val["rewards"]) == 20 and set(train) >= {
        "rewards",
        "masks",
        "next_observations",
    }
    for key, value in train.items():
        np.testing.assert_array_equal(value, same[key])
    np.testing.assert_array_equal(
        train["next_observations"][:59], train["observations"][1:60]
    )


def test_the_oracle_lifts_the_cube(cube_data):
    """Within an episode the scripted arm lifts the cube off the table."""
    heights = load(cube_data / "cube-single-play-v0.npz")["qpos"][:, 16]
    assert np.max(heights) > 0.06


def test_the_point_reaches_goals_and_gets_new_ones():
    env = make_raw("pointmaze-medium-v0", terminate_at_goal=False)
    oracle = PointOracle(env, "pointmaze-medium-navigate")
    maze = env.unwrapped.maze_map
    corridors = [
        (i, j)
        for i, j in np.argwhere(maze == 0)
        if (maze[i - 1, j], maze[i + 1, j], maze[i, j - 1], maze[i, j + 1])
        in ((0, 0, 1, 1), (1, 1, 0, 0))
    ]
    assert len(oracle.cells) == np.sum(maze == 0)
    assert {tuple(ij) for ij in oracle.goals} == {
        tuple(ij) for ij in oracle.cells
    } - set(corridors)
    assert corridors
    np.random.seed(0)
    observation, info = env.reset(seed=0, options=oracle.options())
    goals = {tuple(env.unwrapped.cur_goal_xy)}
    for _ in range(400):
        observation, *_, info = env.step(np.clip(oracle.act(observation, info), -1, 1))
        oracle.after(info)
        goals.add(tuple(env.unwrapped.cur_goal_xy))
    assert len(goals) > 2


def test_scene_rejects_episodes_with_the_cube_out_of_view():
    oracle = object.__new__(ArmOracle)
    oracle.world = "scene"

    def accepts(y, z):
        qpos = np.zeros((3, 24))
        qpos[1, 15:17] = y, z
        return bool(oracle.accepts(qpos))

    assert accepts(0.28, 0.02) and not accepts(0.29, 0.02)
    assert accepts(-0.29, 0.02) and not accepts(-0.3, 0.02)
    # between 0.06 and 0.08 the cube lies in the drawer
    assert accepts(-0.35, 0.07) and not accepts(-0.35, 0.09)
    oracle.world = "cube-single"
    assert accepts(0.5, 0.02)


@pytest.mark.parametrize(
    ("dataset", "low", "high"),
    [
        ("cube-single-play", 0, 0),
        ("cube-double-play", 0, 0.25),
        ("cube-triple-noisy", 0.05, 0.35),
        ("cube-quadruple-play", 0.1, 0.5),
        ("scene-play", 0.5, 0.5),
        ("puzzle-4x4-noisy", 0.5, 0.5),
    ],
)
def test_stacking_probability_and_noise_are_drawn_for_each_episode(dataset, low, high):
    """The probability of stacking lies in a range that depends on the dataset.

    The noise of the Markov oracle is U(0, 0.1) times (1, 1, 1, 3, 10).
    """
    oracle = object.__new__(ArmOracle)
    oracle.world, _, kind = dataset.rpartition("-")
    oracle.noisy = kind == "noisy"
    oracle._pursue = lambda observation, info: None
    np.random.seed(0)
    stacking, noise = [], []
    for _ in range(500):
        oracle.begin(np.zeros(1), {})
        stacking.append(oracle.p_stack)
        noise.append(oracle.noise)
    assert low <= min(stacking) <= low + 0.01 and high - 0.01 <= max(stacking) <= high
    scales = np.array(noise)
    np.testing.assert_allclose(
        scales / scales[:, :1], np.tile([1, 1, 1, 3, 10], (500, 1))
    )
    assert 0 <= scales[:, 0].min() < 0.001 and 0.099 < scales[:, 0].max() <= 0.1


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("pointmaze-giant", _Job("pointmaze-giant-navigate", "navigate", 2000, 4)),
        ("pointmaze-large", _Job("pointmaze-large-navigate", "navigate", 1000, 4)),
        ("cube-triple-noisy", _Job("cube-triple-noisy", "noisy", 1000, 4)),
        (
            "puzzle-4x5-play-singletask-task1-v0",
            _Job("puzzle-4x5-play", "play", 1000, 4),
        ),
    ],
)
def test_episodes_are_as_long_as_those_of_ogbenchs_datasets(
    name, job, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        module, "_collect", lambda job, *args, **kwargs: seen.append(job)
    )
    collect(name, tmp_path, 10, seed=4)
    assert seen == [job]


@pytest.mark.parametrize(
    "dataset", ["humanoidmaze-medium-navigate", "antmaze-giant-navigate"]
)
def test_random_data_is_collected_for_any_environment(dataset, tmp_path):
    path = collect_random(
        f"{dataset}-singletask-task1-v0", tmp_path, 30, episode_steps=10
    )
    data = load(path)
    assert (
        path.name == f"{dataset}-v0.npz"
        and np.sum(data["terminals"]) == 3
        and len(data["qpos"]) == 33
    )
    settings = collection_settings(path)
    assert settings["behaviour"] == "random" and settings["transitions"] == 30


def test_a_finished_file_is_kept_and_a_different_one_needs_overwrite(tmp_path):
    kwargs = {"workers": 1, "episode_steps": 20}
    path = collect("pointmaze-medium", tmp_path, 20, **kwargs)
    made = path.stat().st_mtime_ns
    assert (
        collect("pointmaze-medium", tmp_path, 20, **kwargs).stat().st_mtime_ns == made
    )
    with pytest.raises(
        UserError,
        match=r"exists, with other settings \(transitions: 20 there, 40 now\); give",
    ):
        collect("pointmaze-medium", tmp_path, 40, **kwargs)
    np.savez(path, observations=np.zeros(3))  # a file that was not collected
    with pytest.raises(UserError, match="exists, from elsewhere; .* --overwrite"):
        collect("pointmaze-medium", tmp_path, 20, **kwargs)
    collect("pointmaze-medium", tmp_path, 40, overwrite=True, **kwargs)
    assert collection_settings(path)["transitions"] == 40


def test_episodes_that_a_power_cut_truncated_are_collected_again(tmp_path, monkeypatch):
    kwargs = {"workers": 1, "episode_steps": 20}
    with monkeypatch.context() as keeps_parts:
        keeps_parts.setattr(module.shutil, "rmtree", lambda *_, **__: None)
        collect("pointmaze-medium", tmp_path, 60, **kwargs)
    whole = {path.name: path.read_bytes() for path in tmp_path.glob("*.npz")}
    for name in whole:
        (tmp_path / name).unlink()
    empty, half, *_ = sorted(tmp_path.glob(".*/*.npz"))
    empty.write_bytes(b"")
    half.write_bytes(half.read_bytes()[:500])
    collect("pointmaze-medium", tmp_path, 60, **kwargs)
    assert len(whole) == 2 and files(tmp_path) == whole


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    real = os.replace
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
    monkeypatch.setattr(
        os, "replace", lambda *paths: calls.append("replace") or real(*paths)
    )
    job = _Job("pointmaze-medium-navigate", "navigate", 1, 0)
    rows = {"terminals": np.array([False, True])}
    monkeypatch.setattr(module, "_worker", (job, lambda *_: rows), raising=False)
    module._write_part(_Task(tmp_path / "part.npz", split=0, number=0, counts_as=1))
    module._merge([tmp_path / "part.npz"], tmp_path / "whole.npz", {})
    assert calls == ["fsync", "replace"] * 2
    np.testing.assert_array_equal(load(tmp_path / "whole.npz")["terminals"], [0, 1])


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        (
            "antmaze-large",
            {},
            "antmaze-large-navigate cannot be made here, it needs OGBench's expert policies",
        ),
        ("humanoidmaze-medium-navigate", {}, "expert policies"),
        ("pointmaze-medium-stitch", {}, "expert policies"),
        ("cube-doubel", {}, "the nearest name is 'cube-double'"),
        ("all50", {}, "--env_name=all50: give one dataset, such as scene-play"),
        ("robomimic", {}, "--env_name=robomimic: give one dataset"),
        ("scene,cube-double", {}, "--env_name=scene,cube-double: give one dataset"),
        ("module:Env-v0", {}, "module:Env-v0 needs --dataset=FILE.npz"),
        ("scene", {"transitions": 0}, "--transitions must be positive, not 0"),
        ("scene", {"workers": -1}, "--workers must be positive, not -1"),
        ("scene", {"seed": -1}, "--seed must not be negative"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(name, kwargs, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        collect(name, tmp_path / "data", **kwargs)
    assert "\n" not in str(error.value) and not (tmp_path / "data").exists()


def test_data_are_made_on_the_cores_of_the_job_not_of_the_machine(
    tmp_path, monkeypatch
):
    used = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(
        module, "_collect", lambda *arguments, **_: used.append(arguments)
    )
    collect("pointmaze-medium", tmp_path, 10)
    assert 2 in used[0] and 64 not in used[0]


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match="--ogbench_dataset_dir: cannot write to .*file"
    ):
        collect("scene", tmp_path / "file", 10)


# Kills. The program runs in its own process, so that a kill does not end the test.

COMMAND = [
    sys.executable,
    "scripts/make_data.py",
    "--env_name=pointmaze-medium",
    "--transitions=8_000",
]


def children(pid: int) -> list[int]:
    """The ids of the worker processes of `pid`."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(c)
        for c in found
        if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()
    ]


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def started():
    """The programs that a test starts; they are killed after it."""
    processes: list[subprocess.Popen] = []
    yield processes
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def start(folder: Path, started: list[subprocess.Popen]) -> subprocess.Popen:
    """Start collecting with two workers; return once two more episodes are stored."""
    before = len(list(folder.glob(".*/*.npz")))
    process = subprocess.Popen(
        [*COMMAND, "--workers=2", f"--ogbench_dataset_dir={folder}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(process)
    wait_for(
        lambda: (
            process.poll() is not None
            or len(list(folder.glob(".*/*.npz"))) >= before + 2
        )
    )
    assert process.poll() is None, process.communicate()
    return process


def finish(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, f"--ogbench_dataset_dir={folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.ci
def test_a_killed_collection_resumes_and_writes_the_same_file(tmp_path, started):
    """After a kill of the program or of a worker, the next start keeps the stored episodes.

    The resulting file is that of an uninterrupted program.
    """
    folder = tmp_path / "killed"
    process = start(folder, started)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.wait()
    # no worker keeps running
    wait_for(lambda: not any(alive(pid) for pid in workers), 20)
    kept = {part: part.stat().st_mtime_ns for part in folder.glob(".*/*.npz")}
    assert kept and not (folder / "pointmaze-medium-navigate-v0.npz").exists()

    process = start(folder, started)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in stderr
    assert (
        "error: a worker process died" in stderr
        and "run the same command again" in stderr
    )
    # no episode was collected twice
    assert all(part.stat().st_mtime_ns == made for part, made in kept.items())

    finish(folder)
    finish(tmp_path / "whole")
    assert files(folder) == files(tmp_path / "whole")
    assert len(files(folder)) == 2  # the files of single episodes are deleted


def test_workers_never_import_jax():
    code = (
        "import sys, envs.collect, envs.datasets, envs.download; sys.argv=['x']; "
        "import scripts.make_data; print('jax' in sys.modules)"
    )
    assert (
        subprocess.check_output(
            [sys.executable, "-c", code], text=True, cwd=ROOT
        ).strip()
        == "False"
    )
