"""A report notes what makes its runs hard to compare."""

import json

import pytest

from tests.reports.helpers import CUBE, change_dataset, make_report, row_of
from tests.synthetic_runs import write_run


def test_different_numbers_of_seeds_and_tasks_are_noted(tmp_path):
    done = {0: 0.0, 1_000_000: 0.5}
    for task, seeds in ((1, 3), (2, 2)):
        for seed in range(seeds):
            write_run(tmp_path, CUBE.format(task), seed, done)
    write_run(tmp_path, CUBE.format(1), 0, done, agent="qam")
    found = make_report(tmp_path)
    row = row_of(found, "cube-double-play", "trqam")
    assert (row.tasks, row.seeds) == (2, 2) and row_of(
        found, CUBE.format(1), "trqam"
    ).seeds == 3
    notes = "\n".join(found.notes)
    assert (
        "trqam: rows over several tasks count the seeds that each of the tasks has:"
        " cube-double-play 2" in notes
    )
    assert (
        "offline: methods were run on different tasks (qam 1, trqam 2): their rows over several"
        " tasks are not comparable" in notes
    )
    assert (
        f"the number of seeds differs, from 1 (qam on {CUBE.format(1)}, offline) to 3"
        in notes
    )
    narrow = "2 seeds: bootstrap intervals over few tasks are too narrow (one task: about 60 %)"
    assert narrow in notes


def set_code(folder, digest, commit):
    """Change what the config.json of a run says about its code."""
    config = json.loads((folder / "config.json").read_text())
    source = {"file": "trqam.py", "package": "agents", "digest": "d"}
    source |= {"of_checkout": True, "checkout": {"agents/losses.py": digest}}
    config |= {"commit": commit, "source": source}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("second", "noted"), [("a", False), ("b", True)])
def test_seeds_that_different_code_trained_are_noted(second, noted, tmp_path):
    """Another commit with the same code makes no note."""
    for seed, digest in enumerate(("a", second)):
        folder = write_run(tmp_path, CUBE.format(1), seed, {1_000_000: 0.5})
        set_code(folder, digest, commit=f"commit {seed}")
    text = "seeds of one method were trained with different code: trqam"
    assert any(text in note for note in make_report(tmp_path).notes) == noted


def test_the_warnings_of_a_run_are_noted_before_it_has_finished(tmp_path):
    folder = write_run(tmp_path, CUBE.format(1), 0, {250_000: 0.1, 500_000: 0.2})
    (folder / "concerns.json").write_text('{"lambda_max": "lambda is at its bound"}')
    for at, noted in (("last", True), ("250000", False)):
        notes = make_report(tmp_path, at).notes
        assert any("lambda is at its bound" in note for note in notes) == noted


def test_the_final_warnings_of_agents_and_mixed_data_are_noted(tmp_path):
    done, bound = (
        {1_000_000: 0.5},
        {"lambda_max": "lambda is at its upper bound: raise it"},
    )
    folders = [write_run(tmp_path, CUBE.format(1), seed, done) for seed in range(4)]
    for folder, concerns in zip(folders, (bound, bound, {}), strict=False):
        (folder / "concerns.json").write_text(json.dumps(concerns))
    change_dataset(folders[2], transitions=60_000)
    notes = make_report(tmp_path).notes
    name = "trqam cube-double-play-singletask-task1 seed"
    assert f"2 runs: {bound['lambda_max']}: {name} 0, {name} 1" in notes
    text = f"the runs of a task were not all trained on the same data: {CUBE.format(1)}"
    assert text in notes


def test_the_final_warnings_of_a_run_are_not_noted_for_its_offline_phase(tmp_path):
    success = {1_000_000: 0.5, 1_500_000: 0.6}
    folder = write_run(tmp_path, CUBE.format(1), 0, success, online_steps=500_000)
    (folder / "concerns.json").write_text(
        '{"path_kl": "the path KL stays off its budget"}'
    )
    assert not any(
        "path KL stays" in note for note in make_report(tmp_path, "1000000").notes
    )
    assert any("path KL stays" in note for note in make_report(tmp_path).notes)


def test_seeds_that_were_trained_with_different_settings_are_noted(tmp_path):
    """These settings are in no folder's hash and in no method's name. Steps that are still to
    come do not count.
    """
    for seed, steps in enumerate((10_000, 20, 10_000)):
        write_run(
            tmp_path,
            CUBE.format(1),
            seed,
            {1_000_000: 0.5},
            bc_steps=steps,
            log_interval=seed,
            online_steps=seed,
        )
    (note,) = (note for note in make_report(tmp_path).notes if "trained with" in note)
    assert (
        note == "seeds of one method were trained with bc_steps 10000 and 20: trqam"
        f" {CUBE.format(1)}"
    )


def test_agents_that_were_not_evaluated_or_trained_alike_are_noted(tmp_path):
    done = {1_000_000: 0.5}
    task = CUBE.format(1)
    given = {"sparse": True, "agent.discount": 0.99}
    write_run(tmp_path, task, 0, done, given=given, eval_episodes=10)
    write_run(tmp_path, task, 0, done, agent="qam")
    alike = "agents were not trained or evaluated alike: "
    assert [note for note in make_report(tmp_path).notes if note.startswith(alike)] == [
        f"{alike}discount (qam 0.995; trqam 0.99): {task}",
        f"{alike}eval_episodes (qam 50; trqam 10): {task}",
        f"{alike}sparse (qam False; trqam True): {task}",
    ]


def test_variants_of_all_agents_are_not_noted(tmp_path):
    for agent in ("qam", "trqam"):
        for horizon, hashed in ((1, "a"), (5, "b")):
            given = {"horizon_length": horizon}
            write_run(
                tmp_path,
                CUBE.format(1),
                0,
                {1_000_000: 0.5},
                agent=agent,
                given=given,
                hashed=hashed,
            )
    assert "alike" not in "".join(make_report(tmp_path).notes)
