"""Presets: sets of settings for a purpose, above the domain's and below the command line
(`--preset=NAME`).
"""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """Flag values, agent settings (each taken by the agents that have it), and how much data to
    make where none is; None where the dataset must be there or be downloaded.

    random_data: of random actions, where no oracle can make it; enough to see everything run,
    not to learn from. qam_common: with what the QAM paper sets for the domain.
    """

    flags: dict[str, Any]
    agent: dict[str, Any]
    transitions: int | None
    random_data: bool = False
    qam_common: bool = False


PRESETS = {
    # What the QAM paper's methods have in common (configs/qam_table.csv): discount, rewards,
    # widths. Its bases are not cloned first.
    "qam_paper": Preset(
        flags={"run_group": "qam_paper", "bc_steps": 0},
        agent={},
        transitions=None,
        qam_common=True,
    ),
    # `make quickstart`: BC, then TRQAM, on data of OGBench's own oracle; two CPU cores,
    # minutes.
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
    # The study in results/study: all its methods and budgets in an hour and a half of two CPU
    # cores.
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
    # Every line of the program once, on tiny networks: python main.py --env_name=puzzle-4x4
    # --preset=smoke
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
