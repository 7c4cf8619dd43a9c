"""A real Redis server on a free port of the loopback, keeping nothing on disk; tests that need it skip without one."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

LOOPBACK = "127.0.0.1"
PASSWORD = "fake-redis-password"


@contextmanager
def redis_server(*options: str, address: str = LOOPBACK) -> Iterator[str]:
    """Its URL, database 1, for as long as the block runs; reached at the loopback and at another address as well."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    listens = ["--bind", *dict.fromkeys((LOOPBACK, address))]
    # It asks for no password, which it lets the loopback alone do without.
    trusts = [] if address == LOOPBACK else ["--protected-mode", "no"]
    command = [program, *listens, *trusts, "--port", str(port), "--save", "", "--appendonly", "no", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/") as server:
        try:
            wait_for(port)
            yield f"redis://{address}:{port}/1"
        finally:
            server.terminate()
            server.wait()


def free_port() -> int:
    """One that nobody listens at just now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for(port: int) -> None:
    """Until the server answers, at most ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"redis-server does not answer at port {port}")
