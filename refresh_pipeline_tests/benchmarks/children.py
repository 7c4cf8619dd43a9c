"""Work in a process of its own, for whoever wants to know how much memory it takes at most."""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from refresh_pipeline_tests.isolated_env import inside

T = TypeVar("T")
# Has a function's work done somewhere: in a folder, with arguments; gives what it gives, and megabytes.
Apart = Callable[..., tuple[Any, float]]
STATUS = Path("/proc/self/status")


def in_child(work: Callable[..., T], folder: Path, *arguments: object) -> tuple[T, float]:
    """What a function gives in a new process that stands in the folder, without anybody's settings; its peak in MB.

    Raises:
        RuntimeError: it did not come to an end; what it said of that is on standard error.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(theirs, work, folder, arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"{work.__name__} did not come to an end; see above") from None
    finally:
        process.join()
        ours.close()


def _child(told: Connection, work: Callable[..., object], folder: Path, arguments: tuple[object, ...]) -> None:
    with inside(folder):
        told.send((work(*arguments), peak()))


def peak() -> float:
    """The most memory that this process has had so far, in MB."""
    # What getrusage says begins with what the parent had; the kernel's own mark does not.
    if STATUS.exists():
        line = next(each for each in STATUS.read_text(encoding="utf-8").splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
