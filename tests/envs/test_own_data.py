"""A user's own data: both layouts, every file format, errors, and notes on unused values."""

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
    """Episodes of four steps; an observation holds the step and the number of the episode, which is
    0 for seed 0.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    episodes = itertools.count()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode = 0 if seed == 0 else next(self.episodes)
        self.steps = 0
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


class Unseeded(UsersEnv):
    """Its episodes differ, whatever the seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset()


@pytest.fixture(autouse=True)
def users_env():
    kinds = {"Users-v0": UsersEnv, "Unseeded-v0": Unseeded}
    for name, kind in kinds.items():
        gymnasium.register(name, kind, disable_env_checker=True)
    yield
    for name in kinds:
        gymnasium.registry.pop(name)


def flat(episodes=2, steps=3, **changed):
    """Arrays in the flat layout: the last row of each episode has reward 1 and is terminal.

    Observations hold the numbers of the row and of the episode. `changed` replaces arrays, or
    removes those that are None.
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
    """Arrays in the ogbench layout: two trajectories, of three and four states.

    The last transition of the first one succeeds.
    """
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
    """Rewards, masks and terminals by transition, and the first number of the next state."""
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
def test_time_limits_end_episodes_and_lost_transitions_are_mentioned(
    tmp_path, printed, key
):
    """Without next observations the transition at a time limit cannot be used; its state can."""
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


def test_terminal_rows_at_a_time_limit_are_mentioned_unless_masks_say_more(
    tmp_path, printed
):
    """A library's `dones` include time limits, so its file marks those rows twice."""
    arrays = flat(4, 5, rewards=np.ones(20), truncations=np.arange(20) % 5 == 4)
    assert (load(tmp_path, arrays)["masks"] == 0).sum() == 4
    assert "4 rows are terminal and at a time limit at once: taken to" in printed().err
    load(tmp_path, arrays | {"masks": np.ones(20)})
    arrays["dones_float"] = arrays.pop("truncations")  # marks every end, as D4RL's does
    load(tmp_path, arrays)
    assert "at once" not in printed().err


def test_with_next_observations_every_transition_is_kept(tmp_path, printed):
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


def test_an_unmarked_jump_starts_a_new_trajectory(tmp_path, printed):
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


def test_an_unfinished_last_episode_loses_its_last_transition(tmp_path, printed):
    """Its last row has no next observation; it only ends the transition before it."""
    arrays = {name: value[:5] for name, value in flat().items()}
    data = load(tmp_path, arrays)
    assert (
        transitions(data)["rewards"] == [0, 0, 1, 0]
        and transitions(data)["next"][-1] == 4
    )
    assert "1 transitions at a time limit are left out" in printed().err


# The ogbench layout, and how a layout is recognised


def test_a_final_row_starts_no_transition(tmp_path, printed):
    data = load(tmp_path, ogbench())
    np.testing.assert_array_equal(data["rows"], [0, 1, 3, 4, 5])
    assert transitions(data)["masks"] == [1, 0, 1, 1, 1]
    assert (
        np.all(data["actions"] == np.float32(-1 + 1e-5))
        and data["observations"].dtype == np.float32
    )
    assert (
        "layout ogbench (masks are 0 in rows before terminal rows, and in none of those)"
        in printed().out
    )


def test_the_layout_of_a_probes_data_is_recognised(tmp_path):
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
def test_an_ambiguous_file_is_refused_unless_its_layout_is_given(tmp_path, arrays):
    with pytest.raises(
        UserError,
        match="nothing in it shows its layout; give --dataset_layout=ogbench if .* or --data",
    ):
        load(tmp_path, arrays)
    rows = len(arrays["observations"])
    assert len(load(tmp_path, arrays, dataset_layout="ogbench")["rows"]) == rows - 2
    as_flat = load(tmp_path, arrays, dataset_layout="flat")
    assert len(as_flat["rows"]) == (rows - 2 if "masks" in arrays else rows)


@pytest.mark.parametrize("name", ["truncations", "timeouts", "next_observations"])
def test_arrays_that_the_given_layout_does_not_have_are_refused(tmp_path, name):
    """Otherwise chunks would cross the time limits."""
    arrays = ogbench()
    arrays[name] = arrays["observations" if name.startswith("next") else "terminals"]
    with pytest.raises(
        UserError, match=f"holds {name}, which --dataset_layout=ogbench"
    ):
        load(tmp_path, arrays, dataset_layout="ogbench")


def test_unused_values_of_an_ogbench_file_are_mentioned(tmp_path, printed):
    arrays = flat(masks=np.array([1, 1, 0, 1, 1, 1]))
    load(tmp_path, arrays, dataset_layout="ogbench")
    assert (
        "2 final rows hold a reward other than 0 or a mask of 0, which is not read"
        in printed().err
    )


def test_an_ogbench_file_without_masks_never_ends_the_task_and_says_so(
    tmp_path, printed
):
    data = load(tmp_path, ogbench(masks=None), dataset_layout="ogbench")
    assert (data["masks"] == 1).all()
    assert (
        "there are no masks, so none of the 2 trajectories ends the task (mask 1"
        in printed().err
    )
    load(tmp_path, ogbench(masks=np.ones(7)), dataset_layout="ogbench")
    assert printed().err == ""


def test_the_advice_on_terminals_at_time_limits_leads_to_data_without_warnings(
    tmp_path, printed
):
    ended = flat(episodes=2)["terminals"]
    next_observations = flat(episodes=2)["observations"] + np.array([1, 0])
    load(tmp_path, flat(next_observations=next_observations))
    assert "set terminals to 0 and timeouts to 1, or store masks" in printed().err
    limits = ended * (np.arange(len(ended)) < 3)  # the first episode ended at its limit
    data = load(
        tmp_path,
        flat(
            next_observations=next_observations,
            terminals=ended - limits,
            timeouts=limits,
        ),
    )
    assert transitions(data)["masks"] == [1, 1, 1, 1, 1, 0] and printed().err == ""


def test_an_environment_that_does_not_follow_its_seed_causes_a_warning(
    tmp_path, printed
):
    np.savez(tmp_path / "data.npz", **ogbench())
    load_dataset(f"{__name__}:Unseeded-v0", dataset_path=tmp_path / "data.npz")
    words = "does not repeat an episode after reset(seed) with the same seed"
    assert words in printed().err
    load_dataset(NAME, dataset_path=tmp_path / "data.npz")
    assert words not in printed().err


def test_masks_that_end_every_transition_cause_a_warning(tmp_path, printed):
    load(tmp_path, ogbench(masks=np.array([0, 0, 1, 0, 0, 0, 1.0])))
    assert (
        "the mask of every transition is 0, in the middle of trajectories too: are masks"
        " inverted?" in printed().err
    )
    name = "envs.probe:ProbeReward-v0"  # its episodes have one step
    load_dataset(name, dataset_path=write_dataset(name, tmp_path / "probe.npz", 20))
    assert printed().err == ""


@pytest.mark.parametrize(
    "change", [lambda t: t[:, None], lambda t: t.astype(str)], ids=["columns", "words"]
)
def test_wrong_terminals_are_refused_for_every_layout(tmp_path, change):
    for layout in ("auto", "ogbench", "flat"):
        with pytest.raises(UserError, match="holds terminals of shape"):
            load(
                tmp_path,
                ogbench(terminals=change(ogbench()["terminals"])),
                dataset_layout=layout,
            )


def test_final_rows_may_hold_nan(tmp_path):
    """Their actions, rewards and masks are not read."""
    arrays = ogbench()
    for name in ("actions", "rewards", "masks"):
        arrays[name][[2, 6]] = np.nan
    data = load(tmp_path, arrays, dataset_layout="ogbench")
    assert all(np.isfinite(value).all() for value in data.values())
    arrays["terminals"][6] = 0  # the last row ends a trajectory in any case
    load(tmp_path, arrays, dataset_layout="ogbench")
    with pytest.raises(UserError, match="NaN or infinite numbers in actions"):
        load(tmp_path, arrays, dataset_layout="flat")


# Files


def test_shards_share_a_layout_and_two_layouts_are_refused(tmp_path, printed):
    folder = tmp_path / "shards"
    folder.mkdir()
    # the first shard does not show its layout by itself
    np.savez(folder / "a.npz", **flat(rewards=np.zeros(6)))
    np.savez(folder / "b.npz", **flat())
    for _ in range(2):  # the second time, the converted arrays are read
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
        UserError, match="c.npz and a.npz differ in the columns of observations"
    ):
        load_dataset(NAME, dataset_path=folder)
    (folder / "b.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match="b.npz is damaged"):
        load_dataset(NAME, dataset_path=folder)
    # the arrays of the first two shards
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 1


def test_another_version_of_the_reading_code_converts_shards_again(
    tmp_path, monkeypatch
):
    np.savez(tmp_path / "a.npz", **flat())
    for version, folders in ((1, 1), (1, 1), (2, 2)):
        monkeypatch.setattr("envs.datasets.READER_VERSION", version)
        load_dataset(NAME, dataset_path=tmp_path)
        assert len(list(tmp_path.glob("arrays-*"))) == folders


def test_hdf5_in_d4rls_layout_is_read(tmp_path):
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        for name, value in flat(terminals=np.array([0, 0, 1, 0, 0, 0])).items():
            file.create_dataset(name, data=value, compression="gzip")
        file.create_dataset("timeouts", data=np.array([0, 0, 0, 0, 0, 1], bool))
        file.create_dataset("infos/qpos", data=np.zeros((6, 4)))
        file.create_dataset("metadata/algorithm", data=np.bytes_("SAC"))
        file["algorithm"] = "SAC"
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


def minari_file(path, **changed):
    """Write an HDF5 file as Minari's, of two episodes of three steps that never terminate.

    `changed` replaces the arrays of an episode, or removes those that are None.
    """
    arrays = {
        "observations": np.arange(8.0).reshape(4, 2),
        "actions": np.full((3, 1), 0.5),
        "rewards": np.zeros(3),
        "terminations": np.zeros(3, bool),
        "truncations": np.array([0, 0, 1], bool),
    } | changed
    with h5py.File(path, "w") as file:
        for episode in range(2):
            for name, value in arrays.items():
                if value is not None:
                    file[f"episode_{episode}/{name}"] = value
    return path


def test_minaris_data_without_terminations_needs_no_layout(tmp_path, printed):
    (tmp_path / "shards").mkdir()
    for path in (
        minari_file(tmp_path / "main_data.hdf5"),
        tmp_path,
        tmp_path / "shards",
    ):
        minari_file(tmp_path / "shards" / "a.hdf5")
        data = load_dataset(NAME, dataset_path=path)
        assert transitions(data)["next"] == [2, 4, 6] * 2
        assert transitions(data)["masks"] == [1] * 6
        out, err = printed()
        assert "in 2 trajectories, layout ogbench (Minari's)" in out and err == ""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"rewards": None, "terminations": None},
            "episode_0 lacks rewards, terminations; give a file that Minari wrote",
        ),
        (
            {"actions": None, "actions/left": np.zeros(3)},
            "episode_0 stores actions as a dictionary or a single value; only arrays",
        ),
        ({"observations": np.zeros((3, 2))}, "holds 3 observations of 3 steps"),
        ({"rewards": np.zeros(2)}, r"holds rewards of shape \(6,\)"),
        (
            {"actions": np.zeros((0, 1)), "observations": np.zeros((1, 2))},
            "episode_0 has no steps; remove it",
        ),
    ],
)
def test_an_episode_that_is_not_as_minaris_is_refused(tmp_path, changed, message):
    path = minari_file(tmp_path / "main_data.hdf5", **changed)
    with pytest.raises(UserError, match=f"--dataset: {path}.*{message}"):
        load_dataset(NAME, dataset_path=path)


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_a_folder_that_minari_wrote_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    collector = minari.DataCollector(UsersEnv(), data_format="hdf5")
    for _ in range(12):  # more than nine: their order is by number, not by name
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


def test_an_array_whose_name_begins_like_an_episode_is_no_episode(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, value in flat(episode_ends=np.zeros(6)).items():
            file[name] = value
    with pytest.raises(UserError, match=r"arrays that are not used \(episode_ends\)"):
        load_dataset(NAME, dataset_path=tmp_path / "a.hdf5")


def test_episodes_of_minaris_are_found_and_compared(tmp_path):
    path = minari_file(tmp_path / "main_data.hdf5")
    with h5py.File(path, "a") as file:
        file.move("episode_0", "episode_7")
    assert len(load_dataset(NAME, dataset_path=path)["rows"]) == 6
    with h5py.File(path, "a") as file:
        del file["episode_7/observations"]
        file["episode_7/observations"] = np.zeros((4, 3))
    with pytest.raises(
        UserError, match=r"with observations of shapes \(2,\) and \(3,\); store all"
    ):
        load_dataset(NAME, dataset_path=path)
    with h5py.File(path, "a") as file:
        file["episode_9"] = h5py.ExternalLink("elsewhere.hdf5", "episode_9")
    with pytest.raises(UserError, match="is damaged .*; bring back an intact copy"):
        load_dataset(NAME, dataset_path=path)


def test_an_hdf5_file_larger_than_memory_is_not_called_damaged(tmp_path, monkeypatch):
    path = minari_file(tmp_path / "main_data.hdf5")

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("envs.own_files._minari_rows", fail)
    with pytest.raises(UserError, match="does not fit into memory .out of memory.;"):
        load_dataset(NAME, dataset_path=path)


def test_the_error_names_the_kind_of_a_file_that_is_refused(tmp_path):
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
    np.savez(tmp_path / "told.npz", **flat(), metadata={"by": "hand"})
    messages = {
        "one.npy": r"is a single array \(.npy\), not an npz file",
        "old.pkl": "is a pickle, which is never loaded",
        "empty.npz": "is an empty file",
        "words.npz": "is not an npz file",
        "cut.npz": "is damaged",
        "cut.hdf5": "is damaged",
        "nothing": "holds no npz or HDF5 files, and is no Minari dataset in HDF5",
        "ragged.npz": "holds observations as Python objects .*; store one array of numbers",
        "told.npz": "holds metadata as Python objects .*; it is not used: remove it",
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
            r"has arrays that are not used \(episode_ends\); rename them to one of observations,",
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
            {"next_observations": np.zeros((6, 3))},
            "holds next_observations with 3 columns and observations with 2; store both",
        ),
        (
            {"next_observations": np.zeros((6, 1))},
            "holds next_observations with 1 columns and observations with 2; store both",
        ),
        (
            {name: value[:0] for name, value in flat().items()},
            "holds no rows; give a file with transitions",
        ),
        (
            {"observations": np.zeros((6, 3))},
            "another environment: its observations have 3 columns",
        ),
    ],
)
def test_wrong_contents_are_refused_in_one_line(tmp_path, changed, message):
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path, flat(**changed))
    assert "\n" not in str(error.value)


def test_arrays_without_a_value_per_row_and_a_simulators_state_are_ignored(tmp_path):
    extra = {
        "collection": np.array("by hand"),
        "version": np.arange(3),
        "qpos": np.zeros((6, 9)),
    }
    assert len(load(tmp_path, flat(**extra))["rows"]) == 6


# Actions and rewards


def test_actions_of_another_scale_are_divided_by_action_scale(tmp_path, printed):
    actions = np.array([[-2], [-1], [0], [0.5], [1.001], [2.001]])
    with pytest.raises(UserError, match=r"actions up to 2.001 \(2 of 6 numbers"):
        load(tmp_path, flat(actions=actions))
    data = load(tmp_path, flat(actions=actions), action_scale=2.0)
    expected = np.clip(actions / 2, -1 + 1e-5, 1 - 1e-5)
    np.testing.assert_allclose(data["actions"][data["rows"]], expected, atol=1e-7)
    assert "1 numbers of actions just beyond ±1 are clipped" in printed().err


def test_sparse_refuses_rewards_above_zero(tmp_path):
    with pytest.raises(
        UserError,
        match="--sparse: .* has rewards up to 1, and --sparse makes every reward but 0 a -1",
    ):
        load(tmp_path, flat(), sparse=True)
    rewards = np.array([-3, -2, 0, -1, -1, 0.0])
    data = load(tmp_path, flat(rewards=rewards), sparse=True)
    assert transitions(data)["rewards"] == [-1, -1, 0, -1, -1, 0]


def test_data_can_be_loaded_without_its_environment_if_nothing_is_evaluated(
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


def test_a_users_environment_needs_a_dataset_file():
    with pytest.raises(UserError, match="needs its data as --dataset=FILE.npz"):
        load_dataset(NAME)
