"""An undisturbed run, runs that were cut short, and the comparison with the former."""

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
    """A folder with the run undisturbed, and cut short in either phase."""
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
def stand(runs, tmp_path, monkeypatch):
    """Go to a copy of one of `runs`, or to a new place with the data alone."""
    places = itertools.count()

    def go(name=None, place=None):
        place = place or tmp_path / f"place{next(places)}"
        if name is None:
            place.mkdir()
            shutil.copy(runs / "whole" / "data.npz", place)
        else:
            shutil.copytree(runs / name, place, dirs_exist_ok=True)
        monkeypatch.chdir(place)

    return go


@pytest.fixture
def assert_undisturbed(runs, capsys):
    """Give the command (again) and compare what it leaves with the undisturbed run; returns the
    lines it printed.
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
        return captured.out.replace(
            "\n  ", " "
        ).splitlines()  # a wrapped message on one line

    return check


@pytest.fixture
def assert_stops(capsys):
    """The command ends with an exit code and one line of error, which is returned."""

    def check(code, *flags):
        capsys.readouterr()
        assert train(*flags) == code
        captured = capsys.readouterr()
        (line,) = errors(captured.err)
        assert line.startswith("error: ")
        assert "Traceback" not in captured.out
        return line

    return check
