"""A user's own data: both layouts, every kind of file, what is refused, and what is said of
what is not used.
"""

import itertools
import pickle

import gymnasium
import h5py
import minari
import numpy as np
import pytest

from envs.datasets import load_dataset
from envs.probe import write_dataset
from utils.errors import UserError

NAME = f"{__name__}:Users-v0"


class UsersEnv(gymnasium.Env):
    """A walk of four steps; the second of the two numbers of an observation names the episode."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    episodes = itertools.count()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.steps = next(self.episodes), 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        done = self.steps == 4
        return (
            self._observation(),
            float(done),
            done and self.episode % 2 == 0,
            done,
            {},
        )

    def _observation(self):
        return np.array([self.steps, self.episode], np.float32)


@pytest.fixture(autouse=True)
def users_env():
    gymnasium.register("Users-v0", UsersEnv, disable_env_checker=True)
    yield
    gymnasium.registry.pop("Users-v0")


def flat(episodes=2, steps=3, **changed):
    """Rows (s, a, r, terminal): reward 1 in the last row of each episode, 0 before;
    observations count the rows.
    """
    rows = episodes * steps
    last = np.arange(rows) % steps == steps - 1
    observations = np.stack(
        [np.arange(rows), np.repeat(np.arange(episodes), steps)], axis=1
    ).astype(float)
    arrays = {
        "observations": observations,
        "actions": np.linspace(-0.9, 0.9, rows)[:, None],
    }
    arrays |= {"rewards": last.astype(float), "terminals": last.astype(float)}
    return {
        name: value for name, value in (arrays | changed).items() if value is not None
    }


def ogbench(**changed):
    """Two trajectories of three and four states; the first one succeeds in its last transition."""
    masks = np.array([1, 0, 1, 1, 1, 1, 1.0])
    terminals = np.array([0, 0, 1, 0, 0, 0, 1.0])
    rewards = np.array([-1, 0, 0, -1, -1, -1, 0.0])
    arrays = {
        "observations": np.arange(14.0).reshape(7, 2),
        "actions": np.full((7, 1), -1.0),
    }
    arrays |= {"rewards": rewards, "masks": masks, "terminals": terminals}
    return {
        name: value for name, value in (arrays | changed).items() if value is not None
    }


def load(tmp_path, arrays, **settings):
    np.savez(tmp_path / "mine.npz", **arrays)
    return load_dataset(NAME, dataset_path=tmp_path / "mine.npz", **settings)


def transitions(data):
    """What starts in the rows that start a transition, and the first number of the next
    observation.
    """
    rows = data["rows"]
    found = {
        name: data[name][rows].tolist() for name in ("rewards", "masks", "terminals")
    }
    return found | {"next": data["observations"][rows + 1, 0].tolist()}


# The flat layout


@pytest.mark.parametrize("with_masks", [False, True])
def test_a_flat_file_keeps_the_last_transition_of_each_episode(
    tmp_path, printed, with_masks
):
    arrays = flat()
    data = load(
        tmp_path, arrays | ({"masks": 1 - arrays["terminals"]} if with_masks else {})
    )
    found = transitions(data)
    assert found["rewards"] == [0, 0, 1, 0, 0, 1]
    assert found["masks"] == [1, 1, 0, 1, 1, 0] and found["terminals"] == [
        0,
        0,
        1,
        0,
        0,
        1,
    ]
    assert found["next"][:2] == [1, 2] and found["next"][3:5] == [4, 5]
    np.testing.assert_allclose(
        data["actions"][data["rows"], 0], np.linspace(-0.9, 0.9, 6), atol=1e-7
    )
    out, err = printed()
    assert "6 transitions in 2 trajectories, layout flat (a terminal row has" in out
    assert ("2 terminal rows are taken to end the task" in err) is not with_masks


@pytest.mark.parametrize(
    "key", ["timeouts", "truncations", "truncateds", "dones_float"]
)
def test_time_limits_end_episodes_and_say_what_they_cost(tmp_path, printed, key):
    """Without next observations the last transition of an episode that goes on cannot be used;
    its state can.
    """
    arrays = flat(4, 5, terminals=np.zeros(20), rewards=np.ones(20))
    data = load(tmp_path, arrays | {key: np.arange(20) % 5 == 4})
    rows = data["rows"]
    assert len(rows) == 16 and (data["masks"][rows] == 1).all()
    assert (data["observations"][rows, 1] == data["observations"][rows + 1, 1]).all()
    assert transitions(data)["terminals"] == [0, 0, 0, 1] * 4
    out, err = printed()
    assert f"layout flat (it holds {key})" in out
    assert (
        "4 transitions at a time limit are left out" in err
        and "rewards sum to 4" in err
    )


def test_next_observations_keep_every_transition(tmp_path, printed):
    arrays = flat(2, 3, terminals=np.array([0, 0, 1, 0, 0, 0.0]))
    following = arrays["observations"] + [1, 0]
    data = load(
        tmp_path,
        arrays
        | {"next_observations": following, "timeouts": np.array([0, 0, 0, 0, 0, 1])},
    )
    assert transitions(data)["next"] == following[:, 0].tolist()
    assert transitions(data)["masks"] == [1, 1, 0, 1, 1, 1] and transitions(data)[
        "terminals"
    ] == [0, 0, 1, 0, 0, 1]
    assert printed().err == ""


def test_a_jump_that_no_flag_marks_starts_a_new_trajectory(tmp_path, printed):
    arrays = flat(1, 6)
    following = arrays["observations"] + [1, 0]
    following[2, 0] = 99
    data = load(
        tmp_path,
        arrays | {"next_observations": following, "masks": 1 - arrays["terminals"]},
    )
    assert transitions(data)["next"] == [1, 2, 99, 4, 5, 6] and transitions(data)[
        "terminals"
    ] == [0, 0, 1, 0, 0, 1]
    assert "1 next_observations differ from the next row's observation" in printed().err


def test_an_unfinished_last_episode(tmp_path, printed):
    """Its last row has no next observation: it is the state in which the transition before it
    ends.
    """
    arrays = {name: value[:5] for name, value in flat().items()}
    data = load(tmp_path, arrays)
    assert (
        transitions(data)["rewards"] == [0, 0, 1, 0]
        and transitions(data)["next"][-1] == 4
    )
    assert "1 transitions at a time limit are left out" in printed().err


# The ogbench layout, and which it is


def test_a_final_row_starts_no_transition(tmp_path, printed):
    data = load(tmp_path, ogbench())
    np.testing.assert_array_equal(data["rows"], [0, 1, 3, 4, 5])
    assert transitions(data)["masks"] == [1, 0, 1, 1, 1]
    assert (
        np.all(data["actions"] == np.float32(-1 + 1e-5))
        and data["observations"].dtype == np.float32
    )
    assert (
        "layout ogbench (masks are 0 in rows before terminal rows alone)"
        in printed().out
    )


def test_a_probes_data_is_recognised(tmp_path):
    name = "envs.probe:ProbeChain-v0"
    data = load_dataset(
        name, dataset_path=write_dataset(name, tmp_path / "probe.npz", 60)
    )
    assert len(data["rows"]) == 60 and (data["masks"][data["rows"]] == 0).sum() == 10


@pytest.mark.parametrize(
    "arrays",
    [
        flat(rewards=np.zeros(6)),
        flat(rewards=np.zeros(6), masks=np.ones(6)),
        ogbench(masks=np.ones(7)),
        flat(
            rewards=np.array([-1, -1, 0, -1, -1, 0.0]),
            actions=np.array([[1], [1], [0], [1], [1], [0.0]]),
        ),
    ],
    ids=[
        "no rewards",
        "no mask of 0",
        "nothing succeeds",
        "final rows look like filler",
    ],
)
def test_an_ambiguous_file_is_refused_and_read_as_told(tmp_path, arrays):
    with pytest.raises(
        UserError,
        match="nothing in it shows its layout; give --dataset_layout=ogbench if .* or --data",
    ):
        load(tmp_path, arrays)
    rows = len(arrays["observations"])
    assert len(load(tmp_path, arrays, dataset_layout="ogbench")["rows"]) == rows - 2
    told = load(tmp_path, arrays, dataset_layout="flat")
    assert len(told["rows"]) == (rows - 2 if "masks" in arrays else rows)


def test_what_an_ogbench_file_does_not_use_is_said(tmp_path, printed):
    arrays = flat(masks=np.array([1, 1, 0, 1, 1, 1]))
    load(tmp_path, arrays, dataset_layout="ogbench")
    assert (
        "2 final rows hold a reward other than 0 or a mask of 0, which is not read"
        in printed().err
    )


def test_masks_that_end_every_transition_are_doubted(tmp_path, printed):
    load(tmp_path, ogbench(masks=np.array([0, 0, 1, 0, 0, 0, 1.0])))
    assert (
        "the mask of every transition is 0, in the middle of trajectories too: are masks"
        " inverted?" in printed().err
    )
    name = "envs.probe:ProbeReward-v0"  # whose episodes have one step
    load_dataset(name, dataset_path=write_dataset(name, tmp_path / "probe.npz", 20))
    assert printed().err == ""


@pytest.mark.parametrize(
    "change", [lambda t: t[:, None], lambda t: t.astype(str)], ids=["columns", "words"]
)
def test_wrong_terminals_are_refused_in_one_line_whatever_the_layout(tmp_path, change):
    for layout in ("auto", "ogbench", "flat"):
        with pytest.raises(UserError, match="holds terminals of shape"):
            load(
                tmp_path,
                ogbench(terminals=change(ogbench()["terminals"])),
                dataset_layout=layout,
            )


def test_final_rows_may_hold_nan(tmp_path):
    """Nothing reads their action and reward."""
    arrays = ogbench()
    for name in ("actions", "rewards", "masks"):
        arrays[name][[2, 6]] = np.nan
    data = load(tmp_path, arrays, dataset_layout="ogbench")
    assert all(np.isfinite(value).all() for value in data.values())
    with pytest.raises(UserError, match="NaN or infinite numbers in actions"):
        load(tmp_path, arrays, dataset_layout="flat")


# Files


def test_shards_of_both_layouts(tmp_path, printed):
    folder = tmp_path / "shards"
    folder.mkdir()
    np.savez(folder / "a.npz", **flat(rewards=np.zeros(6)))  # shows no layout by itself
    np.savez(folder / "b.npz", **flat())
    for _ in range(2):  # the second time from the converted arrays
        data = load_dataset(NAME, dataset_path=folder)
        assert transitions(data)["masks"] == [1, 1, 0] * 4 and isinstance(
            data["observations"], np.memmap
        )
        out, err = printed()
        assert (
            "12 transitions in 4 trajectories, layout flat" in out
            and "4 terminal rows are taken to end" in err
        )
    np.savez(folder / "c.npz", **ogbench())
    with pytest.raises(
        UserError, match="its shards are of both layouts; give --dataset_layout="
    ):
        load_dataset(NAME, dataset_path=folder)
    np.savez(folder / "c.npz", **flat(observations=np.zeros((6, 3))))
    with pytest.raises(
        UserError, match="c.npz and a.npz do not hold the same observations"
    ):
        load_dataset(NAME, dataset_path=folder)
    (folder / "b.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match="b.npz is damaged"):
        load_dataset(NAME, dataset_path=folder)
    assert (
        len([path for path in folder.iterdir() if path.is_dir()]) == 1
    )  # that of the two


def test_hdf5_in_d4rls_layout(tmp_path):
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        for name, value in flat(terminals=np.array([0, 0, 1, 0, 0, 0])).items():
            file.create_dataset(name, data=value, compression="gzip")
        file.create_dataset("timeouts", data=np.array([0, 0, 0, 0, 0, 1], bool))
        file.create_dataset("infos/qpos", data=np.zeros((6, 4)))
        file.create_dataset("metadata/algorithm", data=np.bytes_("SAC"))
    data = load_dataset(NAME, dataset_path=tmp_path / "d4rl.hdf5")
    assert transitions(data)["rewards"] == [0, 0, 1, 0, 0] and transitions(data)[
        "masks"
    ] == [
        1,
        1,
        0,
        1,
        1,
    ]
    with h5py.File(tmp_path / "d4rl.hdf5", "a") as file:
        file.create_dataset("extras/returns", data=np.zeros(6))
    with pytest.raises(UserError, match="holds the group extras; only arrays are read"):
        load_dataset(NAME, dataset_path=tmp_path / "d4rl.hdf5")


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_a_folder_that_minari_wrote(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    collector = minari.DataCollector(UsersEnv(), data_format="hdf5")
    for _ in range(12):  # more than nine, which sort by number and not by name
        collector.reset()
        for _ in range(4):
            collector.step(np.array([0.25], np.float32))
    collector.create_dataset(
        "walk/test-v0",
        algorithm_name="none",
        author="-",
        author_email="-",
        code_permalink="-",
    )
    data = load_dataset(NAME, dataset_path=tmp_path / "walk" / "test-v0")
    assert len(data["rows"]) == 48 and transitions(data)["rewards"] == [0, 0, 0, 1] * 12
    masks = np.reshape(transitions(data)["masks"], (12, 4))
    episodes = data["observations"][data["rows"], 1].reshape(12, 4)
    assert (np.diff(episodes[:, 0]) == 1).all() and (episodes == episodes[:, :1]).all()
    np.testing.assert_array_equal(masks[:, -1], episodes[:, 0] % 2)
    assert transitions(data)["next"] == [1, 2, 3, 4] * 12


def test_a_file_is_refused_for_what_it_is(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(flat()))
    (tmp_path / "empty.npz").touch()
    (tmp_path / "words.npz").write_text("hello")
    np.savez(tmp_path / "cut.npz", **flat())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-300])
    (tmp_path / "cut.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    (tmp_path / "nothing").mkdir()
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros(3), np.zeros(4)]
    np.savez(tmp_path / "ragged.npz", **flat() | {"observations": ragged})
    messages = {
        "one.npy": r"is a single array \(.npy\), not an npz file",
        "old.pkl": "is a pickle, which is never loaded",
        "empty.npz": "is an empty file",
        "words.npz": "is no npz file",
        "cut.npz": "is damaged",
        "cut.hdf5": "is damaged",
        "nothing": "holds no npz or HDF5 files, and is no Minari dataset",
        "ragged.npz": "holds observations as Python objects .rows of unequal length",
        "missing.npz": "does not exist",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=message) as error:
            load_dataset(NAME, dataset_path=tmp_path / name)
        text = str(error.value)
        assert (
            "\n" not in text
            and "delete" not in text
            and text.startswith(f"--dataset: {tmp_path / name}")
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"episode_ends": np.zeros(6)},
            "holds episode_ends with a value for each row, which nobody reads",
        ),
        (
            {"terminals": None},
            "lacks terminals; it holds observations, actions, rewards",
        ),
        (
            {"observations": np.full((6, 2), 1e39)},
            r"holds observations up to 1e\+39, more than float32 can hold",
        ),
        (
            {"rewards": np.full(6, -1e300)},
            r"holds rewards up to 1e\+300, more than float32",
        ),
        ({"rewards": np.zeros((6, 1))}, r"holds rewards of shape \(6, 1\)"),
        ({"observations": np.zeros((6, 2), complex)}, "type complex128"),
        ({"masks": np.full(6, 2.0)}, r"holds masks outside \[0, 1\]"),
        (
            {"terminals": np.array([-1, -1, 1, -1, -1, 1])},
            "holds terminals other than 0 and 1",
        ),
        ({"timeouts": np.full(6, 0.5)}, "holds timeouts other than 0 and 1"),
        (
            {"rewards": np.full(6, np.inf)},
            "holds NaN or infinite numbers in rewards; correct it in the file",
        ),
        (
            {"actions": np.full((6, 1), 1.5)},
            r"holds actions up to 1.5 \(6 of 6 numbers beyond .* --action_scale=",
        ),
        (
            {"observations": np.zeros((6, 3))},
            "another environment: its observations have 3 columns",
        ),
    ],
)
def test_wrong_contents(tmp_path, changed, message):
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path, flat(**changed))
    assert "\n" not in str(error.value)


def test_what_has_no_row_for_each_step_and_a_simulators_state_are_let_be(tmp_path):
    extra = {
        "collection": np.array("by hand"),
        "version": np.arange(3),
        "qpos": np.zeros((6, 9)),
    }
    assert len(load(tmp_path, flat(**extra))["rows"]) == 6


# Actions and rewards


def test_actions_of_another_scale_are_divided_when_told(tmp_path, printed):
    actions = np.array([[-2], [-1], [0], [0.5], [1.001], [2.001]])
    with pytest.raises(UserError, match=r"actions up to 2.001 \(2 of 6 numbers"):
        load(tmp_path, flat(actions=actions))
    data = load(tmp_path, flat(actions=actions), action_scale=2.0)
    expected = np.clip(actions / 2, -1 + 1e-5, 1 - 1e-5)
    np.testing.assert_allclose(data["actions"][data["rows"]], expected, atol=1e-7)
    assert "1 numbers of actions just beyond ±1 are clipped" in printed().err


def test_sparse_turns_no_reward_into_a_cost(tmp_path):
    with pytest.raises(
        UserError,
        match="--sparse: .* has rewards up to 1, and --sparse makes every reward but 0 a -1",
    ):
        load(tmp_path, flat(), sparse=True)
    rewards = np.array([-3, -2, 0, -1, -1, 0.0])
    data = load(tmp_path, flat(rewards=rewards), sparse=True)
    assert transitions(data)["rewards"] == [-1, -1, 0, -1, -1, 0]


def test_an_environment_that_cannot_be_made_is_needed_for_evaluation_alone(
    tmp_path, printed
):
    np.savez(tmp_path / "mine.npz", **flat())
    with pytest.raises(UserError, match="no_such_module:Thing-v0 cannot be made"):
        load_dataset("no_such_module:Thing-v0", dataset_path=tmp_path / "mine.npz")
    data = load_dataset(
        "no_such_module:Thing-v0", dataset_path=tmp_path / "mine.npz", environment=False
    )
    assert (
        len(data["rows"]) == 6
        and "not checked against its environment" in printed().err
    )


def test_a_users_environment_needs_a_file():
    with pytest.raises(UserError, match="needs its data as --dataset=FILE.npz"):
        load_dataset(NAME)
