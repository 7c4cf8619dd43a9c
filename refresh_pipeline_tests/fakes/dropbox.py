"""Dropbox in miniature: a real HTTP server on the loopback that keeps files in memory and fails on request.

It answers what the pipeline asks (tokens, listings with paging, uploads, upload sessions, metadata) by the rules of
the real one, as the official SDK needs them, and nothing else. `session()` leads the SDK here: its requests still go
out for https://api.dropboxapi.com, and the session alone sends them to the loopback, so that the SDK, its token refresh
included, is the one that ships. With a certificate the server speaks TLS, for a process that is led here by the
SDK's own environment variables.
"""

import json
import re
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter

APP_KEY = "fake-app-key"
APP_SECRET = "fake-app-secret"
REFRESH_TOKEN = "fake-refresh-token"

API_HOST = "api.dropboxapi.com"
CONTENT_HOST = "content.dropboxapi.com"
BLOCK = 4 * 1024 * 1024
SINGLE_REQUEST_LIMIT = 150 * 1024 * 1024

SCOPES = {"files/list_folder": "files.metadata.read", "files/get_metadata": "files.metadata.read"}
WRITE_SCOPE = "files.content.write"


def content_hash(content: bytes) -> str:
    """The documented hash, written down a second time."""
    blocks = (content[start : start + BLOCK] for start in range(0, len(content), BLOCK))
    return sha256(b"".join(sha256(block).digest() for block in blocks)).hexdigest()


@dataclass(frozen=True)
class Answer:
    """One HTTP answer as it goes over the wire."""

    status: int = 200
    body: str = "{}"
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, summary: str, error: object, **more: object) -> "Answer":
        """An error envelope of the API."""
        return cls(status, json.dumps({"error_summary": f"{summary}/..", "error": error, **more}))

    @classmethod
    def write_refused(cls, reason: str, value: object = None) -> "Answer":
        """What files/upload says of a file it does not take."""
        tagged = {".tag": reason} | ({reason: value} if value else {})
        error = {".tag": "path", "reason": tagged, "upload_session_id": "AAAAAAAAAAA"}
        return cls.error(409, f"path/{reason}", error)


class Dropped:
    """The connection is reset in the middle of the request."""


@dataclass(frozen=True)
class Stalled:
    """Nothing is answered until the server stops."""


Fault = Answer | Dropped | Stalled


@dataclass(frozen=True)
class Asked:
    """One request that arrived: its route, its host, its argument."""

    route: str
    host: str
    argument: dict[str, Any]


class AccessDenied(Exception):
    """Raised inside the server to answer with an error."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class FakeDropbox:
    """A Dropbox account with one app; use as a context manager.

    `files` maps paths to contents. `capacity` is the room of the account in bytes, `scopes` what the app may do,
    `page_size` how many entries a listing holds, `revoked` whether the user has thrown the app out.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.folders: set[str] = set()
        self.asked: list[Asked] = []
        self.capacity = 10**12
        self.scopes = {"files.metadata.read", WRITE_SCOPE}
        self.page_size = 2000
        self.revoked = False
        self.damages = False
        # How long each request takes, and how many were there at once.
        self.seconds = 0.0
        self.most_at_once = 0
        self._going = 0
        self._lock = threading.RLock()
        self._tokens: dict[str, bool] = {}
        self._sessions: dict[str, bytearray] = {}
        self._cursors: dict[str, list[dict[str, Any]]] = {}
        self._faults: dict[str, list[Fault]] = defaultdict(list)
        self._stopping = threading.Event()
        self._server = _Server(self, certificate)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "FakeDropbox":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No longer listen: new connections are refused."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def session(self) -> Session:
        """Connections that end here, whatever host the SDK asks for."""
        session = Session()
        session.trust_env = False
        session.mount("https://", _Loopback(self.address))
        return session

    def fail(self, route: str, *faults: Fault) -> None:
        """Answer the next requests to a route with these, one each."""
        self._faults[route] += faults

    def give_token(self, token: str) -> None:
        """One that lasts, as the App Console gave them out once."""
        self._tokens[token] = True

    def expire_tokens(self) -> None:
        """Every access token given so far has had its four hours."""
        self._tokens = dict.fromkeys(self._tokens, False)

    def count(self, route: str) -> int:
        """How many requests came for a route."""
        return sum(asked.route == route for asked in self.asked)

    @property
    def tokens(self) -> list[str]:
        """Every access token given so far."""
        return list(self._tokens)

    def answer(self, asked: Asked, body: bytes, authorization: str) -> Fault:
        """What is sent back for one request."""
        with self._lock:
            self.asked.append(asked)
            if self._faults[asked.route]:
                return self._faults[asked.route].pop(0)
        with self._at_once():
            return self._answer(asked, body, authorization)

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """Take the time that a request takes, and remember how many there were at once."""
        with self._lock:
            self._going += 1
            self.most_at_once = max(self.most_at_once, self._going)
        time.sleep(self.seconds)
        try:
            with self._lock:
                yield
        finally:
            self._going -= 1

    def _answer(self, asked: Asked, body: bytes, authorization: str) -> Fault:
        try:
            if asked.route == "oauth2/token":
                return self._token(asked.argument)
            self._authorize(asked.route, authorization)
            return Answer(body=json.dumps(getattr(self, "_" + asked.route.replace("/", "_"))(asked.argument, body)))
        except AccessDenied as refused:
            return refused.answer

    def wait_until_stopped(self) -> None:
        self._stopping.wait(10)

    def _token(self, form: dict[str, Any]) -> Answer:
        if (form["client_id"], form["client_secret"]) != (APP_KEY, APP_SECRET):
            return Answer(400, json.dumps({"error": "invalid_client: Invalid client_id or client_secret"}))
        if form["refresh_token"] != REFRESH_TOKEN or self.revoked:
            described = "refresh token is invalid or revoked"
            return Answer(400, json.dumps({"error": "invalid_grant", "error_description": described}))
        token = f"sl.fake-access-{len(self._tokens)}"
        self._tokens[token] = True
        return Answer(body=json.dumps({"access_token": token, "token_type": "bearer", "expires_in": 14400}))

    def _authorize(self, route: str, authorization: str) -> None:
        valid = self._tokens.get(authorization.removeprefix("Bearer "))
        if valid is None or self.revoked:
            raise AccessDenied(Answer.error(401, "invalid_access_token", {".tag": "invalid_access_token"}))
        if not valid:
            raise AccessDenied(Answer.error(401, "expired_access_token", {".tag": "expired_access_token"}))
        scope = SCOPES.get(route.removesuffix("/continue"), WRITE_SCOPE)
        if scope not in self.scopes:
            raise AccessDenied(Answer.error(401, "missing_scope", {".tag": "missing_scope", "required_scope": scope}))

    def _files_upload(self, argument: dict[str, Any], body: bytes) -> dict[str, Any]:
        if len(body) > SINGLE_REQUEST_LIMIT:
            raise AccessDenied(Answer.error(409, "payload_too_large", {".tag": "payload_too_large"}))
        self._check_hash(argument, body)
        return self._store(argument, body, Answer.write_refused)

    def _files_upload_session_start(self, argument: dict[str, Any], body: bytes) -> dict[str, Any]:
        self._check_hash(argument, body)
        session = f"session-{len(self._sessions)}"
        self._sessions[session] = bytearray(body)
        return {"session_id": session}

    def _files_upload_session_append_v2(self, argument: dict[str, Any], body: bytes) -> None:
        self._check_hash(argument, body)
        self._open_session(argument["cursor"]).extend(body)

    def _files_upload_session_finish(self, argument: dict[str, Any], body: bytes) -> dict[str, Any]:
        self._check_hash(argument, body)
        session = self._open_session(argument["cursor"])
        session.extend(body)
        return self._store(argument["commit"], bytes(session), _finish_refused)

    def _open_session(self, cursor: dict[str, Any]) -> bytearray:
        session = self._sessions[cursor["session_id"]]
        if len(session) != cursor["offset"]:
            offset = {".tag": "incorrect_offset", "correct_offset": len(session)}
            raise AccessDenied(Answer.error(409, "incorrect_offset", offset))
        return session

    def _check_hash(self, argument: dict[str, Any], body: bytes) -> None:
        if argument.get("content_hash", content_hash(body)) != content_hash(body):
            raise AccessDenied(Answer.error(409, "content_hash_mismatch", {".tag": "content_hash_mismatch"}))

    def _store(self, commit: dict[str, Any], content: bytes, refused: Any) -> dict[str, Any]:
        path = commit["path"]
        if not re.fullmatch(r"/(.|[\r\n])*", path) or path.endswith("/") or "//" in path or ".." in path.split("/"):
            raise AccessDenied(refused("malformed_path"))
        if path.lower() in self._all_folders():
            raise AccessDenied(refused("conflict", {".tag": "folder"}))
        held = next((held for name, held in self.files.items() if name.lower() == path.lower()), content)
        if commit["mode"][".tag"] == "add" and held != content:
            raise AccessDenied(refused("conflict", {".tag": "file"}))
        kept = {name: held for name, held in self.files.items() if name.lower() != path.lower()}
        if sum(map(len, kept.values())) + len(content) > self.capacity:
            raise AccessDenied(refused("insufficient_space"))
        self.files = kept | {path: content[:-1] if self.damages else content}
        return self._metadata(path)

    def _files_list_folder(self, argument: dict[str, Any], _: bytes) -> dict[str, Any]:
        folder = argument["path"].lower()
        if folder in {path.lower() for path in self.files}:
            raise AccessDenied(Answer.error(409, "path/not_folder", {".tag": "path", "path": {".tag": "not_folder"}}))
        if folder and folder not in self._all_folders():
            raise AccessDenied(Answer.error(409, "path/not_found", {".tag": "path", "path": {".tag": "not_found"}}))
        folders = [_folder(path) for path in sorted(self._all_folders()) if path.startswith(f"{folder}/")]
        files = [self._metadata(path) for path in sorted(self.files) if path.lower().startswith(f"{folder}/")]
        entries = folders + [{".tag": "file", **entry} for entry in files]
        if not argument.get("recursive"):
            entries = [entry for entry in entries if str(PurePosixPath(entry["path_lower"]).parent) == (folder or "/")]
        return self._page(entries)

    def _files_list_folder_continue(self, argument: dict[str, Any], _: bytes) -> dict[str, Any]:
        return self._page(self._cursors[argument["cursor"]])

    def _files_get_metadata(self, argument: dict[str, Any], _: bytes) -> dict[str, Any]:
        for path in self.files:
            if path.lower() == argument["path"].lower():
                return {".tag": "file", **self._metadata(path)}
        raise AccessDenied(Answer.error(409, "path/not_found", {".tag": "path", "path": {".tag": "not_found"}}))

    def _page(self, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
        cursor = f"cursor-{len(self._cursors)}"
        self._cursors[cursor] = list(entries[self.page_size :])
        return {
            "entries": list(entries[: self.page_size]),
            "cursor": cursor,
            "has_more": len(entries) > self.page_size,
        }

    def _all_folders(self) -> set[str]:
        """Paths of folders in lower case: those made on purpose and those that hold files."""
        of_files = {str(parent) for path in self.files for parent in PurePosixPath(path).parents}
        return {path.lower() for path in self.folders | of_files} - {"/"}

    def _metadata(self, path: str) -> dict[str, Any]:
        content = self.files[path]
        return {
            "name": PurePosixPath(path).name,
            "id": f"id:{sha256(path.lower().encode()).hexdigest()[:22]}",
            "client_modified": "2024-01-01T00:00:00Z",
            "server_modified": "2024-01-01T00:00:00Z",
            "rev": "015f0000000000000000001",
            "size": len(content),
            "path_lower": path.lower(),
            "path_display": path,
            "is_downloadable": True,
            "content_hash": content_hash(content),
        }


def _folder(path: str) -> dict[str, Any]:
    name = PurePosixPath(path).name
    return {".tag": "folder", "name": name, "id": f"id:{name}", "path_lower": path, "path_display": path}


def _finish_refused(reason: str, value: object = None) -> Answer:
    """What upload_session/finish says of a file it does not take: one envelope less than files/upload."""
    error = {".tag": "path", "path": {".tag": reason} | ({reason: value} if value else {})}
    return Answer.error(409, f"path/{reason}", error)


class _Loopback(HTTPAdapter):
    """Sends what was meant for Dropbox to the loopback; the Host header still says where it was meant to go."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        parts = urlsplit(str(request.url))
        request.headers["Host"] = parts.netloc
        request.url = parts._replace(scheme="http", netloc=self._address).geturl()
        return super().send(request, *args, **kwargs)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fake: FakeDropbox, certificate: Path | None) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, fake))
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Headers and body in one packet.
    wbufsize = -1

    def __init__(self, fake: FakeDropbox, *args: Any) -> None:
        self.fake = fake
        super().__init__(*args)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.fake.answer(self._asked(body), body, self.headers.get("Authorization", ""))
        if isinstance(fault, Answer):
            self._send(fault)
        elif isinstance(fault, Dropped):
            self._reset()
        else:
            self.fake.wait_until_stopped()

    def _asked(self, body: bytes) -> Asked:
        route = self.path.lstrip("/").removeprefix("2/")
        argument: dict[str, Any] = {}
        if "Dropbox-API-Arg" in self.headers:
            argument = json.loads(self.headers["Dropbox-API-Arg"])
        elif route == "oauth2/token":
            argument = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        elif body:
            argument = json.loads(body)
        return Asked(route, self.headers.get("Host", ""), argument)

    def _send(self, answer: Answer) -> None:
        content = answer.body.encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _reset(self) -> None:
        # Closing with unsent time zero sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Tests print nothing."""
