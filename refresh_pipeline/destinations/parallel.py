"""Many files at once: threads, bounded, answers in the order of the questions; and when to stop asking."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from refresh_pipeline.destinations import DestinationError

Question = TypeVar("Question")
Answer = TypeVar("Answer")
# So many files in a row that could not even be refused: the others would only wait for the same outage.
OUTAGE_AFTER = 3


def side_by_side(answer: Callable[[Question], Answer], questions: Iterable[Question], workers: int) -> Iterator[Answer]:
    """`map` by some threads; no more questions are taken than keep them busy.

    >>> list(side_by_side(abs, [-1, 2, -3], workers=2))
    [1, 2, 3]
    """
    if workers == 1:
        yield from map(answer, questions)
        return
    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for question in questions:
                waiting.append(threads.submit(answer, question))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Whoever stops listening, by an error or a signal, does not wait for what was not begun.
            for each in waiting:
                each.cancel()


class Going:
    """Whether an upload of many files goes on; `halt` is what ended all further requests."""

    def __init__(self) -> None:
        self.halt: DestinationError | None = None
        self._silences = 0
        self._lock = Lock()

    def arrived(self) -> None:
        """One file got an answer that lets the others hope."""
        with self._lock:
            self._silences = 0

    def failed(self, error: DestinationError) -> None:
        """One file did not arrive."""
        with self._lock:
            self._silences = self._silences + 1 if error.is_silence else 0
            if self.halt is None and (error.ends_all or self._silences >= OUTAGE_AFTER):
                self.halt = error
