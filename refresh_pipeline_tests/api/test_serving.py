"""The API as a program: what it needs to start, and what its process holds; with real processes."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

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


def test_it_answers_until_it_is_told_to_end(shop: Shop) -> None:
    port = free_port()
    process = serve(shop, "--port", str(port))
    url, deadline = f"http://127.0.0.1:{port}/api/v1/health", time.monotonic() + PATIENCE
    while True:
        try:
            assert httpx.get(url).json()["status"] == "healthy"
            break
        except httpx.TransportError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert errors == f"The dashboard and the API answer at http://127.0.0.1:{port}. Ctrl-C stops them.\n"


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
