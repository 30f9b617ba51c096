"""Hugging Face repositories over plain HTTPS: lists of files, their sizes and checksums.

HF_ENDPOINT and HF_TOKEN mean what they mean to huggingface_hub. The token is sent only to the
endpoint, never to a host that it redirects to.
"""

import functools
import http.client
import json
import os
import posixpath
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from utils.errors import UserError

HUGGING_FACE = "https://huggingface.co"
TIMEOUT = 8.0  # seconds without an answer before a request fails
FAILURES = (urllib.error.URLError, http.client.HTTPException, OSError)

_SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")
# as sha256sum writes it, and as `sha256sum --tag` does
_SHA256SUM_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(\S.*)")
_BSD_LINE = re.compile(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})")
_PATH = re.compile("[./]")  # a key that matches is a path
# other checksums as long as a sha256
_OTHER_SUM = re.compile("xet|blake", re.IGNORECASE)
_PATH_KEYS = ("path", "file", "filename", "rfilename", "name")


class FileFacts(NamedTuple):
    """What a host says about a file; None is unknown."""

    size: int | None = None
    sha256: str | None = None


class Source(NamedTuple):
    """The address of a file, and what the host's listing says about it."""

    url: str
    known: FileFacts = FileFacts()


def endpoint() -> str:
    """Return HF_ENDPOINT or the hub's own address; raise UserError if it is no web address."""
    found = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or HUGGING_FACE
    if not re.match("https?://[^/]", found):
        raise UserError(
            f"HF_ENDPOINT={found}: give a web address, such as {HUGGING_FACE}"
        )
    return found


def reason(error: BaseException) -> str:
    """Say why a request failed, and the remedy if the endpoint refused it."""
    if not isinstance(error, urllib.error.HTTPError):
        return str(getattr(error, "reason", None) or error or type(error).__name__)
    refused = error.code in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
    if not refused or not _is_endpoint(error.filename):
        return f"HTTP {error.code}"
    if _token():
        return f"HTTP {error.code}: the token in HF_TOKEN may not read this"
    return (
        f"HTTP {error.code}: private or gated; set HF_TOKEN to a token that may read it"
    )


def _token() -> str:
    """Return HF_TOKEN without line breaks, which a pasted token may have."""
    token = "".join(os.environ.get("HF_TOKEN", "").split())
    if not token.isascii():
        raise UserError(
            "HF_TOKEN: a token has only ASCII characters; paste it again, or unset it"
        )
    return token


def _is_endpoint(url: str) -> bool:
    ours = urllib.parse.urlsplit(endpoint())
    theirs = urllib.parse.urlsplit(url)
    return (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)


def _authorized(request: urllib.request.Request) -> urllib.request.Request:
    """Add the token to a request to the endpoint; return the request."""
    if _token() and _is_endpoint(request.full_url):
        # Unredirected, so that urllib does not send it to the host of a redirect.
        request.add_unredirected_header("Authorization", f"Bearer {_token()}")
    return request


class Web(urllib.request.HTTPRedirectHandler):
    """Opens addresses; `known` collects what the answers and redirects say about the file.

    The hub redirects a request for a large file to another host. The file's size and sha256 are
    headers of that redirect, not of the final answer.
    """

    def __init__(self) -> None:
        self.known = FileFacts()

    def open(
        self, url: str, start: int = 0, method: str = "GET"
    ) -> http.client.HTTPResponse:
        """Request an address; raise one of FAILURES.

        Args:
            url: the address.
            start: the first byte wanted; hosts may ignore it.
            method: GET or HEAD.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        request = urllib.request.Request(url, headers=headers, method=method)
        opener = urllib.request.build_opener(self)
        try:
            response = opener.open(_authorized(request), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection, and the body is not read
            raise
        self._note(response.headers)
        return response

    def redirect_request(
        self, req: Any, fp: IO, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Follow a redirect with the same method, and with the token only to the endpoint."""
        self._note(headers)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is None:
            return None
        request.method = req.get_method()
        return _authorized(request)

    def _note(self, headers: Any) -> None:
        size = headers.get("X-Linked-Size", "")
        tag = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"')
        match = _SHA256.fullmatch(tag)
        self.known = FileFacts(
            int(size) if size.isdigit() else self.known.size,
            match[1].lower() if match else self.known.sha256,
        )


class Repository:
    """A repository: 'owner/name' for a model, 'datasets/owner/name' for a dataset.

    Args:
        name: the repository.
        folder: the folder of a larger collection that this repository holds, if any. File names
            begin with it on the other hosts.
    """

    def __init__(self, name: str, folder: str = ""):
        self.name = name
        self._prefix = f"{folder}/" if folder else ""
        self._failure: BaseException | None = None

    def __str__(self) -> str:
        return f"{urllib.parse.urlsplit(endpoint()).netloc}/{self.name}"

    def url(self, path: str) -> str:
        """Return the address of a file."""
        return f"{endpoint()}/{self.name}/resolve/main/{urllib.parse.quote(path)}"

    @functools.cached_property
    def listing(self) -> dict[str, FileFacts] | None:
        """The facts of every file by its path; None if the list cannot be read. Cached."""
        kind = "" if self.name.startswith("datasets/") else "models/"
        url = f"{endpoint()}/api/{kind}{self.name}/tree/main?recursive=true"
        files: dict[str, FileFacts] = {}
        try:
            while url:
                with Web().open(url) as response:
                    entries = json.load(response)
                    links = response.headers["Link"] or ""
                for entry in entries:
                    if entry["type"] == "file":
                        files[entry["path"]] = _facts(entry)
                following = re.search('<([^>]+)>; *rel="next"', links)
                url = urllib.parse.urljoin(url, following[1]) if following else ""
        except (*FAILURES, ValueError, KeyError, TypeError, AttributeError) as error:
            self._failure = error
            return None
        return files

    def fault(self) -> str:
        """Say why `names` returned nothing."""
        return "no such files" if self._failure is None else reason(self._failure)

    def names(self, folder: str) -> list[str]:
        """Return the npz files of a folder of the collection as '<folder>/<path>', sorted."""
        names = []
        for path in self.listing or ():
            _, inside, rest = f"/{self._prefix}{path}".partition(f"/{folder}/")
            if inside and path.endswith(".npz"):
                names.append(f"{folder}/{rest}")
        return sorted(names)

    def find(self, name: str) -> Source:
        """Return the address and facts of a file; the name is the path if it is not listed."""
        path = self._path(name)
        facts = (self.listing or {}).get(path)
        if facts is None:
            return Source(self.url(path))
        if facts.sha256 is None:
            facts = facts._replace(sha256=sum_of(path, self._sums))
        return Source(self.url(path), facts)

    def _path(self, name: str) -> str:
        """Return the listed path of a file: its name, possibly below another folder.

        Otherwise return the path of the only file of this dataset with the same last name, or
        the name itself if there is none.
        """
        wanted = name.removeprefix(self._prefix)
        last = posixpath.basename(wanted)
        dataset = re.split(r"(?:-\d+m)?-v0", name)[0]
        same = [path for path in self.listing or () if posixpath.basename(path) == last]
        below = [path for path in same if f"/{path}".endswith(f"/{wanted}")]
        if below:
            return min(below, key=len)
        alike = [path for path in same if dataset in path]
        return alike[0] if len(alike) == 1 else wanted

    @functools.cached_property
    def _sums(self) -> dict[str, str]:
        """The checksums in the repository's manifests, by path."""
        sums: dict[str, str] = {}
        for manifest in self.listing or ():
            if not re.search("manifest|sha256", posixpath.basename(manifest).lower()):
                continue
            try:
                with Web().open(self.url(manifest)) as response:
                    text = response.read().decode(errors="replace")
            except FAILURES:
                continue
            folder = posixpath.dirname(manifest)
            for name, checksum in read_manifest(text):
                sums[posixpath.normpath(name)] = checksum
                sums[posixpath.normpath(f"{folder}/{name}")] = checksum
        return sums


def _facts(entry: dict[str, Any]) -> FileFacts:
    """Return the facts in an entry of a listing; only files stored with LFS have a sha256."""
    stored = entry.get("lfs") or {}
    match = _SHA256.fullmatch(stored.get("oid", ""))
    size = stored.get("size", entry.get("size"))
    return FileFacts(size, match[1].lower() if match else None)


def sum_of(path: str, sums: dict[str, str]) -> str | None:
    """Return the checksum of a path, or the only one for its last name; None if there is none.

    sums: checksums by path.
    """
    if path in sums:
        return sums[path]
    name = posixpath.basename(path)
    alike = {
        found for other, found in sums.items() if posixpath.basename(other) == name
    }
    return alike.pop() if len(alike) == 1 else None


def read_manifest(text: str) -> list[tuple[str, str]]:
    """Return (path, sha256) of every file in a manifest: any JSON, or sha256sum's output."""
    try:
        return list(_json_sums(json.loads(text), ""))
    except ValueError:
        lines = [line.strip().removeprefix("\\") for line in text.splitlines()]
    found = []
    for line in lines:
        if match := _SHA256SUM_LINE.fullmatch(line):
            found.append((match[2], match[1].lower()))
        elif match := _BSD_LINE.fullmatch(line):
            found.append((match[1], match[2].lower()))
    return found


def _json_sums(node: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield (path, checksum) of every checksum below a JSON node.

    The path is the checksum's key, else a sibling value such as "path", else `name`, the
    nearest path above.
    """
    if isinstance(node, str) and (match := _SHA256.fullmatch(node)):
        yield name, match[1].lower()
    elif isinstance(node, list):
        for item in node:
            yield from _json_sums(item, name)
    elif isinstance(node, dict):
        for key, item in _named(node, name):
            yield from _json_sums(item, key)


def _named(node: dict[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) for the values of a JSON object; `name` is the nearest path above."""
    beside = next(
        (node[key] for key in _PATH_KEYS if isinstance(node.get(key), str)), name
    )
    for key, item in node.items():
        if not _OTHER_SUM.search(key):
            yield key if _PATH.search(key) else beside, item
