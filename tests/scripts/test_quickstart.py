"""The quickstart's summary has the figures of its run."""

from types import SimpleNamespace

import pytest

from configs.flags import parse_flags
from scripts.quickstart import compares, summarise
from tests.synthetic_runs import write_csv
from training.plan import plan
from utils.files import write_json


def test_the_summary_has_the_figures_of_the_logs(tmp_path):
    """The path KL is the mean over the last tenth of the updates, lambda the last one."""
    write_csv(
        tmp_path / "eval.csv",
        ("step", "episodes", "success"),
        [(0, 50, 0.1), (50, 50, 0.9), (100, 50, 0.4)],
    )
    logs = [(step, 9.0, 2.0) for step in range(10, 91, 10)]
    logs += [(95, 0.2, 2.0), (100, 0.4, 0.5)]
    write_csv(tmp_path / "train.csv", ("step", "dual/path_kl", "dual/lam"), logs)
    versions = {"device": "cpu", "versions": {}, "commit": "c0ffee"}
    recorded = {"dataset": {"transitions": 60_000, "crc": "d50d03ec"}}
    write_json(tmp_path / "config.json", versions | recorded)
    settings = SimpleNamespace(agent=SimpleNamespace(kl_budget=0.7, lam_scale=3.0))
    run = SimpleNamespace(folder=tmp_path, env_name="task", seed=2, settings=settings)
    found = summarise(run, 12.5, ["quickstart.py", "--seed=2"])
    assert found == versions | {
        "env_name": "task",
        "seed": 2,
        "transitions": 60_000,
        "episodes": 50,
        "success_bc": 0.1,
        "success_trqam": 0.4,
        "path_kl": pytest.approx(0.3),
        "kl_budget": 0.7,
        "lambda": 1.5,
        "seconds_after_install": 12.5,
        "command": "python quickstart.py --seed=2",
    }


@pytest.mark.parametrize(
    ("words", "compared"),
    [
        (["--preset=quickstart"], True),
        (["--preset=quickstart", "--bc_steps=0"], False),
        (["--preset=cpu", "--env_name=lift-mh-low_dim"], False),
        (
            [
                "--preset=cpu",
                "--env_name=examples.own_environment:Reach-v0",
                "--dataset=reach.npz",
            ],
            False,
        ),
    ],
)
def test_only_tasks_of_ogbench_are_compared(words, compared):
    (run,) = plan(parse_flags(["main.py", *words]))
    assert compares(run) == compared
