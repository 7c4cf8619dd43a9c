"""How each series stands: status, gaps, revisions, rejected candles, lineage, and the newest row of many."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any

import duckdb
import numpy as np
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from refresh_pipeline.api import encoding
from refresh_pipeline.api.addressing import chosen_markets, find_series, instruments_called, parse_timeframe
from refresh_pipeline.api.answers import JSON, Body, dumps, tagged_json
from refresh_pipeline.api.encoding import digest, tag_of
from refresh_pipeline.api.frames import OPEN_TIME, as_of_columns, unknown_column
from refresh_pipeline.api.parameters import MarketParameter, SinceParameter, comma_list, parsed_instant
from refresh_pipeline.api.series_status import STATES, standing_of, status_of
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import timestamp
from refresh_pipeline.warehouse.queries import has_tables
from refresh_pipeline.warehouse.schema import Table, candle_columns, qualified

router = APIRouter(prefix="/api/v1", tags=["series"])

InstrumentQuery = Annotated[str | None, Query(description="Only this instrument, in any spelling.")]
TimeframeQuery = Annotated[str | None, Query(description="Only this timeframe, by any name.")]
InstrumentsQuery = Annotated[str | None, Query(description="Only these instruments, a comma list.")]
RowsQuery = Annotated[int, Query(ge=1, le=10_000, description="The number of rows at most, newest first.")]
Row = dict[str, Any]


@router.get("/series")
async def series(
    request: Request,
    market: MarketParameter = None,
    instrument: InstrumentQuery = None,
    timeframe: TimeframeQuery = None,
) -> Response:
    """Every series: the rows of `refresh status --json`, with version, freshness and next close."""
    service = service_of(request)
    wanted = _wanted(service, market, instrument, timeframe)
    rows = [row for one, chosen in wanted if chosen for row in await status_of(service, one, chosen)]
    return tagged_json(request, {"series": rows})


@router.get("/matrix")
async def matrix(request: Request, market: MarketParameter = None) -> Response:
    """The freshness of every series in one digit each, timeframe by timeframe."""
    service = service_of(request)
    rows = []
    for one in chosen_markets(service.markets, market):
        words = (await standing_of(service, one)).freshness
        cells = "".join(str(STATES.index(word)) for word in words)
        timeframes = [timeframe.value for timeframe in one.timeframes]
        rows.append(
            {"market": one.name, "instruments": list(one.instruments), "timeframes": timeframes, "cells": cells}
        )
    return tagged_json(request, {"states": STATES, "markets": rows})


@router.get("/latest")
async def latest(
    request: Request,
    market: MarketParameter = None,
    timeframe: TimeframeQuery = None,
    instruments: InstrumentsQuery = None,
    columns: Annotated[str | None, Query(description="A comma list of candle columns.")] = None,
) -> Response:
    """The newest candle of many series, from memory."""
    service = service_of(request)
    names = comma_list(instruments)
    parsed = parse_timeframe(timeframe) if timeframe else None
    markets = chosen_markets(service.markets, market)
    wanted = frozenset((one.name, name) for text in names for one, name in instruments_called(markets, text))
    shown = {one.name: _latest_columns(one, columns) for one in markets}
    question = NewestCandles(markets, parsed, wanted if names else None, shown)
    service.known.put(request, question)
    return await question.answer(service, request.headers)


@dataclass(frozen=True)
class NewestCandles:
    """A question for the newest candles of markets, with the columns of each; None for any timeframe or instrument."""

    markets: Sequence[Market]
    timeframe: Timeframe | None
    instruments: frozenset[tuple[str, str]] | None
    columns: Mapping[str, Sequence[str]]

    @cached_property
    def key(self) -> str:
        """What tells two questions apart."""
        instruments = None if self.instruments is None else sorted(self.instruments)
        return digest("newest candles", self.timeframe, instruments, self.columns)

    @property
    def series(self) -> Iterator[tuple[Market, Series]]:
        """The series that are asked for."""
        for market in self.markets:
            for each in market.series:
                if self.timeframe not in (None, each.timeframe):
                    continue
                if self.instruments is None or (market.name, each.instrument) in self.instruments:
                    yield market, each

    async def answer(self, service: Service, headers: Mapping[str, str]) -> Response:
        """The candles, or 304; see `known.Question`."""
        feed = service.feed
        state = (feed.tails.state, feed.version)
        body = await service.answers.of(self.key, state, lambda: self._made(service))
        return await service.answers.given(self.key, state, body, headers)

    async def _made(self, service: Service) -> Body:
        found = (_newest(service, market, series, self.columns[market.name]) for market, series in self.series)
        rows = [row for row in found if row is not None]
        content = dumps({"records": len(rows), "version": service.feed.version, "data": rows})
        return Body(content, JSON, tag_of(content))


@router.get("/gaps")
async def gaps(
    request: Request,
    market: MarketParameter = None,
    instrument: InstrumentQuery = None,
    timeframe: TimeframeQuery = None,
) -> Response:
    """Expected and stored candles of each series, and every gap, as of the last refresh."""
    service = service_of(request)
    rows: list[Row] = []
    for one, wanted in _wanted(service, market, instrument, timeframe):
        found = await service.reader.ask(lambda c, m=one: gap_rows(c, m))
        rows += rows_of_series(found, wanted)
    return tagged_json(request, {"series": rows})


@router.get("/revisions")
async def revisions(
    request: Request,
    *,
    market: MarketParameter = None,
    instrument: InstrumentQuery = None,
    timeframe: TimeframeQuery = None,
    since: SinceParameter = None,
    limit: RowsQuery = 500,
) -> Response:
    """Candles that late corrections replaced: what was stored, what is stored now, and when it was replaced."""
    return await _listed(request, "revisions", _revisions, (market, instrument, timeframe), since=since, limit=limit)


@router.get("/rejected")
async def rejected(
    request: Request,
    *,
    market: MarketParameter = None,
    instrument: InstrumentQuery = None,
    timeframe: TimeframeQuery = None,
    since: SinceParameter = None,
    limit: RowsQuery = 500,
) -> Response:
    """Candles that were not stored, with the reason."""
    return await _listed(request, "rejected", _rejected, (market, instrument, timeframe), since=since, limit=limit)


@router.get("/lineage/{instrument:path}/{timeframe}")
async def lineage(
    request: Request,
    instrument: Annotated[str, Path(description="The instrument, in any spelling.")],
    timeframe: Annotated[str, Path(description="The timeframe, by any name.")],
    market: MarketParameter = None,
) -> Response:
    """Where a series comes from and where it went: source, fetched, computed, exported, uploaded, and when."""
    service = service_of(request)
    address = find_series(service.markets, instrument, timeframe, market)
    found = await service.reader.ask(lambda c: _lineage(c, address.market, address.series))
    return tagged_json(request, {**_names(address.market.name, address.series), **found})


async def _listed(
    request: Request, name: str, question: Any, chosen: tuple[str | None, ...], *, since: str | None, limit: int
) -> Response:
    service, moment = service_of(request), parsed_instant("since", since)
    rows: list[Row] = []
    for one, wanted in _wanted(service, *chosen):
        rows += await service.reader.ask(lambda c, m=one, w=wanted: question(c, m, w, moment, limit))
    rows.sort(key=lambda row: row["at"], reverse=True)
    return tagged_json(request, {"records": len(rows[:limit]), name: rows[:limit]})


def _wanted(
    service: Service, market: str | None, instrument: str | None, timeframe: str | None
) -> list[tuple[Market, list[Series]]]:
    """The markets with the series that the query leaves; names that only another market has are no fault."""
    markets = chosen_markets(service.markets, market)
    parsed = parse_timeframe(timeframe) if timeframe else None
    having = {one.name: name for one, name in instruments_called(markets, instrument)} if instrument else {}
    return [
        (
            one,
            [
                each
                for each in one.series
                if (parsed is None or each.timeframe is parsed)
                and (instrument is None or having.get(one.name) == each.instrument)
            ],
        )
        for one in markets
    ]


def rows_of_series(rows: Sequence[Row], wanted: Sequence[Series]) -> list[Row]:
    """The rows of these series."""
    names = {(series.instrument, series.timeframe.value) for series in wanted}
    return [row for row in rows if (row["instrument"], row["timeframe"]) in names]


def _names(market: str, series: Series) -> Row:
    return {"market": market, "instrument": series.instrument, "timeframe": series.timeframe.value}


def _latest_columns(market: Market, columns: str | None) -> list[str]:
    allowed = as_of_columns(market)
    names = comma_list(columns)
    for name in names:
        if name not in allowed:
            raise unknown_column(name, allowed)
    return list(dict.fromkeys([OPEN_TIME, *(names or allowed)]))


def _newest(service: Service, market: Market, series: Series, columns: Sequence[str]) -> Row | None:
    tail = service.feed.tails.get(market.name, series)
    if tail is None or not len(tail.open_times):
        return None
    end = len(tail.open_times)
    row = {name: array[0] for name, array in tail.rows(end - 1, end, columns).items()}
    shown = {name: iso_utc(value) if name == OPEN_TIME else float(value) for name, value in row.items()}
    return _names(market.name, series) | shown


def gap_rows(connection: duckdb.DuckDBPyConnection, market: Market) -> list[Row]:
    """The tables `completeness` and `gaps` as rows of `refresh gaps --json`."""
    if not has_tables(connection, market.name):
        return []
    counts = connection.execute(
        "select instrument, timeframe, expected, stored, completeness, as_of "
        f"from {qualified(market.name, Table.completeness)}"
    ).fetchall()
    missing = connection.execute(
        "select instrument, timeframe, first_open_time, last_open_time, candles, place, asked_at "
        f"from {qualified(market.name, Table.gaps)} order by instrument, timeframe, first_open_time"
    ).fetchall()
    by_series: dict[tuple[str, str], list[Row]] = {}
    for name, timeframe, first, last, candles, place, asked_at in missing:
        gap = {"first": _iso(first), "last": _iso(last), "candles": candles, "place": place}
        by_series.setdefault((name, timeframe), []).append(
            gap | {"confirmed": asked_at is not None, "asked_at": _iso(asked_at)}
        )
    rows = {(row[0], row[1]): row[2:] for row in counts}
    return [
        _names(market.name, series) | _counts(rows.get(key)) | {"gaps": by_series.get(key, [])}
        for series in market.series
        for key in [(series.instrument, series.timeframe.value)]
    ]


def _counts(row: Any) -> Row:
    expected, stored, completeness, as_of = row or (0, 0, 1.0, None)
    return {
        "expected_count": expected,
        "stored_count": stored,
        "completeness": None if completeness is None else round(completeness, 6),
        "as_of": _iso(as_of),
    }


def _revisions(
    connection: duckdb.DuckDBPyConnection, market: Market, wanted: Sequence[Series], since: datetime | None, limit: int
) -> list[Row]:
    if not has_tables(connection, market.name):
        return []
    prices = candle_columns(market.two_sided)
    was, now = (", ".join(f"{table}.{name}" for name in prices) for table in ("v", "r"))
    rows = connection.execute(
        f"select v.instrument, v.timeframe, v.open_time, v.replaced_at, v.source, v.fetched_at, r.source, "
        f"r.fetched_at, {was}, {now} from {qualified(market.name, Table.raw_candle_revisions)} v "
        f"left join {qualified(market.name, Table.raw_candles)} r using (instrument, timeframe, open_time) "
        "where list_contains(?, v.instrument || '|' || v.timeframe) and v.replaced_at >= ? "
        "order by v.replaced_at desc limit ?",
        [[series.key for series in wanted], _from(since), limit],
    ).fetchall()
    return [_revision(market.name, prices, row) for row in rows]


def _revision(market: str, prices: Sequence[str], row: Sequence[Any]) -> Row:
    was, now = row[8 : 8 + len(prices)], row[8 + len(prices) :]
    return {
        "market": market,
        "instrument": row[0],
        "timeframe": row[1],
        "open_time": _iso(row[2]),
        "at": _iso(row[3]),
        "was": dict(zip(prices, was, strict=True)) | {"source": row[4], "fetched_at": _iso(row[5])},
        "is": None
        if row[7] is None
        else dict(zip(prices, now, strict=True)) | {"source": row[6], "fetched_at": _iso(row[7])},
    }


def _rejected(
    connection: duckdb.DuckDBPyConnection, market: Market, wanted: Sequence[Series], since: datetime | None, limit: int
) -> list[Row]:
    if not has_tables(connection, market.name):
        return []
    rows = connection.execute(
        "select instrument, timeframe, open_time, rejected_at, source, reason, received, open, high, low, close, "
        f"volume from {qualified(market.name, Table.rejected_candles)} "
        "where list_contains(?, instrument || '|' || timeframe) and rejected_at >= ? order by rejected_at desc limit ?",
        [[series.key for series in wanted], _from(since), limit],
    ).fetchall()
    names = ("source", "reason", "received", "open", "high", "low", "close", "volume")
    return [
        {
            "market": market.name,
            "instrument": row[0],
            "timeframe": row[1],
            "open_time": _iso(row[2]),
            "at": _iso(row[3]),
        }
        | dict(zip(names, row[4:], strict=True))
        for row in rows
    ]


def _lineage(connection: duckdb.DuckDBPyConnection, market: Market, series: Series) -> Row:
    if not has_tables(connection, market.name):
        return {"source": market.source.kind, "fetched": None, "computed": [], "exported": [], "uploaded": []}
    key = [series.instrument, series.timeframe.value]
    of_series = "where instrument = ? and timeframe = ?"
    last = connection.execute(
        f"select r.source, r.fetched_at, r.open_time from {qualified(market.name, Table.raw_candles)} r "
        f"join {qualified(market.name, Table.series)} s using (instrument, timeframe) "
        "where r.instrument = ? and r.timeframe = ? and r.open_time = s.last_open_time",
        key,
    ).fetchall()
    outcomes = connection.execute(
        f"select asset, outcome, reason, attempted_at, run_id from {qualified(market.name, Table.outcomes)} "
        f"{of_series} order by attempted_at",
        key,
    ).fetchall()
    exports = connection.execute(
        f"select path, exported_at from {qualified(market.name, Table.exports)} {of_series} order by path", key
    ).fetchall()
    uploads = connection.execute(
        f"select destination, path, uploaded_at from {qualified(market.name, Table.uploads)} {of_series} order by all",
        key,
    ).fetchall()
    return {
        "source": last[0][0] if last else market.source.kind,
        "fetched": {"open_time": _iso(last[0][2]), "at": _iso(last[0][1])} if last else None,
        "computed": [
            {"asset": asset, "outcome": outcome, "reason": reason, "at": _iso(at), "run_id": run}
            for asset, outcome, reason, at, run in outcomes
        ],
        "exported": [{"path": path, "at": _iso(at)} for path, at in exports],
        "uploaded": [{"destination": name, "path": path, "at": _iso(at)} for name, path, at in uploads],
    }


def _from(since: datetime | None) -> datetime:
    return datetime(1, 1, 1) if since is None else timestamp(since)  # noqa: DTZ001 (as DuckDB stores it)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else encoding.iso_times(np.array([moment], dtype="datetime64[us]"))[0]
