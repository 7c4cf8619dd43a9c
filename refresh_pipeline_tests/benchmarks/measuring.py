"""How a benchmark measures and what it found: seconds of several rounds, beside a floor, the same done bare."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from statistics import median
from typing import Any

# Every random number that a benchmark draws comes from here.
SEED = 1


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. The figures of design and documents are for these; the tests take less."""

    series: int = 487
    # Candles that each series has stored: the middle of a block of indicators, as half a block is computed in vain.
    stored: int = 3 * 512 + 256
    rounds: int = 5
    # Series whose files are written: each takes some 15 ms, each of the bare ones as long as the table is.
    exported: int = 40
    # One long history, and the shorter ones on which another library is tried.
    long: int = 300_000
    short: Sequence[int] = (1_000, 10_000)
    # What a backfill fetches.
    symbols: int = 50
    days: int = 30
    # Instruments, on five timeframes each, and days of which is asked what is missing.
    gap_instruments: int = 48
    gap_days: int = 90
    # Requests and transactions of a round that measures the API.
    requests: int = 2000
    writes: int = 40


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing done our way and done bare, a figure a round; `note` is what to hold it against.

    Without bare figures it is something that the bare way does not do at all; without any, the note says why.
    """

    what: str
    ours: Sequence[float] = ()
    bare: Sequence[float] = ()
    note: str = ""
    # Of time, seconds; it is shown in milliseconds.
    unit: str = "s"

    @property
    def ours_median(self) -> float | None:
        """The middle one of our figures."""
        return median(self.ours) if self.ours else None

    @property
    def bare_median(self) -> float | None:
        """The middle one of the floor's."""
        return median(self.bare) if self.bare else None

    @property
    def ratio(self) -> float | None:
        """How many times the floor it is, as the median of the rounds' own ratios."""
        return median(a / b for a, b in zip(self.ours, self.bare, strict=True)) if self.bare else None


Findings = Mapping[str, Sequence[Comparison]]


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def side_by_side(
    what: str, ours: Callable[[], object], bare: Callable[[], object], rounds: int, note: str = ""
) -> Comparison:
    """Both ways in turn, so that a busy moment of the machine meets both."""
    taken = [(seconds(ours), seconds(bare)) for _ in range(rounds)]
    return Comparison(what, [each[0] for each in taken], [each[1] for each in taken], note)


@dataclass
class Stopwatch:
    """Which stage of the work is on, and how long each has been: a stage within another stops that one meanwhile.

    Each thread has its own stages; their seconds may overlap.
    """

    # Stages that nothing within them stops.
    undivided: Collection[str] = ()
    # Stage, when it began in seconds since 1970, and how many seconds it took.
    stretches: list[tuple[str, float, float]] = field(default_factory=list)
    _of_thread: threading.local = field(default_factory=threading.local)
    _epoch: float = field(default_factory=lambda: time.time() - time.perf_counter())

    @property
    def seconds(self) -> dict[str, float]:
        """By stage."""
        taken: dict[str, float] = defaultdict(float)
        for stage, _, spent in self.stretches:
            taken[stage] += spent
        return taken

    def between(self, began: float, ended: float) -> float:
        """The seconds of all stages that began between two moments, in seconds since 1970."""
        return sum(spent for _, at, spent in self.stretches if began <= at < ended)

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """The stage is on as long as the block runs."""
        if self._stages and self._stages[-1] in self.undivided:
            yield
            return
        self._switch()
        self._stages.append(stage)
        try:
            yield
        finally:
            self._switch()
            self._stages.pop()

    @contextmanager
    def on_at_least(self, stage: str) -> Iterator[None]:
        """The stage is on unless another one is."""
        if self._stages:
            yield
            return
        with self.on(stage):
            yield

    @property
    def _stages(self) -> list[str]:
        """The stages of this thread that are on, the innermost last."""
        return self._of_thread.__dict__.setdefault("stages", [])

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._stages:
            since = self._of_thread.since
            self.stretches.append((self._stages[-1], self._epoch + since, now - since))
        self._of_thread.since = now

    @contextmanager
    def during(self, owner: Any, name: str, stage: Callable[[Any], str]) -> Iterator[None]:
        """Whenever a class's or a module's function is called while the block runs, a stage is on.

        `stage` names it by the function's first argument.
        """
        function = getattr(owner, name)

        @wraps(function)
        def timed(first: Any, *args: Any, **kwargs: Any) -> Any:
            with self.on(stage(first)):
                return function(first, *args, **kwargs)

        with replaced(owner, name, timed):
            yield


@contextmanager
def replaced(owner: Any, name: str, by: object) -> Iterator[None]:
    """An attribute of a class, or of a module, is another one while the block runs."""
    before = getattr(owner, name)
    setattr(owner, name, by)
    try:
        yield
    finally:
        setattr(owner, name, before)
