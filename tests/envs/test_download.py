import http.server
import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from envs import download as module
from envs.download import download, repository_files
from utils.errors import UserError

NAME = "cube-single-play-v0.npz"


def archive(seed: int = 0) -> bytes:
    file = io.BytesIO()
    np.savez(file, observations=np.random.default_rng(seed).normal(size=(100, 30)))
    return file.getvalue()


class Host:
    """A web server on 127.0.0.1 whose faults the test chooses."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # (path, Range)
        self.break_after: list[int] = []  # bytes after which the coming answers break off
        self.resumes = True
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                host.answer(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request):
        wanted = request.headers["Range"]
        self.requests.append((request.path, wanted))
        request.close_connection = True
        body = self.files.get(request.path)
        if body is None:
            request.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.resumes else 0
        if start >= len(body):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(body)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        end = start + self.break_after.pop(0) if self.break_after else len(body)
        request.wfile.write(body[start:end])

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def host():
    host = Host()
    yield host
    host.stop()


@pytest.fixture
def mirror():
    host = Host()
    yield host
    host.stop()


def test_a_whole_file(host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    path = download(NAME, tmp_path / "new" / NAME, [host.url], progress=False)
    assert path.read_bytes() == archive() and [p.name for p in path.parent.iterdir()] == [NAME]
    download(NAME, path, [host.url])  # it is there
    assert len(host.requests) == 1


def test_a_broken_transfer_goes_on_by_itself(host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    host.break_after = [5000, 7000]
    path = download(NAME, tmp_path / NAME, [host.url], progress=False)
    assert path.read_bytes() == archive()
    assert [wanted for _, wanted in host.requests] == [None, "bytes=5000-", "bytes=12000-"]


def test_an_interrupted_run_is_resumed_by_the_next(host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    host.break_after = [5000, 0]  # broken off, then dead
    with pytest.raises(UserError, match=f"{NAME} could not be downloaded .*5000 of {len(archive())} bytes"):
        download(NAME, tmp_path / NAME, [host.url], progress=False)
    (part,) = tmp_path.iterdir()
    assert part.suffix == ".part" and part.stat().st_size == 5000
    assert download(NAME, tmp_path / NAME, [host.url], progress=False).read_bytes() == archive()
    assert host.requests[-1][1] == "bytes=5000-" and len(list(tmp_path.iterdir())) == 1


def test_a_complete_part_only_gets_its_name(host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    host.break_after = [len(archive()) - 1, 0]
    with pytest.raises(UserError):
        download(NAME, tmp_path / NAME, [host.url], progress=False)
    (part,) = tmp_path.iterdir()
    part.write_bytes(archive())
    assert download(NAME, tmp_path / NAME, [host.url], progress=False).read_bytes() == archive()


def test_a_part_longer_than_the_file_is_thrown_away(host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    host.break_after = [10, 0]
    with pytest.raises(UserError):
        download(NAME, tmp_path / NAME, [host.url], progress=False)
    (part,) = tmp_path.iterdir()
    part.write_bytes(archive() + b"more")
    assert download(NAME, tmp_path / NAME, [host.url], progress=False).read_bytes() == archive()


def test_a_host_that_cannot_resume_starts_over(host, tmp_path):
    host.files[f"/{NAME}"] = archive()
    host.break_after, host.resumes = [5000], False
    assert download(NAME, tmp_path / NAME, [host.url], progress=False).read_bytes() == archive()


def test_the_mirror_is_asked_next_and_bytes_are_never_mixed(host, mirror, tmp_path):
    host.files[f"/{NAME}"], mirror.files[f"/{NAME}"] = archive(0), archive(1)
    host.break_after = [5000, 0]
    path = download(NAME, tmp_path / NAME, [host.url, mirror.url], progress=False)
    assert path.read_bytes() == archive(1) and mirror.requests == [(f"/{NAME}", None)]


def test_not_found_then_the_mirror(host, mirror, tmp_path):
    mirror.files[f"/{NAME}"] = archive()
    assert download(NAME, tmp_path / NAME, [host.url, mirror.url], progress=False).read_bytes() == archive()
    assert len(host.requests) == 1  # an answer is not asked for again


@pytest.mark.parametrize(
    "body",
    [
        b"<html>try again later</html>",
        archive()[:-30],
        archive()[:20000] + bytes([archive()[20000] ^ 1]) + archive()[20001:],
    ],
    ids=["a web page", "truncated", "a flipped bit"],
)
def test_what_is_no_whole_archive_is_not_kept(host, tmp_path, body):
    host.files[f"/{NAME}"] = body
    with pytest.raises(UserError, match="not a whole npz file"):
        download(NAME, tmp_path / "new" / NAME, [host.url], progress=False)
    assert not (tmp_path / "new").exists()


def test_when_nobody_answers_every_reason_is_given(host, tmp_path):
    dead = Host()
    dead.stop()
    with pytest.raises(UserError) as error:
        download(NAME, tmp_path / "new" / NAME, [dead.url, host.url], progress=False)
    message = str(error.value)
    assert "Connection refused" in message and "HTTP 404" in message and "\n" not in message
    assert not (tmp_path / "new").exists()


def test_a_silent_host_is_given_up(host, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    release = threading.Event()
    monkeypatch.setattr(host, "answer", lambda request: release.wait(10))
    with pytest.raises(UserError, match="timed out"):
        download(NAME, tmp_path / NAME, [host.url], progress=False)
    release.set()


def test_the_files_of_a_repository(host, monkeypatch):
    monkeypatch.setattr(module, "HUGGING_FACE", host.url)
    listing = {"siblings": [{"rfilename": name} for name in ("b-001.npz", "a-000.npz", "README.md")]}
    host.files["/api/datasets/me/data"] = json.dumps(listing).encode()
    assert repository_files("me/data") == ["a-000.npz", "b-001.npz"]
    with pytest.raises(UserError, match="could not be read .HTTP 404"):
        repository_files("me/other")


def test_the_archive_the_tests_use_is_large_enough(tmp_path: Path):
    assert len(archive()) > 20001
