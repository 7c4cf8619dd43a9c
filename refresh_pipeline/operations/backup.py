"""Backups of the warehouse and of Dagster's files, while refreshes run, and the way back.

A backup is a folder named by its instant: `refresh.duckdb`, `dagster/`, and `backup.json`, which says of each file its
size and hash, and of each table its rows. Export files are not in it: they are made from the warehouse.
"""

import json
import logging
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from refresh_pipeline.files.atomic import sha256_of, why_not_written
from refresh_pipeline.warehouse.connection import WarehouseUnreadable, connect

log = logging.getLogger("refresh_pipeline")

STAMP = "%Y%m%dT%H%M%SZ"
CONTENTS = "backup.json"
DATABASE = "refresh.duckdb"
DAGSTER = "dagster"
# A backup that is being made; one that was never finished goes with the next.
UNFINISHED = ".unfinished"
# What SQLite and others keep beside a database while they work: a copy by SQLite's own means needs none of it.
PASSING = ("-wal", "-shm", "-journal", ".lock", ".pid")
DATABASES = (".db", ".sqlite")


class BackupError(RuntimeError):
    """A backup that was not made, is not whole, or was not restored: which, why, what to do."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds: by path within it, each file's size and SHA-256; the rows of each table of the warehouse."""

    folder: Path
    made_at: str
    duckdb: str
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Its size."""
        return sum(size for size, _ in self.files.values())


def back_up(folder: Path, database: Path, dagster_home: Path, now: datetime) -> Backup:
    """Copy both into a new folder below `folder`, and verify the copies.

    The warehouse's lock is held while its file is copied (a second per gigabyte or so): refreshes wait for that long.

    Raises:
        BackupError: there is no room, a copy is not what it should be, or nothing is there to back up.
        WarehouseBusy: another process held the warehouse's lock for longer than we wait.
    """
    if not database.exists():
        raise BackupError(f"{database}: nothing to back up: no market was refreshed yet")
    final = folder / f"{now.astimezone(UTC):{STAMP}}"
    making = folder / f"{final.name}{UNFINISHED}"
    if final.exists():
        raise BackupError(f"{final}: there already: a backup of that very second")
    try:
        making.mkdir(parents=True)
        rows = _copy_warehouse(database, making / DATABASE)
        if dagster_home.is_dir():
            _copy_dagster(dagster_home, making / DAGSTER)
        backup = _described(making, now, rows)
        (making / CONTENTS).write_text(json.dumps(_as_json(backup), indent=1), encoding="utf-8")
        making.rename(final)
    except (OSError, sqlite3.Error, duckdb.Error) as error:
        shutil.rmtree(making, ignore_errors=True)
        raise BackupError(why_not_written(error, making, database.stat().st_size)) from error
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return read_backup(final)


def keep_newest(folder: Path, count: int) -> list[Path]:
    """Delete all but the newest finished backups, and what was never finished; gives what was deleted."""
    names = sorted((each for each in folder.glob("*") if (each / CONTENTS).is_file()), reverse=True)
    finished = [each for each in names if not each.name.endswith(UNFINISHED)]
    newest = finished[0].name if finished else ""
    unfinished = [each for each in folder.glob(f"*{UNFINISHED}") if each.name < newest]
    going = finished[max(count, 1) :] + unfinished
    for each in going:
        shutil.rmtree(each)
        log.info("deleted backup %s", each)
    return going


def read_backup(folder: Path) -> Backup:
    """What a backup says it holds.

    Raises:
        BackupError: the folder is no backup.
    """
    try:
        said = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))
        files = {name: (size, sha256) for name, (size, sha256) in said["files"].items()}
        return Backup(folder, said["made_at"], said["duckdb"], files, said["rows"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{folder}: no backup: {error}; wanted a folder with {CONTENTS} in it") from error


def backups_in(folder: Path) -> list[Path]:
    """Every finished backup, newest first."""
    found = [each.parent for each in folder.glob(f"*/{CONTENTS}") if not each.parent.name.endswith(UNFINISHED)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def find(folder: Path, which: str | None) -> Path:
    """The folder of the backup that somebody means: a path, a name below `folder`, or the newest one.

    Raises:
        BackupError: there is none.
    """
    if which is not None:
        return Path(which) if (Path(which) / CONTENTS).is_file() else folder / which
    if not (found := backups_in(folder)):
        raise BackupError(f"{folder}: no backup there; refresh backup makes one")
    return found[0]


def verify_backup(backup: Backup) -> None:
    """Hold every file against its hash, and every table against its number of rows.

    Raises:
        BackupError: something is not as it was.
    """
    for name, (size, sha256) in backup.files.items():
        path = backup.folder / name
        if not path.is_file():
            raise BackupError(f"{path}: is gone: take another backup")
        if path.stat().st_size != size or sha256_of(path) != sha256:
            raise BackupError(f"{path}: is not what was backed up (another size or hash): take another backup")
    if (found := _rows_of(backup.folder / DATABASE)) != dict(backup.rows):
        raise BackupError(f"{backup.folder / DATABASE}: tables differ in rows: wanted {backup.rows}, found {found}")


def in_the_way(database: Path, dagster_home: Path) -> list[Path]:
    """What a restore would overwrite."""
    return [path for path in (database, dagster_home) if path.exists() and (path.is_file() or any(path.iterdir()))]


def restore(backup: Backup, database: Path, dagster_home: Path) -> None:
    """Put a verified backup in the place of what is there; what was there is gone only once all of it has arrived.

    Raises:
        BackupError: the backup is not whole, or there is no room; what was there is as it was.
        WarehouseBusy: another process has the warehouse open.
    """
    verify_backup(backup)
    pairs = [(backup.folder / DATABASE, database)]
    if (backup.folder / DAGSTER).is_dir():
        pairs.append((backup.folder / DAGSTER, dagster_home))
    arrived: list[tuple[Path, Path]] = []
    try:
        for source, target in pairs:
            part = target.with_name(f".{target.name}.restoring")
            _discard(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            arrived.append((part, target))
            shutil.copytree(source, part) if source.is_dir() else shutil.copyfile(source, part)
        _take_places(arrived, database)
    except OSError as error:
        raise BackupError(why_not_written(error, database, backup.bytes)) from error
    finally:
        for part, _ in arrived:
            _discard(part)
    if (found := _rows_of(database)) != dict(backup.rows):
        raise BackupError(
            f"{database}: restored, and yet its tables differ in rows: wanted {backup.rows}, found {found}"
        )


def _take_places(arrived: Sequence[tuple[Path, Path]], database: Path) -> None:
    if database.exists():
        # Nobody may be at it; and what its log still holds gets into the file, or is beyond reading anyway.
        with suppress(WarehouseUnreadable), connect(str(database)):
            pass
    for part, target in arrived:
        old = target.with_name(f".{target.name}.replaced")
        _discard(old)
        if target.exists():
            target.rename(old)
        part.rename(target)
        Path(f"{target}.wal").unlink(missing_ok=True)
        _discard(old)


def _copy_warehouse(database: Path, target: Path) -> dict[str, int]:
    with connect(str(database)) as connection:
        # Everything is in the one file now, and stays so while the lock is ours.
        connection.execute("checkpoint")
        rows = _counted(connection)
        shutil.copyfile(database, target)
    if (copied := _rows_of(target)) != rows:
        raise BackupError(f"{target}: tables differ in rows: wanted {rows}, copied {copied}; try again")
    return rows


def _rows_of(database: Path) -> dict[str, int]:
    with connect(str(database), read_only=True) as connection:
        return _counted(connection)


def _counted(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    names = connection.execute(
        "select schema_name, table_name from duckdb_tables() where database_name = current_database() order by all"
    ).fetchall()
    counts = {}
    for schema, table in names:
        [(count,)] = connection.execute(f'select count(*) from "{schema}"."{table}"').fetchall()
        counts[f"{schema}.{table}"] = count
    return counts


def _copy_dagster(home: Path, target: Path) -> None:
    for path in _files_below(home):
        copy = target / path.relative_to(home)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in DATABASES:
            _copy_sqlite(path, copy)
        elif not path.name.endswith(PASSING):
            # What a run takes away in the meantime is none of the backup's.
            try:
                shutil.copy2(path, copy)
            except FileNotFoundError:
                continue


def _files_below(home: Path) -> Iterator[Path]:
    return (path for path in sorted(home.rglob("*")) if path.is_file())


def _copy_sqlite(path: Path, copy: Path) -> None:
    """A consistent copy of a database that others may be writing to."""
    with (
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=60)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        [(verdict,)] = target.execute("pragma integrity_check").fetchall()
        # As one file: the copy has no writers.
        target.execute("pragma journal_mode = delete")
    if verdict != "ok":
        raise BackupError(f"{path}: the copy is damaged ({verdict}): so is the original; Dagster's history is at risk")


def _described(folder: Path, now: datetime, rows: Mapping[str, int]) -> Backup:
    files = {str(path.relative_to(folder)): (path.stat().st_size, sha256_of(path)) for path in _files_below(folder)}
    return Backup(folder, now.astimezone(UTC).isoformat(timespec="seconds"), duckdb.__version__, files, rows)


def _as_json(backup: Backup) -> dict[str, Any]:
    return {name: value for name, value in asdict(backup).items() if name != "folder"}


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
