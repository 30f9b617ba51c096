"""The source of an agent: the copy in a run folder, and whether two sources are equal.

It is the agent file and its siblings, the modules that it imports from its folder. A run copies
them to `source/` and describes them in its config.json:

    source: {file, package, digest, of_checkout, checkout: {file of the checkout: digest}}
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from utils.code import code_digest, repr_digest

ROOT = Path(__file__).resolve().parents[1]
AGENTS = ROOT / "agents"
KEPT = "source"


@dataclasses.dataclass(frozen=True)
class Source:
    """An agent file and its siblings, as they were read."""

    file: Path
    package: str
    """The folder's name in imports: `mine` in `from mine.nets import Net`."""
    kept: dict[str, bytes]
    """The content of the agent file and its siblings, by path in the folder."""
    checkout: dict[str, str]
    """The digests of the project's own modules that agents use, by path."""
    module: Any = None
    """The module of the agent file; None if it was not executed."""

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each kept file."""
        return {name: code_digest(content) for name, content in self.kept.items()}

    @property
    def digest(self) -> str:
        """One digest of all kept files. It does not depend on the folder."""
        return repr_digest(sorted(self.digests.items()))

    @property
    def of_checkout(self) -> bool:
        """Whether the file is one of the checkout's agents."""
        return self.file.parent == AGENTS

    def record(self) -> dict[str, Any]:
        """Return the entries of config.json about the source."""
        place = self.file.relative_to(ROOT) if self.of_checkout else self.file
        names = ("package", "digest", "of_checkout", "checkout")
        source = {"file": self.file.name} | {
            name: getattr(self, name) for name in names
        }
        return {"agent_file": str(place), "source": source}

    def keep(self, folder: Path) -> None:
        """Copy the kept files to a run folder, replacing older ones."""
        shutil.rmtree(folder / KEPT, ignore_errors=True)
        # The agent file last: its existence means that the copy is complete.
        for name, content in reversed(self.kept.items()):
            file = folder / KEPT / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def kept_source(folder: Path, stored: dict[str, Any]) -> Source | None:
    """Read the source in a run folder; None if it has none.

    stored: the folder's config.json.
    """
    record = stored.get("source")
    place = folder / KEPT
    if not record or not (file := place / record["file"]).is_file():
        return None
    files = sorted(path for path in {file, *place.rglob("*.py")} if path.is_file())
    kept = {path.relative_to(place).as_posix(): path.read_bytes() for path in files}
    return Source(file, record["package"], kept, record["checkout"])


def differing_files(folder: Path, digests: dict[str, str]) -> list[str]:
    """Return the names of files that are missing in a folder or have another digest."""
    return [
        name for name in digests if code_digest(read(folder / name)) != digests[name]
    ]


def read(file: Path) -> bytes:
    """Return the content of a file; b"" if it does not exist."""
    return file.read_bytes() if file.is_file() else b""
