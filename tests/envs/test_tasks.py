"""Names of environments: shortcuts, aliases, their datasets, and errors for wrong names."""

import subprocess
import sys

import pytest

from envs import tasks
from envs.ogbench import make_raw
from envs.tasks import (
    ALL_TASKS,
    DOMAINS,
    dataset_name,
    is_manipulation,
    resolve_alias,
    resolve_env_name,
    world_name,
)
from utils.errors import UserError


def test_all50_is_the_fifty_tasks():
    assert len(DOMAINS) == 10 and len(set(ALL_TASKS)) == 50
    assert resolve_env_name("all50") == list(ALL_TASKS)
    assert ALL_TASKS[0] == "antmaze-large-navigate-singletask-task1-v0"


@pytest.mark.parametrize("shortcut", ["puzzle-4x4", "puzzle-4x4-play"])
def test_a_domain_is_its_five_tasks(shortcut):
    assert resolve_env_name(shortcut) == [
        f"puzzle-4x4-play-singletask-task{i}-v0" for i in range(1, 6)
    ]


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain_has_a_shortcut(domain):
    world = domain.rpartition("-")[0]
    assert resolve_env_name(world) == resolve_env_name(domain)
    assert set(resolve_env_name(domain)) <= set(ALL_TASKS)


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("cube-single-play-singletask-task1-v0", "cube-single-play"),
        ("scene-noisy-singletask-task5-v0", "scene-noisy"),
        ("pointmaze-medium-navigate-singletask-task1-v0", "pointmaze-medium-navigate"),
        ("antmaze-teleport-explore-singletask-task2-v0", "antmaze-teleport-explore"),
        ("my_module:MyEnv-v0", "my_module:MyEnv-v0"),
    ],
)
def test_a_single_task_is_itself_and_has_a_dataset(name, dataset):
    assert resolve_env_name(name) == [name]
    assert dataset_name(name) == dataset


@pytest.mark.parametrize("world", tasks._DATASETS)
def test_an_alias_is_the_default_task_of_ogbench(world, capsys):
    # OGBench registers the humanoid's teleport maze, but its model lacks a material.
    built = world.replace("humanoidmaze-teleport", "antmaze-teleport")
    env = make_raw(f"{built}-singletask-v0")
    default = env.unwrapped._reward_task_id
    env.close()
    for kind in tasks._DATASETS[world]:
        alias = f"{world}-{kind}-singletask-v0"
        task = f"{world}-{kind}-singletask-task{default}-v0"
        assert [resolve_env_name(alias), resolve_env_name(alias)] == [[task], [task]]
        note = f"note: --env_name={alias} is {task}, the default task of OGBench"
        assert " ".join(capsys.readouterr().err.split()) == note
        assert dataset_name(alias) == dataset_name(task) == f"{world}-{kind}"
        assert resolve_alias(alias) == task


OTHERS = ["mine:a-singletask-v0", "nothing-singletask-v0", "cube-double", ALL_TASKS[0]]


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_are_no_aliases(name):
    assert resolve_alias(name) == name


def test_datasets_and_worlds_of_names():
    assert dataset_name("scene") == "scene-play"
    assert dataset_name("cube-double-noisy") == "cube-double-noisy"
    assert world_name("antmaze-large-navigate-singletask-task1-v0") == "antmaze-large"
    assert is_manipulation("scene-play") and not is_manipulation(
        "antmaze-large-navigate"
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("puzle-4x4", "puzzle-4x4"),
        ("cube-doubel-play", "cube-double-play"),
        (
            "cube-double-play-singletask-task6-v0",
            "cube-double-play-singletask-task5-v0",
        ),
        ("cube-double-play-singletask-task1", "cube-double-play-singletask-task1-v0"),
        ("all5", "all50"),
        ("", None),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name, nearest):
    with pytest.raises(UserError) as error:
        resolve_env_name(name)
    message = str(error.value)
    assert "\n" not in message and message.startswith(
        f"--env_name: no environment is called '{name}'"
    )
    assert nearest is None or message.endswith(f"'{nearest}'")


@pytest.mark.parametrize(
    ("name", "what", "typed"),
    [
        (
            "visual-cube-single-play",
            "images are not covered",
            "type cube-single-play for",
        ),
        ("visual-scene-play-v0", "images are not covered", "type scene-play for"),
        (
            "visual-puzzle-4x4-play-singletask-task2-v0",
            "images are not covered",
            "type puzzle-4x4-play-singletask-task2-v0 for",
        ),
        (
            "visual-puzle-4x4-play-v0",
            "images are not covered",
            "type puzzle-4x4-play for",
        ),
        (
            "powderworld-easy-play-v0",
            "discrete actions, are not covered",
            "--env_name=all50",
        ),
        (
            "antmaze-large-navigate-oraclerep-v0",
            (
                "goal-conditioned tasks, here with oracle representations of the goals, are not"
                " covered"
            ),
            "type antmaze-large-navigate for",
        ),
        (
            "cube-single-play-v0",
            "goal-conditioned tasks are not covered",
            "type cube-single-play for",
        ),
        (
            "antmaze-giant-v0",
            "goal-conditioned tasks are not covered",
            "type antmaze-giant for",
        ),
        (
            "cube-quadruple-play-100m-v0",
            "names a dataset",
            "type cube-quadruple-play, and --dataset=FOLDER",
        ),
        (
            "HalfCheetah-v5",
            "for Gymnasium's",
            "gymnasium:HalfCheetah-v5 --dataset=",
        ),
        ("HalfCheetah", "for Gymnasium's", "gymnasium:HalfCheetah-v"),
        (
            "phys2d/CartPole-v1",
            "for Gymnasium's",
            "gymnasium:phys2d/CartPole-v1 --",
        ),
    ],
)
def test_names_that_mean_something_elsewhere_are_explained(name, what, typed):
    with pytest.raises(UserError) as error:
        resolve_env_name(name)
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"--env_name={name}: ")
    assert what in message and typed in message and "nearest" not in message


@pytest.mark.parametrize("name", ["all50", "nothing", "cube-double-play-v0"])
def test_a_name_without_exactly_one_dataset_is_refused(name):
    with pytest.raises(UserError, match="--env_name"):
        dataset_name(name)


def test_names_need_no_simulator():
    code = (
        "import sys, envs.tasks; print(sorted({'ogbench', 'mujoco', 'gymnasium', 'jax'} &"
        " set(sys.modules)))"
    )
    assert (
        subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    )
