"""Where candles come from: one file per venue, behind one protocol. Nothing here stores anything.

A source answers many requests at once and yields what arrives as it arrives, several chunks a series if need be, each
series closed by exactly one `Fetched.last`. A failure is an answer too: the other series go on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

import numpy as np

from refresh_pipeline.market.adjustments import Adjustment
from refresh_pipeline.market.candles import BulkFile, Candles
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import clean

# A credential by the name of its setting, None where nobody has set it.
Secrets = Callable[[str], str | None]


def no_secrets(name: str) -> str | None:
    """No credential at all: for sources without an account, and for checks of a market's YAML."""
    return None


class SourceError(Exception):
    """What a venue did not give: what was wanted, what was received, what to do."""

    # Whether asking again could help; decided here, once, at the edge.
    transient: bool = False

    def __str__(self) -> str:
        return clean(super().__str__())


class PermanentError(SourceError):
    """Asking again will not help: an unknown symbol, a refused place, a wrong option."""


class TransientError(SourceError):
    """Asking again may help: a limit, an outage, a dropped connection."""

    transient = True


@dataclass(frozen=True, slots=True)
class Request:
    """Candles of one series that open at or after `since` and before `until` (datetime64[us], UTC)."""

    series: Series
    since: np.datetime64
    until: np.datetime64


@dataclass(frozen=True, slots=True)
class Fetched:
    """A stretch of one series' closed candles, oldest stretch first; `last` says that no more will come.

    With `error`, the series ends here unfinished: what was yielded before stays good. `source` names the
    source that served the candles in place of the one asked; `failover_reason` says why the preferred one did not.
    `file` is the bulk file that they were read from, so that a later issue of it is noticed. `adjustments` are splits
    and dividends of the stretch, which some sources tell. `remark` says why there are no candles, where that is known.
    """

    series: Series
    candles: Candles
    last: bool = True
    error: SourceError | None = None
    seconds: float = 0.0
    source: str = ""
    failover_reason: str = ""
    file: BulkFile | None = None
    adjustments: Sequence[Adjustment] = ()
    remark: str = ""


class Source(Protocol):
    """A venue, as the pipeline sees it; for a market with two-sided quotes it gives QUOTE_COLUMNS as well."""

    # The name written beside each candle.
    kind: str

    @property
    def native_timeframes(self) -> Sequence[Timeframe]:
        """What the venue serves itself; other timeframes are resampled from the longest of these that divides them."""
        ...

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """Closed candles for each request, in the order of the requests where the venue makes one wait.

        Args:
            requests: for native timeframes only.
            now: what the machine's clock says; a venue that tells its own time goes by that.
        """
        ...


@runtime_checkable
class Reissuing(Protocol):
    """A source some of whose history comes in bulk files, which the venue may issue again."""

    def reissued(self, files: Mapping[Series, Sequence[BulkFile]]) -> dict[Series, list[BulkFile]]:
        """Those of the files that were read whose content is no longer what it was."""
        ...


@runtime_checkable
class Provisional(Protocol):
    """A source beside which a stream makes candles of its own, until this source's candles correct them."""

    # The names written beside the stream's candles.
    provisional: Sequence[str]


def failed(request: Request, error: SourceError, seconds: float = 0.0) -> Fetched:
    """The end of a series that could not be fetched; the message names the series."""
    return Fetched(request.series, Candles.none(), error=type(error)(f"{request.series}: {error}"), seconds=seconds)
