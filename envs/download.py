"""Downloads published files from the first host that has them; resumes and checks them."""

import contextlib
import errno
import glob
import hashlib
import http.client
import urllib.error
import zipfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from envs.arrays import BROKEN_ARCHIVE
from envs.hub import FAILURES, FileFacts, Repository, Source, Web, reason
from utils.errors import UserError
from utils.files import exclusive_folder, put_in_place, sha256_of
from utils.messages import say
from utils.pickles import safe_unpickle
from utils.progress import Counter

# OGBench's own host, a mirror of its standard datasets, and a mirror of what the paper uses.
HOSTS = (
    "https://rail.eecs.berkeley.edu/datasets/ogbench",
    "hf://datasets/zhouzypaul/ogbench_datasets",
    "hf://datasets/yonghoon96/ogbench-mirror",
)
# Larger collections that live in a Hugging Face repository of their own.
REPOSITORIES = {
    "antmaze-giant-navigate": "datasets/yonghoon96/antmaze-giant-navigate-10m-v0"
}

RETRIES = 3  # further attempts after a transfer is interrupted
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)

Host = str | Repository
"""An address to which a file's name is appended, or a repository that lists its files."""


class _BrokenOff(OSError):
    """The connection ended before the file was complete."""


def open_hosts(names: Sequence[str]) -> list[Host]:
    """Return the hosts of these names; hf:// names become repositories."""
    scheme = "hf://"
    return [
        Repository(n.removeprefix(scheme)) if n.startswith(scheme) else n for n in names
    ]


def download(name: str, destination: Path, hosts: Sequence[Host]) -> Path:
    """Download a file to `destination`, atomically, and print where it is from.

    An interrupted transfer is resumed. Size, sha256 (if the host publishes it) and content are
    checked before the file gets its name. Raises UserError with every host's answer if all
    fail, OSError if the folder cannot be written.

    Args:
        name: the file's path on each of the hosts.
        destination: the local path; an existing file is kept.
        hosts: the hosts to try, in order.
    """
    answers = []
    with _folder_of(destination):
        if destination.exists():  # another process was faster
            return destination
        for host in hosts:
            source = locate(host, name)
            try:
                part, known = _fetch(source, destination)
                checked = _check(part, known, destination.suffix == ".npz")
            except FAILURES as error:
                if _is_of_this_disk(error):
                    raise
                answers.append(f"{short_name(host)}: {reason(error)}")
                continue
            put_in_place(part, destination)
            _remove_parts(destination)  # of hosts that broke off
            size = Counter.format_sizeof(destination.stat().st_size, "B")
            server = short_name(host).partition("/")[0]
            say(f"{destination.name}: {size} from {server}, {checked}")
            return destination
    raise UserError(
        f"{destination.name} could not be downloaded ({'; '.join(answers)})"
    )


def locate(host: Host, name: str) -> Source:
    """Return the address of a file on a host."""
    return host.find(name) if isinstance(host, Repository) else Source(f"{host}/{name}")


def short_name(host: Host) -> str:
    """Return the name of a host for messages."""
    return str(host) if isinstance(host, Repository) else urlsplit(host).netloc


def measure(name: str, hosts: Sequence[Host]) -> tuple[int | None, str]:
    """Return the size of a file (None if unknown) and the first host that has it.

    Nothing is downloaded. Raises UserError with every host's answer if none has the file.
    """
    answers = []
    for host in hosts:
        source = locate(host, name)
        if source.known.size is not None:
            return source.known.size, short_name(host)
        web = Web()
        try:
            with web.open(source.url, method="HEAD") as response:
                length = _length(response)
        except FAILURES as error:
            answers.append(f"{short_name(host)}: {reason(error)}")
            continue
        return web.known.size or length, short_name(host)
    raise UserError(f"no host has {name} ({'; '.join(answers)})")


@contextlib.contextmanager
def _folder_of(destination: Path):
    """Create and lock the folder of a file for the block; remove it again if it stays empty."""
    missing = [folder for folder in destination.parents if not folder.exists()]
    try:
        with exclusive_folder(destination.parent):
            yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for folder in missing:
                folder.rmdir()


def _fetch(source: Source, destination: Path) -> tuple[Path, list[FileFacts]]:
    """Download into the part file of an address, resuming at its end.

    The part file's name depends on the address, so bytes of two hosts are never mixed. Also
    returns what the host's listing and its answer say about the file.
    """
    tag = hashlib.sha256(source.url.encode()).hexdigest()[:8]
    part = destination.with_name(f".{destination.name}.{tag}.part")
    web = Web()
    for attempt in range(RETRIES + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            _resume(web, source, part, destination.name)
        except urllib.error.HTTPError:
            raise
        except FAILURES as error:
            gained = part.exists() and part.stat().st_size > before
            if attempt == RETRIES or not gained or _is_of_this_disk(error):
                raise
        else:
            return part, [source.known, web.known]
    raise AssertionError("the last attempt returns or raises")


def _is_of_this_disk(error: BaseException) -> bool:
    """Whether a file cannot be written here, so that no other host would help."""
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


def _remove_parts(destination: Path) -> None:
    """Delete all part files of a file."""
    for part in destination.parent.glob(f".{glob.escape(destination.name)}.*.part"):
        part.unlink()


def _resume(web: Web, source: Source, part: Path, label: str) -> None:
    """Append the missing bytes to the part file; raise one of FAILURES.

    Args:
        web: opens the address.
        source: the address.
        part: the part file.
        label: the name of the progress bar.
    """
    response = _open(web, source.url, part)
    if response is None:
        return
    with response:
        if response.headers.get_content_type() == "text/html":
            raise _BrokenOff("a web page came instead of the file")
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        start = part.stat().st_size if resumed else 0
        length = _length(response)
        total = start + length if length else web.known.size or source.known.size
        with (
            part.open("ab" if resumed else "wb") as file,
            Counter(
                label,
                total,
                kept=False,  # `download` reports the file at the end
                initial=start,
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            while block := response.read(1 << 20):
                file.write(block)
                bar.update(len(block))
    came = part.stat().st_size
    if total is not None and came < total:
        raise _BrokenOff(f"broke off after {came} of {total} bytes")


def _length(response: http.client.HTTPResponse) -> int | None:
    """Return how many bytes follow; None if the answer does not say."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _open(web: Web, url: str, part: Path) -> http.client.HTTPResponse | None:
    """Request what follows the part file, or everything; return None if it is complete."""
    start = part.stat().st_size if part.exists() else 0
    try:
        return web.open(url, start)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        size = error.headers.get("Content-Range", "").rpartition("/")[2]
    if size == str(start):
        return None
    part.unlink()
    return web.open(url)


def _check(part: Path, known: list[FileFacts], is_archive: bool) -> str:
    """Check a part file and say what was checked.

    Deletes it and raises OSError if its size, sha256 or content is wrong.
    """
    if fault := _fault(part, known, is_archive):
        part.unlink()
        raise OSError(f"{fault}; deleted")
    checksum = next((facts.sha256 for facts in known if facts.sha256), None)
    if checksum:
        return f"sha256 {checksum:.12} as published"
    return f"no sha256 there: size{' and CRC-32' if is_archive else ' alone'} checked"


def _fault(part: Path, known: list[FileFacts], is_archive: bool) -> str:
    """Return what is wrong with a part file; "" if nothing is."""
    size = part.stat().st_size
    for facts in dict.fromkeys(known):  # once, if the listing and the answer agree
        if facts.size not in (None, size):
            return f"{size} bytes came instead of {facts.size}"
        if facts.sha256 and (found := sha256_of(part)) != facts.sha256:
            return f"its sha256 is {found} instead of the published {facts.sha256}"
    return _archive_fault(part) if is_archive else _pickle_fault(part)


def _archive_fault(part: Path) -> str:
    """Return what is wrong with an npz file, by the checksums inside it; "" if nothing is."""
    try:
        with zipfile.ZipFile(part) as archive:
            broken = archive.testzip()
    except BROKEN_ARCHIVE:
        broken = part.name
    return "what came is not a complete npz file" if broken else ""


def _pickle_fault(part: Path) -> str:
    """Return what is wrong with a pickle, without executing it; "" if nothing is."""
    try:
        safe_unpickle(part, "what came")
    except UserError as error:
        return str(error)
    return ""
