"""Fixtures: an undisturbed run, runs that were cut short, and comparisons with the former."""

import contextlib
import itertools
import shutil

import pytest

from envs.probe import write_dataset
from tests.chain_runs import (
    CUTS,
    ENV_NAME,
    NEWEST,
    Cut,
    before_updates,
    cut,
    errors,
    newest,
    result,
    train,
)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Return a folder with an undisturbed run and with a run that was cut short in each phase."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("whole", *CUTS):
        (root / name).mkdir()
        write_dataset(ENV_NAME, root / name / "data.npz", 60)
        with contextlib.chdir(root / name):
            if name == "whole":
                assert train() == 0
            else:
                with before_updates(CUTS[name], cut), pytest.raises(Cut):
                    train()
                assert newest().name == str(NEWEST[name])
    return root


@pytest.fixture
def enter_folder(runs, tmp_path, monkeypatch):
    """Return a function that enters a copy of one of `runs`, or a new folder with only the data."""
    places = itertools.count()

    def enter(name=None, place=None):
        place = place or tmp_path / f"place{next(places)}"
        if name is None:
            place.mkdir()
            shutil.copy(runs / "whole" / "data.npz", place)
        else:
            shutil.copytree(runs / name, place, dirs_exist_ok=True)
        monkeypatch.chdir(place)

    return enter


@pytest.fixture
def assert_undisturbed(runs, capsys):
    """Return a function that gives the command (again), compares what it leaves with the
    undisturbed run and returns the lines it printed.
    """

    def check(code=0):
        capsys.readouterr()
        assert train() == code
        captured = capsys.readouterr()
        assert errors(captured.err) == []
        ours, theirs = result(), result(runs / "whole")
        assert [
            name
            for name in ours.keys() | theirs.keys()
            if ours.get(name) != theirs.get(name)
        ] == []
        # Put each wrapped message on one line.
        return captured.out.replace("\n  ", " ").splitlines()

    return check


@pytest.fixture
def assert_stops(capsys):
    """Return a function that checks that the command ends with an exit code and one line of
    error, and returns that line.
    """

    def check(code, *flags):
        capsys.readouterr()
        assert train(*flags) == code
        captured = capsys.readouterr()
        (line,) = errors(captured.err)
        assert line.startswith("error: ")
        assert "Traceback" not in captured.out
        return line

    return check
