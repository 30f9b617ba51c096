"""The benchmark measures what it says, at any size."""

import json

import numpy as np
import pytest

from scripts import benchmark

TINY = [
    "--agent.actor_hidden_dims=(16,16)", "--agent.value_hidden_dims=(16,16)", "--agent.num_qs=2", "--agent.flow_steps=2",
    "--agent.batch_size=8", "--transitions=2000", "--blocks=5", "--updates=2",
]  # fmt: skip


@pytest.mark.parametrize("agent", [pytest.param("trqam", marks=pytest.mark.slow), "bc"])
def test_the_last_line_is_one_json_object_with_every_figure(agent, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "PEAK_ROWS", 64)
    settings = TINY if agent == "trqam" else [word for word in TINY if "value" not in word and "num_qs" not in word]
    seeds = [1] if agent == "trqam" else [1, 2]
    flags = [f"--agent=agents/{agent}.py", f"--seeds={','.join(map(str, seeds))}", "--stages", "--json"]
    assert benchmark.main(["scripts/benchmark.py", *flags, *settings]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["seeds"] for row in result["by_seeds"]] == seeds
    for row in result["by_seeds"]:
        assert row["seed_updates_per_s"] == pytest.approx(row["seeds"] * row["updates_per_s"])
        expected = row["seed_updates_per_s"] * result["gflop_per_update"] / result["peak_gflops"]
        assert row["fraction_of_peak"] == pytest.approx(expected)
    assert result["updates_per_s"] == result["by_seeds"][0]["updates_per_s"] > 0
    assert result["gflop_per_update"] > 0 and "cpu" in result["device"] and result["peak_memory_bytes"] > 1e7
    stages = {"sampling", "noise", "fixed quantities", "losses and gradients", "optimiser"}
    assert set(result["stage_seconds"]) == stages | ({"backup", "rollout", "adjoint"} if agent == "trqam" else set())


def test_the_synthetic_data_is_a_compact_dataset():
    dataset = benchmark.synthetic(2500)
    assert len(dataset["rows"]) == 2500
    assert len(dataset["observations"]) == len(dataset["terminals"]) == 2503
    ends = dataset["terminals"][dataset["rows"]] > 0
    assert list(np.flatnonzero(ends)) == [999, 1999, 2499]


def test_a_mistake_is_one_line(capsys):
    assert benchmark.main(["scripts/benchmark.py", "--agent=agents/trqam.py", "--blocks=2"]) == 2
    assert benchmark.main(["scripts/benchmark.py", "--agent=agents/nothing.py"]) == 2
    assert benchmark.main(["scripts/benchmark.py", "--agent=agents/bc.py", "--agent.num_q=3"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)
