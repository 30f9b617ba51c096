"""A terminal of a given width, and the lines that it finally shows."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator


@contextlib.contextmanager
def terminal(columns: int) -> Iterator[tuple[int, int]]:
    """Open a pseudo terminal of 40 lines; yield the descriptors of our end and the program's."""
    ours, programs = pty.openpty()
    fcntl.ioctl(programs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    try:
        yield ours, programs
    finally:
        os.close(ours)
        os.close(programs)


def written(ours: int) -> str:
    """What has been written to a pseudo terminal so far."""
    os.set_blocking(ours, False)
    text = b""
    with contextlib.suppress(OSError):  # there is nothing more
        while part := os.read(ours, 65536):
            text += part
    return text.decode()


def lines_on(text: str) -> list[str]:
    """The lines that a terminal shows once the text, which may overwrite itself, is written."""
    screen, index, column = [""], 0, 0
    for token in re.findall(r"\x1b\[A|[\r\n]|[^\x1b\r\n]+", text):
        if token == "\x1b[A":
            index -= 1
        elif token == "\n":
            index += 1
            screen += [""] * (index + 1 - len(screen))
        elif token == "\r":
            column = 0
        else:
            line = screen[index].ljust(column)
            screen[index] = line[:column] + token + line[column + len(token) :]
            column += len(token)
    return [line.rstrip() for line in screen]
