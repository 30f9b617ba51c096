"""Hugging Face repositories over plain HTTPS: which files there are, their sizes and checksums.

HF_ENDPOINT and HF_TOKEN mean what they mean to huggingface_hub. The token is sent to the
endpoint alone, never to a host that it redirects to.
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
TIMEOUT = 8.0  # seconds without an answer before a host is given up
FAILURES = (urllib.error.URLError, http.client.HTTPException, OSError)

_SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")
_SHA256SUM_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(\S.*)")  # as sha256sum writes it
_BSD_LINE = re.compile(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})")  # as `sha256sum --tag` does
_PATH = re.compile("[./]")  # what tells a path from another key
_OTHER_SUM = re.compile("xet|blake", re.IGNORECASE)  # as long as a sha256
_PATH_KEYS = ("path", "file", "filename", "rfilename", "name")


class Known(NamedTuple):
    """What is known of a file before it is there; None is unknown."""

    size: int | None = None
    sha256: str | None = None


class Source(NamedTuple):
    """A file's address, and what its host's listing says of it."""

    url: str
    known: Known = Known()


def endpoint() -> str:
    """HF_ENDPOINT, or the hub's own address; raises UserError for what is no web address."""
    found = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or HUGGING_FACE
    if not re.match("https?://[^/]", found):
        raise UserError(f"HF_ENDPOINT={found}: give a web address, such as {HUGGING_FACE}")
    return found


def reason(error: BaseException) -> str:
    """Why a request failed, in a few words, with what to do about a refusal by the endpoint."""
    if not isinstance(error, urllib.error.HTTPError):
        return str(getattr(error, "reason", None) or error or type(error).__name__)
    refused = error.code in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
    if not refused or not _is_endpoint(error.filename):
        return f"HTTP {error.code}"
    if _token():
        return f"HTTP {error.code}: the token in HF_TOKEN may not read this"
    return f"HTTP {error.code}: private or gated; set HF_TOKEN to a token that may read it"


def _token() -> str:
    """HF_TOKEN without the line breaks that come with a token pasted from a file."""
    token = "".join(os.environ.get("HF_TOKEN", "").split())
    if not token.isascii():
        raise UserError("HF_TOKEN: a token has no such letters; paste it again, or unset it")
    return token


def _is_endpoint(url: str) -> bool:
    ours, theirs = (urllib.parse.urlsplit(address)[:2] for address in (endpoint(), url))
    return ours == theirs


def _authorized(request: urllib.request.Request) -> urllib.request.Request:
    """The request with the token, if it goes to the endpoint."""
    if _token() and _is_endpoint(request.full_url):
        # Unredirected: urllib would else copy it to whatever host the endpoint redirects to.
        request.add_unredirected_header("Authorization", f"Bearer {_token()}")
    return request


class Web(urllib.request.HTTPRedirectHandler):
    """Opens addresses; `said` keeps what the hub's answers say of the file, redirects included.

    The hub answers a request for a large file with a redirect to another host. The file's size
    and sha256 are headers of that redirect, not of the last answer.
    """

    def __init__(self) -> None:
        self.said = Known()

    def open(self, url: str, start: int = 0, method: str = "GET") -> http.client.HTTPResponse:
        """The answer, from byte `start` on if the host can; raises one of FAILURES."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        request = urllib.request.Request(url, headers=headers, method=method)
        opener = urllib.request.build_opener(self)
        try:
            response = opener.open(_authorized(request), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection, for a body that nobody reads
            raise
        self._note(response.headers)
        return response

    def redirect_request(
        self, req: Any, fp: IO, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """urllib's, with the method kept and the token only where it belongs."""
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
        self.said = Known(
            int(size) if size.isdigit() else self.said.size,
            match[1].lower() if match else self.said.sha256,
        )


class Repository:
    """A repository: 'owner/name' of a model, 'datasets/owner/name' of a dataset.

    Args:
        name: the repository.
        folder: what the names of its files begin with elsewhere, if the repository is one
            folder of a larger collection.
    """

    def __init__(self, name: str, folder: str = ""):
        self.name, self._prefix = name, f"{folder}/" if folder else ""
        self._failure: BaseException | None = None

    def __str__(self) -> str:
        return f"{urllib.parse.urlsplit(endpoint()).netloc}/{self.name}"

    def url(self, path: str) -> str:
        """The address of a file."""
        return f"{endpoint()}/{self.name}/resolve/main/{urllib.parse.quote(path)}"

    @functools.cached_property
    def listing(self) -> dict[str, Known] | None:
        """Every file by its path; None where the list cannot be had. Asked for once."""
        kind = "" if self.name.startswith("datasets/") else "models/"
        url = f"{endpoint()}/api/{kind}{self.name}/tree/main?recursive=true"
        files: dict[str, Known] = {}
        try:
            while url:
                with Web().open(url) as response:
                    entries, links = json.load(response), response.headers["Link"] or ""
                found = [entry for entry in entries if entry["type"] == "file"]
                files |= {entry["path"]: _known(entry) for entry in found}
                following = re.search('<([^>]+)>; *rel="next"', links)
                url = urllib.parse.urljoin(url, following[1]) if following else ""
        except (*FAILURES, ValueError, KeyError, TypeError, AttributeError) as error:
            self._failure = error
            return None
        return files

    def fault(self) -> str:
        """Why `names` has nothing."""
        return "no such files" if self._failure is None else reason(self._failure)

    def names(self, folder: str) -> list[str]:
        """The npz files of a folder of the collection: '<folder>/<path in it>', sorted."""
        paths = (f"/{self._prefix}{path}" for path in self.listing or ())
        found = (path.partition(f"/{folder}/") for path in paths if path.endswith(".npz"))
        return sorted(f"{folder}/{rest}" for _, there, rest in found if there)

    def find(self, name: str) -> Source:
        """Where a file of the collection is here; where its name says, if it is not listed."""
        path = self._path(name)
        known = (self.listing or {}).get(path)
        if known is None:
            return Source(self.url(path))
        return Source(self.url(path), known if known.sha256 else self._with_sum(path, known))

    def _path(self, name: str) -> str:
        """A file's name, or what the listing has in its place.

        That is the name below a folder, or the file's last name in a folder called otherwise,
        if only one file of that dataset is called so.
        """
        wanted = name.removeprefix(self._prefix)
        last, dataset = posixpath.basename(wanted), re.split(r"(?:-\d+m)?-v0", name)[0]
        same = [path for path in self.listing or () if posixpath.basename(path) == last]
        below = [path for path in same if f"/{path}".endswith(f"/{wanted}")]
        if below:
            return min(below, key=len)
        alike = [path for path in same if dataset in path]
        return alike[0] if len(alike) == 1 else wanted

    def _with_sum(self, path: str, known: Known) -> Known:
        return known._replace(sha256=sum_of(path, self._sums))

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
            for name, checksum in read_manifest(text):
                sums[posixpath.normpath(name)] = checksum
                sums[posixpath.normpath(f"{posixpath.dirname(manifest)}/{name}")] = checksum
        return sums


def _known(entry: dict[str, Any]) -> Known:
    """Of an entry of the hub's listing; only files stored outside git have a sha256."""
    stored = entry.get("lfs") or {}
    match = _SHA256.fullmatch(stored.get("oid", ""))
    return Known(stored.get("size", entry.get("size")), match[1].lower() if match else None)


def sum_of(path: str, sums: dict[str, str]) -> str | None:
    """The checksum of a path in a manifest; by its last name alone if that is unambiguous."""
    name = posixpath.basename(path)
    alike = {found for other, found in sums.items() if posixpath.basename(other) == name}
    return sums.get(path) or (alike.pop() if len(alike) == 1 else None)


def read_manifest(text: str) -> list[tuple[str, str]]:
    """(path, sha256) of every file in a manifest: JSON of any shape, or sha256sum's text."""
    try:
        return list(_json_sums(json.loads(text), ""))
    except ValueError:
        lines = [line.strip().removeprefix("\\") for line in text.splitlines()]
    found = [(match[2], match[1]) for match in map(_SHA256SUM_LINE.fullmatch, lines) if match]
    found += [(match[1], match[2]) for match in map(_BSD_LINE.fullmatch, lines) if match]
    return [(name, checksum.lower()) for name, checksum in found]


def _json_sums(node: Any, name: str) -> Iterator[tuple[str, str]]:
    """(path, checksum) of every checksum below a node.

    The path is the checksum's key, or else beside it, or else the nearest key above.
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
    """(path, value) of the values of a JSON object; `name` is the nearest path above it."""
    beside = next((node[key] for key in _PATH_KEYS if isinstance(node.get(key), str)), name)
    for key, item in node.items():
        if not _OTHER_SUM.search(key):
            yield key if _PATH.search(key) else beside, item
