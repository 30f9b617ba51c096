"""The benchmark that collects all measurements in one file and projects the hours of all runs."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import ogbench  # noqa: F401  (registers its environments)
import pytest

from benchmarks import common, table
from configs.domains import DOMAINS
from envs.tasks import world_name
from scripts import benchmark

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("tiny", [False, True])
def test_every_measurement_is_a_valid_command_line(tiny):
    for name, words in table.MEASUREMENTS.items():
        options = benchmark.parse(
            ["benchmark.py", *(table.tiny_words(words) if tiny else words)]
        )
        if words[0] == "data":
            assert (options.rows == [10_000]) == tiny, name
            continue
        agent = common.chosen_agent(options)
        assert (agent.config.actor_hidden_dims == (16, 16)) == tiny, name
        wide = agent.config.actor_hidden_dims == (1024,) * 4
        assert wide == ("width 1024" in name and not tiny), name


def test_measurements_in_the_file_are_not_repeated(tmp_path, capsys, monkeypatch):
    """Finished measurements keep their values and their order; a failed one is repeated."""
    out, measured = tmp_path / "speed.json", []
    shutil.copy(ROOT / "results" / "speed_cpu.json", out)
    before = json.loads(out.read_text()) | {"qam": {"error": "took longer than 1 s"}}
    out.write_text(json.dumps(before))
    monkeypatch.setattr(
        table, "measure", lambda words, timeout: measured.append(words) or {}
    )
    options = argparse.Namespace(out=out, only="qam,trqam,bc", tiny=False, timeout=1.0)
    table.run(options)
    assert measured == [table.MEASUREMENTS["qam"]]
    after = json.loads(out.read_text())
    assert after == before | {"qam": {}} and list(after) == list(before)
    assert (
        "| trqam | 1 | 4 | 57.0 | 1.636 | 1.636 | 0.73 | 7.4 |"
        in capsys.readouterr().out
    )


def test_figures_of_tiny_networks_are_not_kept_as_those_of_real_ones(
    tmp_path, monkeypatch, capsys
):
    out, measured = tmp_path / "speed.json", []

    def measure(words, timeout):
        assert capsys.readouterr().err == "bc ...\n"  # named before it begins
        measured.append(words)
        return {}

    monkeypatch.setattr(table, "measure", measure)
    full = table.MEASUREMENTS["bc"]
    for tiny in (True, True, False, False, True):
        table.run(argparse.Namespace(out=out, only="bc", tiny=tiny, timeout=1.0))
        capsys.readouterr()
    assert measured == [table.tiny_words(full), full, table.tiny_words(full)]


def test_the_process_of_the_table_does_not_open_the_device(tmp_path):
    """A process that opens a GPU takes most of its memory, which the measurements need."""
    out = tmp_path / "speed.json"
    shutil.copy(ROOT / "results" / "speed_cpu.json", out)
    program = f"""
import sys
from jax._src import xla_bridge
from scripts import benchmark
code = benchmark.main(["benchmark.py", "table", "--only=bc", {f"--out={out}"!r}])
sys.exit(code or xla_bridge.backends_are_initialized())
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    assert done.returncode == 0 and "| bc | 1 | 4 |" in done.stdout


def test_a_failed_measurement_records_its_reason():
    found = table.measure(["update", "--agent=agents/nothing.py"], timeout=100.0)
    assert found["error"].startswith(
        "error: --agent=agents/nothing.py: there is no such file"
    )
    assert table.measure(["data"], timeout=0.01) == {"error": "took longer than 0.01 s"}


def test_the_report_shows_the_figures_of_each_kind_of_measurement():
    found = {
        "a": {"stage_seconds": {"noise": 0.0015}},
        "b": {"profile": {"device_busy": 0.5, "shares": {"fusion": 0.25}}},
        "c": {"evaluation": [dict.fromkeys(table.EVALUATION_COLUMNS, 3.0)]},
        "d": {"measurements": [dict.fromkeys(table.DATA_COLUMNS, 12345.678)]},
        "e": {"error": "no luck"},
    }
    lines = table.tables(found).splitlines()
    assert "| noise | 1.5 |" in lines and "| a: stage | ms |" in lines
    assert (
        "b: the device is at work 50.0% of the time" in lines
        and "| fusion | 25.0% |" in lines
    )
    assert f"| {' | '.join(['3'] * 6)} |" in lines
    assert f"| {' | '.join(['1.235e+04'] * 5)} |" in lines
    assert "e: no luck" in lines


def test_the_hours_of_all_runs_are_computed_from_the_measurements():
    """Six domains use networks of width 512, four of width 1024; episode lengths are OGBench's."""

    def measured(rate):
        return {
            "by_seeds": [{"seed_updates_per_s": rate / 2}, {"seed_updates_per_s": rate}]
        }

    found = {"bc": measured(1000.0), "trqam": measured(100.0)}
    # Both widths have to be measured before there are hours.
    assert table.hours(found) == {}
    found |= {"bc width 1024": measured(500.0), "trqam width 1024": measured(20.0)}
    online = {
        "trqam one by one": measured(50.0),
        "trqam one by one width 1024": measured(10.0),
    }
    found["evaluation"] = {
        "evaluation": [{"workers": n, "steps_per_s": 100.0 * n} for n in (0, 1, 4)]
    }
    parts = table.hours(found)
    assert parts["behaviour cloning"] == pytest.approx(
        8 * 300_000 * (6 / 1000 + 4 / 500) / 3600
    )
    assert parts["updates offline"] == pytest.approx(
        5 * 8 * 1_000_000 * (6 / 100 + 4 / 20) / 3600
    )
    assert "updates online" not in parts and "training alone" not in parts
    assert parts["environment steps online, all seeds side by side"] == pytest.approx(
        50 * 500_000 / 100 / 3600
    )
    names = [f"{world_name(domain)}-singletask-task1-v0" for domain in DOMAINS]
    max_steps = sum(
        50 * 31 * 8 * 5 * gymnasium.spec(name).max_episode_steps for name in names
    )
    assert parts["evaluation, if every episode failed"] == pytest.approx(
        max_steps / 400 / 3600
    )
    complete = table.hours(found | online)
    assert complete["updates online"] == pytest.approx(
        5 * 8 * 500_000 * (6 / 50 + 4 / 10) / 3600
    )
    training = (
        sum(value for part, value in parts.items() if "evaluation" not in part)
        + complete["updates online"]
    )
    assert complete["training alone"] == pytest.approx(training)
    assert complete["training, then evaluation"] == pytest.approx(
        training + parts["evaluation, if every episode failed"]
    )


@pytest.mark.slow
def test_each_kind_of_measurement_works_on_tiny_networks(tmp_path):
    """The kinds are updates one at a time, a profile, evaluation, and data on the host."""
    wanted = ["trqam one by one", "trqam profile", "evaluation", "data"]
    flags = ["--tiny", f"--out={tmp_path}/tiny.json", f"--only={','.join(wanted)}"]
    command = [sys.executable, "scripts/benchmark.py", "table", *flags]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=800
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "tiny.json").read_text())
    assert list(found) == wanted and not [
        name for name in wanted if "error" in found[name]
    ]
    assert 0 < found["trqam profile"]["profile"]["device_busy"] <= 1
    # Only the twelve kinds of kernels that take the most time are listed.
    assert 0.5 < sum(found["trqam profile"]["profile"]["shares"].values()) <= 1
    alone, *batched = found["evaluation"]["evaluation"]
    assert alone["workers"] == 0 and all(
        5 * entry["policy_calls"] <= alone["policy_calls"] for entry in batched
    )
    assert [entry["rows"] for entry in found["data"]["measurements"]] == [10_000]
    assert "| trqam one by one | 8 | 1 |" in done.stdout and "hours" in done.stdout
    again = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    # Nothing is measured twice.
    assert again.returncode == 0 and again.stderr == ""
