"""Which agent files may be executed unasked: those of this checkout, and those that were
trained on this machine.

Training notes the digest of each file that it executes, one per line, in
`$XDG_DATA_HOME/trqam/trusted` (by default below ~/.local/share).
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
    """Code would be executed that is not known here."""


def noted_file() -> Path | None:
    """The file of digests; None where this user has no home directory."""
    folder = user_folder("XDG_DATA_HOME", "~/.local/share")
    return folder and folder / "trqam" / "trusted"


def noted() -> set[str]:
    """The digests of what was trained here."""
    file = noted_file()
    return set(file.read_text().split()) if file and file.is_file() else set()


def note(source: Source) -> None:
    """Note that the files of an agent were executed for training on this machine."""
    new = {content_digest(content) for content in source.kept.values()} - noted()
    file = noted_file()
    if not file or not new:
        return
    # a home that cannot be written costs a question later, no more
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(file, "a", opener=functools.partial(os.open, mode=0o600)) as lines:
            lines.write("".join(f"{digest}\n" for digest in sorted(new)))


def check_trusted(files: Mapping[Path, bytes]) -> None:
    """Raise UntrustedError, which lists them, for files to be executed that are not known here.

    files: the content of each.
    """
    known = of_checkout() | noted()
    strange = [
        f"{path} ({len(content.splitlines())} lines)"
        for path, content in files.items()
        if content.strip() and content_digest(content) not in known
    ]
    if strange:
        raise UntrustedError(
            f"this would execute {join_first(strange)}, which is no file of this checkout and"
            " was not trained on this machine; read it, and give --trust (in Python"
            " trust=True) if you trust who wrote it"
        )


@functools.cache
def of_checkout() -> frozenset[str]:
    """The digests of this checkout's agents and examples."""
    files = [*AGENTS.glob("*.py"), *(ROOT / "examples").glob("*.py")]
    return frozenset(content_digest(file.read_bytes()) for file in files)


def content_digest(content: bytes) -> str:
    """Of a file to the byte: a docstring may be executed too."""
    return hashlib.sha256(content).hexdigest()
