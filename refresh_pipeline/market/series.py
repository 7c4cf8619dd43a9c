"""Series: one instrument on one timeframe, the unit of everything. Parsed at the edge, passed around whole."""

from collections.abc import Sequence
from dataclasses import dataclass

from refresh_pipeline.market.timeframe import Timeframe

KEY_SEPARATOR = "|"
# How many series a message names.
SERIES_NAMED = 5


@dataclass(frozen=True, slots=True)
class Series:
    """An instrument by its canonical name, and a timeframe; its key is Dagster's partition key."""

    instrument: str
    timeframe: Timeframe

    @property
    def key(self) -> str:
        """The partition key.

        >>> Series("EUR/USD", Timeframe.H1).key
        'EUR/USD|H1'
        """
        return f"{self.instrument}{KEY_SEPARATOR}{self.timeframe.value}"

    @property
    def file_stem(self) -> str:
        """The name of a file that holds this series, without its ending.

        >>> Series("EUR/USD", Timeframe.H1).file_stem
        'EUR-USD_H1'
        """
        return f"{self.instrument.replace('/', '-')}_{self.timeframe.value}"

    @classmethod
    def from_key(cls, key: str) -> "Series":
        """The series of a partition key.

        >>> Series.from_key("EUR/USD|H1")
        Series(instrument='EUR/USD', timeframe=<Timeframe.H1: 'H1'>)
        """
        instrument, _, timeframe = key.partition(KEY_SEPARATOR)
        return cls(instrument, Timeframe(timeframe))

    def __str__(self) -> str:
        return f"{self.instrument} {self.timeframe.value}"


def listing(series: Sequence[object]) -> str:
    """The first series of a list in words, and how many more there are.

    >>> listing([Series(name, Timeframe.m1) for name in "ABCDEFG"])
    'A m1, B m1, C m1, D m1, E m1 and 2 more'
    """
    rest = f" and {len(series) - SERIES_NAMED} more" if len(series) > SERIES_NAMED else ""
    return ", ".join(map(str, series[:SERIES_NAMED])) + rest
