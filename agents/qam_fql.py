"""QAM-F: `qam.py` with a one-step actor on top of its flow, and the settings that each domain
was published with for it.

Where configs/qam_table.csv has an fql_alpha of 0, the published QAM-F is QAM.

    python main.py --env_name=cube-triple --agent=agents/qam_fql.py --agent.fql_alpha=300
"""

from agents import qam


class QAMOneStep(qam.QAM):
    """QAM with the fql_alpha of most domains."""

    OPTIONS = qam.QAM.OPTIONS | {
        "fql_alpha": qam.QAM.OPTIONS["fql_alpha"]._replace(default=30.0),
    }


get_config = QAMOneStep.get_config
AGENT = QAMOneStep
