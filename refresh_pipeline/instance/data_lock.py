"""The lock of a data folder: one `refresh up` at a time, and no restore beside it.

The lock belongs to the process and ends with it, however it ends; the file's text only says which process holds it.
Only the standard library: it is taken before anything heavy is imported.
"""

import errno
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "service.lock"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Some network file systems know no locks: without them nothing is refused.
NO_LOCKS = {errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS}


class DataFolderBusy(ValueError):
    """Another process holds the data folder; the message names the process and its port."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a data folder."""

    command: str
    pid: int
    port: int = 0
    boot_id: str = ""

    def __str__(self) -> str:
        port = f", port {self.port}" if self.port else ""
        return f"{self.command} (process {self.pid}{port})"


def lock_data_folder(folder: Path, command: str, port: int = 0) -> int:
    """Lock a data folder for this process, and for a program that takes its place; makes the folder.

    Returns:
        The descriptor of the lock's file. Closing it, or the end of the process, ends the lock; children inherit it
        only through exec, not through `subprocess`.

    Raises:
        DataFolderBusy: another process holds the folder.
        OSError: the lock's file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(descriptor)
            raise _busy(folder, error) from None
    holder = Holder(command, os.getpid(), port, _boot_id())
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)
    os.set_inheritable(descriptor, True)
    return descriptor


def holder_of(folder: Path) -> Holder | None:
    """The process that holds a data folder now; None where no process does."""
    try:
        descriptor = os.open(folder / FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(folder)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _busy(folder: Path, error: OSError) -> Exception:
    if not isinstance(error, BlockingIOError):
        return error
    return DataFolderBusy(
        f"The data folder {folder} is in use by {_read(folder)}; stop that process first, or choose another --data-dir."
    )


def _read(folder: Path) -> Holder:
    """What the lock's file says; between locking and writing it says nothing."""
    try:
        return Holder(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Holder("another process", 0)


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
