"""QAM-E: `qam.py` with an editor on top of its flow, and the settings that each domain was
published with for it.

Where configs/domains.py has an edit_scale of 0, the published QAM-E is QAM.

    python main.py --env_name=puzzle-4x4 --agent=agents/qam_edit.py --agent.edit_scale=0.9
"""

import ml_collections

from agents import qam


def get_config() -> ml_collections.ConfigDict:
    """QAM's settings, and the edit_scale of most domains."""
    config = qam.get_config()
    config.edit_scale = 0.1
    return config


AGENT = qam.QAM
