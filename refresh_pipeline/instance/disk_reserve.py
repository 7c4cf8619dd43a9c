"""A file in the data folder that is deleted when the disk is full, so that SQLite can delete rows: it writes to do so.

`refresh maintain` releases the reserve, and it is made again once there is room.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

FILE = "disk_reserve"
RESERVE_BYTES = 8 * 1024**2
# The reserve is made where it takes a quarter of the free bytes at most, and released where less than itself is free.
# Compaction needs as much: it writes rows anew before the old ones are free.
ROOM_TO_MAKE = 4 * RESERVE_BYTES
SHORT = RESERVE_BYTES


def keep_reserve(folder: Path) -> None:
    """Make the reserve in a data folder whose disk has room for it; no error where that fails."""
    file = folder / FILE
    with suppress(OSError):
        if not file.exists() and free_bytes(folder) > ROOM_TO_MAKE:
            file.write_bytes(os.urandom(RESERVE_BYTES))


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
