"""A proxy on loopback that lets an object store's client reach its endpoint and no other host.

obstore follows redirects, which no option turns off, and carries an S3 session token along. Behind this proxy a
redirect to another host is refused. TLS passes through unread. Only the standard library.
"""

import ipaddress
import select
import socket
import socketserver
import threading
import weakref
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from urllib.parse import unquote, urlsplit

# The hosts that issue a cloud's own credentials, whichever endpoint is set; the metadata servers are link-local.
CREDENTIAL_HOSTS = (
    "amazonaws.com",
    "googleapis.com",
    "metadata.google.internal",
    "login.microsoftonline.com",
)
LONGEST_HEAD = 64 * 1024
PIECE = 256 * 1024
PORTS = {"http": 80, "https": 443}
# Seconds to connect, and seconds of silence after which a connection ends: far above a client's own.
CONNECT_LIMIT, SILENCE_LIMIT = 30.0, 300.0
DENIED = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
UNREACHABLE = b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class EndpointProxy:
    """Serves until it is no longer referenced.

    Args:
        urls: the endpoint, and other addresses that may be reached; their subdomains on the same port as well.
        upstream: the proxy of this machine's own settings, `http://[user:password@]host:port`; empty for none.
    """

    def __init__(self, urls: Sequence[str], upstream: str = "") -> None:
        allowed = [_authority(url) for url in urls]
        self.refused: set[str] = set()
        self._server = _Server(allowed, upstream, self.refused)
        threading.Thread(target=self._server.serve_forever, name="endpoint-proxy", daemon=True).start()
        weakref.finalize(self, _close, self._server)

    @property
    def url(self) -> str:
        """The proxy's own address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, allowed: Sequence[tuple[str, int]], upstream: str, refused: set[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.allowed, self.upstream, self.refused = allowed, upstream, refused

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that breaks is the client's to report."""


class _Handler(socketserver.BaseRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride] (the only server that makes it)

    def handle(self) -> None:
        """Connect one client with the host it names, if it may be reached."""
        head = _head(self.request)
        method, target = (*head.split(b" ", 2), b"", b"")[:2]
        tunnel = method == b"CONNECT"
        host, port = _authority(f"https://{target.decode()}" if tunnel else target.decode())
        if not is_allowed(host, port, self.server.allowed):
            self.server.refused.add(f"{host}:{port}")
            self.request.sendall(DENIED)
            return
        try:
            other = self._connection(host, port)
        except OSError:
            self.request.sendall(UNREACHABLE)
            return
        with other:
            if tunnel and not self.server.upstream:
                self.request.sendall(CONNECTED)
            else:
                # An origin server must accept the absolute form of a request (RFC 9112, section 3.2.2).
                other.sendall(_authorized(head, self.server.upstream))
            _relay(self.request, other)

    def _connection(self, host: str, port: int) -> socket.socket:
        address = _authority(self.server.upstream) if self.server.upstream else (host, port)
        return socket.create_connection(address, timeout=CONNECT_LIMIT)


def is_allowed(host: str, port: int, allowed: Sequence[tuple[str, int]]) -> bool:
    """Whether a host may be reached: the endpoint, its subdomains, and the hosts that issue credentials.

    >>> is_allowed("bucket.store.example", 443, [("store.example", 443)]), is_allowed("evil.example", 443, [])
    (True, False)
    """
    within: Callable[[str], bool] = lambda domain: host == domain or host.endswith(f".{domain}")  # noqa: E731
    return (
        any(port == allowed_port and within(domain) for domain, allowed_port in allowed)
        or any(within(domain) for domain in CREDENTIAL_HOSTS)
        or _is_link_local(host)
    )


def _is_link_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_link_local
    except ValueError:
        return False


def _authority(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)


def _head(connection: socket.socket) -> bytes:
    """A request's head, and the beginning of its body; whatever came where the head does not end."""
    received = b""
    while b"\r\n\r\n" not in received and len(received) < LONGEST_HEAD and (piece := connection.recv(PIECE)):
        received += piece
    return received


def _authorized(head: bytes, upstream: str) -> bytes:
    parts = urlsplit(upstream)
    if not parts.username:
        return head
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    line, _, rest = head.partition(b"\r\n")
    return line + b"\r\nProxy-Authorization: Basic " + b64encode(pair) + b"\r\n" + rest


def _relay(client: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""
    other.settimeout(None)
    while ready := select.select([client, other], [], [], SILENCE_LIMIT)[0]:
        for source in ready:
            piece = source.recv(PIECE)
            if not piece:
                return
            (other if source is client else client).sendall(piece)


def _close(server: _Server) -> None:
    with suppress(OSError):
        server.shutdown()
    server.server_close()
