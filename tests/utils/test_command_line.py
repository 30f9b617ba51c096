"""Tests of how programs end."""

import pytest

from utils.command_line import refuse_words, run_program
from utils.errors import UserError


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (None, 3)])
def test_a_program_exits_with_its_code_and_no_traceback(error, code, capsys):
    def main():
        if error:
            raise error
        return code

    with pytest.raises(SystemExit) as ended:
        run_program(main)
    assert ended.value.code == code and capsys.readouterr().err == ""


def test_a_word_that_cannot_be_seen_is_shown_by_its_code():
    with pytest.raises(UserError, match=r"'\\xa0' is not a flag"):
        refuse_words(["\xa0"])
