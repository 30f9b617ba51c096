"""Web servers on 127.0.0.1 that imitate OGBench's host and the hub, with their faults."""

import hashlib
import http.server
import json
import threading
import urllib.parse


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Host:
    """Files by path, with range requests."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # (path, Range)
        self.tokens: list[str | None] = []  # Authorization of each request
        self.methods: list[str] = []
        # the next answers break off after these numbers of bytes
        self.break_after: list[int] = []
        self.resumes = True
        self.says_length = True
        # what Content-Length says; None for the truth
        self.length: str | None = None
        self.content_type: str | None = None
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                host.requests.append((self.path, self.headers["Range"]))
                host.methods.append(self.command)
                host.tokens.append(self.headers["Authorization"])
                self.close_connection = True
                host.answer(self)

            do_HEAD = do_GET

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        serve = self.server.serve_forever
        self.thread = threading.Thread(target=serve, args=(0.01,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request):
        body = self.files.get(request.path)
        if body is None:
            request.send_error(404)
        else:
            self.send(request, body)

    def send(self, request, body, **headers):
        """Send a file from the requested byte on, with additional headers."""
        wanted = request.headers["Range"] if self.resumes else None
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(body):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(body)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if self.says_length:
            length = self.length or str(len(body) - start)
            request.send_header("Content-Length", length)
        if self.content_type:
            request.send_header("Content-Type", self.content_type)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        if request.command != "HEAD":
            end = start + self.break_after.pop(0) if self.break_after else len(body)
            request.wfile.write(body[start:end])

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Hub(Host):
    """Repositories with files at /<repository>/resolve/main/<path>, and lists of these files."""

    def __init__(self):
        super().__init__()
        self.repositories: dict[str, dict[str, bytes]] = {}
        # the host that sends the files; None: this one
        self.storage: Host | None = None
        self.moved: dict[str, str] = {}  # old names of repositories
        # whether there are lists, and whether lists and answers have checksums
        self.lists = self.lists_sums = self.links_sums = True
        self.page = 1000  # entries on a page of a list
        self.wanted_token: str | None = None
        # what is sent in place of a listed file
        self.damaged: dict[str, bytes] = {}

    def answer(self, request):
        url = urllib.parse.urlsplit(request.path)
        path = urllib.parse.unquote(url.path)
        for old, new in self.moved.items():
            if path.startswith(f"/{old}/"):
                return self.redirect(request, 307, path.replace(old, new, 1))
        token = request.headers["Authorization"]
        if self.wanted_token and token != f"Bearer {self.wanted_token}":
            return request.send_error(403 if token else 401)
        if path.startswith("/api/") and path.endswith("/tree/main"):
            name = (
                path.removeprefix("/api/")
                .removeprefix("models/")
                .removesuffix("/tree/main")
            )
            return self.list(request, name, dict(urllib.parse.parse_qsl(url.query)))
        name, _, file = path.removeprefix("/").partition("/resolve/main/")
        body = self.repositories.get(name, {}).get(file)
        if body is None:
            return request.send_error(404)
        linked = {}
        if self.links_sums:
            linked = {
                "X_Linked_Etag": f'"{sha256(body)}"',
                "X_Linked_Size": str(len(body)),
            }
        sent = self.damaged.get(file, body)
        if self.storage is None:
            return self.send(request, sent, **linked)
        self.storage.files[f"/blobs/{sha256(body)}"] = sent
        return self.redirect(
            request, 302, f"{self.storage.url}/blobs/{sha256(body)}", **linked
        )

    def redirect(self, request, code, location, **headers):
        request.send_response(code)
        for name, value in (
            headers | {"Location": location, "Content_Length": "0"}
        ).items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()

    def list(self, request, name, query):
        if not self.lists or name not in self.repositories:
            return request.send_error(404)
        assert query["recursive"] == "true"
        entries = [
            {"type": "directory", "oid": "0" * 40, "size": 0, "path": "a folder"}
        ]
        for path, body in sorted(self.repositories[name].items()):
            entry = {"type": "file", "oid": "0" * 40, "size": len(body), "path": path}
            if self.lists_sums and path.endswith((".npz", ".pkl")):
                entry["lfs"] = {
                    "oid": sha256(body),
                    "size": len(body),
                    "pointerSize": 134,
                }
            entries.append(entry)
        start = int(query.get("cursor", 0))
        more = {}
        if start + self.page < len(entries):
            query = f"recursive=true&cursor={start + self.page}"
            more = {"Link": f'<{self.url}/api/{name}/tree/main?{query}>; rel="next"'}
        page = entries[start : start + self.page]
        return self.send(request, json.dumps(page).encode(), **more)
