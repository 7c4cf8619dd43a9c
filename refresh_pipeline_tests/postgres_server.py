"""A real PostgreSQL server on a free port of the loopback; tests that need it skip without one.

As root it runs as the user `postgres`, because PostgreSQL refuses root. Its folder is deleted with it.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from refresh_pipeline_tests.redis_server import LOOPBACK, free_port, wait_for

USER = "refresh"
# Nothing that a test stores has to outlive the machine.
FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=200", "shared_buffers=32MB")


@dataclass
class PostgresServer:
    """A server with its own folder; `stop` and `start` are what an outage is made of."""

    programs: Path
    folder: Path
    port: int
    # Where clients reach it, besides the loopback.
    address: str = LOOPBACK
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The URL of the database that every server has."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """The URL of a database, without a password: who reaches it is trusted."""
        return f"postgresql://{USER}@{self.address}:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"d{uuid4().hex[:12]}"
        self.query(f"create database {name}")
        return self.url_of(name)

    def query(self, sql: str, url: str = "") -> str:
        """What psql prints for a statement, one row a line, columns between bars."""
        command = [self.programs / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url or self.url, "-c", sql]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout.strip()

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = [part for option in FAST for part in ("-c", option)]
        listens = ",".join(dict.fromkeys((LOOPBACK, self.address)))
        addresses = ["-c", f"listen_addresses={listens}", "-p", str(self.port), "-k", str(self.folder)]
        command = [self.programs / "postgres", "-D", self.folder / "data", *addresses, *options]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", user=_owner())
        log.close()
        wait_for(self.port)
        ready = [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        for _ in range(200):
            if subprocess.run(ready, check=False, cwd="/").returncode == 0:
                return
        raise TimeoutError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Close every connection and end it at once."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
            self.process = None


@contextmanager
def postgres_server(address: str = LOOPBACK) -> Iterator[PostgresServer]:
    """A server for as long as the block runs, reached at the loopback and at another address of this machine."""
    programs = _programs()
    if programs is None or _owner() == 0:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = PostgresServer(programs, folder, free_port(), address)
    try:
        if (owner := _owner()) is not None:
            shutil.chown(folder, owner)
        make = [programs / "initdb", "-D", folder / "data", "-U", USER, "-A", "trust", "-N", "-E", "UTF8", "--locale=C"]
        subprocess.run(make, check=True, capture_output=True, cwd="/", user=owner)
        if address != LOOPBACK:
            with (folder / "data" / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet trust\n")
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    """The folder of the server's programs: Debian keeps it out of PATH, one folder for each version."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda each: float(each.parent.name))
    found = [Path(program).resolve().parent for program in [shutil.which("initdb")] if program]
    return next((folder for folder in [*reversed(folders), *found] if (folder / "postgres").exists()), None)


def _owner() -> int | None:
    """The user to run as: None for this one, 0 where there is none."""
    if os.getuid():
        return None
    try:
        return pwd.getpwnam("postgres").pw_uid
    except KeyError:
        return 0
