"""QAM-E: `qam.py` with an editor on top of its flow, and the settings that each domain was
published with for it.

Where configs/qam_table.csv has an edit_scale of 0, the published QAM-E is QAM.

    python main.py --env_name=puzzle-4x4 --agent=agents/qam_edit.py --agent.edit_scale=0.9
"""

from agents import qam


class QAMEdit(qam.QAM):
    """QAM with the edit_scale of most domains."""

    OPTIONS = qam.QAM.OPTIONS | {
        "edit_scale": qam.QAM.OPTIONS["edit_scale"]._replace(default=0.1),
    }


get_config = QAMEdit.get_config
AGENT = QAMEdit
