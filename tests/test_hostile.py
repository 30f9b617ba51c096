"""Hostile command lines, signals and surroundings end in one line and the right exit code."""

import os
import pwd
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import main as program
from configs.flags import LAST_SEED, MAX_SEEDS, parse_flags
from envs.probe import write_dataset
from envs.workers import EnvWorkers, Task
from training.plan import plan
from utils.errors import one_line, printable
from utils.files import expanded, user_folder

ROOT = Path(__file__).resolve().parents[1]
TASK = "scene-play-singletask-task1-v0"
PROBE = "envs.probe:ProbeChain-v0"
TINY = [
    f"--env_name={PROBE}", "--dataset=data.npz", "--save_dir=exp", "--horizon_length=2", "--bc_steps=0",
    "--offline_steps=4", "--online_steps=0", "--log_interval=4", "--eval_interval=0", "--save_interval=0",
    "--agent.actor_hidden_dims=(8,8)", "--agent.value_hidden_dims=(8,8)", "--agent.num_qs=2", "--agent.flow_steps=2",
    "--agent.batch_size=8",
]  # fmt: skip


def dry_run(*words):
    return program.main(["main.py", f"--env_name={TASK}", "--dry_run", *words])


# ---------------------------------------------------------------- command lines


LINES = {
    "a switch with no and a value": (["--nodry_run=1"], "--nodry_run=1 does not take an argument"),
    "no such flag file": (["--flagfile=/nonexistent"], "Unable to open flagfile: [Errno 2]"),
    "a flag file without a name": (["--flagfile"], "--flagfile with no argument"),
    "no setting": (["--agent.=3"], "--agent.: agents/trqam.py has no such setting; --help lists all"),
    "below a setting": (
        ["--agent.kl_budget.x=3"], "--agent.kl_budget.x: agents/trqam.py has no such setting; the nearest is --agent.kl_budget",
    ),
    "a part of a setting": (
        ["--agent.num_qs[0]=3"], "--agent.num_qs[0]: agents/trqam.py has no such setting; the nearest is --agent.num_qs",
    ),
    "a flag as a setting": (["--agent.kl_budget_online=3"], "has no such setting; it is a flag, --kl_budget_online"),
    "a flag's other name as a setting": (["--agent.horizon=3"], "has no such setting; it is a flag, --horizon_length"),
    "no with a setting": (["--noagent.action_chunking=3"], "--noagent.action_chunking=3 does not take an argument"),
    "seeds beyond the largest": (
        [f"--seed={LAST_SEED}", "--num_seeds=2"], f"--num_seeds=2: the last of the seeds from --seed={LAST_SEED} on would be 2147483648",
    ),
    "a million seeds": (["--num_seeds=1000000"], f"--num_seeds=1000000: 1000000 is not an integer in the range [1, {MAX_SEEDS}]"),
    "no online update": (
        ["--start_training=7", "--online_steps=7"],
        "--online_steps=7: the online phase would end before its first update (--start_training=7, --horizon_length=5)",
    ),
    "no online update by default": (["--online_steps=5000"], "(--start_training=5000, --horizon_length=5)"),
    "no online update in a horizon": (
        ["--start_training=0", "--horizon_length=9", "--online_steps=9"], "(--start_training=0, --horizon_length=9)",
    ),
    "two lines": (["--run_group=a\nb"], r"--run_group: '--run_group=a\nb' has a control character"),
    "a terminal's command": (["--tags=\x1b[2J"], r"--tags: '--tags=\x1b[2J' has a control character"),
    "bytes that are no text": (["--save_dir=\udcff"], r"--save_dir: '--save_dir=\udcff' has a control character, or bytes"),
    "a word of two lines": (["a\nb=c"], r"the command line: 'a\nb=c' has a control character"),
}  # fmt: skip


@pytest.mark.parametrize("what", LINES)
def test_an_invalid_command_line_is_refused_in_one_line(what, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words, message = LINES[what]
    assert dry_run(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("error: ") and message in err


def test_the_largest_seed_and_the_shortest_online_phase_are_accepted():
    assert dry_run("--start_training=7", "--online_steps=8") == 0
    for first, count in ((LAST_SEED - 1, 2), (0, MAX_SEEDS)):
        words = [f"--env_name={TASK}", f"--seed={first}", f"--num_seeds={count}"]
        seeds = [run.seed for run in plan(parse_flags(["main.py", *words]))]
        assert seeds == list(range(first, first + count))


def test_a_presets_start_of_training_is_lowered_for_fewer_online_steps(capsys):
    """The start of --preset=smoke is step 20 of 40 online steps."""
    assert dry_run("--preset=smoke", "--online_steps=10") == 0
    assert re.search(r"start_training +5 ", capsys.readouterr().out)
    assert dry_run("--preset=smoke", "--online_steps=10", "--start_training=10") == 2


NAMES = st.sampled_from(
    ["seed", "num_seeds", "env_name", "agent", "agent.lr", "agent.actor_hidden_dims", "agent.", "agent.lr.x"]
    + ["preset", "offline_steps", "online_steps", "start_training", "dataset", "dataset_proportion", "sparse", "logger"]
    + ["nosparse", "noagent.action_chunking", "flagfile", "undefok", "eval_async", "kl_budget_online", "save_dir"]
    + ["horizon_length", "agent.horizon_length", "run_group", "gamma", "help_me", "pretrained_actor_path", ""]
)  # fmt: skip
VALUES = (
    st.sampled_from(["", "0", "1", "-1", "nan", "inf", "1e999", "None", "()", "(8,", "[1]", "True", "{}", "=", "--", "~", "~nobody/x"])
    | st.sampled_from(["scene", "all50", "scene,cube-double", "a:b", "agents/qam.py", "/dev/null", "/", ".", "smoke", "published"])
    | st.integers().map(str)
    | st.text(max_size=8)
)  # fmt: skip
WORDS = (
    st.builds("--{}={}".format, NAMES, VALUES)
    | st.builds("--{}".format, NAMES)
    | st.builds("-{}={}".format, NAMES, VALUES)
    | VALUES
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(words=st.lists(WORDS, max_size=4))
@example(words=["--agent.lr"])
@example(words=["--flagfile="])
@example(words=["--agent=\x00"])
def test_any_command_line_plans_runs_or_is_refused_in_one_line(
    words, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    code = dry_run(*words, "--dry_run")
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    if code == 0:
        assert lines == [] and out
    else:
        assert (code, out) == (2, "") and len(lines) == 1 and err.endswith("\n")
        assert re.match("error: .", lines[0]) and printable(lines[0]) == lines[0]


def test_an_error_of_several_lines_is_printed_as_one():
    assert one_line(ValueError("a\x1b[2J\tb\nc")) == r"a\x1b[2J\tb"


# ---------------------------------------------------------------- signals


SLOW = "print('ready', flush=True)\nimport time\ntry:\n    time.sleep(100)\nexcept BaseException as error:\n    raise ImportError(f'no {error!r}')"


@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "at", ["the first import", "an agent file", "sweep", "rollout"]
)
def test_a_signal_while_a_program_starts_is_one_line(at, signum, code, tmp_path):
    """The module being imported turns every exception into another one."""
    command = ["main.py", f"--env_name={TASK}", "--dry_run"]
    path = tmp_path / "absl" / "__init__.py"  # every program imports it first
    if at == "an agent file":
        path = tmp_path / "slow.py"
        command.append(f"--agent={path}")
    elif at != "the first import":
        command = [f"scripts/{at}.py"]
    path.parent.mkdir(exist_ok=True)
    path.write_text(SLOW)
    environ = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environ,
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signum)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == code
    assert (out, err) == ("", f"stopped by {signal.Signals(signum).name}\n")


# ---------------------------------------------------------------- as a library


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with data, in which the test runs."""
    write_dataset(PROBE, tmp_path / "data.npz", 60)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.ci
def test_main_may_be_called_in_a_thread(place, capsys):
    codes = []
    before = signal.getsignal(signal.SIGINT)
    words = ["main.py", *TINY, "--eval_episodes=0"]
    thread = threading.Thread(target=lambda: codes.append(program.main(words)))
    thread.start()
    thread.join()
    assert codes == [0] and "finished: " in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before


def run_program(*command, **options):
    """Run a program that imports the checkout; returns exit code, stdout and stderr."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=environ,
        timeout=200,
        **options,
    )
    return done.returncode, done.stdout, done.stderr


CALL = f"import main\nprint('code', main.main({['main.py', *TINY, '--eval_episodes=1', '--eval_workers=1']}))\n"
GUARD = 'if __name__ == "__main__":'


def test_a_program_from_stdin_is_asked_to_be_a_file(place):
    code, out, err = run_program("-", input=CALL)
    assert code == 0 and out.splitlines()[-1] == "code 2"
    (line,) = (
        line for line in err.splitlines() if not line.startswith(("warning", "  "))
    )
    assert line.startswith("error: the program comes from <stdin>")
    assert line.endswith(f"save it as a file, with {GUARD} before what it does")
    assert not (place / "exp").exists()  # nothing was trained


@pytest.mark.ci
def test_a_program_without_a_guard_is_reported(place):
    (place / "noguard.py").write_text(CALL)
    code, out, err = run_program("noguard.py")
    assert code == 0 and out.splitlines()[-1] == "code 2" and out.count("code ") == 1
    (line,) = (line for line in err.splitlines() if line.startswith("error"))
    assert "Traceback" not in err
    assert line.startswith(
        f"error: {place / 'noguard.py'} starts its work when it is imported"
    )
    assert line.endswith(f"put its code below {GUARD}")


def test_processes_can_be_spawned_from_a_program_that_is_no_file(place):
    """Spawned processes import nothing again from python -c or from a notebook."""
    call = f"from envs.workers import EnvWorkers, Task\nwith EnvWorkers(Task({PROBE!r}), slots=1) as w:\n    print(w.reset([0], [0]).shape)"
    assert run_program("-c", call)[:2] == (0, "(1, 1)\n")
    # the same from the program that runs the tests
    with EnvWorkers(Task(PROBE), slots=1) as workers:
        assert workers.reset([0], [0]).shape == (1, 1)


@pytest.mark.parametrize("name", ["utils", "configs", "envs", "agents", "training"])
def test_a_module_that_hides_a_folder_is_named(name, tmp_path):
    (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "mine.py").write_text("import main")
    code, _, err = run_program("mine.py", cwd=tmp_path)
    assert code == 1
    assert err.splitlines()[-1] == (
        f"ImportError: {tmp_path / name}.py is found in place of {ROOT / name}/: rename it, or"
        f" put {ROOT} before its folder in sys.path"
    )


# ---------------------------------------------------------------- containers


@pytest.fixture
def homeless(monkeypatch):
    """A user without HOME and without an entry in passwd."""

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in (
        "HOME",
        "XDG_CACHE_HOME",
        "XDG_DATA_HOME",
        "JAX_COMPILATION_CACHE_DIR",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.ci
def test_a_run_needs_no_home(homeless, place, capsys):
    assert program.main(["main.py", *TINY, "--eval_episodes=0"]) == 0
    out, err = capsys.readouterr()
    assert "finished: " in out and "compiled programs are not kept" in err
    assert {path.name for path in place.iterdir()} == {"data.npz", "exp"}


def test_what_needs_a_home_says_so_in_one_line(homeless, capsys):
    assert program.main(["main.py", f"--env_name={TASK}", "--eval_episodes=0"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1] == (
        "error: --ogbench_dataset_dir=~/.ogbench/data: this user has no home directory; set"
        " HOME, or give a path without ~"
    )
    assert user_folder("XDG_CACHE_HOME", "~/.cache") is None
    assert expanded("/data/~x") == Path("/data/~x")


@pytest.mark.parametrize(
    "command, printed",
    [
        (["main.py", "--dry_run"], r"caf\xe9"),
        # a printed command has to be exact
        (["scripts/sweep.py"], "'--save_dir=café/\N{SNOWMAN}'"),
    ],
)
def test_a_terminal_that_lacks_a_character_gets_it_escaped(command, printed, tmp_path):
    words = [f"--env_name={TASK}", "--save_dir=café/\N{SNOWMAN}"]
    done = subprocess.run(
        [sys.executable, *command, *words],
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert printed in done.stdout.decode()
