"""Backups of the warehouse and of Dagster's files, made while refreshes run.

A backup is a folder named by its instant: `refresh.duckdb`, `dagster/`, and `backup.json` with the size and hash of
each file and the rows of each table. Export files are not in it: they are made from the warehouse. Which backups are
deleted is in `backup_retention`, the way back in `restore`.
"""

import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from refresh_pipeline.files.atomic import NO_ROOM, one_line, sha256_of, why_not_written
from refresh_pipeline.warehouse.connection import WarehouseUnreadable, connect
from refresh_pipeline.warehouse.integrity import count_rows, read_every_row

STAMP = "%Y%m%dT%H%M%SZ"
CONTENTS = "backup.json"
DATABASE = "refresh.duckdb"
DAGSTER = "dagster"
# A backup that is being made; the next finished one removes what an interrupted one left.
UNFINISHED = ".unfinished"
# What SQLite and others keep beside a database while they work: a copy by SQLite's backup API needs none of it.
PASSING = ("-wal", "-shm", "-journal", ".lock", ".pid")
DATABASES = (".db", ".sqlite")
# Folders of a restore, within Dagster's folder and beside the database.
RESTORING, REPLACED = ".restoring", ".replaced"
# Clocks of machines that share a disk differ by less than this.
CLOCK_SLACK = timedelta(minutes=1)


class BackupError(RuntimeError):
    """A backup that was not made, is not whole, or was not restored: which, why, what to do."""


@dataclass(frozen=True, slots=True)
class Backup:
    """The content of a backup: size and SHA-256 of each file, by path within it; rows of each table of the warehouse.

    `verified` says that every block of the warehouse's copy was read. `faults` are the files of Dagster that could not
    be copied.
    """

    folder: Path
    made_at: str
    duckdb: str
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    verified: bool = False
    faults: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(size for size, _ in self.files.values())

    @property
    def instant(self) -> datetime:
        """The instant it was made."""
        return datetime.fromisoformat(self.made_at)

    def is_from_the_future(self, now: datetime) -> bool:
        """Whether it is dated later than the clock: the clock was ahead when it was made, or is behind now."""
        return self.instant > now + CLOCK_SLACK


def back_up(folder: Path, database: Path, dagster_home: Path, now: datetime) -> Backup:
    """Copy both into a new folder below `folder`, and verify the copies.

    The warehouse comes first, and every block of its copy is read. A file of Dagster that cannot be copied is in the
    backup's `faults`. The warehouse's lock is held while its file is copied (a second per gigabyte or so).

    Raises:
        BackupError: there is no room, the warehouse is damaged or missing, or a copy differs.
        WarehouseBusy: another process held the warehouse's lock for longer than we wait.
    """
    if not database.exists():
        raise BackupError(f"{database}: nothing to back up: no market was refreshed yet")
    final = folder / f"{now.astimezone(UTC):{STAMP}}"
    making = folder / f"{final.name}{UNFINISHED}"
    if final.exists():
        raise BackupError(f"{final}: exists already: a backup was made in that very second; run refresh backup again")
    try:
        making.mkdir(parents=True)
        rows = _copy_warehouse(database, making / DATABASE)
        faults = _copy_dagster(dagster_home, making / DAGSTER) if dagster_home.is_dir() else ()
        backup = _described(making, now, rows, faults)
        (making / CONTENTS).write_text(json.dumps(_as_json(backup), indent=1), encoding="utf-8")
        making.rename(final)
    except WarehouseUnreadable as error:
        shutil.rmtree(making, ignore_errors=True)
        raise BackupError(f"no backup is made, and older backups are kept: {error}") from error
    except (OSError, sqlite3.Error, duckdb.Error) as error:
        shutil.rmtree(making, ignore_errors=True)
        raise BackupError(why_not_written(error, making, database.stat().st_size)) from error
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return read_backup(final)


def read_backup(folder: Path) -> Backup:
    """What a backup says it holds.

    Raises:
        BackupError: the folder is no backup.
    """
    try:
        content = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))
        files = {name: (size, sha256) for name, (size, sha256) in content["files"].items()}
        made_at = datetime.fromisoformat(content["made_at"]).astimezone(UTC).isoformat(timespec="seconds")
        verified, faults = bool(content.get("verified")), tuple(content.get("faults", ()))
        return Backup(folder, made_at, content["duckdb"], files, content["rows"], verified, faults)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupError(f"{folder}: no backup: {error}; wanted a folder with {CONTENTS} in it") from error


def list_backups(folder: Path, now: datetime) -> list[Backup]:
    """Every finished backup, newest first; those dated in the future last."""
    backups = []
    for contents in folder.glob(f"*/{CONTENTS}"):
        if not contents.parent.name.endswith(UNFINISHED):
            try:
                backups.append(read_backup(contents.parent))
            except BackupError:
                # A folder whose list of contents is damaged cannot be restored; nobody deletes it either.
                continue
    return sorted(backups, key=lambda each: (not each.is_from_the_future(now), each.instant), reverse=True)


def find(folder: Path, which: str | None, now: datetime) -> Path:
    """The folder of a backup: a path, a name below `folder`, or the newest one that is not dated in the future.

    Raises:
        BackupError: there is none.
    """
    if which is not None:
        return _named(folder, which, now)
    backups = list_backups(folder, now)
    if not backups:
        raise BackupError(f"{folder}: no backup there; refresh backup makes one")
    if backups[0].is_from_the_future(now):
        raise BackupError(
            f"{backups[0].folder}: the only backups are dated in the future ({backups[0].made_at}): set the machine's "
            f"clock, or name the backup: refresh restore {backups[0].folder.name}"
        )
    return backups[0].folder


def _named(folder: Path, which: str, now: datetime) -> Path:
    """The backup in a path, or of this name below `folder`."""
    for path in (Path(which), folder / which):
        if (path / CONTENTS).is_file():
            return path
    names = ", ".join(backup.folder.name for backup in list_backups(folder, now)) or "none"
    raise BackupError(f"found no backup {which!r}, allowed: the path of one, or one in {folder}: {names}")


def verify_backup(backup: Backup) -> None:
    """Hold every file against its hash, read every block of the warehouse, and compare the tables' rows.

    Raises:
        BackupError: something differs, is gone, or cannot be read.
    """
    for name, (size, sha256) in backup.files.items():
        path = backup.folder / name
        if not path.is_file():
            raise BackupError(f"{path}: is gone: take another backup")
        if path.stat().st_size != size or sha256_of(path) != sha256:
            raise BackupError(f"{path}: is not what was backed up (another size or hash): take another backup")
    database = backup.folder / DATABASE
    try:
        rows = read_every_row(str(database))
    except WarehouseUnreadable as error:
        raise BackupError(f"{database}: this backup is damaged: {error.__cause__ or error}: take another") from error
    if rows != dict(backup.rows):
        raise BackupError(f"{database}: tables differ in rows: wanted {backup.rows}, found {rows}; take another backup")


def _copy_warehouse(database: Path, target: Path) -> dict[str, int]:
    with connect(str(database)) as connection:
        # Everything is in the one file now, and stays so while the lock is ours.
        connection.execute("checkpoint")
        rows = count_rows(connection)
        shutil.copyfile(database, target)
    try:
        copied = read_every_row(str(target))
    except WarehouseUnreadable as error:
        raise WarehouseUnreadable(
            f"{database} is damaged: {error.__cause__ or error}. Stop refresh up, and restore a backup: refresh restore"
        ) from error
    if copied != rows:
        raise BackupError(f"{target}: tables differ in rows: wanted {rows}, copied {copied}; try again")
    return rows


def _copy_dagster(home: Path, target: Path) -> tuple[str, ...]:
    """Copy every file that can be copied; a sentence for each of the others."""
    faults = []
    for path in files_below(home):
        if path.name.endswith(PASSING):
            continue
        copy = target / path.relative_to(home)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            _copy_sqlite(path, copy) if path.suffix in DATABASES else shutil.copy2(path, copy)
        except FileNotFoundError:
            # A run may delete its files meanwhile.
            continue
        except (OSError, sqlite3.Error) as error:
            copy.unlink(missing_ok=True)
            if getattr(error, "errno", None) in NO_ROOM or getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
                raise
            faults.append(f"{path}: not in the backup: {one_line(error)}")
    return tuple(faults)


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder in order, without what a restore put aside there."""
    aside = {folder / RESTORING, folder / REPLACED}
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not aside & set(path.parents))


def _copy_sqlite(path: Path, copy: Path) -> None:
    """A consistent copy of a database that others may be writing to."""
    with (
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=60)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        [(verdict, *_), *_] = target.execute("pragma integrity_check").fetchall()
        # As one file: the copy has no writers.
        target.execute("pragma journal_mode = delete")
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"damaged: {verdict}")


def _described(folder: Path, now: datetime, rows: Mapping[str, int], faults: tuple[str, ...]) -> Backup:
    files = {str(path.relative_to(folder)): (path.stat().st_size, sha256_of(path)) for path in files_below(folder)}
    made_at = now.astimezone(UTC).isoformat(timespec="seconds")
    return Backup(folder, made_at, duckdb.__version__, files, rows, verified=True, faults=faults)


def _as_json(backup: Backup) -> dict[str, Any]:
    return {name: value for name, value in asdict(backup).items() if name != "folder"}
