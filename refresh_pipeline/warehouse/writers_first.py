"""Writers that wait for the warehouse's file say so; readers that look let them go first.

DuckDB's lock has no queue: a reader that opens the file again and again can keep a writer out for long. The sign is a
lock of the system on a file beside it, which ends with its process.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def sign_of(file: Path) -> Path:
    """The file beside a warehouse's that writers lock while they wait."""
    return file.with_name(f"{file.name}.wanted")


@contextmanager
def wanted(file: Path) -> Iterator[None]:
    """While the block runs, readers are told that a writer waits for this file; any number of writers may."""
    descriptor = -1
    # Where nothing can be written beside it, nobody is told.
    with suppress(OSError):
        descriptor = os.open(sign_of(file), os.O_RDWR | os.O_CREAT, 0o666)
        # A reader that looks has it for an instant.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def is_wanted(file: Path) -> bool:
    """Whether a writer waits for this file."""
    try:
        descriptor = os.open(sign_of(file), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
