"""A report finds run folders and names the method of each run."""

import re
import shutil

import pytest

from reports.reading import read_all
from tests.reports.helpers import CUBE, make_report, methods_of, run_report, unwrapped
from tests.synthetic_runs import write_run


def test_unfinished_runs_are_read_to_their_last_full_line_and_damaged_runs_are_noted(
    tmp_path, capsys
):
    unfinished = write_run(
        tmp_path,
        CUBE.format(1),
        0,
        {0: 0.25, 500_000: 0.5},
        kl=[(250_000, 1.0, 1.0), (500_000, 1.0, 1.0)],
    )
    with (unfinished / "eval.csv").open("a") as file:
        file.write("1000000,50,0.1")  # no end of line: more digits may come
    with (unfinished / "train.csv").open("a") as file:
        file.write("750000,offline,")
    (write_run(tmp_path, CUBE.format(1), 1, {}) / "eval.csv").write_text("")
    (write_run(tmp_path, CUBE.format(1), 2, {}) / "eval.csv").unlink()
    (write_run(tmp_path, CUBE.format(1), 3, {0: 0.5}) / "config.json").write_text(
        '{"agent_file": "agents/t'
    )
    base = write_run(
        tmp_path, "cube-double-play", 0, {}, agent="bc", run_group="bc", eval_episodes=0
    )
    assert run_report(tmp_path, "--step=last") == 0
    shown = unwrapped(capsys.readouterr().out)
    assert (
        "offline, cube-double-play-task1: 25.0 % at step 0, 1 seed, step 500,000 method"
        in shown
    )
    assert " A trqam 50.0 1.000 / 1 3 50.0 " in shown
    assert (
        "note: 2 runs have no evaluation yet and are left out: trqam"
        " cube-double-play-singletask-task1 seed 1, " in shown
    )
    assert re.search(
        r"note: left out: .*trqam_s3_44136fa3/config.json is damaged", shown
    )
    assert base.name not in shown and "bc" not in shown


def test_methods_are_named_by_the_settings_that_differ(tmp_path):
    done = {1_000_000: 0.5}
    write_run(tmp_path, CUBE.format(1), 0, done, given={"agent.lr": 1e-3})
    for i, budget in enumerate((0.5, 2.0)):
        write_run(
            tmp_path,
            CUBE.format(1),
            0,
            done,
            given={"agent.lr": 1e-3, "agent.kl_budget": budget},
            hashed=f"{i}",
        )
    write_run(tmp_path, CUBE.format(1), 0, done, agent="qam", given={"agent.lr": 1e-3})
    assert methods_of(tmp_path) == [
        "qam",
        "trqam",
        "trqam kl_budget=0.5",
        "trqam kl_budget=2.0",
    ]


def test_steps_intervals_and_paths_make_no_other_method(tmp_path):
    write_run(tmp_path, CUBE.format(1), 0, {1_000_000: 0.5}, run_group="a")
    given = {
        "ogbench_dataset_dir": "/data",
        "eval_interval": 5,
        "offline_steps": 1_000_000,
        "run_group": "b",
    }
    write_run(tmp_path, CUBE.format(1), 1, {1_000_000: 0.5}, given=given)
    assert methods_of(tmp_path) == ["trqam"]


def test_the_same_run_in_two_places_is_two_methods_and_one_folder_given_twice_is_one(
    tmp_path,
):
    for group in ("first", "second"):
        write_run(tmp_path, CUBE.format(1), 0, {1_000_000: 0.5}, run_group=group)
    assert methods_of(tmp_path, tmp_path / "first") == [
        "trqam in first",
        "trqam in second",
    ]
    assert methods_of(tmp_path / "first", tmp_path / "first" / ".") == ["trqam"]
    write_run(
        tmp_path / "again", CUBE.format(1), 0, {1_000_000: 0.5}, run_group="first"
    )
    assert methods_of(tmp_path / "first", tmp_path / "again") == [
        f"trqam in {tmp_path}/again/first",
        f"trqam in {tmp_path}/first",
    ]


def test_runs_of_one_group_from_other_bases_or_data_are_other_methods(tmp_path):
    """Every run is in the report: none replaces another of the same task and seed."""
    for seed in range(2):
        write_run(tmp_path, CUBE.format(1), seed, {1_000_000: 0.1})
        for i, (name, path) in enumerate(
            {
                "pretrained_actor_path": f"/home/me/bc/bc_s{seed}_12ab",
                "ogbench_dataset_dir": "/data/small",
            }.items(),
            2,
        ):
            write_run(
                tmp_path,
                CUBE.format(1),
                seed,
                {1_000_000: i / 10},
                given={name: path},
                hashed=f"{i}",
            )
    rates = {row.method: (row.mean, row.seeds) for row in make_report(tmp_path).rows}
    assert rates == {
        "trqam": (pytest.approx(10.0), 2),
        "trqam pretrained_actor_path=bc_12ab": (pytest.approx(20.0), 2),
        "trqam ogbench_dataset_dir=small": (pytest.approx(30.0), 2),
    }


def test_seeds_that_start_from_one_base_are_one_method(tmp_path):
    for i, base in enumerate(("bc_s0_aaaaaaaa", "bc_s0_bbbbbbbb")):
        given = {"pretrained_actor_path": f"exp/{base}"}
        for seed in range(3):
            write_run(
                tmp_path,
                CUBE.format(1),
                seed,
                {1_000_000: 0.5},
                given=given,
                hashed=f"{i}",
            )
    found = make_report(tmp_path)
    assert {row.method: row.seeds for row in found.rows} == {
        "trqam pretrained_actor_path=bc_aaaaaaaa": 3,
        "trqam pretrained_actor_path=bc_bbbbbbbb": 3,
    }
    assert not any("seeds of one method" in note for note in found.notes)


def test_a_folder_of_runs_may_hold_the_config_of_something_else(tmp_path):
    write_run(tmp_path, CUBE.format(1), 0, {1_000_000: 0.5})
    (tmp_path / "config.json").write_text('{"editor": "x"}')
    assert len(make_report(tmp_path).rows) == 1


def test_a_length_of_cloning_that_is_no_number_is_a_damaged_file(tmp_path, capsys):
    write_run(tmp_path, CUBE.format(1), 0, {1_000_000: 0.5})
    write_run(tmp_path, CUBE.format(1), 1, {1_000_000: 0.5}, bc_steps="many")
    assert run_report(tmp_path) == 0
    assert "flags.bc_steps is 'many'" in unwrapped(capsys.readouterr().out)


def test_bases_of_one_name_are_distinguished_by_the_hash_and_copies_are_noted(tmp_path):
    given = [{"pretrained_actor_path": f"{place}/params.pkl"} for place in "ab"]
    folders = [
        write_run(
            tmp_path, CUBE.format(1), 0, {1_000_000: 0.5}, given=given[i], hashed=f"{i}"
        )
        for i in range(2)
    ]
    assert methods_of(tmp_path) == ["trqam hash=0", "trqam hash=1"]
    shutil.copytree(folders[0], folders[0].parent.with_name("copy") / folders[0].name)
    found = make_report(tmp_path)
    assert sorted(row.method for row in found.rows) == ["trqam hash=0", "trqam hash=1"]
    (note,) = (note for note in found.notes if "left out" in note)
    assert re.fullmatch(
        "1 runs have the method, task and seed of another and are left out: .*/trqam_s0_0",
        note,
    )


@pytest.mark.parametrize(
    ("agent", "changed", "steps"),
    [
        ("trqam", {}, 20_000),
        ("bc", {}, 0),
        ("trqam", {"bc_only": True}, 0),
        ("trqam", {"pretrained_actor_path": "bc/params_300000.pkl"}, 0),
    ],
)
def test_only_a_base_that_the_run_cloned_before_counts(agent, changed, steps, tmp_path):
    changed |= {"bc_steps": 20_000}
    write_run(tmp_path, CUBE.format(1), 0, {1_000_000: 0.5}, agent, **changed)
    (result,), _ = read_all([str(tmp_path)], 1)
    assert result.cloning_steps == steps
