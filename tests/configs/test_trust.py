"""Tests that a run from elsewhere executes nothing without --trust, and that the code of the
checkout and of runs trained on this machine needs no --trust.
"""

import os
import stat
from pathlib import Path

import pytest

from configs import trust
from configs.agent_file import load_source
from configs.agent_source import AGENTS, KEPT
from configs.trust import (
    UntrustedError,
    check_trusted,
    record_trusted,
    trusted_digests,
    trusted_file,
)
from training.policy import agent_of_run
from utils.errors import UserError

AGENT = """from agents import trqam
{imports}


class Mine(trqam.TRQAM):
    VALUE = {value}


open({made!r}, "w").close()
get_config = trqam.get_config
AGENT = Mine
"""


@pytest.fixture(autouse=True)
def data_home(tmp_path, monkeypatch):
    """Use an empty data folder, so that no agent was trained on this machine."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def strange(tmp_path):
    """Return a run folder from elsewhere, its config.json, and the file that its agent creates."""
    made = tmp_path / "made"
    folder = tmp_path / "run"
    (folder / KEPT / "nets").mkdir(parents=True)
    text = AGENT.format(imports="from nets.sub import V", value="V", made=str(made))
    (folder / KEPT / "mine.py").write_text(text)
    (folder / KEPT / "nets" / "__init__.py").touch()
    (folder / KEPT / "nets" / "sub.py").write_text("V = 7\n")
    record = {
        "file": "mine.py",
        "package": "",
        "digest": "",
        "of_checkout": False,
        "checkout": {},
    }
    return folder, {"agent_file": "/nowhere/mine.py", "source": record}, made


def test_a_strangers_run_lists_what_it_would_execute_and_executes_nothing(strange):
    folder, stored, made = strange
    with pytest.raises(UntrustedError) as caught:
        agent_of_run(folder, stored)
    assert str(caught.value) == (
        f"this would execute {folder}/source/mine.py (11 lines), {folder}/source/nets/sub.py (1"
        " lines), which is not a file of this checkout and was not trained on this machine; read"
        " it, and give --trust (in Python trust=True) if you trust who wrote it"
    )
    assert isinstance(caught.value, UserError) and not made.exists()
    assert agent_of_run(folder, stored, trust=True).VALUE == 7
    assert made.exists()


def test_what_was_trained_on_this_machine_needs_no_trust_flag(strange):
    folder, stored, made = strange
    source = load_source(folder / KEPT / "mine.py")
    made.unlink()
    record_trusted(source)
    assert trusted_file() == Path(os.environ["XDG_DATA_HOME"], "trqam", "trusted")
    lines = trusted_file().read_text()
    assert len(lines.split()) == 3 and trusted_digests() == set(lines.split())
    record_trusted(source)
    assert trusted_file().read_text() == lines  # no file is recorded twice
    assert agent_of_run(folder, stored).VALUE == 7
    (folder / KEPT / "nets" / "sub.py").write_text("V = 8\n")
    with pytest.raises(
        UntrustedError, match=r"execute \S+/nets/sub\.py \(1 lines\), which"
    ):
        agent_of_run(folder, stored)


def test_a_changed_docstring_makes_a_file_untrusted(strange):
    """A docstring does not count in a run's identity, but code may read and execute it."""
    folder, stored, _ = strange
    file = folder / KEPT / "mine.py"
    record_trusted(load_source(file))
    file.write_text('"""print()"""\n' + file.read_text())
    with pytest.raises(UntrustedError, match="mine.py"):
        agent_of_run(folder, stored)


def test_copies_of_the_checkouts_agents_need_no_trust_flag_in_any_folder(tmp_path):
    source = load_source(AGENTS / "fql.py")
    source.keep(tmp_path)
    assert (
        agent_of_run(tmp_path, source.record()).__name__ == source.module.AGENT.__name__
    )
    assert not trusted_file().exists()


@pytest.mark.parametrize("claim", ["a module beside it", "of the checkout"])
def test_every_file_is_checked_before_it_is_executed(claim, strange, tmp_path):
    """This holds whatever config.json claims, and in every folder."""
    folder, stored, made = strange
    known = (AGENTS / "fql.py").read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    stored["agent_file"] = str(elsewhere / "fql.py")
    if claim == "a module beside it":
        load_source(AGENTS / "fql.py").keep(folder)
        stored["source"] |= {"file": "fql.py", "of_checkout": True}
        (elsewhere / "fql.py").write_bytes(known)
        # It would replace the installed flax, which the agent imports.
        (elsewhere / "flax.py").write_text(f"open({str(made)!r}, 'w').close()")
    else:
        stored["source"]["of_checkout"] = True
        stored["agent_file"] = "agents/fql.py"
    if claim == "a module beside it":
        # The agent in the run folder is loaded.
        assert agent_of_run(folder, stored).__name__ == "FQL"
    else:
        with pytest.raises(UntrustedError, match="this would execute"):
            agent_of_run(folder, stored)
    assert not made.exists()


def test_a_home_that_cannot_be_written_is_not_an_error(strange, monkeypatch, tmp_path):
    folder, _, _ = strange
    (tmp_path / "data").touch()  # a file, where a folder is needed
    record_trusted(load_source(folder / KEPT / "mine.py"))
    assert trusted_digests() == set()
    monkeypatch.setattr(trust, "user_folder", lambda *_: None)
    record_trusted(load_source(folder / KEPT / "mine.py"))
    with pytest.raises(UntrustedError):
        check_trusted({tmp_path / "a.py": b"pass"})
    check_trusted({tmp_path / "__init__.py": b"\n"})  # nothing to execute


def test_a_home_that_cannot_be_read_is_not_an_error(strange, monkeypatch):
    """As of a container that runs as another user than its HOME belongs to."""
    folder, _, _ = strange

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    source = load_source(folder / KEPT / "mine.py")
    with monkeypatch.context() as closed:
        for name in ("stat", "open", "mkdir"):
            closed.setattr(Path, name, refuse)
        assert trusted_digests() == set()
        record_trusted(source)
    assert not trusted_file().exists()
    record_trusted(source)
    trusted_file().write_bytes(b"\xff\n")  # damaged
    assert trusted_digests() == set()


def test_only_the_user_can_read_and_write_the_list_of_trusted_files(strange):
    folder, _, _ = strange
    before = os.umask(0)
    try:
        record_trusted(load_source(folder / KEPT / "mine.py"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(trusted_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(trusted_file().parent.stat().st_mode) == 0o700
