"""What the warehouse says of every series: read anew where the file has changed."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import duckdb

from refresh_pipeline.api.reading import Reader
from refresh_pipeline.market.gaps import Coverage
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.connection import Signature, place_of
from refresh_pipeline.warehouse.queries import SeriesReport, has_tables, series_report
from refresh_pipeline.warehouse.schema import Table, qualified

# Seconds that reports are kept while the file changes all the time.
SHORTEST_AGE = 2.0

Read = tuple[Sequence[SeriesReport], Mapping[Series, Coverage]]


@dataclass(slots=True)
class Reports:
    """What was read last of each market, and what the file looked like then."""

    read: dict[str, tuple[Signature, float, Read]] = field(default_factory=dict)

    async def of(self, reader: Reader, market: Market) -> Read:
        """The reports and the coverage of a market.

        Raises:
            WarehouseUnreadable: the catalogue of a lake does not answer.
            ProblemError: as `Reader.ask`.
        """
        place = place_of(reader.database)
        # A lake's is a question to PostgreSQL, which may take its time to say that nobody answers.
        signature = place.signature() if place.file else await asyncio.to_thread(place.signature)
        now = time.monotonic()
        kept = self.read.get(market.name)
        if kept is not None and (kept[0] == signature or now - kept[1] < SHORTEST_AGE):
            return kept[2]
        read = await reader.ask(lambda connection: _read(connection, market))
        self.read[market.name] = (signature, now, read)
        return read


def _read(connection: duckdb.DuckDBPyConnection, market: Market) -> Read:
    if not has_tables(connection, market.name):
        return [SeriesReport(series, 0, None, None, None, None, None) for series in market.series], {}
    rows = connection.execute(
        f"select instrument, timeframe, expected, stored from {qualified(market.name, Table.completeness)}"
    ).fetchall()
    coverage = {
        series: Coverage(series, expected, stored)
        for name, timeframe, expected, stored in rows
        for series in [Series(name, Timeframe(timeframe))]
    }
    return series_report(connection, market.name, market.series), coverage
