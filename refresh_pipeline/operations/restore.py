"""The way back from a backup: all of it takes its place, or nothing of it.

The backup is first copied beside what is there (`.restoring`). Then what is there is put aside (`.replaced`), and the
copies take its place. A journal beside the database names the restore at work: an error is rolled back at once, and a
killed restore by the next one, or by `refresh restore --undo`. What was replaced stays until the next restore.

Dagster's folder keeps its place and its entries are exchanged: it may be a mount point, which nobody can rename.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from refresh_pipeline.files.atomic import one_line, replacing, sha256_of, why_not_written
from refresh_pipeline.operations.backup import (
    DAGSTER,
    DATABASE,
    REPLACED,
    RESTORING,
    Backup,
    BackupError,
    verify_backup,
)
from refresh_pipeline.warehouse.connection import WarehouseUnreadable, connect, transaction
from refresh_pipeline.warehouse.versions import begin_epoch

Rename = Callable[[Path, Path], object]

JOURNAL = ".restore.json"
WAL = ".wal"


@dataclass(frozen=True, slots=True)
class Places:
    """Where a restore works: the database and Dagster's folder, both without symbolic links, and what lies beside."""

    database: Path
    home: Path

    @classmethod
    def of(cls, database: Path, dagster_home: Path) -> "Places":
        """The places of these two."""
        return cls(Path(os.path.realpath(database)), Path(os.path.realpath(dagster_home)))

    @property
    def journal(self) -> Path:
        """Names the restore at work; there only while one is."""
        return self.database.with_name(f".{self.database.name}{JOURNAL}")

    @property
    def new_database(self) -> Path:
        """The backup's database, before it takes its place."""
        return self.database.with_name(f".{self.database.name}{RESTORING}")

    @property
    def old_database(self) -> Path:
        """The database that was replaced; its log lies beside it."""
        return self.database.with_name(f".{self.database.name}{REPLACED}")

    @property
    def new_home(self) -> Path:
        """The backup's files of Dagster, before they take their places."""
        return self.home / RESTORING

    @property
    def old_home(self) -> Path:
        """Dagster's files that were replaced."""
        return self.home / REPLACED


def in_the_way(database: Path, dagster_home: Path) -> list[Path]:
    """What a restore would replace."""
    home = [dagster_home] if dagster_home.is_dir() and _entries(dagster_home) else []
    return [*([database] if database.exists() else []), *home]


def restore(backup: Backup, database: Path, dagster_home: Path, rename: Rename = os.replace) -> list[Path]:
    """Put a verified backup in the place of what is there; gives where what was there is kept.

    Args:
        backup: is verified first, every block of it.
        database: a missing folder is made.
        dagster_home: as it is where the backup has no files of Dagster.
        rename: replaces a path by another of the same file system, as `os.replace`.

    Raises:
        BackupError: the backup is not whole, there is no room, or a file cannot be moved; what was there is as it was.
        WarehouseBusy: another process has the warehouse open.
    """
    verify_backup(backup)
    places = Places.of(database, dagster_home)
    if places.journal.exists():
        roll_back(places)
    try:
        _copy_beside(backup, places)
        _close_database(places.database)
        _exchange(backup, places, rename)
    except OSError as error:
        raise BackupError(_why(error, backup, places)) from error
    finally:
        if not places.journal.exists():
            _discard(places.new_database, places.new_home)
    return [path for path in (places.old_database, places.old_home) if path.exists()]


def undo(database: Path, dagster_home: Path) -> list[Path]:
    """Put back what the last restore replaced, or what a killed one left halfway; gives what was put back.

    Raises:
        BackupError: no restore left anything, or a file cannot be moved.
        WarehouseBusy: another process has the warehouse open.
    """
    places = Places.of(database, dagster_home)
    kept = [path for path in (places.old_database, places.old_home) if path.exists()]
    if not kept and not places.journal.exists():
        raise BackupError(f"{places.database}: no restore to undo: nothing is kept from one beside it")
    try:
        _close_database(places.database)
        if not places.journal.exists():
            new = _entries(places.home) if places.old_home.exists() else []
            _write_journal(places, home_aside=bool(new), new=new, old=_entries(places.old_home))
        roll_back(places)
    except OSError as error:
        raise BackupError(f"{places.database}: the restore is not undone: {one_line(error)}") from error
    return [places.database, places.home]


def unfinished_restore(database: Path, dagster_home: Path) -> str:
    """A sentence on a restore that was killed halfway and what to do; empty where there was none."""
    places = Places.of(database, dagster_home)
    if places.journal.exists():
        return (
            f"{places.journal}: a restore was killed halfway: run refresh restore again to repeat it, or "
            "refresh restore --undo to put back what was there"
        )
    return ""


def leftovers(database: Path, dagster_home: Path) -> list[Path]:
    """Copies that a restore left that was killed before it replaced anything; the next restore deletes them."""
    places = Places.of(database, dagster_home)
    return [path for path in (places.new_database, places.new_home) if path.exists()]


def _copy_beside(backup: Backup, places: Places) -> None:
    _discard(places.new_database, places.new_home)
    places.database.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(backup.folder / DATABASE, places.new_database)
    if sha256_of(places.new_database) != backup.files[DATABASE][1]:
        raise BackupError(f"{places.new_database}: the copy differs from {backup.folder / DATABASE}: try another disk")
    # Whoever follows changes must notice that this is another history.
    with connect(str(places.new_database)) as connection, transaction(connection):
        begin_epoch(connection)
    _sync(places.new_database)
    if (backup.folder / DAGSTER).is_dir():
        places.home.mkdir(parents=True, exist_ok=True)
        shutil.copytree(backup.folder / DAGSTER, places.new_home)


def _close_database(database: Path) -> None:
    """Nobody may be at it; its log gets into the file, or is beyond reading anyway."""
    if database.exists():
        with suppress(WarehouseUnreadable), connect(str(database)):
            pass


def _exchange(backup: Backup, places: Places, rename: Rename) -> None:
    """Put the olds aside and the news in their places; any error undoes all of it."""
    new = _entries(places.new_home) if places.new_home.is_dir() else []
    old = _entries(places.home) if new else []
    # What an earlier restore replaced goes only where there is something newer to keep.
    if has_database := places.database.exists():
        _discard(places.old_database, _log_of(places.old_database))
    if old:
        _discard(places.old_home)
    _write_journal(
        places, backup=str(backup.folder), database_aside=has_database, home_aside=bool(old), new=new, old=old
    )
    try:
        _put_aside(places, old, rename)
        rename(places.new_database, places.database)
        for name in new:
            rename(places.new_home / name, places.home / name)
    except BaseException:
        roll_back(places)
        raise
    places.journal.unlink()


def _put_aside(places: Places, old: list[str], rename: Rename) -> None:
    if places.database.exists():
        if (log := _log_of(places.database)).exists():
            rename(log, _log_of(places.old_database))
        # A second name, so that there is a database at every instant.
        _second_name(places.database, places.old_database)
    if old:
        places.old_home.mkdir(exist_ok=True)
        for name in old:
            rename(places.home / name, places.old_home / name)


def roll_back(places: Places) -> None:
    """Bring everything back to where it was before the restore that the journal names, as far as that had come.

    Raises:
        BackupError: a file cannot be moved back; the journal stays, and the next restore tries again.
    """
    try:
        _roll_back_database(places)
        _roll_back_home(places)
        places.journal.unlink(missing_ok=True)
    except OSError as error:
        raise BackupError(
            f"{places.journal}: what was there is not back in its place: {one_line(error)}; mend that, then run "
            f"refresh restore --undo; it is kept in {places.old_database} and {places.old_home}"
        ) from error


def _roll_back_database(places: Places) -> None:
    if not _journal(places)["database_aside"]:
        places.database.unlink(missing_ok=True)
        return
    if places.old_database.exists():
        places.old_database.replace(places.database)
        # Two names of one file: the system leaves both.
        places.old_database.unlink(missing_ok=True)
    if (log := _log_of(places.old_database)).exists():
        log.replace(_log_of(places.database))


def _roll_back_home(places: Places) -> None:
    journal = _journal(places)
    aside = _entries(places.old_home) if journal["home_aside"] else []
    for name in journal["new"]:
        # Of a name that the old files have as well, the file is new only while the old one is aside.
        if name in aside or name not in journal["old"]:
            _discard(places.home / name)
    for name in aside:
        (places.old_home / name).replace(places.home / name)
    if journal["home_aside"]:
        _discard(places.old_home)


def _write_journal(places: Places, **content: object) -> None:
    with replacing(places.journal) as part:
        part.write_text(json.dumps(content), encoding="utf-8")


def _journal(places: Places) -> dict:
    """The journal; of a damaged one nothing is known, so that nothing is deleted by it."""
    unknown = {"database_aside": True, "home_aside": True, "new": [], "old": []}
    try:
        return {**unknown, **json.loads(places.journal.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError):
        return unknown


def _entries(folder: Path) -> list[str]:
    """The names in Dagster's folder that a restore exchanges."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.name not in (RESTORING, REPLACED))


def _second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:
        # Some disks have no second names.
        with replacing(name) as part:
            shutil.copyfile(path, part)


def _log_of(database: Path) -> Path:
    return database.with_name(f"{database.name}{WAL}")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _discard(*paths: Path) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _why(error: OSError, backup: Backup, places: Places) -> str:
    if error.errno in (errno.EBUSY, errno.EXDEV):
        return (
            f"{error.filename2 or error.filename or places.database}: not restored: {one_line(error)}: a file or "
            "folder that is a mount point of its own cannot be replaced: mount its folder instead, or set "
            "REFRESH_DATABASE or DAGSTER_HOME; what was there is as it was"
        )
    return why_not_written(error, places.database, backup.bytes)
