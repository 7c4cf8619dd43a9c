"""A file in the data folder that is deleted when the disk is full, so that SQLite can delete rows: it writes to do so.

`refresh maintain` releases the reserve, and it is made again once there is room. Deleting rows writes at most as much
as the database holds: the reserve is as large as Dagster's SQLite files, within bounds, and grows with them.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

FILE = "disk_reserve"
LEAST, RESERVE_BYTES = 2 * 1024**2, 8 * 1024**2
# Where Dagster's rows are, below its home. The events of a run lie in files of their own, which are deleted whole.
DATABASES = ("history/runs/index.db", "history/runs.db", "schedules/schedules.db")
# The reserve is made where it takes a quarter of the free bytes at most, and released where less than itself is free.
# Compaction needs as much: it writes rows anew before the old ones are free.
ROOM_TO_MAKE = 4 * RESERVE_BYTES
SHORT = RESERVE_BYTES


def keep_reserve(folder: Path, home: Path) -> None:
    """Make the reserve in a data folder whose disk has room for it, or let it grow; no error where that fails.

    Args:
        folder: the data folder.
        home: the folder of Dagster's files. Where its databases are not in it, the reserve is as large as it may be.
    """
    file = folder / FILE
    with suppress(OSError):
        missing = _wanted(home) - (file.stat().st_size if file.exists() else 0)
        if missing > 0 and free_bytes(folder) > ROOM_TO_MAKE:
            with file.open("ab") as reserve:
                reserve.write(os.urandom(missing))


def _wanted(home: Path) -> int:
    sizes = [path.stat().st_size for name in DATABASES if (path := home / name).exists()]
    return min(max(sum(sizes), LEAST), RESERVE_BYTES) if sizes else RESERVE_BYTES


def release_reserve(folder: Path) -> int:
    """Delete the reserve where the disk is short of room; returns the bytes that are free for it."""
    file = folder / FILE
    if not file.exists() or free_bytes(folder) >= SHORT:
        return 0
    size = file.stat().st_size
    file.unlink()
    return size


def free_bytes(folder: Path) -> int:
    """The bytes that this user can write on a folder's disk."""
    return shutil.disk_usage(folder).free


def largest(folder: Path) -> dict[str, int]:
    """The bytes of each file and folder in a data folder, the largest first.

    >>> largest(Path("/nowhere"))
    {}
    """
    sizes = {path.name: _bytes(path) for path in folder.iterdir()} if folder.is_dir() else {}
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
