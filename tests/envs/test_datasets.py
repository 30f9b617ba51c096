"""Loading datasets: transitions, shards, missing files, wrong contents, and damaged files."""

import contextlib
import io
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs import dataset_files, datasets, download
from envs.collect import collect, collect_random, collection_settings
from envs.dataset_files import dataset_files as files_of
from envs.dataset_files import find_dataset
from envs.datasets import load_dataset
from envs.ogbench import make_env
from utils import progress
from utils.errors import UserError, one_line

ROOT = Path(__file__).resolve().parents[2]

SCENE = "scene-play-singletask-task1-v0"
MAZE = "pointmaze-medium-navigate-singletask-task1-v0"
FILE = "pointmaze-medium-navigate-v0.npz"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Every host refuses connections; test_download.py starts its own hosts."""
    monkeypatch.setattr(download, "HOSTS", ("http://127.0.0.1:9",))
    monkeypatch.setattr(dataset_files, "HOSTS", ("http://127.0.0.1:9",))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def maze_rows(lengths=(3, 4), seed=0) -> dict[str, np.ndarray]:
    """Rows near the start of task 1; `lengths` are the numbers of states of the trajectories."""
    rng = np.random.default_rng(seed)
    rows = sum(lengths)
    positions = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    terminals = np.zeros(rows, bool)
    terminals[np.cumsum(lengths) - 1] = True
    actions = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    return {
        "observations": positions,
        "actions": actions,
        "terminals": terminals,
        "qpos": positions,
    }


@pytest.fixture
def maze_data(tmp_path) -> Path:
    np.savez(tmp_path / FILE, **maze_rows())
    return tmp_path


def ogbench_layout(name: str, folder: Path) -> dict[str, np.ndarray]:
    import ogbench

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ogbench.make_env_and_datasets(name, dataset_dir=str(folder))[1]


def assert_same_transitions(
    compact: dict[str, np.ndarray], regular: dict[str, np.ndarray]
):
    rows = compact["rows"]
    for key in ("observations", "rewards", "masks", "terminals"):
        np.testing.assert_array_equal(compact[key][rows], regular[key])
    np.testing.assert_array_equal(
        compact["observations"][rows + 1], regular["next_observations"]
    )
    np.testing.assert_array_equal(
        compact["actions"][rows], np.clip(regular["actions"], -1 + 1e-5, 1 - 1e-5)
    )


@pytest.mark.parametrize("task", range(1, 6))
def test_transitions_of_a_cube_equal_those_of_ogbench(cube_data, task):
    name = f"cube-single-play-singletask-task{task}-v0"
    data = load_dataset(name, cube_data)
    assert_same_transitions(data, ogbench_layout(name, cube_data))
    types = {key: (value.dtype.name, len(value)) for key, value in data.items()}
    assert types.pop("rows") == ("int32", 200)
    # 200 transitions, and the final states of four episodes
    assert set(types.values()) == {("float32", 204)}
    assert np.max(np.abs(data["actions"])) <= 1 - 1e-5


def test_transitions_of_a_maze_equal_those_of_ogbench(tmp_path):
    name = "antmaze-large-navigate-singletask-task1-v0"
    collect_random(name, tmp_path, 60, episode_steps=20)
    assert_same_transitions(
        load_dataset(name, tmp_path), ogbench_layout(name, tmp_path)
    )


@pytest.mark.ci
def test_transitions_of_a_scene_equal_those_of_ogbench_and_can_be_sparse(tmp_path):
    """The scene's reward is minus the number of unfinished parts; `sparse` makes it 0 or -1."""
    name = "scene-play-singletask-task3-v0"
    collect_random(name, tmp_path, 60, episode_steps=20)
    dense, sparse = (
        load_dataset(name, tmp_path),
        load_dataset(name, tmp_path, sparse=True),
    )
    assert_same_transitions(dense, ogbench_layout(name, tmp_path))
    assert np.min(dense["rewards"]) < -1
    np.testing.assert_array_equal(
        sparse["rewards"], np.where(dense["rewards"] == 0, 0, -1)
    )
    np.testing.assert_array_equal(sparse["masks"], dense["masks"])


def test_rewards_and_masks_mark_successes(tmp_path):
    """Reward and mask are 0 within 1 of (20, 20), the goal of task 1, and -1 and 1 elsewhere."""
    rows = maze_rows((5,))
    rows["qpos"] = np.array(
        [[0, 0], [20, 20], [20, 20.9], [20, 21.1], [20, 20]], np.float32
    )
    np.savez(tmp_path / FILE, **rows)
    data = load_dataset(MAZE, tmp_path)
    np.testing.assert_array_equal(data["rewards"], [-1, 0, 0, -1, 0])
    np.testing.assert_array_equal(data["masks"], [1, 0, 0, 1, 0])


def test_rows_and_terminals_of_the_compact_layout(maze_data):
    data = load_dataset(MAZE, maze_data)
    np.testing.assert_array_equal(data["rows"], [0, 1, 3, 4, 5])
    np.testing.assert_array_equal(data["terminals"], [0, 1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(data["observations"], maze_rows()["observations"])


def test_a_trajectory_cut_by_the_end_of_the_file_ends_there(tmp_path):
    rows = maze_rows((3, 4))
    rows["terminals"][-1] = False
    np.savez(tmp_path / FILE, **rows)
    data = load_dataset(MAZE, tmp_path)
    np.testing.assert_array_equal(data["rows"], [0, 1, 3, 4, 5])
    np.testing.assert_array_equal(data["terminals"][data["rows"]], [0, 1, 0, 0, 1])


@pytest.mark.parametrize(
    ("proportion", "rows", "ends"),
    [
        (1.0, [0, 1, 3, 4, 5], [0, 1, 0, 0, 1]),
        (0.8, [0, 1, 3, 4], [0, 1, 0, 1]),
        (0.4, [0, 1], [0, 1]),
    ],
)
def test_a_proportion_keeps_the_first_transitions(maze_data, proportion, rows, ends):
    data = load_dataset(MAZE, maze_data, proportion=proportion)
    np.testing.assert_array_equal(data["rows"], rows)
    np.testing.assert_array_equal(data["terminals"][data["rows"]], ends)
    assert {len(value) for key, value in data.items() if key != "rows"} == {
        rows[-1] + 2
    }


def test_a_tilde_is_the_home_folder(maze_data, monkeypatch):
    monkeypatch.setenv("HOME", str(maze_data))
    assert find_dataset(MAZE, "~") == maze_data / FILE
    assert len(load_dataset(MAZE, dataset_path=f"~/{FILE}")["rows"]) == 5


# Shards


@pytest.fixture
def shards(tmp_path, monkeypatch) -> Path:
    """Three shards of seven rows each; two of them are used.

    The last trajectory of the first shard is cut.
    """
    monkeypatch.setitem(dataset_files.SHARDS, "pointmaze-medium-navigate", 2)
    folder = tmp_path / "pointmaze-medium-navigate-100m-v0"
    folder.mkdir()
    for index in range(3):
        rows = maze_rows(seed=index)
        rows["terminals"][-1] = index != 0
        np.savez(folder / f"pointmaze-medium-navigate-v0-{index:03d}.npz", **rows)
        np.savez(
            folder / f"pointmaze-medium-navigate-v0-{index:03d}-val.npz",
            **maze_rows((2,), seed=9),
        )
    return tmp_path


def test_shards_are_memory_mapped_in_order(shards):
    data = load_dataset(MAZE, shards)
    expected = np.concatenate(
        [maze_rows(seed=0)["observations"], maze_rows(seed=1)["observations"]]
    )
    np.testing.assert_array_equal(data["observations"], expected)
    np.testing.assert_array_equal(data["rows"], [0, 1, 3, 4, 5, 7, 8, 10, 11, 12])
    np.testing.assert_array_equal(
        data["terminals"][data["rows"]], [0, 1, 0, 0, 1, 0, 1, 0, 0, 1]
    )
    assert isinstance(data["observations"], np.memmap) and isinstance(
        data["actions"], np.memmap
    )


def test_work_on_shards_shows_its_progress(shards, printed, monkeypatch):
    load_dataset(MAZE, shards / SHARD_FOLDER)
    assert printed().err == ""  # it took less than a minute
    monkeypatch.setattr(progress, "SECONDS_PER_LINE", 0)
    load_dataset(MAZE, dataset_path=shards / SHARD_FOLDER)
    lines = printed().err
    assert "converting shards: 2/3 files in " in lines
    assert "computing rewards: 21/21 rows in " in lines


def test_shards_are_converted_once_until_they_change(shards, monkeypatch):
    load_dataset(MAZE, shards)
    monkeypatch.setattr("envs.datasets.READER_VERSION", -1)  # reads them as before
    folder = shards / "pointmaze-medium-navigate-100m-v0"
    (arrays,) = folder.glob("arrays-*")
    converted = (arrays / "observations.npy").stat().st_mtime_ns
    load_dataset(MAZE, shards, proportion=0.5)
    assert (arrays / "observations.npy").stat().st_mtime_ns == converted
    assert list(folder.glob("arrays-*")) == [arrays]

    changed = maze_rows((8, 8), seed=5)
    np.savez(folder / "pointmaze-medium-navigate-v0-001.npz", **changed)
    np.testing.assert_array_equal(
        load_dataset(MAZE, shards)["observations"][7:], changed["observations"]
    )


@pytest.fixture(scope="module")
def scene_rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    collect_random(SCENE, folder, 60, episode_steps=20)
    with np.load(folder / "scene-play-v0.npz") as file:
        return dict(file)


def scene_shards(folder, rows, *types):
    """Write the same rows as shards whose buttons are stored in these types."""
    folder.mkdir()
    for i, kind in enumerate(types):
        rows = rows | {"button_states": rows["button_states"].astype(kind)}
        np.savez(folder / f"scene-play-v0-{i:03d}.npz", **rows)
    return folder


@pytest.mark.parametrize("types", [("<i4", "<i8"), ("<i8", ">i8"), ("<i8", "u1")])
def test_shards_may_store_integers_in_different_types(types, scene_rows, tmp_path):
    same = scene_shards(tmp_path / "same", scene_rows, "<i8", "<i8")
    folder = scene_shards(tmp_path / "other", scene_rows, *types)
    expected = load_dataset(SCENE, dataset_path=same)
    data = load_dataset(SCENE, dataset_path=folder)
    assert len(np.unique(expected["rewards"])) > 1
    for name, array in expected.items():
        np.testing.assert_array_equal(data[name], array)


def test_a_wrong_task_leaves_shards_that_the_right_one_can_read(scene_rows, tmp_path):
    folder = scene_shards(tmp_path / "shards", scene_rows, "<i8")
    for _ in range(2):
        with pytest.raises(UserError, match="dataset of another environment"):
            load_dataset("cube-double-play-singletask-task1-v0", dataset_path=folder)
    assert len(load_dataset(SCENE, dataset_path=folder)["rows"]) == 60
    (arrays,) = folder.glob("arrays-*")
    (arrays / "button_states.npy").unlink()  # as earlier versions left them
    with pytest.raises(UserError, match=f"{arrays} lacks button_states; delete it"):
        load_dataset(SCENE, dataset_path=folder)


def test_a_failed_conversion_leaves_no_arrays(shards):
    folder = shards / "pointmaze-medium-navigate-100m-v0"
    intact = (folder / "pointmaze-medium-navigate-v0-001.npz").read_bytes()
    (folder / "pointmaze-medium-navigate-v0-001.npz").write_bytes(intact[:-100])
    with pytest.raises(UserError, match="v0-001.npz is truncated"):
        load_dataset(MAZE, shards)
    assert not [path for path in folder.iterdir() if path.is_dir()]
    (folder / "pointmaze-medium-navigate-v0-001.npz").write_bytes(intact)
    assert len(load_dataset(MAZE, shards)["rows"]) == 10


def test_the_folder_of_shards_itself_may_be_given(shards):
    folder = shards / "pointmaze-medium-navigate-100m-v0"
    assert find_dataset(MAZE, folder) == folder
    assert len(load_dataset(MAZE, folder)["rows"]) == 10
    # all shards of a given path are read
    assert len(load_dataset(MAZE, dataset_path=folder)["rows"]) == 15


SHARD_FOLDER = "pointmaze-medium-navigate-100m-v0"


def test_the_files_of_a_dataset_are_those_that_are_read(shards):
    """The cached checksum depends on them, so it is another one if more shards are read."""
    used, named = (
        files_of(MAZE, shards, None),
        files_of(MAZE, shards, shards / SHARD_FOLDER),
    )
    assert [path.name[-7:] for path in used] == ["000.npz", "001.npz"]
    assert [path.name[-7:] for path in named] == ["000.npz", "001.npz", "002.npz"]


def test_a_larger_release_does_not_replace_a_file_that_the_paper_uses(
    shards, monkeypatch
):
    np.savez(shards / FILE, **maze_rows((8, 8)))
    assert find_dataset(MAZE, shards) == shards / SHARD_FOLDER
    monkeypatch.delitem(dataset_files.SHARDS, "pointmaze-medium-navigate")
    assert find_dataset(MAZE, shards) == shards / FILE
    assert files_of(MAZE, shards, None) == [shards / FILE]
    (shards / FILE).unlink()
    assert find_dataset(MAZE, shards) == shards / SHARD_FOLDER


def as_nobody(*command):
    """Run a command as a user who, unlike root, cannot write to read-only folders."""
    drop = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override"]
    return subprocess.run(
        [*(drop if os.geteuid() == 0 else []), *command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_shards_in_a_read_only_folder_are_converted_elsewhere(shards, tmp_path):
    folder, arrays = shards / SHARD_FOLDER, tmp_path / "new" / "arrays"
    load = (
        "import sys; from utils.errors import UserError\n"
        "from envs import dataset_files, datasets\n"
        "dataset_files.SHARDS['pointmaze-medium-navigate'] = 2\n"
        f"try: data = datasets.load_dataset({MAZE!r}, {str(shards)!r}, arrays_dir=sys.argv[1])\n"
        "except UserError as error: sys.exit(str(error))\n"
        "print(len(data['rows']), data['observations'].filename)"
    )
    before = sorted(folder.iterdir())
    folder.chmod(0o555)
    (tmp_path / "closed").mkdir(mode=0o555)
    try:
        refused = as_nobody(sys.executable, "-c", load, "")
        found = as_nobody(sys.executable, "-c", load, arrays)
        closed = as_nobody(sys.executable, "-c", load, tmp_path / "closed")
    finally:
        folder.chmod(0o755)
        (tmp_path / "closed").chmod(0o755)
    assert re.fullmatch(
        rf"--ogbench_dataset_dir: cannot write {folder}/arrays-\w+ \(Permission denied\); give"
        r" --arrays_dir=FOLDER for the arrays, which take as much room as the data\n",
        refused.stderr,
    )
    count, place = found.stdout.split()
    assert count == "10" and Path(place).parents[1] == arrays
    assert closed.stderr.startswith(
        f"--arrays_dir: cannot write {tmp_path}/closed/arrays-"
    )
    assert "; give another folder, which" in closed.stderr
    assert sorted(folder.iterdir()) == before


def test_arrays_of_several_datasets_share_a_folder_and_those_next_to_shards_come_first(
    shards,
):
    place = shards / "arrays"
    shutil.copytree(shards / SHARD_FOLDER, shards / "other", copy_function=shutil.copy2)
    for _ in range(2):  # the second time the arrays exist
        for folder in (SHARD_FOLDER, "other"):
            data = load_dataset(MAZE, dataset_path=shards / folder, arrays_dir=place)
            assert Path(data["observations"].filename).is_relative_to(place)
    assert len(list(place.glob("arrays-*"))) == 2 and len(list(place.iterdir())) == 2
    local = load_dataset(MAZE, dataset_path=shards / "other")["observations"].filename
    again = load_dataset(MAZE, dataset_path=shards / "other", arrays_dir=place)
    assert Path(local).parents[1] == shards / "other"
    assert again["observations"].filename == local


def test_shards_are_found_among_other_datasets(shards):
    for path in (shards / "pointmaze-medium-navigate-100m-v0").glob("*.npz"):
        shutil.move(path, shards / path.name)
    np.savez(shards / "scene-play-v0-000.npz", observations=np.zeros(1))
    assert (
        find_dataset(MAZE, shards) == shards
        and len(load_dataset(MAZE, shards)["rows"]) == 10
    )


def test_a_dataset_that_lacks_a_shard_is_refused(shards):
    (
        shards
        / "pointmaze-medium-navigate-100m-v0"
        / "pointmaze-medium-navigate-v0-001.npz"
    ).unlink()
    (
        shards
        / "pointmaze-medium-navigate-100m-v0"
        / "pointmaze-medium-navigate-v0-002.npz"
    ).unlink()
    with pytest.raises(UserError, match="v0-001.npz could not be downloaded"):
        load_dataset(MAZE, shards)


# Messages without a network; tests/envs/test_download.py tests the downloads


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "scene",
            (
                "make it: python scripts/make_data.py --env_name=scene-play"
                " --ogbench_dataset_dir={folder}"
            ),
        ),
        (MAZE, "python scripts/make_data.py --env_name=pointmaze-medium-navigate"),
        (
            "cube-quadruple",
            (
                "--env_name=cube-quadruple-play --ogbench_dataset_dir={folder}"
                " --transitions=100000000"
            ),
        ),
        ("antmaze-large", "scripts/make_data.py cannot make it"),
        (
            "scene",
            "scripts/download.py --env_name=scene-play --data --ogbench_dataset_dir={folder} [",
        ),
        (
            "antmaze-large",
            "or bring http://127.0.0.1:9/antmaze-large-navigate-v0.npz to {folder} [",
        ),
        (
            "antmaze-giant",
            (
                "bring http://127.0.0.1:9/datasets/yonghoon96/antmaze-giant-navigate-10m-v0 to "
                "{folder}/antmaze-giant-navigate-10m-v0 ["
            ),
        ),
    ],
)
def test_the_error_for_a_missing_dataset_says_how_to_get_it(name, message, tmp_path):
    with pytest.raises(UserError) as error:
        find_dataset(name, tmp_path / "none")
    text = str(error.value)
    assert (
        text.startswith("--ogbench_dataset_dir: ")
        and "\n" not in text
        and "refused" in text
    )
    assert message.format(folder=tmp_path / "none") in text
    assert not (tmp_path / "none").exists() or not any((tmp_path / "none").iterdir())


def test_the_command_for_a_missing_dataset_can_be_pasted(tmp_path):
    folder = tmp_path / "a folder"
    with pytest.raises(UserError) as error:
        find_dataset("scene", folder)
    command = str(error.value).partition("make it: ")[2].partition(", or fetch")[0]
    assert shlex.split(command)[-1] == f"--ogbench_dataset_dir={folder}"


# Wrong files


def without(*keys):
    return lambda rows: {key: value for key, value in rows.items() if key not in keys}


def changed(**values):
    return lambda rows: rows | {key: value(rows[key]) for key, value in values.items()}


def nan(value):
    value = value.copy()
    value[2] = np.nan
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("actions", "qpos"),
            "lacks actions, qpos; it holds observations, terminals",
        ),
        (changed(actions=lambda a: a[:-1]), r"holds actions of shape \(6, 2\)"),
        (
            changed(observations=lambda o: o[:, 0]),
            r"holds observations of shape \(7,\)",
        ),
        (changed(terminals=lambda t: t[:, None]), r"holds terminals of shape \(7, 1\)"),
        (changed(observations=lambda o: o.astype(str)), "and type <U"),
        (
            changed(actions=lambda a: 2 * a),
            r"holds actions up to 1\.\d+ \(\d of 14 numbers beyond",
        ),
        (
            changed(observations=lambda o: o.astype(np.float64) + 1e39),
            "observations up to 1e.39, more than float32",
        ),
        (changed(terminals=lambda t: t * 0.5), "holds terminals other than 0 and 1"),
        (
            lambda rows: rows | {"rewards": np.zeros(7)},
            "holds rewards, which is not read for OGBench's tasks",
        ),
        (changed(observations=nan), "holds NaN or infinite numbers in observations"),
        (changed(actions=nan), "holds NaN or infinite numbers in actions"),
        (changed(terminals=np.ones_like), "holds no transition"),
        (
            changed(observations=lambda o: np.tile(o, 2)),
            "another environment: its observations have 4 columns",
        ),
        (
            changed(actions=lambda a: np.tile(a, 3)),
            "another environment: its actions have 6 columns",
        ),
        (
            changed(qpos=lambda q: np.tile(q, 2)),
            "another environment: its qpos have 4 columns",
        ),
        (
            changed(qpos=lambda q: q + [8, 0]),
            "another maze: its positions lie in the walls of pointmaze-medium",
        ),
        (changed(qpos=lambda q: q + [900, 0]), "another maze"),
        (
            changed(observations=lambda o: np.array([{}] * 7, object)),
            "truncated or not an npz file",
        ),
    ],
)
def test_wrong_contents_are_refused_in_one_line(change, message, tmp_path):
    np.savez(tmp_path / FILE, **change(maze_rows()))
    with pytest.raises(UserError, match=message) as error:
        load_dataset(MAZE, tmp_path)
    assert str(error.value).startswith(f"--ogbench_dataset_dir: {tmp_path / FILE} ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"hello", "half"], ids=["empty", "text", "truncated"]
)
def test_a_broken_file_is_refused(content, maze_data):
    intact = (maze_data / FILE).read_bytes()
    (maze_data / FILE).write_bytes(
        intact[: len(intact) // 2] if content == "half" else content
    )
    with pytest.raises(
        UserError,
        match="is truncated or not an npz file .*; delete it and fetch or make it again",
    ):
        load_dataset(MAZE, maze_data)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            MemoryError("no 4 GiB"),
            "does not fit into memory (no 4 GiB); give the program",
        ),
        (
            PermissionError(13, "Permission denied"),
            "cannot be read (Permission denied); ",
        ),
        (OSError(116, "Stale file handle"), "cannot be read (Stale file handle); "),
    ],
)
def test_no_file_is_called_damaged_that_only_this_machine_cannot_read(
    error, message, maze_data, monkeypatch
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(UserError) as caught:
        load_dataset(MAZE, maze_data)
    text = str(caught.value)
    assert message in text and "truncated" not in text and "delete" not in text


# ---------------------------------------------------------------- damaged files


def member(descr="'<f4'", shape="(7, 2)", data=b"", magic=b"\x93NUMPY\x01\x00"):
    """A member of an npz file, with the given header."""
    header = (
        f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    )
    return magic + struct.pack("<H", len(header)) + header + data


def archive(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as opened:
        for name, content in members.items():
            opened.writestr(f"{name}.npy", content)
    return file.getvalue()


def array_member(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array))
    return file.getvalue()


# replacements for an array [7, 2] of float32
MEMBERS = {
    "nothing": b"",
    "text": b"hello",
    "a cut header": member()[:20],
    "a version of the future": member(magic=b"\x93NUMPY\x09\x00"),
    "petabytes": member(shape=f"({10**15},)"),
    "more than there are numbers": member(shape=f"({2**62}, {2**62})"),
    "an endless empty array": member(shape=f"({10**19}, 0)"),
    "negative": member(shape="(-1, 2)"),
    "no shape": member(shape="7"),
    "a nested shape": member(shape="((7,), 2)"),
    "parentheses": member(descr="(" * 3000 + ")" * 3000),
    "objects": member(descr="'|O'", data=b"x" * 99),
    "fields": member(descr="[('a', '<f4')]", shape="(7,)", data=b"x" * 28),
    "dates": member(descr="'<M8[s]'", data=b"x" * 112),
    "complex": member(descr="'<c8'", data=b"x" * 112),
    "words": member(descr="'<U1'", data=b"a\0\0\0" * 14),
    "half the numbers": member(data=b"x" * 28),
    "not finite": member(descr="'<f2'", data=b"\xff" * 28),
    "beyond float32": array_member(np.full((7, 2), 1e300)),
    "one number": array_member(np.float32(1)),
    "no rows": array_member(np.zeros((0, 2), np.float32)),
    "three dimensions": array_member(np.zeros((7, 2, 1), np.float32)),
}


@pytest.mark.parametrize("name", ["observations", "actions", "terminals", "qpos"])
@pytest.mark.parametrize("what", MEMBERS)
def test_a_member_that_is_no_array_of_numbers_is_refused_in_one_line(
    name, what, tmp_path
):
    members = {key: array_member(array) for key, array in maze_rows().items()}
    (tmp_path / FILE).write_bytes(archive(members | {name: MEMBERS[what]}))
    with pytest.raises(UserError) as caught:
        load_dataset(MAZE, tmp_path)
    assert str(caught.value).startswith(f"--ogbench_dataset_dir: {tmp_path / FILE} ")
    assert one_line(caught.value) == str(caught.value)


@pytest.fixture(scope="module")
def maze_env():
    """One environment for all files: creating it takes longer than reading a file."""
    with contextlib.closing(make_env(MAZE)) as env:
        yield env


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    compression=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=5
    ),
    cut=st.integers(0, 1 << 16) | st.none(),
)
def test_a_file_with_changed_bytes_is_read_or_refused_in_one_line(
    compression, changes, cut, tmp_path, maze_env, monkeypatch
):
    monkeypatch.setattr(datasets, "make_env", lambda *_, **__: maze_env)
    monkeypatch.setattr(maze_env, "close", lambda: None)
    members = {key: array_member(array) for key, array in maze_rows().items()}
    content = bytearray(archive(members, compression))
    for place, value in changes:
        content[place % len(content)] = value
    if cut is not None:
        del content[cut % len(content) :]
    (tmp_path / FILE).write_bytes(content)
    try:
        assert load_dataset(MAZE, tmp_path)["observations"].dtype == np.float32
    except UserError as error:
        assert one_line(error).startswith(f"--ogbench_dataset_dir: {tmp_path / FILE} ")
        assert one_line(error).isprintable()


def test_a_single_array_is_refused_as_an_npz_file(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    os.replace(tmp_path / "a.npy", tmp_path / FILE)
    with pytest.raises(UserError, match=r"not an npz file \(a single array\)"):
        load_dataset(MAZE, tmp_path)
    assert collection_settings(tmp_path / FILE) is None


def test_a_dataset_of_another_robot_is_refused(cube_data):
    with pytest.raises(UserError, match="lacks button_states"):
        load_dataset(
            "scene-play-singletask-task1-v0",
            dataset_path=cube_data / "cube-single-play-v0.npz",
        )
    with pytest.raises(
        UserError,
        match=r"--dataset: .* its observations have 28 columns, those of .* 37",
    ):
        load_dataset(
            "cube-double-play-singletask-task1-v0",
            dataset_path=cube_data / "cube-single-play-v0.npz",
        )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"proportion": 0.0}, "--dataset_proportion must lie in"),
        ({"proportion": 1.5}, "--dataset_proportion"),
        (
            {"dataset_path": "/no/such/file.npz"},
            "--dataset: /no/such/file.npz does not exist",
        ),
        (
            {"dataset_path": FILE, "dataset_layout": "flat"},
            "--dataset_layout=flat is only for your own data",
        ),
        ({"action_scale": 2.0}, "--action_scale=2.0 is only for your own data"),
    ],
)
def test_wrong_arguments_are_refused(maze_data, kwargs, message):
    with pytest.raises(UserError, match=message):
        load_dataset(MAZE, maze_data, **kwargs)


def test_a_file_given_as_the_folder_is_refused(maze_data):
    with pytest.raises(UserError, match="is a file; give its folder, or --dataset="):
        load_dataset(MAZE, maze_data / FILE)


# Collected data


def test_collected_data_of_a_maze_loads(tmp_path):
    collect("pointmaze-teleport", tmp_path, 200, 1)
    data = load_dataset("pointmaze-teleport-navigate-singletask-task4-v0", tmp_path)
    assert len(data["rows"]) == 200 and np.sum(data["terminals"][data["rows"]]) == 1
