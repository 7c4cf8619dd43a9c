"""How a benchmark measures and what it found: seconds of several rounds, beside the same without what is measured."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. The design's figures are for 487 series; the tests take less."""

    series: int = 487
    history: str = "2d"
    rounds: int = 5
    # For the analytics alone: candles of each series.
    bars: int = 1000


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing done our way and done bare, in seconds, a figure a round; `note` is what to hold it against."""

    what: str
    ours: Sequence[float]
    bare: Sequence[float]
    note: str = ""

    @property
    def ours_median(self) -> float:
        """Seconds."""
        return median(self.ours)

    @property
    def bare_median(self) -> float:
        """Seconds."""
        return median(self.bare)

    @property
    def own(self) -> float:
        """The seconds that our way takes beyond the bare one."""
        return self.ours_median - self.bare_median


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def side_by_side(what: str, ours: Callable[[], object], bare: Callable[[], object], rounds: int) -> Comparison:
    """Both ways in turn, so that a busy moment of the machine meets both."""
    taken = [(seconds(ours), seconds(bare)) for _ in range(rounds)]
    return Comparison(what, [each[0] for each in taken], [each[1] for each in taken])
