"""The benchmark measures what it says, at any size."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import jax
import numpy as np
import ogbench  # noqa: F401  (registers its environments)
import pytest

from agents import bc
from configs.domains import DOMAINS
from envs.tasks import world_name
from scripts import benchmark, benchmark_table
from utils.sharding import host_device

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "--agent.actor_hidden_dims=(16,16)", "--agent.value_hidden_dims=(16,16)", "--agent.num_qs=2", "--agent.flow_steps=2",
    "--agent.batch_size=8", "--transitions=2000", "--blocks=5", "--updates=2",
]  # fmt: skip


@pytest.mark.parametrize("agent", [pytest.param("trqam", marks=pytest.mark.slow), "bc"])
def test_the_last_line_is_one_json_object_with_every_figure(agent, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "PEAK_ROWS", 64)
    settings = (
        TINY
        if agent == "trqam"
        else [word for word in TINY if "value" not in word and "num_qs" not in word]
    )
    seeds = [1] if agent == "trqam" else [1, 2]
    flags = [
        f"--agent=agents/{agent}.py",
        f"--seeds={','.join(map(str, seeds))}",
        "--stages",
        "--json",
    ]
    assert benchmark.main(["scripts/benchmark.py", *flags, *settings]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["seeds"] for row in result["by_seeds"]] == seeds
    for row in result["by_seeds"]:
        assert row["seed_updates_per_s"] == pytest.approx(row["seeds"] * row["updates_per_s"])
        expected = (
            row["seed_updates_per_s"] * result["gflop_per_update"] / result["peak_gflops"]
        )
        assert row["fraction_of_peak"] == pytest.approx(expected)
    assert result["updates_per_s"] == result["by_seeds"][0]["updates_per_s"] > 0
    assert (
        result["gflop_per_update"] > 0
        and "cpu" in result["device"]
        and result["peak_memory_bytes"] > 1e7
    )
    stages = {"sampling", "noise", "fixed quantities", "losses and gradients", "optimiser"}
    assert set(result["stage_seconds"]) == stages | (
        {"backup", "rollout", "adjoint"} if agent == "trqam" else set()
    )


def test_the_synthetic_data_is_a_compact_dataset():
    dataset = benchmark.synthetic(2500)
    assert len(dataset["rows"]) == 2500
    assert len(dataset["observations"]) == len(dataset["terminals"]) == 2503
    ends = dataset["terminals"][dataset["rows"]] > 0
    assert list(np.flatnonzero(ends)) == [999, 1999, 2499]


def test_a_mistake_is_one_line(capsys):
    assert (
        benchmark.main(["scripts/benchmark.py", "--agent=agents/trqam.py", "--blocks=2"]) == 2
    )
    assert benchmark.main(["scripts/benchmark.py", "--agent=agents/nothing.py"]) == 2
    assert (
        benchmark.main(["scripts/benchmark.py", "--agent=agents/bc.py", "--agent.num_q=3"]) == 2
    )
    assert benchmark.main(["scripts/benchmark.py", "agents/bc.py"]) == 2
    assert benchmark.main(["scripts/benchmark.py", "--seeds=1,x"]) == 2
    assert benchmark.main(["scripts/benchmark.py", "--agent.flow_steps=0"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 6 and all(line.startswith("error: ") for line in errors)


def test_work_in_a_loop_is_not_counted(capsys):
    """XLA would count 21 flow steps as one."""
    flags = ["--agent=agents/fql.py", *TINY, "--agent.flow_steps=21", "--json"]
    assert benchmark.main(["scripts/benchmark.py", *flags]) == 0
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    assert "GFLOP not counted" in out and result["updates_per_s"] > 0
    assert (result["gflop_per_update"], result["fraction_of_peak"]) == (None, None)


def test_work_is_counted_in_the_program_for_the_host(monkeypatch):
    """An accelerator's program calls libraries, which count nothing."""
    config = bc.get_config()
    config.update(actor_hidden_dims=(16, 16), batch_size=8)
    agent = bc.AGENT.create(
        jax.random.key(0), benchmark.OBSERVATION_DIM, benchmark.ACTION_DIM, config
    )
    devices, default_device = [], jax.default_device
    monkeypatch.setattr(
        jax, "default_device", lambda device: devices.append(device) or default_device(device)
    )
    assert benchmark.gflop_per_update(agent) > 0
    assert devices == [host_device()]


def test_an_accelerator_is_measured_by_a_large_product_besides(monkeypatch, capsys):
    assert benchmark.large_product() == {}
    monkeypatch.setattr(benchmark, "LARGE", 64)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert (
        benchmark.large_product()["large_product_gflops"] > 0
        and "(64,64)x(64,64): " in capsys.readouterr().out
    )


def test_the_profile_of_an_accelerator_has_kernels_with_names_in_cpp(monkeypatch, tmp_path):
    """On a CPU such names are of threads that wait."""
    names = ["void cutlass::Kernel2<gemm_1>", "fusion_2", "fusion_3"]
    events = [
        SimpleNamespace(name=name, start_ns=10.0 * i, duration_ns=5.0)
        for i, name in enumerate(names)
    ]
    planes = {
        "gpu": SimpleNamespace(
            name="/device:GPU:0",
            lines=[SimpleNamespace(name="Stream #15(Compute)", events=events)],
        ),
        "cpu": SimpleNamespace(
            name="/host:CPU", lines=[SimpleNamespace(name="tf_XLAEigen/1", events=events)]
        ),
    }
    (tmp_path / "a.xplane.pb").touch()
    monkeypatch.setattr(jax.profiler, "trace", contextlib.nullcontext)
    monkeypatch.setattr(
        jax.profiler.ProfileData, "from_file", lambda _: SimpleNamespace(planes=planes.values())
    )
    found = {}
    for backend in planes:
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        found[backend] = benchmark.profile(str(tmp_path), lambda: None)
    assert found["cpu"] == {"device_busy": 10 / 15, "kernels": 2, "shares": {"fusion": 1.0}}
    assert (found["gpu"]["device_busy"], found["gpu"]["kernels"]) == (15 / 25, 3)


def test_the_hours_of_the_table_follow_from_what_was_measured():
    """Six domains have networks of width 512, four of 1024; episodes are as long as OGBench has
    them.
    """

    def measured(rate):
        return {"by_seeds": [{"seed_updates_per_s": rate / 2}, {"seed_updates_per_s": rate}]}

    found = {"bc": measured(1000.0), "trqam": measured(100.0)}
    # one of the widths alone says nothing about the table
    assert benchmark_table.hours(found) == {}
    found |= {"bc width 1024": measured(500.0), "trqam width 1024": measured(20.0)}
    online = {"trqam one by one": measured(50.0), "trqam one by one width 1024": measured(10.0)}
    found["evaluation"] = {
        "evaluation": [{"workers": n, "steps_per_s": 100.0 * n} for n in (0, 1, 4)]
    }
    parts = benchmark_table.hours(found)
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
    longest = sum(50 * 33 * 8 * 5 * gymnasium.spec(name).max_episode_steps for name in names)
    assert parts["evaluation, if every episode failed"] == pytest.approx(longest / 400 / 3600)
    whole = benchmark_table.hours(found | online)
    assert whole["updates online"] == pytest.approx(5 * 8 * 500_000 * (6 / 50 + 4 / 10) / 3600)
    training = (
        sum(value for part, value in parts.items() if "evaluation" not in part)
        + whole["updates online"]
    )
    assert whole["training alone"] == pytest.approx(training)
    assert whole["training, then evaluation"] == pytest.approx(
        training + parts["evaluation, if every episode failed"]
    )


@pytest.mark.slow
def test_the_whole_measurement_runs_on_tiny_networks(tmp_path):
    """Each kind of it: updates, one at a time, a profile, evaluation, data on the host."""
    wanted = ["trqam one by one", "trqam profile", "evaluation", "data"]
    flags = ["--tiny", f"--out={tmp_path}/tiny.json", f"--only={','.join(wanted)}"]
    command = [sys.executable, "scripts/benchmark_table.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=800)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "tiny.json").read_text())
    assert list(found) == wanted and not [name for name in wanted if "error" in found[name]]
    assert 0 < found["trqam profile"]["profile"]["device_busy"] <= 1
    # of the dozen that take the most
    assert 0.5 < sum(found["trqam profile"]["profile"]["shares"].values()) <= 1
    alone, *batched = found["evaluation"]["evaluation"]
    assert alone["workers"] == 0 and all(
        5 * row["policy_calls"] <= alone["policy_calls"] for row in batched
    )
    assert [row["rows"] for row in found["data"]["measurements"]] == [10_000]
    assert "| trqam one by one | 8 | 1 |" in done.stdout and "hours" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert again.returncode == 0 and again.stderr == ""  # nothing is measured twice
