"""No path leads out: raw requests over a socket, since a client would tidy their paths up before it sends them."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import pytest

from refresh_pipeline_tests.api.served import Shop

CANARY = b"a line that only this file has"
DOORS = ("/api/v1/files/", "/api/v1/files/fair/", "/static/", "/static/vendor/", "/problems/", "/api/v1/lineage/")
DOORS += ("/api/v1/data/", "/pipeline/data/", "/api/v2/download?file=", "/api/v2/data/cached/", "/api/v1/exports/")
UP = ("../", "%2e%2e/", "..%2f", "%2e%2e%2f", "%252e%252e%252f", "..%5c", "%c0%ae%c0%ae/", "..;/", "....//", ".%00./")


@pytest.fixture(scope="module")
def outside(shop: Shop) -> Iterator[Path]:
    """A file beside the folder of data."""
    path = shop.root / "canary.txt"
    path.write_bytes(CANARY)
    yield path
    path.unlink()


def requests(outside: Path) -> list[str]:
    """Every way out that is tried, through every door."""
    name, whole = outside.name, str(outside)
    ends = [way * 2 + name for way in UP]
    ends += [whole, f"/{whole}", quote(whole, safe=""), quote(quote(whole, safe=""), safe=""), f"file://{whole}"]
    ends += [f"../../{name}%00.csv", f"..%2f..%2f{name}%00", f"x/../../../{name}", "%2e%2e", "..", "%00", "~/.env"]
    return [door + end for door in DOORS for end in ends] + [f"/../../{name}", f"//{whole}", f"/%2e%2e/{name}"]


def answers(client: httpx.Client, targets: list[str]) -> Iterator[tuple[str, int, bytes]]:
    """Each target with its status and the bytes of its answer, over one connection."""
    assert client.base_url.port is not None
    host = f"127.0.0.1:{client.base_url.port}"
    for target in targets:
        with socket.create_connection(("127.0.0.1", client.base_url.port), 30) as connection:
            head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode())
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        yield target, int(answer.split(b" ", 2)[1]), answer


def test_no_path_leads_out(client: httpx.Client, outside: Path) -> None:
    targets = requests(outside)
    assert len(targets) > 200
    for target, status, answer in answers(client, targets):
        assert 400 <= status < 500, (target, answer)
        assert CANARY not in answer, target
        if str(outside.parent) not in unquote(unquote(target)):
            assert str(outside.parent).encode() not in answer, target


def test_a_link_in_the_place_of_a_file_leads_nowhere(client: httpx.Client, shop: Shop, outside: Path) -> None:
    listed = client.get("/api/v1/exports").json()["exports"]
    path = next(row["path"] for row in listed if row["format"] == "csv")
    there = shop.settings.exports_dir / path
    kept = there.rename(there.with_name("kept"))
    for target in (outside, Path("../../../../canary.txt"), Path("/etc/hostname"), shop.settings.database):
        there.symlink_to(target)
        answer = client.get(f"/api/v1/files/{path}")
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/unknown-file"), target
        there.unlink()
    kept.rename(there)
    assert client.get(f"/api/v1/files/{path}").status_code == 200
