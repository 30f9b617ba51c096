"""The benchmark of updates: its figures, and how it counts the work of an update."""

import json

import jax
import numpy as np
import pytest

from agents import bam, bc, sqam
from benchmarks import common, stages, update
from scripts import benchmark
from tests.agents.tiny_agents import OBS, tiny
from tests.small_datasets import make_dataset
from utils.replay import Replay, Transitions
from utils.sharding import host_device

TINY = [
    "--agent.actor_hidden_dims=(16,16)", "--agent.value_hidden_dims=(16,16)", "--agent.num_qs=2", "--agent.flow_steps=2",
    "--agent.batch_size=8", "--transitions=2000", "--blocks=5", "--updates=2",
]  # fmt: skip


@pytest.mark.ci
@pytest.mark.parametrize("agent", [pytest.param("trqam", marks=pytest.mark.slow), "bc"])
def test_the_last_line_is_one_json_object_with_every_figure(agent, capsys, monkeypatch):
    monkeypatch.setattr(common, "PEAK_ROWS", 64)
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
    assert benchmark.main(["scripts/benchmark.py", "update", *flags, *settings]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [entry["seeds"] for entry in result["by_seeds"]] == seeds
    for entry in result["by_seeds"]:
        assert entry["seed_updates_per_s"] == pytest.approx(
            entry["seeds"] * entry["updates_per_s"]
        )
        expected = (
            entry["seed_updates_per_s"]
            * result["gflop_per_update"]
            / result["peak_gflops"]
        )
        assert entry["fraction_of_peak"] == pytest.approx(expected)
    assert result["updates_per_s"] == result["by_seeds"][0]["updates_per_s"] > 0
    assert (
        result["gflop_per_update"] > 0
        and "cpu" in result["device"]
        and result["peak_memory_bytes"] > 1e7
    )
    stages = {
        "sampling",
        "noise",
        "fixed quantities",
        "losses and gradients",
        "optimiser",
    }
    assert set(result["stage_seconds"]) == stages | (
        {"backup", "rollout", "adjoint"} if agent == "trqam" else set()
    )


@pytest.mark.ci
def test_only_an_agent_with_adjoints_has_their_stages(monkeypatch):
    """BAM has the noise of a rollout and no adjoint; SQAM's rollout needs fixed quantities."""
    monkeypatch.setattr(stages, "REPEATS", 1)
    observations = np.random.default_rng(0).normal(size=(42, OBS)).astype(np.float32)
    dataset = make_dataset([20, 20]) | {"observations": observations}
    replay = Replay(Transitions.create(dataset))
    names = {"backup", "rollout", "adjoint"}
    assert not names & stages.stage_seconds(tiny(bam), replay).keys()
    assert names < stages.stage_seconds(tiny(sqam), replay).keys()


@pytest.mark.ci
def test_work_in_a_loop_is_not_counted(capsys):
    """XLA counts the body of a loop once, so 21 flow steps would count as one."""
    flags = ["--agent=agents/fql.py", *TINY, "--agent.flow_steps=21", "--json"]
    assert benchmark.main(["scripts/benchmark.py", "update", *flags]) == 0
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    assert "GFLOP not counted" in out and result["updates_per_s"] > 0
    assert (result["gflop_per_update"], result["fraction_of_peak"]) == (None, None)


def test_work_is_counted_in_the_program_for_the_host(monkeypatch):
    """An accelerator's program calls libraries, whose work XLA does not count."""
    config = bc.get_config()
    config.update(actor_hidden_dims=(16, 16), batch_size=8)
    agent = bc.AGENT.create(
        jax.random.key(0), common.OBSERVATION_DIM, common.ACTION_DIM, config
    )
    devices, default_device = [], jax.default_device
    monkeypatch.setattr(
        jax,
        "default_device",
        lambda device: devices.append(device) or default_device(device),
    )
    assert update.gflop_per_update(agent) > 0
    assert devices == [host_device()]
