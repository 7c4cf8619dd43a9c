"""The API as a program: what it needs to start, and what its process holds; with real processes."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from websockets import ConnectionClosed
from websockets.sync.client import connect

from refresh_pipeline_tests.api.served import KEY, Shop
from refresh_pipeline_tests.isolated_env import inside

PATIENCE = 60.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop.opened(tmp_path_factory.mktemp("api") / "shop")


def serve(shop: Shop, *options: str, **variables: str) -> "subprocess.Popen[str]":
    with inside(shop.root):
        os.environ.update(variables)
        command = [sys.executable, "-P", "-c", "from refresh_pipeline.cli import main; main()", "serve", *options]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def answering(process: "subprocess.Popen[str]", port: int) -> str:
    """The address of the server, once it answers."""
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
    while True:
        try:
            health = httpx.get(f"{address}/api/v1/health").json()
        except httpx.TransportError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
            continue
        assert health["status"] == "healthy"
        return address


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_until_it_is_told_to_end_and_lets_its_streams_go(shop: Shop, ending: signal.Signals) -> None:
    port = free_port()
    process = serve(shop, "--port", str(port))
    address = answering(process, port)
    socket_address = address.replace("http", "ws") + "/api/v1/ws"
    with connect(socket_address) as news, httpx.stream("GET", f"{address}/api/v1/events", timeout=PATIENCE) as events:
        assert "connected" in str(news.recv(timeout=PATIENCE))
        chunks = events.iter_bytes()
        assert next(chunks).startswith(b"retry: ")
        process.send_signal(ending)
        # The stream ends as one that is whole: no error of the transport.
        assert b"".join(chunks) == b""
        with pytest.raises(ConnectionClosed):
            news.recv(timeout=PATIENCE)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, -ending)
    assert errors == f"The dashboard and the API answer at {address}. Ctrl-C stops them.\n"


def test_another_address_needs_a_key(shop: Shop) -> None:
    process = serve(shop, "--host", "0.0.0.0", "--port", str(free_port()))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "set REFRESH_API_KEY (16 characters or more)" in errors


def test_a_port_in_use_is_a_wrong_request(shop: Shop) -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        process = serve(shop, "--port", str(door.getsockname()[1]), REFRESH_API_KEY=KEY)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "--port: found" in errors
