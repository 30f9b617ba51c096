"""Tests of how programs end."""

import pytest

from utils.command_line import run_program


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (None, 3)])
def test_a_program_exits_with_its_code_and_no_traceback(error, code, capsys):
    def main():
        if error:
            raise error
        return code

    with pytest.raises(SystemExit) as ended:
        run_program(main)
    assert ended.value.code == code and capsys.readouterr().err == ""
