"""What a client asks, and what it asks it of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from numpy.typing import NDArray

from refresh_pipeline.client.errors import ClientError
from refresh_pipeline.market.candles import instant, parse_instant

Columns = Mapping[str, NDArray]


@dataclass(frozen=True, slots=True)
class Question:
    """A question for rows of one series; without a zone its times are in UTC."""

    layer: str
    instrument: str
    timeframe: str
    market: str | None
    since: datetime | None
    until: datetime | None
    limit: int | None
    columns: Sequence[str] | None
    as_of: datetime | None = None
    # Whether prices of before a split or dividend are as if after it; of the layer candles.
    adjusted: bool = False

    def __post_init__(self) -> None:
        """Refuse a question that no row can answer; raises ClientError."""
        require_range(self.since, self.until, self.limit)


def require_range(since: datetime | None, until: datetime | None, limit: int | None) -> None:
    """Raise ClientError for a limit below 1 and for a stretch that ends before it begins."""
    if limit is not None and limit < 1:
        raise ClientError(f"limit: found {limit}, allowed: 1 or more")
    if since is not None and until is not None and instant(since) >= instant(until):
        raise ClientError(f"since {since:%Y-%m-%d %H:%M} is not before until {until:%Y-%m-%d %H:%M}")


def moment_of(name: str, moment: datetime | str | None) -> datetime | None:
    """The instant that somebody meant by an argument of this name.

    >>> moment_of("since", "2024-01-01T05:30+05:30")
    datetime.datetime(2024, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)

    Raises:
        ClientError: it is no instant.
    """
    if not isinstance(moment, str):
        return moment
    try:
        return parse_instant(moment)
    except ValueError as error:
        raise ClientError(f"{name}: {error}") from error


class Place(Protocol):
    """A data folder or an API. Tables are equally long arrays by column; times are datetime64[us], in UTC."""

    def rows(self, question: Question) -> Columns:
        """The rows of one series, oldest first, `open_time` first."""
        ...

    def series(self, market: str | None) -> Columns:
        """The stored series, of one market or of all."""
        ...

    def gaps(self, market: str | None) -> Columns:
        """The missing candles, of one market or of all."""
        ...

    def snapshots(self, api: str, since: datetime | None, until: datetime | None, limit: int | None) -> Columns:
        """The columns of an API's payloads, oldest first: `fetched_at`, `seen_at`, then its own or `payload`."""
        ...

    def changes(self, after: int, epoch: str | None) -> tuple[str, int, Columns, bool]:
        """The epoch, the version to ask about next, the changes, and whether the history is another one."""
        ...
