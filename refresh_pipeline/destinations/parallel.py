"""Many files at once: a bounded map over threads with answers in order, and a circuit breaker for outages."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from refresh_pipeline.destinations import DestinationError

Item = TypeVar("Item")
Result = TypeVar("Result")
# After so many files in a row without any answer, the others would only wait for the same outage.
OUTAGE_AFTER = 3


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`map` over threads, in order; takes no more items than keep the threads busy.

    >>> list(map_in_threads(abs, [-1, 2, -3], workers=2))
    [1, 2, 3]
    """
    if workers == 1:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for item in items:
                pending.append(threads.submit(function, item))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # A caller that stops early, by an error or a signal, does not wait for items that no thread has begun.
            for future in pending:
                future.cancel()


class CircuitBreaker:
    """Stops an upload of many files; `error` is the failure that ended all further requests, None until then."""

    def __init__(self) -> None:
        self.error: DestinationError | None = None
        self._silences = 0
        self._lock = Lock()

    def succeeded(self) -> None:
        """Count one file that got an answer; the row of silences ends."""
        with self._lock:
            self._silences = 0

    def failed(self, error: DestinationError) -> None:
        """Count one file that did not arrive."""
        with self._lock:
            self._silences = self._silences + 1 if error.is_silence else 0
            if self.error is None and (error.ends_all or self._silences >= OUTAGE_AFTER):
                self.error = error
