"""Decides which agent files may be executed without --trust.

Those are the files of this checkout, and those that were trained on this machine. Training
appends the digest of each file that it executes, one per line, to
`$XDG_DATA_HOME/trqam/trusted` (by default in ~/.local/share).
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from configs.agent_source import AGENTS, ROOT, Source
from utils.errors import UserError, join_first
from utils.files import user_folder


class UntrustedError(UserError):
    """Unknown code would be executed."""


def trusted_file() -> Path | None:
    """Return the file of digests; None if the user has no home directory."""
    folder = user_folder("XDG_DATA_HOME", "~/.local/share")
    return folder and folder / "trqam" / "trusted"


def trusted_digests() -> set[str]:
    """Return the digests of the files that were trained on this machine."""
    file = trusted_file()
    # a home may be unreadable, as root's for another user of a container
    with contextlib.suppress(OSError, UnicodeError):
        return set(file.read_text().split()) if file else set()
    return set()


def record_trusted(source: Source) -> None:
    """Record that the files of an agent were executed for training on this machine."""
    new = {
        content_digest(content) for content in source.kept.values()
    } - trusted_digests()
    file = trusted_file()
    if not file or not new:
        return
    # without a writable home, --trust will be needed later
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(file, "a", opener=functools.partial(os.open, mode=0o600)) as lines:
            lines.write("".join(f"{digest}\n" for digest in sorted(new)))


def check_trusted(files: Mapping[Path, bytes]) -> None:
    """Raise UntrustedError, which lists the files, if any of them is unknown.

    files: the content of each file.
    """
    known = of_checkout() | trusted_digests()
    strange = [
        f"{path} ({len(content.splitlines())} lines)"
        for path, content in files.items()
        if content.strip() and content_digest(content) not in known
    ]
    if strange:
        raise UntrustedError(
            f"this would execute {join_first(strange)}, which is not a file of this checkout"
            " and was not trained on this machine; read it, and give --trust (in Python"
            " trust=True) if you trust who wrote it"
        )


@functools.cache
def of_checkout() -> frozenset[str]:
    """Return the digests of this checkout's agents and examples."""
    files = [*AGENTS.glob("*.py"), *(ROOT / "examples").glob("*.py")]
    return frozenset(content_digest(file.read_bytes()) for file in files)


def content_digest(content: bytes) -> str:
    """Return the SHA-256 of a file's bytes. Docstrings count, since code may read them."""
    return hashlib.sha256(content).hexdigest()
