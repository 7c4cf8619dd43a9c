"""Atomic replacement of files: written beside, then renamed; hashes, and errors in words."""

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"


# A part this much older than a new one beside it belongs to no living writer: files take milliseconds. Were one alive
# all the same, its own write fails and says so, and nobody sees half a file.
LEFTOVER_SECONDS = 60
LEFTOVER_FOLDER_SECONDS = 86_400


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors of arro3, which have no class of their own, as an OSError."""
    try:
        yield
    except Exception as error:
        raise OSError(str(error)) from error


@contextmanager
def replacing(path: Path, older: Path | None = None) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place, on disk and whole, when the block is done.

    Folders are made as needed. After an error, or where the block removed what it had written, nothing is left of the
    new file, and `path` is as it was. With `older` the file that is replaced stays there, under that name.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        yield part
        if not part.exists():
            return
        _sync(part)
        _remove_leftovers(path, part.stat().st_mtime)
        if older is not None and path.exists():
            _keep(path, older)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder's path below `parent` to make and fill; gone when the block ends, and `parent` if it is empty.

    What killed processes left there a day ago goes, too.
    """
    for leftover in parent.glob("*"):
        if leftover.stat().st_mtime < time.time() - LEFTOVER_FOLDER_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
    folder = parent / secrets.token_hex(8)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            parent.rmdir()


def why_not_written(error: Exception, path: Path, wanted: int) -> str:
    """The message of a failed write: the path, the bytes wanted, the error received, the remedy."""
    reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
    for code in NO_ROOM:
        if getattr(error, "errno", None) == code or os.strerror(code) in reason:
            return (
                f"{path}: not written: {os.strerror(code).lower()}: about {wanted:,} bytes wanted, {_free(path):,} "
                "free on that disk; make room (or raise the quota) and run again; what was there before is untouched"
            )
    return f"{path}: not written: {reason}; check that its folder exists and can be written; the rest is untouched"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes in hex, read in pieces.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep(path: Path, older: Path) -> None:
    older.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, older)
    except FileExistsError:
        pass
    except OSError:
        # Some disks have no second names.
        shutil.copy2(path, older)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _remove_leftovers(path: Path, now: float) -> None:
    prefix = f".{path.name}."
    for entry in os.scandir(path.parent):
        if entry.name.startswith(prefix) and entry.name.endswith(PART) and _is_older(entry, now - LEFTOVER_SECONDS):
            Path(entry.path).unlink(missing_ok=True)


def _is_older(entry: os.DirEntry[str], limit: float) -> bool:
    try:
        return entry.stat().st_mtime < limit
    except FileNotFoundError:
        return False


def _free(path: Path) -> int:
    return shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free


def one_line(error: Exception) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())
