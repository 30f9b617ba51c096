"""Runs that report.py --export keeps make the same report."""

import errno
import json
import shlex
import shutil
from pathlib import Path

import numpy as np

from reports import export
from reports.export import command
from tests.reports.helpers import (
    CUBE,
    SCENE,
    make_report,
    methods_of,
    row_of,
    run_report,
)
from tests.synthetic_runs import write_run


def test_exported_runs_make_the_same_report(table, tmp_path):
    folder, _, found = table
    name = SCENE.format(1)
    runs = shutil.copytree(folder / "sweep" / name, tmp_path / "sweep" / name)
    # --bc_only names the agent file by its path
    config = runs / "bc_s0_44136fa3" / "config.json"
    config.write_text(
        config.read_text().replace('"agents/bc.py"', '"/home/me/agents/bc.py"')
    )
    kept = tmp_path / "a" / "kept"
    assert run_report(runs, f"--export={kept}") == 0
    assert "/home/me" not in (kept / "runs.json").read_text()
    again = make_report(kept)
    for row in again.rows:
        before = row_of(found, name, row.method)
        assert (row.mean, row.half, row.iqm) == (before.mean, before.half, before.iqm)
        np.testing.assert_allclose(
            [row.path_kl, row.lam, row.within],
            [before.path_kl, before.lam, before.within],
            rtol=1e-8,
        )
    assert {path.name for path in kept.iterdir()} == {"runs.json", "curves.csv"}
    runs = json.loads((kept / "runs.json").read_text())
    command = f"python main.py --agent=agents/trqam.py --env_name={name} --seed=3"
    assert runs[f"{name}/trqam_s3_44136fa3"]["config"]["command"] == command
    # An export of the export has the same files.
    assert run_report(kept, f"--export={tmp_path / 'b'}") == 0
    for file in ("runs.json", "curves.csv"):
        assert (tmp_path / "b" / file).read_bytes() == (kept / file).read_bytes()


def test_an_export_replaces_no_other_runs_and_names_data_without_its_path(
    tmp_path, capsys
):
    for name, seed in (("a", 0), ("b", 1)):
        given = {"dataset": "/home/me/reach.npz"}
        write_run(tmp_path / name, CUBE.format(1), seed, {1_000_000: 0.5}, given=given)
    kept = tmp_path / "kept"
    assert run_report(tmp_path / "a", f"--export={kept}") == 0
    text = (kept / "runs.json").read_text()
    assert "--dataset=reach.npz" in text and "/home/me" not in text
    capsys.readouterr()
    assert run_report(tmp_path / "b", f"--export={kept}") == 2
    assert "it holds other runs, " in capsys.readouterr().err
    assert (kept / "runs.json").read_text() == text
    assert len(methods_of(kept, tmp_path / "b")) == 1
    assert run_report(kept, tmp_path / "b", f"--export={kept}") == 0
    assert len(json.loads((kept / "runs.json").read_text())) == 2
    curves = (kept / "curves.csv").read_text()
    for damage in (lambda path: path.write_text("<<<<<<<"), Path.unlink):
        damage(kept / "runs.json")
        capsys.readouterr()
        assert run_report(tmp_path / "a", f"--export={kept}") == 2
        error = capsys.readouterr().err
        assert "restore " in error and "delete" not in error
        assert (kept / "curves.csv").read_text() == curves


def test_a_study_keeps_warnings_and_is_checked_like_runs(tmp_path, capsys):
    folder = write_run(tmp_path / "exp", CUBE.format(1), 0, {0: 0.1, 1_000_000: 0.5})
    (folder / "concerns.json").write_text(
        '{"lambda_max": "lambda is at its upper bound"}'
    )
    write_run(tmp_path / "exp", CUBE.format(1), 1, {0: 0.1, 1_000_000: 0.5})
    kept = tmp_path / "kept"
    assert run_report(tmp_path / "exp", f"--export={kept}") == 0
    assert any(
        "1 runs: lambda is at its upper bound" in note
        for note in make_report(kept).notes
    )
    curves, runs = ((kept / name).read_text() for name in ("curves.csv", "runs.json"))
    faults = {
        "curves.csv is damaged (line 5: success is '17.0', not a number from 0 to 1)": (
            ",1000000,17.0,".join(curves.rsplit(",1000000,0.5,", 1)),
            runs,
        ),
        "curves.csv is damaged ('other' is not a run of runs.json)": (
            curves + "other,0,0.1,50,,,,\n",
            runs,
        ),
        "runs.json is damaged (agent is missing)": (
            curves,
            runs.replace('"agent"', '"a"'),
        ),
        "concerns are 3, not an object of texts": (
            curves,
            runs.replace('"concerns": {', '"concerns": 3, "x": {'),
        ),
    }
    for fault, (changed_curves, changed_runs) in faults.items():
        (kept / "curves.csv").write_text(changed_curves)
        (kept / "runs.json").write_text(changed_runs)
        capsys.readouterr()
        assert run_report(kept) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert fault in line


def test_equal_rates_stay_equal_when_one_is_exported(tmp_path):
    task = SCENE.format(1)
    write_run(tmp_path / "exp", task, 0, {1_000_000: 1 / 3})
    assert run_report(tmp_path / "exp", f"--export={tmp_path / 'both' / 'kept'}") == 0
    write_run(tmp_path / "both", task, 0, {1_000_000: 1 / 3}, agent="qam")
    ours, theirs = (
        row_of(make_report(tmp_path / "both"), task, m).results
        for m in ("trqam", "qam")
    )
    assert ours[0].success(1_000_000) == theirs[0].success(1_000_000) == 1 / 3


def test_the_kept_command_plans_the_same_run(tmp_path):
    from configs.flags import parse_flags
    from reports.reading import read_run
    from training.plan import plan
    from utils.files import write_json

    words = [
        "--env_name=scene-play-singletask-task2-v0",
        "--seed=3",
        "--num_seeds=2",
        "--preset=smoke",
        "--agent.kl_budget=0.25",
    ]
    words += [
        "--agent.actor_hidden_dims=(64, 64)",
        "--offline_steps=40",
        "--sparse",
        "--horizon_length=3",
        f"--save_dir={tmp_path}",
    ]
    ours = plan(parse_flags(["main.py", "--agent=agents/trqam.py", *words]))[1]
    ours.folder.mkdir(parents=True)
    write_json(ours.folder / "config.json", ours.config())
    result = read_run(ours.folder)
    assert result.overrides == {
        "kl_budget": 0.25,
        "actor_hidden_dims": [64, 64],
        "sparse": True,
        "horizon_length": 3,
        "preset": "smoke",
    }
    assert (result.agent, result.seed, result.offline_steps, result.online_steps) == (
        "trqam",
        4,
        40,
        40,
    )
    python, program, *again = shlex.split(command(result.config))
    assert (python, program) == ("python", "main.py")
    (theirs,) = plan(parse_flags([program, *again, f"--save_dir={tmp_path}"]))
    assert (
        theirs.folder == ours.folder
        and theirs.settings.agent.to_dict() == ours.settings.agent.to_dict()
    )
    assert theirs.settings.flags | {"seed": 3, "num_seeds": 2} == ours.settings.flags


def test_a_kept_run_names_its_base_without_its_folder(tmp_path):
    for i, base in enumerate(
        ("/home/me/a/params_300000.pkl", "/home/me/b/params_500000.pkl")
    ):
        write_run(
            tmp_path / "exp",
            CUBE.format(1),
            0,
            {1_000_000: 0.5},
            given={"pretrained_actor_path": base},
            hashed=f"{i}",
        )
    assert run_report(tmp_path / "exp", f"--export={tmp_path / 'kept'}") == 0
    assert methods_of(tmp_path / "kept") == methods_of(tmp_path / "exp")
    assert methods_of(tmp_path / "kept") == [
        f"trqam pretrained_actor_path=params_{n}00000.pkl" for n in (3, 5)
    ]
    runs = (tmp_path / "kept" / "runs.json").read_text()
    assert "/home/me" not in runs
    kept = json.loads(runs)[f"{CUBE.format(1)}/trqam_s0_0"]["config"]
    assert kept["command"].endswith(
        " --seed=0 --pretrained_actor_path=params_300000.pkl"
    )


def test_no_export_goes_where_it_would_hide_runs(tmp_path, capsys):
    run = write_run(tmp_path, CUBE.format(1), 0, {1_000_000: 0.5})
    file = tmp_path / "file"
    file.touch()
    for place in (run, run.parent, tmp_path / "sweep", tmp_path):
        assert run_report(tmp_path, f"--export={place}") == 2
        assert f"it holds the run {run}, " in capsys.readouterr().err
    assert run_report(tmp_path, f"--export={file}") == 2
    assert "it is no folder" in capsys.readouterr().err
    assert not list(tmp_path.rglob("runs.json"))
    assert run_report(tmp_path, f"--export={tmp_path / 'sweep' / 'kept'}") == 0


def test_an_export_keeps_evaluations_that_the_runs_have_lost(tmp_path, capsys):
    task, kept = CUBE.format(1), tmp_path / "kept"
    for name, steps in (("a", (500_000, 1_000_000)), ("b", (500_000,))):
        write_run(tmp_path / name, task, 0, dict.fromkeys(steps, 0.5))
    assert run_report(tmp_path / "a", f"--export={kept}") == 0
    curves = (kept / "curves.csv").read_text()
    assert run_report(tmp_path / "b", f"--export={kept}") == 2
    assert (
        "it holds evaluations that the runs no longer have" in capsys.readouterr().err
    )
    assert (kept / "curves.csv").read_text() == curves


def test_an_export_that_fails_leaves_the_kept_curves(tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    for seed in range(2):
        write_run(tmp_path / f"{seed}", CUBE.format(1), seed, {1_000_000: 0.5})
    assert run_report(tmp_path / "0", f"--export={kept}") == 0
    curves = (kept / "curves.csv").read_text()
    cells = iter(["1"] * 9)

    def full(name, cell):
        if not next(cells, ""):
            raise OSError(errno.ENOSPC, "No space left on device")
        return "1"

    with monkeypatch.context() as patched:
        patched.setattr(export, "shown_number", full)
        assert run_report(kept, tmp_path / "1", f"--export={kept}") == 1
    assert (kept / "curves.csv").read_text() == curves
    # the same command completes it
    assert run_report(kept, tmp_path / "1", f"--export={kept}") == 0
    assert (kept / "curves.csv").read_text().startswith(curves)
