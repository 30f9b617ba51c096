"""report.py, main.py, sweep.py and rollout.py name each damaged, hostile or deleted run folder
in one line, and the other runs are not affected.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import main as program
from configs.agent_source import kept_source
from configs.run_folder import read_config
from envs.probe import write_dataset
from reports.files import as_csv, escape
from reports.published import read_published
from reports.reading import read_all
from reports.summary import make_report
from reports.text import as_text
from scripts import report, rollout, sweep
from sweeps.engines import log_exit_code
from tests.chain_runs import ENV_NAME, FLAGS, before_updates, errors
from tests.odd_runs import ODD, link, other, text, with_entry, without
from tests.sweeps.stub_jobs import planned
from tests.synthetic_runs import write_csv, write_run
from tests.tiny_runs import unwrapped
from utils.errors import printable

ROOT = Path(__file__).resolve().parents[2]
SCENE, CUBE = "scene-play-singletask-task{}-v0", "cube-double-play-singletask-task{}-v0"


def run(*words):
    return report.main(["report.py", *map(str, words)])


def words(text):
    """Return a text without its line breaks."""
    return " ".join(text.split())


def good_run(place, seed=0, task=None, **changed):
    rates = {0: 0.1, 1_000_000: 0.5 + seed / 100}
    return write_run(
        place,
        task or SCENE.format(1),
        seed,
        rates,
        kl=[(1_000_000, 1.0, 1.0)],
        **changed,
    )


def good_runs(place):
    """Write eight runs: two methods on two tasks with two seeds."""
    for seed in range(2):
        for task in (SCENE.format(1), CUBE.format(2)):
            good_run(place, seed, task)
            good_run(place, seed, task, agent="qam")


# ---------------------------------------------------------------- the report


def test_200_odd_runs_change_nothing_in_the_report_of_8_good_ones(tmp_path):
    """The odd runs have the tasks and methods of the good ones, and other success rates."""
    rng = np.random.default_rng(0)
    good_runs(tmp_path / "good")
    kinds = [*ODD, *rng.choice(list(ODD), 200 - len(ODD))]
    for i, kind in enumerate(kinds):
        place = tmp_path / "good" / "deep" / f"{i}" / str(rng.integers(3))
        agent = str(rng.choice(["trqam", "qam", "mine"]))
        ODD[kind][0](good_run(place, int(rng.integers(30)), agent=agent))
    both = []
    for name in ("odd beside good", "good alone"):
        results, notes = read_all([str(tmp_path / "good")], 1)
        left_out = [note for note in notes if note.startswith("left out: ")]
        others = [note for note in notes if note not in left_out]
        found = make_report(results, "final", read_published(), others, replicates=50)
        both.append((as_text(found, details=True), as_csv(found)))
        assert len(results) == 8 and len(left_out) == (200 if "odd" in name else 0)
        assert all("\n" not in line for line in left_out)
        shutil.rmtree(tmp_path / "good" / "deep", ignore_errors=True)
    assert both[0] == both[1]


def in_a_process(*arguments, **environ):
    """Run report.py with at most 1.5 GB of memory and 100 seconds."""
    limited = ["sh", "-c", 'ulimit -v 1500000 && exec "$@"', "sh"]
    return subprocess.run(
        [*limited, sys.executable, ROOT / "scripts" / "report.py", *arguments],
        capture_output=True,
        timeout=100,
        check=False,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"} | environ,
    )


def test_every_odd_run_is_named_in_a_line_and_none_blocks_or_fills_the_memory(tmp_path):
    good_run(tmp_path / "good")
    for i, (damage, _) in enumerate(ODD.values()):
        damage(good_run(tmp_path / f"{i}"))
    done = in_a_process(tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode()
    assert shown.count("\nnote: left out: ") == len(ODD) and "\nA trqam  50.0 " in shown
    assert "\x1b" not in shown


def test_if_every_run_is_left_out_the_error_says_why(tmp_path, capsys):
    without("sources")(good_run(tmp_path))
    assert run(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: no run with an evaluation in {tmp_path} (left out: "
    )
    assert (
        "config.json is damaged (sources is missing)); train one with main.py" in line
    )


def test_other_json_files_are_not_taken_for_runs(tmp_path, capsys):
    good_run(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"hidden_size": 768}')
    assert run(tmp_path) == 0
    assert "left out" not in capsys.readouterr().out


def test_a_folder_that_may_not_be_read_is_named_in_a_line(
    tmp_path, monkeypatch, capsys
):
    good_run(tmp_path)
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert run(tmp_path) == 0
    line = f"note: left out: {tmp_path}/closed cannot be read (Permission denied)"
    assert line in words(capsys.readouterr().out)


# ---------------------------------------------------------------- places and links


def test_short_relative_paths_work_like_other_paths(tmp_path, monkeypatch, capsys):
    ours = good_run(tmp_path / "exp", run_group="smoke")
    theirs = good_run(tmp_path / "exp", run_group="other")
    monkeypatch.chdir(ours.parent)
    assert run(ours.name, os.path.relpath(theirs)) == 0
    assert "trqam in other" in words(capsys.readouterr().out)
    monkeypatch.chdir(ours)
    assert run(".", os.path.relpath(theirs), f"--csv={tmp_path / 'r.csv'}") == 0
    methods = {
        line.split(",")[4] for line in (tmp_path / "r.csv").read_text().splitlines()
    }
    assert {"trqam in smoke", "trqam in other"} <= methods


@pytest.mark.parametrize("given", [".", "link", "exp/sweep/../sweep"])
def test_an_exported_run_has_its_own_folder_however_its_path_is_written(
    given, tmp_path, monkeypatch
):
    folder = good_run(tmp_path / "exp")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder if given == "." else tmp_path)
    assert run(given, f"--export={tmp_path / 'kept'}") == 0
    runs = json.loads((tmp_path / "kept" / "runs.json").read_text())
    assert list(runs) == [f"{SCENE.format(1)}/{folder.name}"]


def test_linked_groups_are_followed_once_and_loops_are_not(tmp_path, capsys):
    """Each run counts once, by its own path where that is below the given folder."""
    good_run(tmp_path / "exp", run_group="here")
    good_run(tmp_path / "scratch", 1, run_group="table")
    good_run(tmp_path, 2, run_group="beside")  # A link upwards would add this.
    for place, target in {
        "exp/a": "scratch/table",
        "exp/b": "scratch/table",
        "exp/again": "exp/here",
        "exp/here/up": "exp",
        "exp/root": "",
        "scratch/table/back": "exp",
        "exp/self": "exp/self",
    }.items():
        (tmp_path / place).symlink_to(tmp_path / target)
    results, notes = read_all([str(tmp_path / "exp")], 1)
    found = sorted(
        str(result.folder.relative_to(tmp_path / "exp")) for result in results
    )
    assert [path.split("/")[0] for path in found] == ["a", "here"] and notes == []
    assert {result.method for result in results} == {"trqam"}
    assert run(tmp_path / "exp", tmp_path / "exp" / "b") == 0
    assert " 2 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["eval.csv", "train.csv", "config.json", "concerns.json"]
)
def test_no_file_from_outside_a_run_is_exported(name, tmp_path, capsys):
    for seed in range(2):
        folder = good_run(tmp_path / "exp", seed)
        (folder / "concerns.json").write_text("{}")
    secret = tmp_path / "secret"
    (folder / name).rename(secret)
    (folder / name).symlink_to(secret)
    assert run(tmp_path / "exp", f"--export={tmp_path / 'kept'}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"error: --export: {folder / name} is a link to a place outside its run;"
        " put a copy there, or remove it"
    )
    assert not (tmp_path / "kept").exists()
    (folder / name).unlink()
    secret.rename(folder / f"own_{name}")
    (folder / name).symlink_to(f"own_{name}")  # inside the run
    assert run(tmp_path / "exp", f"--export={tmp_path / 'kept'}") == 0


# ---------------------------------------------------------------- what is printed


NAMES = ["a\x1b[31mb", "two\nlines", "a\u202eb", "\udcff", "é"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_folders_and_values_never_reach_the_terminal_raw(
    name, tmp_path, capsys
):
    place = tmp_path / name
    for i, mode in enumerate((f"x{name}".replace("\udcff", ""), "y")):
        good_run(place, given={"agent.mode": "z"}, hashed=f"{i}", run_group="one")
        with_entry("flags.tags", mode)(
            place / "one" / SCENE.format(1) / f"trqam_s0_{i}"
        )
        with_entry("agent.word", mode)(
            place / "one" / SCENE.format(1) / f"trqam_s0_{i}"
        )
        with_entry("sources", {"agent.word": "command line"})(
            place / "one" / SCENE.format(1) / f"trqam_s0_{i}"
        )
    good_run(place, given={"agent.mode": "z"}, run_group="two")
    without("flags")(good_run(place, 1))
    files = {kind: tmp_path / f"r.{kind}" for kind in ("csv", "latex", "html")}
    assert (
        run(place, "--details", *(f"--{kind}={path}" for kind, path in files.items()))
        == 0
    )
    printed = capsys.readouterr()
    shown = ascii(name)[1:-1] if name != "é" else "é"
    assert "left out: " in printed.out and shown in printed.out.replace("\n", "")
    for text_shown in (printed.out, *(path.read_text() for path in files.values())):
        assert all(printable(line) == line for line in text_shown.split("\n"))
    assert run(tmp_path / f"no{name}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {tmp_path}/no{shown}: there is no such folder"


@pytest.mark.parametrize("environ", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_the_report_prints_in_any_encoding(environ, tmp_path):
    good_run(tmp_path / "é", 0)
    good_run(tmp_path / "é", 1)
    environ |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = in_a_process(
        tmp_path / "é", "--details", f"--csv={tmp_path}/é.csv", **environ
    )
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode("ascii")
    assert "50.5 +- 6.4" in shown and "lambda" in shown
    # The escape depends on the encoding of file names.
    assert "\\xe9.csv" in shown or r"\udcc3\udca9.csv" in shown


def test_latex_is_escaped_and_on_one_line():
    shown = escape("a{b}^~\\&%$#_<|>\nc\r\nd")
    assert shown == (
        r"a\{b\}\textasciicircum{}\textasciitilde{}\textbackslash{}\&\%\$\#\_$<$$|$$>$ c d"
    )


# ---------------------------------------------------------------- main.py, sweep.py, rollout.py


SHORT = [
    *FLAGS,
    "--bc_steps=0",
    "--offline_steps=4",
    "--online_steps=0",
    "--agent=agents/trqam.py",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a folder with data.npz and a finished run."""
    place = tmp_path_factory.mktemp("finished")
    write_dataset(ENV_NAME, place / "data.npz", 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert program.main(["main.py", *words_of(place)]) == 0
    return place


def words_of(place):
    return [word.replace("agents/", f"{ROOT}/agents/") for word in SHORT]


@pytest.fixture
def copy(finished, tmp_path, monkeypatch):
    """Return the run folder in a copy of `finished`, which is the working directory."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    (config,) = Path().glob("exp/Debug/*/*/config.json")
    return config.parent


def files_of(folder):
    return {
        path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


DAMAGE = {
    "done.json = {}": (
        text("done.json", "{}"),
        "done.json",
        "offline_steps is missing",
    ),
    "done.json with words": (
        text("done.json", '{"offline_steps": "4", "online_steps": 0}'),
        "done.json",
        "offline_steps is '4', not a whole number from 0 up",
    ),
    "done.json is a pipe": (
        other("done.json", os.mkfifo),
        "done.json",
        "not a regular file",
    ),
    "done.json without end": (
        other("done.json", link("/dev/zero")),
        "done.json",
        "not a regular file",
    ),
    "config.json = {}": (
        text("config.json", "{}"),
        "config.json",
        "agent_file is missing",
    ),
    "config.json without a flag": (
        without("flags.utd_ratio"),
        "config.json",
        "flags.utd_ratio is missing",
    ),
    "config.json with a list": (
        with_entry("sources", []),
        "config.json",
        "sources is [], not an object of texts",
    ),
    "config.json is a pipe": (
        other("config.json", os.mkfifo),
        "config.json",
        "not a regular file",
    ),
    "config.json nested": (
        text("config.json", "[" * 100_000),
        "config.json",
        "nested too deeply",
    ),
    "a stranger's source": (
        with_entry("source.file", "../../../a.py"),
        "config.json",
        "source.file is '../../../a.py', not the name of a file",
    ),
}
REMEDY = "; delete it, and the same command resumes the run"


@pytest.mark.parametrize("kind", DAMAGE)
def test_main_names_the_damaged_file_and_changes_nothing(kind, copy, capsys):
    damage, name, fault = DAMAGE[kind]
    damage(copy)
    before = files_of(copy)
    assert program.main(["main.py", *words_of(copy)]) == 1
    (line,) = errors(capsys.readouterr().err)
    assert line == f"error: {copy / name} is damaged ({fault}){REMEDY}"
    assert files_of(copy) == before


LOG_DAMAGE = {
    "not UTF-8": (text("eval.csv", b"step,success\n4,\xff\n"), "eval.csv"),
    "a long cell": (
        text("train.csv", "step,x\n4," + "1" * 131_073 + "\n"),
        "train.csv",
    ),
    "a folder": (other("eval.csv", Path.mkdir), "eval.csv"),
    "a pipe": (other("train.csv", os.mkfifo), "train.csv"),
    "more cells than columns": (text("eval.csv", "step\n4,5,6\n"), "eval.csv"),
}


@pytest.mark.parametrize("kind", LOG_DAMAGE)
def test_a_run_does_not_resume_with_a_damaged_log(kind, copy, capsys):
    damage, name = LOG_DAMAGE[kind]
    damage(copy)
    (copy / "done.json").unlink()
    assert program.main(["main.py", *words_of(copy)]) == 1
    (line,) = errors(capsys.readouterr().err)
    assert line.startswith(f"error: {copy / name} is damaged (") and line.endswith(
        REMEDY
    )


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_status_of_a_sweep_names_a_damaged_run_and_counts_the_others(
    kind, copy, capsys
):
    damage, name, fault = DAMAGE[kind]
    if "utd_ratio" in fault:
        pytest.skip("only a run that is trained needs it")
    damage(copy)
    flags = [
        word
        for word in words_of(copy)
        if not word.startswith(("--agent=", "--env_name"))
    ]
    task = f"--env_name={ENV_NAME}"
    command = [
        "sweep.py",
        f"--agents={ROOT}/agents/trqam.py",
        "--seeds=2",
        task,
        *flags,
    ]
    assert sweep.main([*command, "--status"]) == 0
    printed = capsys.readouterr()
    header, *_, all_runs, line, left = printed.out.splitlines()
    counts = dict(zip(header.split(), map(int, all_runs.split()[1:]), strict=True))
    others = dict.fromkeys(("finished", "running", "stopped"), 0)
    assert counts == others | {"failed": 1, "missing": 1}
    assert line == f"failed   {copy / name} is damaged ({fault})" and printed.err == ""
    assert left.startswith("time left: ")
    assert sweep.main(command) == 0  # Its command is printed too.
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    assert "main.py" in line and "--num_seeds=2" in line
    # a damaged done.json is reported by the job, as the run may not have finished
    assert (f"{name} is damaged (" in unwrapped(printed.err)) == (name == "config.json")


def test_an_error_in_a_jobs_log_is_printed_as_text(tmp_path, capsys):
    flags = [f"--env_name={ENV_NAME}", f"--save_dir={tmp_path}", "--bc_steps=0"]
    (job,) = planned(*flags, f"--agents={ROOT}/agents/trqam.py", "--dataset=data.npz")
    job.log.parent.mkdir(parents=True)
    job.log.write_text("error: \x1b[31mred\x07\n")
    log_exit_code(job.log, 1)
    assert "\x1b" in job.failure()
    command = [
        "sweep.py",
        *flags,
        f"--agents={ROOT}/agents/trqam.py",
        "--dataset=data.npz",
    ]
    assert sweep.main([*command, "--status"]) == 0
    assert r"failed   exit code 1: \x1b[31mred\x07  " in capsys.readouterr().out


POLICY = {
    **{kind: values for kind, values in DAMAGE.items() if values[1] == "config.json"},
    "no width": (
        without("agent.actor_hidden_dims"),
        "config.json",
        "it makes no agent: ",
    ),
    "a width in words": (
        with_entry("agent.actor_hidden_dims", "wide"),
        "config.json",
        "it makes no agent: ",
    ),
    "a name with a dot": (
        with_entry("agent", {"a.b": 1}),
        "config.json",
        "agent.horizon_length is",
    ),
    "no dimension": (
        without("observation_dim"),
        "config.json",
        "observation_dim is missing",
    ),
    "a horizon of nothing": (
        with_entry("agent.horizon_length", 0),
        "config.json",
        "agent.horizon_length is 0, not a whole number from 1 to a million",
    ),
}


def test_a_pipe_is_not_read_as_source_code(copy):
    """Reading a pipe beside the agent file would wait for ever."""
    os.mkfifo(copy / "source" / "pipe.py")
    kept = kept_source(copy, read_config(copy))
    assert list(kept.kept) == ["trqam.py"]


@pytest.mark.parametrize("kind", POLICY)
def test_a_rollout_of_a_damaged_run_prints_one_line(kind, copy, capsys):
    damage, name, fault = POLICY[kind]
    damage(copy)
    assert (
        rollout.main(["rollout.py", str(copy), "--episodes=1", "--eval_workers=1"]) == 1
    )
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(
        f"error: {copy / name} is damaged ({fault}"
    ) and line.endswith(")")
    assert "delete" not in line and printed.out == ""


def test_the_best_checkpoint_is_not_chosen_from_a_damaged_log(copy, capsys):
    write_csv(copy / "eval.csv", ("step", "episodes", "success"), [(4, 1, 17.0)])
    words = ["rollout.py", str(copy), "--episodes=1", "--eval_workers=1", "--best"]
    assert rollout.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "eval.csv is damaged (line 2: success is '17.0', not a number from 0 to 1)"
        in line
    )


# ---------------------------------------------------------------- a folder that vanishes


@pytest.mark.ci
@pytest.mark.parametrize("call", [1, 3])
def test_a_run_whose_folder_is_deleted_stops_and_writes_nothing_more(
    call, finished, tmp_path, monkeypatch, capsys
):
    """It is deleted before the first checkpoint is written, or after it."""
    shutil.copy(finished / "data.npz", tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = [
        *words_of(tmp_path),
        "--offline_steps=12",
        "--save_interval=4",
        "--log_interval=2",
    ]

    def delete(replay):
        (folder,) = Path().glob("exp/Debug/*/trqam_*")
        while folder.exists():  # A checkpoint may still be written into it.
            shutil.rmtree(folder, ignore_errors=True)
        return replay

    with before_updates(call, delete):
        assert program.main(["main.py", *flags]) == 1
    (line,) = errors(capsys.readouterr().err)
    assert line.endswith(
        " was deleted while the run was training; the same command trains it again"
    )
    assert "intact" not in line and "last good checkpoint" not in line
    assert not list(Path().glob("exp/Debug/*/trqam_*/*.csv"))
    assert program.main(["main.py", *flags]) == 0
    (done,) = Path().glob("exp/Debug/*/*/done.json")
    steps = [
        line.split(",")[0]
        for line in (done.parent / "eval.csv").read_text().splitlines()
    ]
    assert steps == ["step", "0", "12"]
