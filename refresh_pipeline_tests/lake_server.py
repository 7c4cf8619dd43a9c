"""Lakes to test with, where REFRESH_TEST_PLACE=lake: a database of a real PostgreSQL for each, files in a folder.

Tests ask `address_in` for a warehouse in a folder and `copied` for a copy of one, and run on a file or on a lake alike.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from refresh_pipeline.warehouse.lake import LakePlace
from refresh_pipeline_tests.postgres_server import PostgresServer, postgres_server

ON_A_LAKE = os.environ.get("REFRESH_TEST_PLACE") == "lake"
OLDER_FILES = "no lake was made by a version before the tables' present names"
of_a_lake = pytest.mark.skipif(not ON_A_LAKE, reason="it is about a lake; set REFRESH_TEST_PLACE=lake")


def of_a_file(why: str) -> pytest.MarkDecorator:
    """A mark for tests of what a file alone has; the reason says what that is."""
    return pytest.mark.skipif(ON_A_LAKE, reason=f"of a file: {why}")


_servers: list[PostgresServer] = []
_addresses: list[str] = []


@contextmanager
def lakes() -> Iterator[None]:
    """A server for as long as the block runs; nothing where tests run on files."""
    with ExitStack() as stack:
        if ON_A_LAKE:
            pytest.importorskip("psycopg2", reason="a lake needs the packages of constraints-cluster.txt")
            _servers.append(stack.enter_context(postgres_server()))
            stack.callback(_servers.clear)
        yield


def server() -> PostgresServer:
    """The server of this process's lakes."""
    return _servers[0]


def address_in(folder: Path, name: str = "warehouse.duckdb") -> str:
    """The address of a new warehouse whose rows are kept in a folder."""
    return _lake("template1", folder / f"{name}-files") if ON_A_LAKE else str(folder / name)


def copied(address: str, folder: Path) -> str:
    """The address of a copy of a warehouse."""
    if not ON_A_LAKE:
        return str(shutil.copy(address, folder))
    place = LakePlace(address)
    place.detach()
    files = folder / Path(place.data).name
    if Path(place.data).is_dir():
        shutil.copytree(place.data, files)
    return _lake(place.catalogue.rpartition("/")[2], files)


def keep(address: str) -> None:
    """Let a lake stay until the server ends, for copies of it."""
    if ON_A_LAKE:
        LakePlace(address).detach()
        _addresses.remove(address)


def close_lakes(beside: int = 0) -> None:
    """Drop what was made after the first so many lakes."""
    while len(_addresses) > beside:
        place = LakePlace(_addresses.pop())
        place.detach()
        _run(f'drop database if exists "{place.catalogue.rpartition("/")[2]}" with (force)')


def lakes_made() -> int:
    """How many lakes there are."""
    return len(_addresses)


def _lake(template: str, files: Path) -> str:
    name = f"lake_{uuid4().hex[:12]}"
    _run(f'create database "{name}" template "{template}"')
    url = server().url_of(name)
    if template != "template1":
        _run(f"update ducklake_metadata set value = '{files}/' where key = 'data_path'", url)
    _addresses.append(f"ducklake:{url}?data={files}")
    return _addresses[-1]


def _run(statement: str, url: str = "") -> None:
    session: Any = __import__("psycopg2").connect(url or server().url)
    session.autocommit = True
    try:
        with session.cursor() as cursor:
            cursor.execute(statement)
    finally:
        session.close()
