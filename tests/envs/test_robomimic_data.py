"""Reading robomimic's files: order, scaling, rewards, masks, the recipe, and errors."""

import json
import sys

import h5py
import numpy as np
import pytest

from envs.datasets import load_dataset, load_recipe
from envs.fingerprint import fingerprint
from envs.robomimic_data import (
    Recipe,
    made_settings,
    observation_keys,
    write_demonstrations,
)
from envs.tasks import folder_flag, resolve_env_name
from utils.errors import UserError

LIFT = "lift-mh-low_dim"
WIDTHS = {
    "robot0_eef_pos": 3,
    "robot0_eef_quat": 4,
    "robot0_gripper_qpos": 2,
    "object": 10,
}
KWARGS = {"robots": ["Panda"], "control_freq": 20, "has_renderer": False}
LENGTHS = [3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 4, 2]  # of demo_0 ... demo_11


def demonstration(number, length):
    """The arrays of a demonstration.

    Observations follow from 100 * number + t in step t, and next_obs from one more. The first
    entry of `object` is constant in the file.
    """
    steps = 100.0 * number + np.arange(length + 1)
    arrays = {
        "actions": np.full((length, 7), number / 16),
        "rewards": np.zeros(length),
        "dones": np.zeros(length, np.int64),
        "states": np.zeros((length, 32)),
    }
    for place, (key, width) in enumerate(WIDTHS.items()):
        values = steps[:, None] * (place + 1) + np.arange(width)
        if key == "object":
            values[:, 0] = 0.5
        arrays |= {f"obs/{key}": values[:-1], f"next_obs/{key}": values[1:]}
        arrays[f"obs/unread_{key}"] = np.zeros((length, 3))
    return arrays


def write_file(path, changed=None, env_args=None):
    """Write a file in robomimic's layout with twelve demonstrations, in reverse order.

    changed: (name of a demonstration, name of an array, its value or None to leave it out).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        args = {
            "env_name": "Lift",
            "env_version": "1.5.1",
            "type": 1,
            "env_kwargs": KWARGS,
        }
        data.attrs["env_args"] = json.dumps(env_args or args)
        data.attrs["total"] = sum(LENGTHS)
        for number in reversed(range(len(LENGTHS))):
            arrays = demonstration(number, LENGTHS[number])
            if number == 0:  # success in the last row and in the one before it
                arrays["rewards"][1:] = arrays["dones"][1:] = 1
            if changed and changed[0] == f"demo_{number}":
                arrays[changed[1]] = changed[2]
            for name, value in arrays.items():
                if value is not None:
                    data.create_dataset(f"demo_{number}/{name}", data=value)
        file.create_dataset("mask/train", data=np.array([b"demo_0", b"demo_10"]))
    return path


@pytest.fixture
def folder(tmp_path):
    write_file(tmp_path / "lift" / "mh" / "low_dim_v15.hdf5")
    return tmp_path


def load(folder, **kwargs):
    return load_dataset(LIFT, folder, environment=False, **kwargs)


def test_demonstrations_are_read_in_the_order_of_their_numbers(folder):
    data = load(folder)
    rows = data["rows"]
    assert len(rows) == sum(LENGTHS)
    numbers = np.round(data["actions"][rows, 0] * 16).astype(int)
    assert numbers.tolist() == np.repeat(range(12), LENGTHS).tolist()
    assert data["actions"].shape[1] == 7


def test_the_scaling_covers_obs_and_next_obs_of_all_demonstrations(folder):
    data = load(folder)
    rows = data["rows"]
    # robot0_eef_pos[0] is 100 * number + t, from 0 to 1102 (the last next_obs of demo_11)
    raw = np.concatenate(
        [100.0 * n + np.arange(length) for n, length in enumerate(LENGTHS)]
    )
    expected = 2 * (raw / (1102 + 1e-6) - 0.5)
    np.testing.assert_array_equal(
        data["observations"][rows, 0], expected.astype(np.float32)
    )
    following = 2 * ((raw + 1) / (1102 + 1e-6) - 0.5)
    np.testing.assert_array_equal(
        data["observations"][rows + 1, 0], following.astype(np.float32)
    )
    # robot0_gripper_qpos[1] is 3 * (100 * number + t) + 1, from 1 to 3307
    gripper = 2 * ((3 * raw + 1 - 1) / (3306 + 1e-6) - 0.5)
    np.testing.assert_array_equal(
        data["observations"][rows, 8], gripper.astype(np.float32)
    )
    assert np.all(data["observations"][:, 9] == -1)  # the constant: 2 (0 / 1e-6 - 0.5)
    assert data["observations"].shape[1] == 19
    assert data["observations"].min() == -1 and data["observations"].max() <= 1


def test_rewards_masks_and_terminals(folder):
    data = load(folder)
    rows = data["rows"]
    ends = np.cumsum(LENGTHS) - 1
    assert data["rewards"][rows].tolist() == [-1, 0, 0] + [-1] * 24
    # masks are 1 - dones: a success in the middle ends the task as well
    assert data["masks"][rows].tolist() == [1, 0, 0] + [1] * 24
    # terminals are dones and the last row of every demonstration
    assert np.flatnonzero(data["terminals"][rows]).tolist() == [1, *ends.tolist()]


def test_the_recipe_says_how_to_make_the_environment(folder):
    recipe = load_recipe(LIFT, folder)
    assert recipe[:4] == ("Lift", "1.5.1", KWARGS, list(WIDTHS))
    assert recipe.low[:3] == [0, 1, 2] and recipe.high[:3] == [1102, 1103, 1104]
    assert recipe.low[9] == recipe.high[9] == 0.5
    stored = json.loads(json.dumps(recipe._asdict()))
    assert Recipe.from_record(stored) == recipe
    assert load_recipe("scene-play-singletask-task1-v0") is None
    low = recipe.scale(np.array(recipe.low, np.float32))
    np.testing.assert_array_equal(low, np.full(19, -1, np.float32))


def test_two_robots_are_both_observed():
    keys = observation_keys({"robots": ["Panda", "Panda"]})
    assert keys == [
        *("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
        *("robot1_eef_pos", "robot1_eef_quat", "robot1_gripper_qpos"),
        "object",
    ]
    assert observation_keys({"robots": "Panda"}) == list(WIDTHS)


def test_dataset_names_a_file_and_a_proportion_keeps_its_start(folder, tmp_path):
    named = (tmp_path / "lift" / "mh" / "low_dim_v15.hdf5").rename(tmp_path / "x.hdf5")
    data = load("/nowhere", dataset_path=named, proportion=0.5)
    assert len(data["rows"]) == 13
    complete = load("/nowhere", dataset_path=named)
    np.testing.assert_array_equal(
        data["observations"], complete["observations"][: len(data["observations"])]
    )


def test_changed_demonstrations_have_another_fingerprint(folder, tmp_path):
    before = fingerprint(load(folder))
    path = tmp_path / "lift" / "mh" / "low_dim_v15.hdf5"
    with h5py.File(path, "a") as file:
        file["data/demo_3/dones"][1] = 1
    after = fingerprint(load(folder))
    assert before.behaviour == after.behaviour and before.task != after.task
    with h5py.File(path, "a") as file:
        file["data/demo_3/next_obs/object"][1, 3] = 1e6  # changes the scaling
    assert fingerprint(load(folder)).behaviour != before.behaviour


@pytest.mark.parametrize(
    ("changed", "env_args", "message"),
    [
        (("demo_10", "obs/object", None), None, "lacks obs/object in /data/demo_10; give"),
        (("demo_2", "rewards", np.zeros(9)), None, "of /data/demo_2 do not all have the same number of rows"),
        (("demo_2", "actions", np.full((2, 7), 1.5)), None, "actions up to 1.5"),
        (("demo_2", "dones", np.array([0, 2])), None, "masks outside"),
        (("demo_2", "obs/object", np.full((2, 10), np.nan)), None, "holds NaN or infinite"),
        (("demo_2", "obs/object", np.zeros((2, 4))), None, "damaged or no file of robomimic"),
        (("demo_2", "actions", np.zeros((2, 3))), None, "damaged or no file of robomimic"),
        (None, {"env_name": "PickPlaceCan", "env_kwargs": {}}, "its own is PickPlaceCan, that of lift-mh-low_dim Lift"),
        (None, {"env_name": "Lift", "env_kwargs": KWARGS | {"reward_shaping": True}}, "made for shaped rewards"),
        (None, {"env_kwargs": {}}, "env_args is not robomimic's JSON"),
    ],
)  # fmt: skip
def test_wrong_contents_are_refused_in_one_line(tmp_path, changed, env_args, message):
    path = write_file(tmp_path / "file.hdf5", changed, env_args)
    with pytest.raises(UserError, match=message) as caught:
        load("/nowhere", dataset_path=path)
    assert str(caught.value).startswith(f"--dataset: {path}")
    assert "\n" not in str(caught.value)


def test_files_without_demonstrations_are_refused(tmp_path):
    path = tmp_path / "file.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros(3)
    with pytest.raises(UserError, match="not a robomimic file: it has no group 'data'"):
        load("/nowhere", dataset_path=path)
    with h5py.File(path, "a") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {}})
    with pytest.raises(UserError, match="holds no demonstrations"):
        load("/nowhere", dataset_path=path)
    with h5py.File(path, "a") as file:
        file.create_group("data/extra")
    with pytest.raises(
        UserError, match="holds data/extra, which is not a demonstration"
    ):
        load("/nowhere", dataset_path=path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="is damaged or no file of robomimic"):
        load("/nowhere", dataset_path=path)
    with pytest.raises(UserError, match="is not a file; give an HDF5 file"):
        load("/nowhere", dataset_path=tmp_path)


def test_a_missing_file_is_one_line_with_the_ways_to_get_it(tmp_path):
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    message = str(caught.value)
    path = tmp_path / "lift" / "mh" / "low_dim_v15.hdf5"
    assert message.startswith(f"--robomimic_dataset_dir: {path} is missing;")
    fetch = f"--tasks lift --dataset_types mh --hdf5_types low_dim --download_dir {tmp_path}"
    assert f"python -m robomimic.scripts.download_datasets {fetch}" in message
    assert "scripts/make_data.py --env_name=lift-mh-low_dim" in message
    assert "\n" not in message
    with pytest.raises(UserError) as caught:
        load_dataset("square-ph-low_dim", tmp_path)
    assert f"{tmp_path / 'square' / 'ph' / 'low_dim_v15.hdf5'} is" in str(caught.value)
    assert "make_data" not in str(caught.value)


def test_settings_of_own_data_are_refused(folder):
    with pytest.raises(
        UserError, match="--dataset_layout=flat is only for your own data"
    ):
        load(folder, dataset_layout="flat")
    with pytest.raises(UserError, match="--action_scale=2.0 is only for your own data"):
        load(folder, action_scale=2.0)


def test_without_h5py_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"needs h5py: pip install '.\[robomimic\]'"):
        load(folder)


def test_written_demonstrations_can_be_read(tmp_path):
    parts = []
    for number in range(11):
        parts.append(tmp_path / f"{number}.npz")
        np.savez(parts[-1], **demonstration(number, 2))
    path = tmp_path / "file.hdf5"
    env_args = {"env_name": "Lift", "env_version": "1.5.1", "env_kwargs": KWARGS}
    write_demonstrations(parts, path, env_args, {"seed": 3})
    data = load("/nowhere", dataset_path=path)
    assert np.round(data["actions"][data["rows"], 0] * 16).tolist() == [
        number for number in range(11) for _ in range(2)
    ]
    assert made_settings(path) == {"seed": 3}
    assert made_settings(write_file(tmp_path / "other.hdf5")) is None
    with h5py.File(path) as file:
        assert file["data"].attrs["total"] == 22
        assert file["data/demo_10"].attrs["num_samples"] == 2


def test_names_of_robomimics_tasks():
    three = ["lift-mh-low_dim", "can-mh-low_dim", "square-mh-low_dim"]
    assert resolve_env_name("robomimic") == three
    assert resolve_env_name("tool_hang-ph-low_dim") == ["tool_hang-ph-low_dim"]
    assert folder_flag("can-ph-low_dim") == "robomimic_dataset_dir"
    for wrong in ("lift", "lift-mh", "lift-mh-image", "tool_hang-mh-low_dim"):
        with pytest.raises(UserError, match="nearest name is '[a-z_]+-[mp]h-low_dim'"):
            resolve_env_name(wrong)
