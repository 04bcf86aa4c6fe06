"""A server that speaks the hub's protocol, on this machine: what the clients ask for downloads.

It answers as huggingface.co does: commit, ETag and error code in headers, large files by a redirect
to another host (a CDN) that takes ranges. It has no xet storage.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

import datasets
import pytest
import transformers
from huggingface_hub import HfFileSystem, close_session, constants, file_download, hf_api
from huggingface_hub.utils import _http

_LARGE = (".safetensors", ".parquet")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(
    r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?"
)


@dataclass
class Repository:
    """A repository: the files of each commit, branches and tags, and who may read it.

    Attributes:
        commits: commit -> path -> content, oldest first.
        refs: branch or tag -> commit.
        private: readers need the token; to others it does not exist.
        gated: everybody sees it, but only the token's owner may download.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def add_commit(self, files: dict[str, bytes], *refs: str) -> str:
        """Add a commit with these files, move the branches and tags to it, and return it."""
        text = repr((len(self.commits), sorted(files.items())))
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = files
        self.refs |= dict.fromkeys(("main", *refs), commit)
        return commit


class HubServer(ThreadingHTTPServer):
    """The hub on a free port of this machine, as a context.

    Attributes:
        repositories: (`model` or `dataset`, id) -> repository.
        token: what a reader of private and gated repositories sends.
        known_tokens: tokens of other users.
        errors: part of a path -> the status that its requests are answered with.
        breaks: path of a file -> how many of its next downloads break in the middle.
        requests: method, path and range of every request so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.token, self.known_tokens = "hf_reader", {"hf_reader", "hf_other"}
        self.errors: dict[str, int] = {}
        self.breaks: dict[str, int] = {}
        self.requests: list[tuple[str, str, str | None]] = []

    def add(self, repo_type: str, name: str, files: dict[str, bytes]) -> Repository:
        """Add a repository with one commit."""
        made = self.repositories[repo_type, name] = Repository()
        made.add_commit(files)
        return made

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse connections from now on, and let the clients be as in a new process."""
        self.shutdown()
        self.server_close()
        close_session()  # open connections
        HfFileSystem.clear_instance_cache()  # listings


def use_hub(patch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Send the clients of this process to a server, with an empty cache and no token.

    They read HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE once, when they are imported. Here they don't
    wait before they try again.
    """
    impatient = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    patch.setattr(file_download, "time", impatient)
    patch.setattr(_http, "time", impatient)
    patch.setattr(constants, "ENDPOINT", url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "".join((url, *template[1:])))
    patch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    patch.delenv("HF_TOKEN", raising=False)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(hf_api.api, "endpoint", url)
    patch.setattr(transformers.utils.hub, "_hf_api", None)  # keeps the endpoint of its first use
    patch.setattr(datasets.config, "HF_ENDPOINT", url)
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    patch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", cache / "downloads")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer()

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path != "/api/agent-harnesses":  # the client asks it once a day, in the background
            self.server.requests.append((self.command, path, self.headers["Range"]))
        errors = [status for part, status in self.server.errors.items() if part in path]
        if errors:
            self._fail(errors[0])
        elif path.startswith("/cdn/"):
            _, _, digest, name = path.split("/", 3)
            self._send_file(self._find_blob(digest), name)
        elif match := _FILE.fullmatch(urlsplit(self.path).path):
            dataset, name, revision, file = (unquote(part or "") for part in match.groups())
            self._resolve("dataset" if dataset else "model", name, revision, file)
        elif match := _API.match(urlsplit(self.path).path):
            repo_type, name, what, revision, folder = match.groups()
            self._describe(repo_type, name, what, unquote(revision or "main"), folder or "")
        elif match := re.fullmatch("/api/(model|dataset)s", path):
            query = parse_qs(urlsplit(self.path).query)
            owner, part = query.get("author", [""])[0], query.get("search", [""])[0]
            found = [
                {"id": name}
                for (kind, name), repository in self.server.repositories.items()
                if kind == match[1] and not repository.private
                if name.startswith(owner) and part in name
            ]
            self._send_json(found)
        else:
            self._fail(404)

    def _find(self, repo_type: str, name: str, *, download: bool) -> Repository | None:
        """Return a repository if the request may see it; else answer."""
        found = self.server.repositories.get((repo_type, name))
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if token and token not in self.server.known_tokens:
            self._fail(401, message="Invalid credentials in Authorization header")
        elif found is None or (found.private and token != self.server.token):
            # The hub doesn't tell strangers whether a private repository exists.
            self._fail(404 if token else 401, "RepoNotFound", "Repository not found")
        elif download and found.gated and token != self.server.token:
            self._fail(403 if token else 401, "GatedRepo", f"Access to {name} is restricted.")
        else:
            return found
        return None

    def _find_commit(self, repository: Repository, revision: str) -> str | None:
        """Return the commit of a branch, tag or commit; else answer."""
        commit = repository.refs.get(revision, revision)
        if commit in repository.commits:
            return commit
        self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def _describe(
        self, repo_type: str, name: str, what: str | None, revision: str, folder: str
    ) -> None:
        repository = self._find(repo_type, name, download=False)
        commit = repository and self._find_commit(repository, revision)
        if repository is None or commit is None:
            return
        files = repository.commits[commit]
        if what in (None, "revision"):
            siblings = [{"rfilename": path} for path in files]
            self._send_json({"id": name, "sha": commit, "siblings": siblings})
        elif what == "paths-info":
            asked = parse_qs(self.form)["paths"]
            self._send_json([_describe_entry(path, files[path]) for path in asked if path in files])
        else:
            self._list(files, f"{folder}/" if folder else "")

    def _list(self, files: dict[str, bytes], prefix: str) -> None:
        """Send the files of a folder, and the folders in it if it is not recursive."""
        found = {path: content for path, content in files.items() if path.startswith(prefix)}
        if not found:
            self._fail(404, "EntryNotFound", "Entry not found")
            return
        flat = "recursive=true" not in self.path.lower()
        folders = {
            p.removeprefix(prefix).partition("/")[0] for p in found if "/" in p.removeprefix(prefix)
        }
        self._send_json(
            [
                *(
                    {"type": "directory", "path": prefix + f, "oid": "0" * 40}
                    for f in sorted(folders)
                ),
                *(
                    _describe_entry(path, content)
                    for path, content in found.items()
                    if not (flat and "/" in path.removeprefix(prefix))
                ),
            ]
        )

    def _resolve(self, repo_type: str, name: str, revision: str, file: str) -> None:
        repository = self._find(repo_type, name, download=True)
        commit = repository and self._find_commit(repository, revision)
        if repository is None or commit is None:
            return
        headers = {"X-Repo-Commit": commit}
        content = repository.commits[commit].get(file)
        if content is None:
            self._fail(404, "EntryNotFound", "Entry not found", **headers)
        elif file.endswith(_LARGE):
            digest = hashlib.sha256(content).hexdigest()
            headers["X-Linked-Etag"], headers["X-Linked-Size"] = f'"{digest}"', str(len(content))
            self._send(
                302,
                b"",
                Location=f"{self.server.url.replace('127.0.0.1', 'localhost')}/cdn/{digest}/{file}",
                **headers,
            )
        else:
            self._send_file(content, file, **headers)

    def _find_blob(self, digest: str) -> bytes:
        files = (
            content
            for repository in self.server.repositories.values()
            for commit in repository.commits.values()
            for content in commit.values()
        )
        return next(f for f in files if hashlib.sha256(f).hexdigest() == digest)

    def _send_file(self, content: bytes, name: str, **headers: str) -> None:
        """Send a file or a range of it; break off in the middle if that is asked for."""
        headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        headers["Accept-Ranges"] = "bytes"
        status, size = 200, len(content)
        if self.headers["Range"]:
            start, end = self.headers["Range"].removeprefix("bytes=").split("-")
            last = min(int(end or size), size - 1)
            headers["Content-Range"] = f"bytes {start}-{last}/{size}"
            status, content = 206, content[int(start) : last + 1]
        breaks = self.server.breaks.get(name, 0) if self.command == "GET" else 0
        if breaks:
            self.server.breaks[name] = breaks - 1
        self._send(status, content, sent=len(content) // 2 if breaks else None, **headers)

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _fail(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        headers |= {"X-Error-Code": code} if code else {}
        headers |= {"X-Error-Message": message} if message else {}
        self._send(status, json.dumps({"error": message}).encode(), **headers)

    def _send(self, status: int, body: bytes, *, sent: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])
        self.close_connection = sent is not None


def _describe_entry(path: str, content: bytes) -> dict[str, object]:
    """Return a file as the hub lists it."""
    digest = hashlib.sha1(content).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": digest}
    if path.endswith(_LARGE):
        sha = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 100}
    return entry
