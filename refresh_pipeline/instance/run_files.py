"""Dagster's files on this disk: event files and logs of runs, files of deleted runs, free pages of databases.

`run_pruning` decides which runs are deleted. Where Dagster's tables are not in SQLite, runs have only logs here.
"""

import os
import shutil
import sqlite3
import threading
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import dagster as dg
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.runs import SqlRunStorage

# A database is rewritten where at least half of it is free and the rest is small, because nothing else can write to it
# meanwhile. Measured: 3 to 5 s for 750 MB; Dagster waits up to 30 s to write an event.
LARGEST_REWRITTEN = 1024**3
LEAST_FREE = 16 * 1024**2
PATIENCE = 5.0
# Files of an unknown run are left alone until they are this old: the run may just be starting.
YOUNGEST_ORPHAN = timedelta(days=1)
BESIDE = ("", "-wal", "-shm")


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The places of runs' files on this disk: SQLite files of events, folders of logs."""

    events: Path | None
    logs: Path

    @classmethod
    def of(cls, instance: dg.DagsterInstance) -> "RunFiles":
        """Those of this instance."""
        log = instance.event_log_storage
        events = Path(log.path_for_shard("any")).parent if isinstance(log, SqliteEventLogStorage) else None
        return cls(events, Path(instance.storage_directory()))

    def of_run(self, run_id: str) -> list[Path]:
        """A run's existing files and folders."""
        shards = [self.events / f"{run_id}.db{suffix}" for suffix in BESIDE] if self.events else []
        return [path for path in (*shards, self.logs / run_id) if path.exists()]

    def orphans(self, known: Collection[str], now: datetime) -> set[str]:
        """Unknown runs with old files."""
        oldest = (now - YOUNGEST_ORPHAN).timestamp()
        paths = [*(self.events.glob("*.db") if self.events else ()), *self.logs.glob("*/compute_logs")]
        run_ids = {path.parent.name if path.name == "compute_logs" else path.stem for path in _older(paths, oldest)}
        return {run_id for run_id in run_ids - set(known) if _is_run_id(run_id)}


def delete_files(paths: Collection[Path]) -> int:
    """Delete files and folders; returns the bytes that they took."""
    freed = size_of(paths)
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return freed


def write_if_absent(path: Path, content: bytes) -> bool:
    """Write a file whole unless it exists; returns whether it was written."""
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        part.write_bytes(content)
        # Unlike a rename, a link never replaces the file that another process has written meanwhile.
        os.link(part, path)
    except OSError:
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def size_of(paths: Collection[Path]) -> int:
    """Bytes of files, and of what is below folders."""
    return sum(_bytes(file) for path in paths for file in (path.rglob("*") if path.is_dir() else (path,)))


def databases(instance: dg.DagsterInstance) -> list[Path]:
    """The SQLite files that all runs share: the index of events, and the runs themselves."""
    log, runs = instance.event_log_storage, instance.run_storage
    paths = [Path(log.path_for_shard("index"))] if isinstance(log, SqliteEventLogStorage) else []
    if isinstance(runs, SqlRunStorage):
        with runs.connect() as connection:
            if connection.dialect.name == "sqlite" and connection.engine.url.database:
                paths.append(Path(connection.engine.url.database))
    return [path for path in paths if path.is_file()]


def used_bytes(database: Path) -> int:
    """Bytes of a SQLite file in use; the rest is free for later rows."""
    with closing(sqlite3.connect(database, timeout=PATIENCE)) as connection:
        page_size, pages, free = _pages(connection)
    return (pages - free) * page_size


def vacuum(database: Path, *, patience: float = PATIENCE) -> int:
    """Rewrite a SQLite file where much of it is free; returns by how many bytes it shrank.

    A locked file, or one whose disk has no room for the copy, stays as it is: its free pages are used again.
    """
    with closing(sqlite3.connect(database, timeout=patience, isolation_level=None)) as connection:
        page_size, pages, free = _pages(connection)
        if free * page_size < LEAST_FREE or free * 2 < pages or (pages - free) * page_size > LARGEST_REWRITTEN:
            return 0
        with suppress(sqlite3.OperationalError), _copying_in(database.parent, connection):
            connection.execute("vacuum")
            connection.execute("pragma wal_checkpoint(truncate)")
        return (pages - _pages(connection)[1]) * page_size


@contextmanager
def _copying_in(folder: Path, connection: sqlite3.Connection) -> Iterator[None]:
    """Let SQLite make its copies in this folder: the default folder may be in memory."""
    connection.execute(f"pragma temp_store_directory = '{str(folder).replace(chr(39), chr(39) * 2)}'")
    try:
        yield
    finally:
        connection.execute("pragma temp_store_directory = ''")


def _pages(connection: sqlite3.Connection) -> tuple[int, int, int]:
    names = ("page_size", "page_count", "freelist_count")
    page_size, pages, free = (connection.execute(f"pragma {name}").fetchall()[0][0] for name in names)
    return page_size, pages, free


def _older(paths: Collection[Path], than: float) -> Iterator[Path]:
    for path in paths:
        # A file may be deleted meanwhile.
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < than:
                yield path


def _is_run_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0
