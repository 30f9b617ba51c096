"""Tests the files and services that a run logs to, and how messages are printed."""

import math
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import UserError
from utils.logging import (
    WIDTH,
    CsvLog,
    RunLogger,
    check_backends,
    say,
    short_path,
    warn,
)

ROOT = Path(__file__).resolve().parents[2]

numbers = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False)
line_lists = st.lists(
    st.dictionaries(st.sampled_from("abcde"), numbers, max_size=4), max_size=6
).map(lambda lines: [{"step": 10 * i, **line} for i, line in enumerate(lines, 1)])


def fresh(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "train.csv"


@settings(deadline=None, max_examples=60)
@given(lines=line_lists)
def test_numbers_round_trip_with_their_type(lines, tmp_path_factory):
    log = CsvLog(fresh(tmp_path_factory))
    for line in lines:
        log.write(line)
    for read in (log.read(), CsvLog(log.path).read()):
        assert read == lines
        assert [[type(v) for v in line.values()] for line in read] == [
            [type(line[key]) for key in seen]
            for line, seen in zip(lines, read, strict=True)
        ]


@settings(deadline=None, max_examples=60)
@given(lines=line_lists, kept=st.integers(0, 6), torn=st.integers(0, 30))
def test_a_cut_and_resumed_file_has_the_bytes_of_one_never_killed(
    lines, kept, torn, tmp_path_factory
):
    uninterrupted, short, killed = (CsvLog(fresh(tmp_path_factory)) for _ in range(3))
    for line in lines:
        uninterrupted.write(line)
        killed.write(line)
    if lines:  # it was killed in the middle of writing the last line
        content = killed.path.read_bytes()
        last = len(content) - content[:-1].rfind(b"\n") - 1
        killed.path.write_bytes(content[: len(content) - min(torn, last)])
    killed = CsvLog(killed.path)
    count = min(kept, max(0, len(lines) - 1))
    killed.cut(count)
    assert killed.count == count == CsvLog(killed.path).count
    for line in lines[:count]:
        short.write(line)
    assert killed.read() == short.read()
    if short.read():
        assert killed.path.read_bytes() == short.path.read_bytes()
    for line in lines[count:]:
        killed.write(line)
    if lines:
        assert killed.path.read_bytes() == uninterrupted.path.read_bytes()
        assert os.listdir(killed.path.parent) == ["train.csv"]


def test_the_header_grows_and_earlier_lines_have_empty_cells(tmp_path):
    log = CsvLog(tmp_path / "a.csv")
    log.write({"step": 1, "loss": 0.5})
    log.write({"step": 2, "loss": 0.25, "kl": 0.1})
    log.write({"kl": 0.2, "step": 3})
    assert log.path.read_text() == "step,loss,kl\n1,0.5,\n2,0.25,0.1\n3,,0.2\n"
    assert log.read() == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.25, "kl": 0.1},
        {"step": 3, "kl": 0.2},
    ]


def test_arrays_flags_absent_values_and_text_can_be_logged(tmp_path):
    log = CsvLog(tmp_path / "a.csv")
    third = np.float32(1) / 3
    log.write(
        {
            "step": np.int64(7),
            "x": third,
            "y": np.array(2.0),
            "z": None,
            "ok": True,
            "phase": 'a, "b"',
        }
    )
    (line,) = log.read()
    assert line == {"step": 7, "x": float(third), "y": 2.0, "ok": 1, "phase": 'a, "b"'}
    assert np.float32(line["x"]) == third and "z" not in log.path.read_text()
    log.write({"step": 8, "x": math.nan, "y": math.inf})
    assert math.isnan(log.read()[1]["x"]) and log.read()[1]["y"] == math.inf


def test_each_line_is_on_disk_at_once(tmp_path):
    log = CsvLog(tmp_path / "a.csv")
    for step in range(3):
        log.write({"step": step})
        assert CsvLog(log.path).read()[-1] == {"step": step}


def test_a_torn_last_line_is_dropped_on_opening(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("step,loss\n1,0.5\n2,0.12")
    log = CsvLog(path)
    assert log.read() == [{"step": 1, "loss": 0.5}]
    log.write({"step": 2, "loss": 0.125})
    assert path.read_text() == "step,loss\n1,0.5\n2,0.125\n"
    path.write_text("step,lo")
    log = CsvLog(path)
    log.write({"step": 1, "loss": 0.5})
    assert path.read_text() == "step,loss\n1,0.5\n"


def test_a_cut_replaces_the_file_in_one_step(tmp_path, monkeypatch):
    log = CsvLog(tmp_path / "a.csv")
    for step in range(4):
        log.write({"step": step})
    before = log.path.read_bytes()

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        log.cut(2)
    assert log.path.read_bytes() == before
    CsvLog(log.path).cut(2)
    assert [line["step"] for line in CsvLog(log.path).read()] == [0, 1]


def test_a_run_has_three_files_and_wall_times_in_one_of_them(tmp_path, capsys):
    with RunLogger(tmp_path / "run") as logger:
        logger.train(5, {"loss": 1.0})
        position = logger.position()
        logger.train(10, {"loss": 0.5})
        logger.eval(10, {"success": 0.25})
        logger.timing(10, {"updates_per_second": 123.0})
        assert sorted(os.listdir(tmp_path / "run")) == [
            "eval.csv",
            "timing.csv",
            "train.csv",
        ]
        assert logger["train"].read() == [
            {"step": 5, "loss": 1.0},
            {"step": 10, "loss": 0.5},
        ]
        logger.cut(5, position)
    with RunLogger(tmp_path / "run") as logger:
        assert logger["train"].read() == [{"step": 5, "loss": 1.0}]
        assert logger["eval"].read() == logger["timing"].read() == []
        assert capsys.readouterr().out == ""
        logger.cut(5, position | {"train": 3})
    lost = f"{tmp_path}/run/train.csv has lost 2 lines since the checkpoint of step 5"
    assert lost.split() == capsys.readouterr().out.split()


def fake_module(monkeypatch, name, **attributes):
    module = types.ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


def test_tensorboard_gets_the_numbers_and_forgets_what_a_resume_cuts(
    tmp_path, monkeypatch
):
    calls = []

    class SummaryWriter:
        def __init__(self, logdir, purge_step):
            calls.append((logdir, purge_step))

        def add_scalar(self, *arguments):
            calls.append(arguments)

        def close(self):
            calls.append("closed")

    fake_module(monkeypatch, "tensorboardX", SummaryWriter=SummaryWriter)
    with RunLogger(tmp_path, ("csv", "tensorboard")) as logger:
        logger.cut(5, logger.position())
        logger.train(6, {"loss": np.float32(0.5), "kl": None, "phase": "offline"})
        logger.eval(6, {"success": 1})
    folder = str(tmp_path / "tensorboard")
    assert calls == [
        (folder, 6),
        ("train/loss", 0.5, 6),
        ("eval/success", 1.0, 6),
        "closed",
    ]


@pytest.fixture
def wandb_calls(monkeypatch):
    """Replace W&B by a stand-in and return the calls to it; `init` gets an id that is on disk."""
    calls = []

    def init(**arguments):
        assert (
            Path(arguments["dir"]) / "wandb_id"
        ).read_text() == f"{arguments['id']}\n"
        calls.append(arguments)
        return types.SimpleNamespace(
            log=lambda numbers: calls.append((numbers,)),
            define_metric=lambda name, step_metric: calls.append((name, step_metric)),
            finish=lambda: calls.append("finished"),
        )

    fake_module(monkeypatch, "wandb", init=init)
    return calls


def log_to_wandb(folder, **arguments):
    with RunLogger(folder, ("wandb",), wandb=arguments) as logger:
        logger.train(1, {"loss": 0.5})


def test_wandb_continues_the_run_of_the_folder(tmp_path, wandb_calls):
    calls = wandb_calls
    for _ in range(2):
        log_to_wandb(tmp_path / "a", group="g", project="p")
    log_to_wandb(tmp_path / "b")
    first, second, third = (call for call in calls if isinstance(call, dict))
    assert first == second and first["resume"] == "allow"
    assert (first["group"], first["project"]) == ("g", "p")
    assert first["name"] == f"{tmp_path.name} a"  # the task and the run
    # No mode is given, so that WANDB_MODE decides.
    assert (
        third["project"] == "trqam"
        and third["id"] != first["id"]
        and "mode" not in first
    )
    assert calls[1:4] == [("*", "step"), ({"step": 1, "train/loss": 0.5},), "finished"]


def test_the_wandb_project_of_the_environment_is_used(
    tmp_path, monkeypatch, wandb_calls
):
    monkeypatch.setenv("WANDB_PROJECT", "my-paper")
    log_to_wandb(tmp_path / "a")
    assert wandb_calls[0]["project"] == "my-paper"


def test_two_runs_that_log_to_wandb_at_the_same_time_are_two_runs_there(
    tmp_path, monkeypatch
):
    """Unless it is asked for a new run, W&B returns the one that is open."""
    logged = {}

    def init(id, reinit="default", **_):
        if reinit != "create_new" and logged:
            id = next(iter(logged))
        numbers = logged.setdefault(id, [])
        return types.SimpleNamespace(
            log=numbers.append,
            define_metric=lambda name, step_metric: None,
            finish=lambda: None,
        )

    fake_module(monkeypatch, "wandb", init=init)
    with (
        RunLogger(tmp_path / "a", ("wandb",)) as first,
        RunLogger(tmp_path / "b", ("wandb",)) as second,
    ):
        first.train(1, {"loss": 0.5})
        second.train(1, {"loss": 0.25})
    numbers = [[line["train/loss"] for line in lines] for lines in logged.values()]
    assert numbers == [[0.5], [0.25]]


def test_wandb_that_does_not_start_is_reported_before_training(tmp_path, monkeypatch):
    def init(**_):
        raise ConnectionError("no network\nwith details")

    fake_module(monkeypatch, "wandb", init=init)
    with RunLogger(tmp_path, ("wandb",)) as logger, pytest.raises(UserError) as caught:
        logger.cut(-1, {})
    assert str(caught.value) == (
        "--logger=wandb: W&B does not start (no network); wandb login, WANDB_MODE=offline, or"
        " leave wandb out"
    )


def test_a_folder_that_starts_again_is_another_run_in_wandb(tmp_path, wandb_calls):
    """It was deleted by --overwrite, or has the same path on another machine."""
    for _ in range(2):
        log_to_wandb(tmp_path / "a")
        shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "wandb_id").write_text("")  # as after a power cut
    log_to_wandb(tmp_path / "a")
    log_to_wandb((tmp_path / "a").rename(tmp_path / "moved"))
    ids = [call["id"] for call in wandb_calls if isinstance(call, dict)]
    assert len(set(ids)) == 3 and ids[2] == ids[3]
    assert all(re.fullmatch("[0-9a-f]{16}", found) for found in ids)


def test_backends_are_imported_only_when_asked_for(tmp_path, monkeypatch):
    for name in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)  # importing them fails
    with RunLogger(tmp_path) as logger:
        logger.train(1, {"loss": 0.5})
    with pytest.raises(UserError) as caught:
        RunLogger(tmp_path / "new", ("csv", "tensorboard"))
    assert (
        str(caught.value)
        == "--logger=tensorboard needs tensorboardX: pip install '.[tensorboard]', or leave"
        " tensorboard out"
    )
    with pytest.raises(
        UserError, match=r"--logger=wandb needs wandb: pip install '\.\[wandb\]'"
    ):
        check_backends(["wandb"])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "text, reason",
    [
        (
            "import not_there_at_all",
            "ModuleNotFoundError: No module named 'not_there_at_all'",
        ),
        ("raise AttributeError('np.float_')", "AttributeError: np.float_"),
        ("raise ImportError('a\\nb')", "ImportError: a"),
    ],
)
def test_a_backend_that_is_installed_and_broken_is_reported_with_its_error(
    text, reason, tmp_path, monkeypatch
):
    (tmp_path / "wandb.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(UserError) as caught:
        check_backends(["csv", "wandb"])
    assert str(caught.value) == (
        f"--logger=wandb: wandb is installed, but its import fails ({reason}); mend it, or"
        " leave wandb out"
    )


def test_the_error_for_an_unknown_backend_names_the_nearest(tmp_path):
    message = (
        "--logger=tensorbord: no such logger; did you mean tensorboard? (csv, tensorboard,"
        " wandb)"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        RunLogger(tmp_path / "new", ("csv", "tensorbord"))
    with pytest.raises(UserError, match="--logger=: no such logger"):
        check_backends([""])
    assert not (tmp_path / "new").exists()


LONG = "a message that is longer than a line of a hundred columns, and whose words are all short"


def test_messages_keep_to_a_hundred_columns(capsys):
    say(f"{LONG}: {LONG}")
    warn(LONG)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 2 and all(len(line) <= WIDTH for line in lines)
    assert lines[1].startswith("  ") and out.split() == f"{LONG}: {LONG}".split()
    assert err == f"warning: {LONG}\n"


def test_a_long_path_has_its_own_line_and_is_not_broken(capsys):
    path = "/" + "-folder/" * 15
    say(f"finished: {path}")
    assert capsys.readouterr().out == f"finished:\n  {path}\n"


def test_a_path_below_the_current_folder_is_shown_as_a_relative_path(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "exp" / "run") == "exp/run"
    assert short_path(Path("exp/run")) == "exp/run"
    assert short_path(tmp_path.parent / "run") == f"{tmp_path.parent}/run"


def test_a_message_is_in_the_file_at_once(tmp_path):
    """`tail -f` and sweeps read the output of `main.py > log` while it runs."""
    code = (
        "from utils.logging import say; say('now');"
        f" print(open({str(tmp_path / 'log')!r}).read())"
    )
    environ = {
        name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"
    }
    with open(tmp_path / "log", "w") as log:
        subprocess.run(
            [sys.executable, "-c", code], stdout=log, cwd=ROOT, env=environ, check=True
        )
    assert (tmp_path / "log").read_text() == "now\nnow\n\n"


def test_messages_contain_no_control_characters(capsys):
    say("a\x1b[2J path\nand a line")
    assert capsys.readouterr().out == "a\\x1b[2J path and a line\n"
