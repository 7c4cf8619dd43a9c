"""Progress of long work, reported to a watcher such as the command's progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Called with what is being done, how much of it is done, and how much there is to do.
Watcher = Callable[[str, int, int], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Let `watcher` see the progress of everything done in the block."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def advance(what: str, done: int, total: int) -> None:
    """Say how far something is."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(what, done, total)
