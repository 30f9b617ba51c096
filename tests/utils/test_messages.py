"""Tests how messages are printed."""

import os
import subprocess
import sys
from pathlib import Path

from utils.messages import WIDTH, say, short_path, warn

ROOT = Path(__file__).resolve().parents[2]
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
        "from utils.messages import say; say('now');"
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
