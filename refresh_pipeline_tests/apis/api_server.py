"""A real HTTP server on loopback that answers as a test tells it to, and remembers what it was asked."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, Mapping[str, str], bytes]


@dataclass
class ApiServer:
    """What it answers, by path, and the requests that it had: method, path with query, headers, body."""

    url: str = ""
    answers: dict[str, Answer | Callable[[Mapping[str, str]], Answer]] = field(default_factory=dict)
    asked: list[tuple[str, str, Mapping[str, str], bytes]] = field(default_factory=list)

    def says(self, path: str, body: bytes | str, status: int = 200, **headers: str) -> None:
        """Answer this path so from now on; underscores in names of headers stand for hyphens."""
        content = body.encode() if isinstance(body, str) else body
        self.answers[path] = (status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


@contextmanager
def api_server() -> Iterator[ApiServer]:
    """A server that runs while the block does."""
    state = ApiServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = dict(self.headers.items())
            state.asked.append((self.command, self.path, headers, body))
            found = state.answers.get(self.path.partition("?")[0], (404, {}, b"no such path"))
            status, sent, content = found(headers) if callable(found) else found
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **sent}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content)
            except OSError:
                # The client had enough.
                self.close_connection = True

        do_GET = do_POST = answer

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the library's name)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
