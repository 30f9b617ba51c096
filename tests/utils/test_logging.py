"""Tests the files and services that a run logs to."""

import os
import re
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from utils.errors import UserError
from utils.logging import RunLogger, check_backends


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
