"""Published datasets: download with resume, checked, from the first host that has them."""

import contextlib
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from envs.files import alone
from utils.errors import UserError

# OGBench's own host, then a mirror of its standard datasets.
HOSTS = (
    "https://rail.eecs.berkeley.edu/datasets/ogbench",
    "https://huggingface.co/datasets/zhouzypaul/ogbench_datasets/resolve/main",
)
# Larger collections that live in a Hugging Face repository of their own.
REPOSITORIES = {"antmaze-giant-navigate": "yonghoon96/antmaze-giant-navigate-10m-v0"}
HUGGING_FACE = "https://huggingface.co"

TIMEOUT = 8.0  # seconds without an answer before the next host is asked
RETRIES = 3  # further attempts at a host whose transfer breaks off

_Failure = (urllib.error.URLError, http.client.HTTPException, OSError)


class _BrokenOff(OSError):
    """The connection ended before the whole file was there."""


def download(name: str, destination: Path, hosts: Sequence[str] | None = None, progress: bool = True) -> Path:
    """Fetch `name` (a path below each of the hosts) to `destination`, atomically.

    What an interrupted transfer left is continued. Size and checksums are compared before the file gets its
    name. Raises UserError, naming every host's answer, if none delivers.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    answers = []
    with alone(destination.parent):
        if destination.exists():  # another process was faster
            return destination
        for host in HOSTS if hosts is None else hosts:
            url = f"{host}/{name}"
            try:
                part = _fetch(url, destination, progress)
                _check_archive(part)
            except _Failure as error:
                answers.append(f"{re.sub('^https?://', '', host).partition('/')[0]}: {_reason(error)}")
                continue
            os.replace(part, destination)
            return destination
        with contextlib.suppress(OSError):  # nothing came: leave no empty folder behind
            destination.parent.rmdir()
    raise UserError(f"{destination.name} could not be downloaded ({'; '.join(answers)})")


def repository_files(name: str) -> list[str]:
    """The npz files of a Hugging Face dataset repository. Raises UserError if the list cannot be had."""
    url = f"{HUGGING_FACE}/api/datasets/{name}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            files = [entry["rfilename"] for entry in json.load(response)["siblings"]]
    except (*_Failure, ValueError, KeyError) as error:
        raise UserError(f"{url} could not be read ({_reason(error)})") from error
    return sorted(file for file in files if file.endswith(".npz"))


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def _fetch(url: str, destination: Path, progress: bool) -> Path:
    """Download into this URL's part file (bytes of two hosts are never mixed), going on where it ends."""
    part = destination.with_name(f".{destination.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
    for attempt in range(RETRIES + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            return _continue(url, part, before, progress, destination.name)
        except urllib.error.HTTPError:
            raise
        except _Failure:
            gained = part.exists() and part.stat().st_size > before
            if attempt == RETRIES or not gained:
                raise
    raise AssertionError("the last attempt returns or raises")


def _continue(url: str, part: Path, start: int, progress: bool, label: str) -> Path:
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(start):
            return part  # it was complete
        part.unlink()
        return _continue(url, part, 0, progress, label)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # this host cannot resume
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        unit = {"unit": "B", "unit_scale": True, "desc": label, "disable": not progress}
        with part.open("ab" if start else "wb") as file, tqdm(total=total, initial=start, **unit) as bar:
            while block := response.read(1 << 20):
                file.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size != total:
        raise _BrokenOff(f"broke off after {part.stat().st_size} of {total} bytes")
    return part


def _check_archive(part: Path) -> None:
    """Every checksum inside an npz is right, or the part is deleted and OSError raised."""
    try:
        with zipfile.ZipFile(part) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError):
        bad = part.name
    if bad:
        part.unlink()
        raise OSError("what came is not a whole npz file")
