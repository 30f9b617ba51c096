"""Presets (`--preset=NAME`): settings for a purpose, which override the domain's settings."""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """The settings of a preset."""

    flags: dict[str, Any]
    agent: dict[str, Any]
    """Settings of agents; an agent ignores those that it does not have."""
    transitions: int | None
    """How many transitions to collect if the dataset is missing; None: download it."""
    random_data: bool = False
    """Whether random actions may replace a missing oracle: enough to run, not to learn."""
    qam_common: bool = False
    """Whether to add the QAM paper's settings for the domain."""


PRESETS = {
    # The common settings of the QAM paper's methods (configs/qam_table.csv): discount, rewards,
    # widths. They do not start from a cloned base.
    "qam_paper": Preset(
        flags={"run_group": "qam_paper", "bc_steps": 0},
        agent={},
        transitions=None,
        qam_common=True,
    ),
    # `make quickstart`: BC, then TRQAM, on data of OGBench's oracle; minutes on two CPU cores.
    "quickstart": Preset(
        flags={
            "env_name": "cube-single-play-singletask-task1-v0",
            "run_group": "quickstart",
            "bc_steps": 8_000,
            "offline_steps": 3_000,
            "online_steps": 0,
            "log_interval": 100,
            "eval_interval": 1_500,
            "save_interval": 1_500,
            "video_episodes": 1,
        },
        agent={
            "actor_hidden_dims": (256,) * 4,
            "value_hidden_dims": (256,) * 4,
            "num_qs": 2,
            "flow_steps": 5,
            "discount": 0.99,
            "kl_budget": 0.3,
        },
        transitions=60_000,
    ),
    # The study in results/study.
    "study": Preset(
        flags={
            "env_name": "cube-single-play-singletask-task1-v0",
            "run_group": "study",
            "bc_steps": 10_000,
            "offline_steps": 5_000,
            "online_steps": 0,
            "log_interval": 100,
            "eval_interval": 2_500,
            "save_interval": 5_000,
        },
        agent={
            "actor_hidden_dims": (128,) * 4,
            "value_hidden_dims": (128,) * 4,
            "num_qs": 2,
            "flow_steps": 5,
            "discount": 0.99,
        },
        transitions=100_000,
    ),
    # The paper's protocol scaled down for two CPU cores; docs/reproduce.md has the cost.
    "cpu": Preset(
        flags={
            "run_group": "cpu",
            "bc_steps": 20_000,
            "offline_steps": 50_000,
            "online_steps": 0,
            "log_interval": 500,
            "eval_interval": 10_000,
            "save_interval": 10_000,
        },
        agent={
            "actor_hidden_dims": (256,) * 4,
            "value_hidden_dims": (256,) * 4,
            "num_qs": 2,
            "flow_steps": 5,
        },
        transitions=None,
    ),
    # Runs everything once, on tiny networks: main.py --env_name=puzzle-4x4 --preset=smoke
    "smoke": Preset(
        flags={
            "run_group": "smoke",
            "bc_steps": 20,
            "offline_steps": 20,
            "online_steps": 40,
            "start_training": 20,
            "log_interval": 10,
            "eval_interval": 20,
            "save_interval": 20,
            "eval_episodes": 2,
        },
        agent={
            "actor_hidden_dims": (32, 32),
            "value_hidden_dims": (32, 32),
            "num_qs": 2,
            "flow_steps": 3,
            "batch_size": 32,
        },
        transitions=2_000,
        random_data=True,
    ),
}
