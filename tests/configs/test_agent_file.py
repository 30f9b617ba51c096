"""Tests how agent files are loaded: what imports find, which sources are equal, what is kept."""

import dataclasses
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from configs.agent_file import load_source
from configs.agent_source import AGENTS, ROOT, kept_source
from configs.flags import define_flags, parse_flags, take_agent
from configs.settings import lineage
from training.policy import agent_of_run
from utils.errors import UserError

AGENT = """
from agents.fql import AGENT as Parent, get_config
{imports}


class Mine(Parent):
    VALUE = {value}


AGENT = Mine
"""


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def write(folder, name="mine.py", imports="", value="1", helpers=None):
    """Write an agent file whose class has VALUE, and other files in its folder; return its path."""
    files = {name: AGENT.format(imports=imports, value=value)} | (helpers or {})
    for place, text in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)
    return folder / name


def value_of(path):
    return load_source(path).module.AGENT.VALUE


# ---------------------------------------------------------------- what imports find


HELPER = {"helper.py": "V = {n}"}
HELPER_1 = {"helper.py": "V = 1"}
NETS = {"nets/__init__.py": "", "nets/sub.py": "V = {n}"}
IMPORTS = {
    "a module": ("import helper", "helper.V", HELPER),
    "a name": ("from helper import V as value", "value", HELPER),
    "everything": ("from helper import *", "V", HELPER),
    "a relative name": ("from .helper import V", "V", HELPER),
    "a relative module": ("from . import helper", "helper.V", HELPER),
    "a module that imports": (
        "import a", "a.V", {"a.py": "from b import V", "b.py": "V = {n}"},
    ),
    "two that import each other": (
        "import a", "a.b.V", {"a.py": "import b", "b.py": "import a\nV = {n}"},
    ),
    "a package": ("from nets.sub import V", "V", NETS),
    "a package's name": ("import nets.sub", "nets.sub.V", NETS),
    "a package's alias": ("import nets.sub as s", "s.V", NETS),
    "a package's init": (
        "import nets", "nets.V", NETS | {"nets/__init__.py": "from nets.sub import V"},
    ),
    "a relative import in a package": (
        "from nets.sub import V", "V",
        NETS | {"nets/sub.py": "from .more import V", "nets/more.py": "V = {n}"},
    ),
    "a package without a file of its own": (
        "from nets import sub", "sub.V",
        {"nets/sub.py": "from nets.more import V", "nets/more.py": "V = {n}"},
    ),
    "the folder's own name": (
        "from same.helper import V", "V", HELPER,
    ),
    "the folder as a package": (
        "from same import V", "V", {"__init__.py": "from same.helper import V"} | HELPER,
    ),
    "the folder's name for a module": (
        "from same import V", "V", {"same.py": "V = {n}"},
    ),
    "an installed name": ("import yaml", "yaml.V", {"yaml.py": "V = {n}"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", IMPORTS)
def test_modules_of_the_folder_are_found_and_private_to_each_agent(kind, tmp_path):
    imports, value, helpers = IMPORTS[kind]
    files = []
    for n in (1, 2):
        folder = tmp_path / str(n) / "same"
        texts = {name: text.format(n=n) for name, text in helpers.items()}
        files.append(write(folder, imports=imports, value=value, helpers=texts))
    before = dict(sys.modules)
    assert [value_of(file) for file in files] == [1, 2]
    assert [value_of(file) for file in reversed(files)] == [2, 1]
    added = {name.partition(".")[0] for name in sys.modules.keys() - before.keys()}
    assert not added & {Path(name).parts[0].removesuffix(".py") for name in helpers}
    assert all(sys.modules[name] is module for name, module in before.items())
    source = load_source(files[0])
    # A missing __init__.py counts as an empty one.
    absent = {"__init__.py", "nets/__init__.py"}
    assert source.kept.keys() - absent == {"mine.py", *helpers} - absent
    assert source.digest != load_source(files[1]).digest


def test_an_imported_module_with_the_name_of_a_sibling_is_not_used(
    tmp_path, monkeypatch
):
    """For example, an environment may have imported one. It stays unchanged."""
    other = write(tmp_path / "other", name="helper.py").parent
    (other / "helper.py").write_text("V = 3")
    monkeypatch.syspath_prepend(str(other))
    import helper

    path = write(tmp_path, imports="import helper", value="helper.V", helpers=HELPER_1)
    assert value_of(path) == 1 and sys.modules.pop("helper") is helper and helper.V == 3


def test_a_class_of_a_sibling_is_found_by_the_name_of_its_module(tmp_path):
    helpers = {"helper.py": "class Net:\n    WIDTH = 4\n"}
    path = write(
        tmp_path, imports="from helper import Net", value="Net", helpers=helpers
    )
    kind = value_of(path)
    assert vars(sys.modules[kind.__module__])["Net"] is kind
    assert inspect.getsource(kind) == helpers["helper.py"]


def test_an_edit_after_the_file_was_read_does_not_count(tmp_path):
    """Sources are read when runs are planned, long before the last of them begins."""
    path = write(tmp_path, imports="import helper", value="helper.V", helpers=HELPER_1)
    source = load_source(path)
    write(tmp_path, value="None", helpers={"helper.py": "V = 2"})
    assert source.module.AGENT.VALUE == 1
    source.keep(tmp_path)
    assert (tmp_path / "source" / "helper.py").read_text() == "V = 1"


def test_the_checkout_and_the_standard_library_are_searched_before_the_folder(tmp_path):
    imports = "import statistics\nfrom utils.errors import UserError"
    path = write(
        tmp_path,
        imports=imports,
        value="statistics.mean([2, 4])",
        helpers=dict.fromkeys(("statistics.py", "utils.py"), ""),
    )
    assert value_of(path) == 3
    assert load_source(path).kept.keys() == {"mine.py"}


def test_a_folder_without_modules_does_not_hide_an_installed_package(tmp_path):
    """W&B and others create a folder with their own name where a program runs."""
    (tmp_path / "yaml").mkdir()
    path = write(tmp_path, imports="import yaml", value="yaml.safe_load('5')")
    assert value_of(path) == 5


def test_a_folder_may_have_the_name_of_an_installed_package(tmp_path):
    helpers = {"helper.py": "V = 6", "safe_load.py": ""}
    imports = "import helper\nimport yaml"
    value = "helper.V + yaml.safe_load('5')"
    path = write(tmp_path / "yaml", imports=imports, value=value, helpers=helpers)
    assert value_of(path) == 11 and load_source(path).package == ""


def test_kept_code_that_imports_by_its_folders_name_runs_without_that_folder(
    tmp_path, monkeypatch, printed
):
    """A folder of that name with changed code is on the module search path, but is not used."""
    monkeypatch.syspath_prepend(str(tmp_path))
    helpers = {
        "__init__.py": "START = 40",
        "nets.py": "from mine import START\nV = START + 2",
    }
    imports = "from mine.nets import V"
    path = write(tmp_path / "mine", imports=imports, value="V", helpers=helpers)
    assert value_of(path) == 42
    source = load_source(path)
    assert source.package == "mine" and source.kept.keys() == {"mine.py", *helpers}
    source.keep(tmp_path / "run")
    (path.parent / "nets.py").write_text("V = 0")
    assert agent_of_run(tmp_path / "run", source.record(), trust=True).VALUE == 42
    assert f"{path} differs" in printed().err


@pytest.mark.parametrize("name", ["my-agent.py", "v1.2.py", "jax.py", "mine.txt"])
def test_any_file_name_is_accepted(name, tmp_path):
    path = write(
        tmp_path,
        name=name,
        imports="from helper import V",
        value="V",
        helpers={"helper.py": "V = 7"},
    )
    assert value_of(path) == 7
    # An agent outside the checkout is not listed by its own name.
    assert lineage(load_source(path)) == ["fql"]


def test_an_agent_file_in_the_projects_root_imports_packages_and_siblings(tmp_path):
    """Packages beside the file belong to the checkout; modules beside it belong to the agent."""
    checkout = tmp_path / "checkout"
    for name in ("agents", "configs", "utils"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    write(
        checkout,
        imports="import helper",
        value="helper.V",
        helpers={"helper.py": "V = 6"},
    )
    code = """
from configs.agent_file import load_source
source = load_source("mine.py")
print(source.module.AGENT.VALUE, *sorted(source.kept))
print("agents/fql.py" in source.checkout)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.stdout == "6 helper.py mine.py\nTrue\n", done.stderr


FUTURE = '''
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp

from agents import trqam


@dataclasses.dataclass
class Extra:
    """A plain dataclass, whose annotations are strings."""

    NAMES: ClassVar[tuple[str, ...]] = ("a",)
    size: int = 3


class Counting(trqam.TRQAM):
    """TRQAM that counts its updates in a state field of its own."""

    count: jax.Array

    @classmethod
    def init_state(cls, config):
        return super().init_state(config) | {"count": jnp.zeros(Extra().size)}

    def after_step(self, metrics):
        agent, metrics = super().after_step(metrics)
        return agent.replace(count=agent.count + 1), metrics


def get_config():
    config = trqam.get_config()
    config.widths = tuple(map(int, (Path(__file__).parent / "widths.txt").read_text().split()))
    return config


AGENT = Counting
'''


def test_future_annotations_a_new_state_field_and_a_data_file_work(tmp_path):
    """They also work when the flags read the file's settings."""
    path = tmp_path / "counting.py"
    path.write_text(FUTURE)
    (tmp_path / "widths.txt").write_text("8 16")
    fv = parse_flags(
        [
            "main.py",
            "--env_name=scene",
            f"--agent={path}",
            "--agent.widths=(4,)",
            "--agent.lr=0.5",
        ]
    )
    assert (fv.agent.widths, fv.agent.lr) == ((4,), 0.5)
    config = load_source(path).module.get_config()
    assert list(config)[-1] == "widths" and config.widths == (8, 16)
    kind = load_source(path).module.AGENT
    assert [field.name for field in dataclasses.fields(kind)][-1] == "count"
    config = fv.agent.copy_and_resolve_references()
    config.actor_hidden_dims = config.value_hidden_dims = (8,)
    agent = kind.create(jax.random.key(0), 2, 1, config)
    assert agent.count.shape == (3,) and sys.modules[kind.__module__].__file__ == str(
        path
    )


# ---------------------------------------------------------------- when it is loaded again


def test_a_file_is_loaded_once_until_it_or_its_helper_changes(tmp_path):
    path = write(tmp_path, imports="import helper", value="helper.V")
    (tmp_path / "helper.py").write_text("V = 1")
    source = load_source(path)
    assert load_source(path) is source is load_source(str(path))
    assert source.module.AGENT.VALUE == 1
    # The texts have the same length and change within a second.
    for n in (2, 3):
        (tmp_path / "helper.py").write_text(f"V = {n}")
        assert value_of(path) == n
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_helper_that_was_missing_is_found_once_it_exists(tmp_path):
    path = write(tmp_path, imports="import helper", value="helper.V")
    with pytest.raises(
        UserError,
        match=r"the file does not run \(ModuleNotFoundError: No module named 'helper'\)",
    ):
        load_source(path)
    write(
        tmp_path,
        imports="import helper",
        value="helper.V",
        helpers={"helper.py": "V = 9"},
    )
    assert value_of(path) == 9


# ---------------------------------------------------------------- mistakes


def mistake(path):
    with pytest.raises(UserError) as caught:
        load_source(path)
    assert str(caught.value).startswith(f"--agent={path}: ")
    return str(caught.value)


def test_a_file_that_does_not_run_is_a_user_error(tmp_path):
    assert "does not run (SyntaxError: " in mistake(ROOT / "README.md")
    path = write(tmp_path, value="1 / 0")
    assert "does not run (ZeroDivisionError: division by zero)" in mistake(path)
    path = write(tmp_path, imports="raise ValueError('no')")
    assert "does not run (ValueError: no)" in mistake(path)
    (tmp_path / "null.py").write_bytes(b"\0")
    assert "does not run (SyntaxError: " in mistake(tmp_path / "null.py")
    (tmp_path / "latin.py").write_bytes(b"AGENT = '\xe9'")
    assert "does not run (SyntaxError: " in mistake(tmp_path / "latin.py")
    (tmp_path / "half.py").write_text("AGENT = 3")
    assert "defines no AGENT and get_config" in mistake(tmp_path / "half.py")
    borrowed = tmp_path / "borrowed.py"
    borrowed.write_text(
        "from agents import trqam\n\n\n"
        "class Mine(trqam.TRQAM):\n"
        "    OPTIONS = trqam.TRQAM.OPTIONS | {'new': trqam.TRQAM.OPTIONS['lr']}\n\n\n"
        "get_config = trqam.get_config\nAGENT = Mine\n"
    )
    assert "get_config is TRQAM's and does not read the OPTIONS of Mine" in mistake(
        borrowed
    )
    fails = "from agents.bc import AGENT\n\ndef get_config():\n    return {}"
    (tmp_path / "fails.py").write_text(f"{fails}['lr']")
    assert "get_config fails (KeyError: 'lr')" in mistake(tmp_path / "fails.py")
    (tmp_path / "empty.py").write_text(fails)
    assert "there is no setting lr, batch_size, horizon_length" in mistake(
        tmp_path / "empty.py"
    )
    # SystemExit is not an error in the file, so it is not converted.
    with pytest.raises(SystemExit):
        load_source(write(tmp_path, imports="raise SystemExit"))


@pytest.mark.parametrize(
    ("base", "member", "message"),
    [
        ("Agent", "def act(self): ...", "Mine does not define loss, which every agent needs"),
        ("", "def loss(self): ...", "AGENT = Mine is not a subclass of agents.base.Agent"),
    ],
)  # fmt: skip
def test_a_class_that_is_no_complete_agent_is_refused(base, member, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        f"from agents.base import Agent\n\n\nclass Mine({base}):\n    {member}\n\n\n"
        "get_config = Agent.get_config\nAGENT = Mine\n"
    )
    assert mistake(path) == f"--agent={path}: {message}"


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("from utils.nets import V", "write from .utils.nets import ..."),
        ("import utils.nets", "write from .utils.nets import ..."),
        ("from utils import V", "write from .utils import ..."),
    ],
)
def test_the_error_for_a_sibling_with_a_name_of_the_project_says_how_to_import_it(
    line, remedy, tmp_path
):
    helpers = {"utils/__init__.py": "V = 1", "utils/nets.py": "V = 1"}
    path = write(tmp_path, imports=line, helpers=helpers)
    assert mistake(path).endswith(f"; utils is a folder of the project: {remedy}")
    path = write(tmp_path / "other", imports="import nowhere", helpers=HELPER_1)
    assert mistake(path).endswith("No module named 'nowhere')")
    path = write(
        tmp_path / "fine", imports="from .utils.nets import V", helpers=helpers
    )
    assert value_of(path) == 1


def test_the_error_for_a_missing_file_says_where_it_was_looked_for(
    tmp_path, monkeypatch
):
    def missing(path):
        with pytest.raises(UserError) as caught:
            take_agent(["main.py", f"--agent={path}"])
        return str(caught.value)

    text = f"--agent=agents/trqm.py: there is no such file as {AGENTS}/trqm.py; "
    assert missing("agents/trqm.py") == text + "the nearest agent is agents/trqam.py"
    monkeypatch.chdir(tmp_path)
    text = f"there is no such file as {tmp_path}/agents/tr"
    meant = f"the project has {AGENTS}/trqam.py"
    assert missing("agents/trqam.py").endswith(f"{text}qam.py; {meant}")
    meant = f"the nearest agent is {AGENTS}/trqam.py"
    assert missing("agents/trqm.py").endswith(f"{text}qm.py; {meant}")
    assert f"no such file as {tmp_path};" in missing("")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert f"no such file as {tmp_path}/me/forks/mien.py;" in missing("~/forks/mien.py")
    text = f"--agent=mine.py: there is no such file as {tmp_path}/mine.py"
    assert mistake("mine.py") == text


def test_help_lists_the_agent_flag_with_those_of_the_program():
    listed = define_flags(["main.py"]).get_help()
    assert "configs.agent_file" not in listed and "--agent: agent file;" in listed


def test_a_tilde_means_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "forks", value="8")
    assert value_of("~/forks/mine.py") == 8
    for words in (["--agent=~/forks/mine.py"], ["--agent", "~/forks/mine.py"]):
        path, rest = take_agent(["main.py", *words])
        assert value_of(path) == 8 and rest == []
        assert parse_flags(["main.py", "--env_name=scene", *words]).agent.lr == 3e-4


# ---------------------------------------------------------------- which sources are equal


def test_what_changes_the_digest_and_what_does_not(tmp_path):
    path = write(
        tmp_path,
        imports="from helper import V",
        value="V",
        helpers={"helper.py": "def V():\n    return None"},
    )
    digest = load_source(path).digest

    def with_helper(text):
        (tmp_path / "helper.py").write_text(text)
        return load_source(path).digest

    same = [
        '"""Purpose."""\n\n\ndef V():\n    """None."""\n    return (None)  # nothing',
        "def V(): return None",
    ]
    assert [with_helper(text) for text in same] == [digest, digest]
    other = [
        "def V(): return",
        "def V(): return 0",
        "def V(): return 0.0",
        "def V(): return False",
        "def V(): ''",
    ]
    other += [
        "def V(): return '0'",
        "def V(): return b'0'",
        "def V(x=None): return None",
        "async def V(): return None",
    ]
    assert len({digest, *map(with_helper, other)}) == len(other) + 1
    moved = shutil.copytree(tmp_path, tmp_path / "elsewhere")
    assert load_source(moved / "mine.py").digest == load_source(path).digest


def test_the_agents_of_the_checkout_are_recognized_and_have_no_siblings():
    for file in AGENTS.glob("*.py"):
        if "AGENT = " in file.read_text():
            source = load_source(file)
            assert source.of_checkout and source.kept == {file.name: file.read_bytes()}
            assert source.record()["agent_file"] == f"agents/{file.name}"
            assert {"agents/base.py", "utils/networks.py"} <= source.checkout.keys()


# ---------------------------------------------------------------- what a run folder keeps


@pytest.fixture
def begun(tmp_path):
    """Return a run folder with an agent and its helper, its config.json, and the agent file."""
    path = write(
        tmp_path / "code",
        imports="from nets.sub import V",
        value="V",
        helpers={"nets/sub.py": "V = 1"},
    )
    folder = tmp_path / "run"
    folder.mkdir()
    source = load_source(path)
    source.keep(folder)
    return folder, source.record(), path


def test_the_kept_source_equals_the_original(begun):
    folder, stored, path = begun
    kept = kept_source(folder, stored)
    assert kept.digest == load_source(path).digest
    assert kept.file == folder / "source" / "mine.py"
    assert kept.kept.keys() == {"mine.py", "nets/__init__.py", "nets/sub.py"}
    assert kept.record()["source"] == stored["source"]


def test_other_code_at_the_recorded_path_is_mentioned_and_not_used(
    begun, printed, monkeypatch
):
    folder, stored, path = begun
    kind = agent_of_run(folder, stored, trust=True)
    # The file at the recorded path is loaded, since it may read data files in its folder.
    assert kind is load_source(path).module.AGENT and printed().err == ""
    (path.parent / "nets" / "sub.py").write_text("V = 2")
    monkeypatch.chdir("/")
    assert agent_of_run(folder, stored, trust=True).VALUE == 1 and value_of(path) == 2
    used = f"{folder}/source/mine.py is used\n"
    differs = f"warning: {path} differs from what {folder} began with; {used}"
    assert printed().err == differs
    path.write_text("(")
    assert agent_of_run(folder, stored, trust=True).VALUE == 1
    assert "differs" in printed().err
    path.unlink()
    assert agent_of_run(folder, stored, trust=True).VALUE == 1 and printed().err == ""


def test_a_kept_agent_of_the_project_that_no_longer_runs_is_replaced_by_the_current_one(
    tmp_path, printed
):
    source = load_source("agents/fql.py")
    source.keep(tmp_path)
    stored = source.record()
    kept = tmp_path / "source" / "fql.py"
    kept.write_text(
        "from utils.networks import of_an_older_version\n" + kept.read_text()
    )
    assert (
        agent_of_run(tmp_path, stored, trust=True)
        is load_source("agents/fql.py").module.AGENT
    )
    assert "the project has changed too much for it" in printed().err


def test_changes_of_the_checkouts_own_modules_are_mentioned(begun, printed):
    folder, stored, _ = begun
    stored["source"]["checkout"] |= {"agents/base.py": "0", "agents/gone.py": "0"}
    agent_of_run(folder, stored, trust=True)
    changed = "agents/base.py, agents/gone.py have changed"
    assert printed().err == f"warning: {changed} since {folder} began\n"


def test_a_run_folder_without_its_agents_source_is_refused(begun):
    folder, stored, _ = begun
    shutil.rmtree(folder / "source")
    with pytest.raises(UserError, match="lacks the code of its agent, source/"):
        agent_of_run(folder, stored, trust=True)


def test_keeping_a_source_deletes_the_one_kept_before(begun, tmp_path):
    folder, _, _ = begun
    load_source(write(tmp_path / "b", name="b.py")).keep(folder)
    kept = [
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()
    ]
    assert kept == [os.path.join("source", "b.py")]
    assert Path(folder, "source", "b.py").read_text() == AGENT.format(
        imports="", value="1"
    )
