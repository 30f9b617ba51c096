"""Every agent trains offline and online."""

import json

import numpy as np
import pytest

from tests.tiny_runs import TASK, TINY, only_run, run, train
from utils.csv_log import CsvLog

SQAM = ["--agent=agents/sqam.py", "--kl_budget_online=0.125", "--agent.best_of_n=2"]


QAM_E = ["--agent=agents/qam.py", "--agent.edit_scale=0.1", "--agent.best_of_n=2"]


QAM_F = ["--agent=agents/qam.py", "--agent.fql_alpha=3"]


EXTERNAL = [
    "--agent=agents/trqam_external_kl.py",
    "--kl_budget_online=0.125",
    "--agent.dual_mode=closed_form",
]


SCALAR = [
    "--agent=agents/trqam_scalar_adjoint.py",
    "--kl_budget_online=0.125",
    "--bc_steps=0",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "quantity"),
    [
        (SQAM, "critic/value_gap"),
        (QAM_E, "entropy/alpha"),
        (QAM_F, "head/distill_loss"),
        (["--agent=agents/fql.py"], "actor/distill_loss"),
        (["--agent=agents/ifql.py"], "value/loss"),
        (["--agent=agents/dsrl.py"], "entropy/alpha"),
        (["--agent=agents/cgql.py"], "critic/noisy_loss"),
        (["--agent=agents/fedit.py"], "entropy/alpha"),
        (["--agent=agents/fbrac.py"], "actor/loss"),
        (["--agent=agents/bam.py"], "actor/bc_loss"),
        (["--agent=agents/fawac.py"], "value/loss"),
        (["--agent=agents/qgf.py"], "value/loss"),
        (["--agent=agents/qpilots.py"], "flow/loss"),
        (EXTERNAL, "adjoint/penalty"),
        (SCALAR, "dual/lam"),
        (["--agent=agents/trqam_custom_network.py"], "flow/loss"),
    ],
)
@pytest.mark.usefixtures("no_key_twice")
def test_an_agent_with_a_flow_trains_offline_and_online(
    data, tmp_path, flags, quantity
):
    assert train(data, tmp_path, *flags, "--eval_episodes=1") == 0
    folder = only_run(tmp_path)
    rows = CsvLog(folder / "train.csv").read()
    assert {row["phase"] for row in rows} == {"offline", "online"}
    assert all(np.isfinite(row[quantity]) for row in rows)
    assert rows[0][quantity] != rows[-1][quantity]
    if "--kl_budget_online=0.125" in flags:
        assert rows[0]["dual/kl_budget"] > rows[-1]["dual/kl_budget"] == 0.125
    assert CsvLog(folder / "eval.csv").read()[-1]["step"] == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "quantity"),
    [
        ("qsm", "actor/denoising_loss"),
        ("dac", "actor/denoising_loss"),
        ("rebrac", "actor/bc_loss"),
        ("rlpd", "entropy/alpha"),
        ("rql", "actor/loss"),
    ],
)
@pytest.mark.usefixtures("no_key_twice")
def test_an_agent_without_a_flow_trains_and_clones_nothing(
    data, tmp_path, agent, quantity
):
    """RLPD has only an online phase, and learns from the first step after --start_training."""
    tiny = [word for word in TINY if "flow_steps" not in word]
    place = [f"--env_name={TASK}", f"--ogbench_dataset_dir={data}/good"]
    flags = ["--preset=smoke", f"--agent=agents/{agent}.py", "--eval_workers=1", *tiny]
    assert run(*place, f"--save_dir={tmp_path}", *flags) == 0
    (done,) = tmp_path.glob(f"smoke/{TASK}/{agent}_*/done.json")
    assert not list(tmp_path.glob("bc/**/done.json"))
    rows = CsvLog(done.with_name("train.csv")).read()
    assert all(np.isfinite(row[quantity]) for row in rows)
    online = [(50, "online"), (60, "online")]
    both = [(10, "offline"), (20, "offline"), *online]
    alone = [(30, "online"), (40, "online")]
    found = [(row["step"], row["phase"]) for row in rows]
    assert found == (alone if agent == "rlpd" else both)
    evaluations = CsvLog(done.with_name("eval.csv")).read()
    assert evaluations[-1]["step"] == (40 if agent == "rlpd" else 60)
    if agent == "rlpd":
        stored = json.loads(done.with_name("config.json").read_text())["flags"]
        assert (stored["balanced_sampling"], stored["offline_steps"]) == (True, 0)
