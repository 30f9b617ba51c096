"""QAM-F: `qam.py` with a one-step actor on top of its flow, and the settings that each domain
was published with for it.

Where configs/domains.py has an fql_alpha of 0, the published QAM-F is QAM.

    python main.py --env_name=cube-triple --agent=agents/qam_fql.py --agent.fql_alpha=300
"""

import ml_collections

from agents import qam


def get_config() -> ml_collections.ConfigDict:
    """QAM's settings, and the fql_alpha of most domains."""
    config = qam.get_config()
    config.fql_alpha = 30.0
    return config


AGENT = qam.QAM
