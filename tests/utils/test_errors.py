"""Errors of this machine are told apart from those of a file's content."""

import errno

import pytest

from utils.errors import machine_fault


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (MemoryError(), "out of memory"),
        (MemoryError("no 4 GiB"), "no 4 GiB"),
        (PermissionError(errno.EACCES, "not for you"), "Permission denied"),
        (OSError(errno.ESTALE, "gone"), "Stale file handle"),
        (ValueError("x: [OS error 13: EACCES Permission denied]"), "Permission denied"),
        (ValueError("x: [OS error 2: ENOENT No such file]"), None),
        (FileNotFoundError(errno.ENOENT, "none"), None),
        (OSError("a truncated file"), None),
        (ValueError("a truncated file"), None),
    ],
)
def test_the_fault_of_a_machine_has_a_reason_and_damage_has_none(error, why):
    assert machine_fault(error) == why
