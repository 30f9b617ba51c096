"""scripts/benchmark.py checks its command line and prints help for each benchmark."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import benchmark

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["update", "data", "table", "oracle", "checkpoint", "compile", "gpu"]


def test_help_has_one_line_for_each_benchmark(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        benchmark.main(["benchmark.py", "--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split(maxsplit=1) for line in lines[-len(NAMES) :]]
    assert [name for name, _ in shown] == NAMES
    assert all(text[0].isupper() and text.endswith(".") for _, text in shown)


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_has_a_command_and_its_flags_in_its_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        benchmark.main(["benchmark.py", name, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and text.startswith(f"usage: benchmark.py {name} ")
    assert f"    python scripts/benchmark.py {name} " in text and "  --out FILE" in text


@pytest.mark.parametrize(
    "command, named, remedy",
    [
        ("", "give a benchmark first", "update, data, table, oracle, checkpoint"),
        ("--agent=agents/bc.py --seeds=1", "give a benchmark first", "update"),
        ("updat", "'updat'", "'update'"),
        ("update --agent=agents/trqam.py --blocks=2", "--blocks", "at least 5"),
        ("update --agent=agents/nothing.py", "--agent=agents/nothing.py", "the nearest agent is"),
        ("update --agent=agents/bc.py --agent.num_q=3", "--agent.num_q", "no such setting; --help lists all"),
        ("update --agent=agents/trqam.py --agent.num_q=3", "--agent.num_q", "--agent.num_qs"),
        ("update agents/bc.py", "'agents/bc.py'", "--name=value"),
        ("update --seeds=1,x", "--seeds", "at least 1, not x"),
        ("update --agent.flow_steps=0", "--agent.flow_steps", "positive"),
        ("update --block=5", "--block", "--blocks"),
        ("update --gamma=0.9", "--gamma", "--agent.discount=0.9"),
        ("checkpoint --agent.tau=2", "--agent.tau", "at most 1"),
        ("checkpoint --saves=1", "--saves", "at least 2"),
        ("checkpoint --updates_per_s=0", "--updates_per_s", "positive number, not 0"),
        ("data --row=3", "--row=3", "--help"),
        ("data --rows=10", "--rows", "at least 1001"),
        ("data --demand=nan", "--demand", "positive number, not nan"),
        ("data --folder=/there/is/none", "--folder", "/there/is/none"),
        ("oracle --rounds=5", "--rounds", "at least 6"),
        ("oracle --agent=agents/bc.py", "--agent=agents/bc.py", "--help"),
        ("oracle --out=/there/is/none.json", "--out", "/there/is for none.json"),
        ("oracle --out=tests", "--out", "give a file"),
        ("table", "--out", "--help"),
        ("table --out=x.json --only=bcc", "--only=bcc", "bc blocks of 20"),
        ("table --out=x.json --timeout=x", "--timeout", "positive number, not x"),
    ],
)  # fmt: skip
def test_a_mistake_prints_one_line(command, named, remedy, capsys):
    assert benchmark.main(["benchmark.py", *command.split()]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("error: ") and named in line and remedy in line


def test_a_value_may_be_the_word_after_its_flag(capsys):
    words = [
        "update",
        "--agent",
        "agents/trqam.py",
        "--agent.rho",
        "-1.5",
        "--seeds",
        "2",
    ]
    options = benchmark.parse(["benchmark.py", *words])
    agent = benchmark.update.chosen_agent(options)
    assert (
        agent.config.rho == -1.5
        and agent.file == "agents/trqam.py"
        and options.seeds == [2]
    )


def test_action_chunking_is_the_default_and_a_flag_turns_it_off():
    for words, chunks in ([], True), (["--agent.action_chunking=false"], False):
        options = benchmark.parse(["benchmark.py", "update", *words])
        assert benchmark.update.chosen_agent(options).config.action_chunking is chunks


def test_the_script_runs_from_any_folder(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "scripts" / "benchmark.py"),
        "update",
        "--seeds=0",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: argument --seeds: ")
