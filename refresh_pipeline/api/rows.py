"""Answers to questions for rows of one series: from what is kept, from memory, or from the warehouse."""

import asyncio
import time as time_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
from starlette.responses import Response

from refresh_pipeline.api import encoding, frames
from refresh_pipeline.api.addressing import Address
from refresh_pipeline.api.answers import Body, http_date
from refresh_pipeline.api.encoding import Format, TimeStyle, digest, encoded
from refresh_pipeline.api.feed import Version
from refresh_pipeline.api.frames import Column, Frame, Names, Window, columns_of
from refresh_pipeline.api.reading import TRIES, TooLong, too_long
from refresh_pipeline.api.service import Service
from refresh_pipeline.market.adjustments import adjusted as adjusted_columns
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.market.export_spec import Layer
from refresh_pipeline.market.freshness import bars_behind
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse import adjustments
from refresh_pipeline.warehouse.schema import Table

# Rows that took too long are read in so many parts; a part of so few rows is not divided further.
SPLIT, FEWEST_ROWS = 4, 20
# Seconds that the pieces of one answer may take together.
LONGEST_READING = 30.0


@dataclass(frozen=True)
class Question:
    """A question for rows of one series, with every default filled in."""

    address: Address
    layer: Layer
    columns: Sequence[Column]
    window: Window
    as_of: datetime | None
    kind: Format
    time: TimeStyle
    names: Names
    adjusted: bool = False

    @cached_property
    def assets(self) -> tuple[Table, ...]:
        """The assets whose change may change the answer."""
        if self.as_of is not None:
            return (Table.raw_candles,)
        return tuple(dict.fromkeys(column.table for column in self.columns))

    @cached_property
    def key(self) -> str:
        """What tells two questions apart, however their series is spelled."""
        shown = tuple(column.name for column in self.columns)
        series, window = self.address.series.key, self.window
        times = (str(window.since), str(window.until), str(self.as_of))
        asked = (self.layer, shown, window.limit, times, self.kind, self.time, self.names, self.adjusted)
        return digest(self.address.market.name, series, *asked)

    async def answer(self, service: Service, headers: Mapping[str, str]) -> Response:
        """The rows, or 304; see `known.Question`."""
        return await _given(service, self, headers, self.kind not in encoding.BINARY, self.key)

    async def made(self, service: Service, version: Version) -> Body:
        """The answer, as no kept one has it."""
        frame = await read(service, self)
        head = _head(service, self, frame, version)
        if frame.following is not None:
            head["next"] = _next_url(self, frame.following)
        content = await _encoded(self, frame, head)
        tag = _tag(service, self, {**head, "pushed": version.pushed}, content)
        return Body(content, encoding.MEDIA_TYPES[self.kind], tag, _headers(frame, head, version))


class NewestRow(Question):
    """A question for the newest row alone."""

    async def answer(self, service: Service, headers: Mapping[str, str]) -> Response:
        """The row, or 304; see `known.Question`."""
        return await _given(service, self, headers, True, f"newest {self.key}")

    async def made(self, service: Service, version: Version) -> Body:
        """The answer, as no kept one has it."""
        frame = await read(service, self)
        head = _head(service, self, frame, version)
        is_fx = self.names is Names.fx_refresh
        shown = {name: encoding.shown_times(array, self.time, is_fx) for name, array in frame.arrays.items()}
        row = {name: _first(encoding.json_values(array, frame.types[name])) for name, array in shown.items()}
        kept = ("market", "instrument", "timeframe", "layer", "last_updated", "version")
        body = {name: head[name] for name in kept} | {"latest": row if len(frame) else None}
        content = encoding.orjson.dumps(body, option=encoding.NUMPY)
        return Body(content, "application/json", encoding.tag_of(content), _headers(frame, head, version))


async def _given(
    service: Service, question: Question, headers: Mapping[str, str], may_pack: bool, key: str
) -> Response:
    """The answer of the series' newest version, which is encoded and packed once for all who ask."""
    address = question.address
    version = service.feed.newest(address.market.name, address.series, question.assets)
    state = (version.number, version.pushed, service.feed.epoch, _expected(service, address))
    kept = service.answers
    # Before its first version, nothing tells when a series changes.
    made = partial(question.made, service, version)
    body = await (kept.of(key, state, made) if version.number else made())
    return await kept.given(key, state, body, headers, may_pack=may_pack)


async def read(service: Service, question: Question) -> Frame:
    """The rows of a question, read in several openings where they are many."""
    frame = await _stored(service, question)
    if not question.adjusted:
        return frame
    market, series = question.address.market, question.address.series
    factors = await service.reader.ask(lambda c: adjustments.factors_of(c, market.name, series))
    times = frame.arrays[frames.OPEN_TIME]
    return replace(frame, arrays=adjusted_columns(times, frame.arrays, factors))


async def _stored(service: Service, question: Question) -> Frame:
    market, series, window = question.address.market, question.address.series, question.window
    columns = question.columns
    if (frame := _from_memory(service, question)) is not None:
        return frame
    if question.as_of is not None:
        moment = question.as_of
        past = await service.reader.ask(lambda c: frames.read_as_of(c, market, series, moment, window))
        return _framed({column.name: past[column.name] for column in columns}, columns, window)
    rows = max(frames.CELLS_A_QUESTION // len(columns), 1)
    if window.limit <= rows:
        try:
            asked = service.reader.ask(lambda c: frames.read_window(c, market, columns, series, window), tries=2)
            return _framed(await asked, columns, window)
        except TooLong:
            rows = max(window.limit // SPLIT, FEWEST_ROWS)
    return _framed(await _in_pieces(service, question, rows), columns, window)


async def _in_pieces(service: Service, question: Question, rows: int) -> dict[str, np.ndarray]:
    """The rows of a question, so many in one opening, and fewer where they take too long."""
    market, series, columns = question.address.market, question.address.series, question.columns
    table, window = columns[0].table, question.window
    times = await service.reader.ask(lambda c: frames.read_times(c, market, table, series, window))
    pieces, first = [frames.empty(columns)] if not len(times) else [], 0
    deadline = time_module.monotonic() + LONGEST_READING
    while first < len(times):
        if time_module.monotonic() > deadline:
            raise too_long()
        end = min(first + rows, len(times))
        bounds, tries = (times[first], times[end - 1]), 2 if rows > FEWEST_ROWS else TRIES
        try:
            read = partial(frames.read_between, market=market, columns=columns, series=series, bounds=bounds)
            pieces.append(await service.reader.ask(read, tries=tries))
            first = end
        except TooLong:
            if rows <= FEWEST_ROWS:
                raise
            rows = max(rows // SPLIT, FEWEST_ROWS)
    return frames.joined_pieces(pieces)


def _from_memory(service: Service, question: Question) -> Frame | None:
    if question.layer is not Layer.candles or question.names is not Names.own or question.as_of is not None:
        return None
    address, columns = question.address, question.columns
    arrays = _kept_candles(service, address.market, address.series, columns, question.window)
    return None if arrays is None else _framed(arrays, columns, question.window)


async def candles(
    service: Service, market: Market, series: Series, columns: Sequence[Column], window: Window
) -> dict[str, np.ndarray]:
    """Columns of raw candles, oldest first, with one row more where the window begins at `since`.

    From memory where that reaches so far back and nothing was written since, else from the warehouse.
    """
    arrays = _kept_candles(service, market, series, columns, window) if service.feed.is_current else None
    if arrays is not None:
        return arrays
    return await service.reader.ask(lambda c: frames.read_window(c, market, columns, series, window))


def _kept_candles(
    service: Service, market: Market, series: Series, columns: Sequence[Column], window: Window
) -> dict[str, np.ndarray] | None:
    tail = service.feed.tails.get(market.name, series)
    rows = None if tail is None else tail.window(window)
    if tail is None or rows is None:
        return None
    return tail.rows(*rows, [column.name for column in columns])


def _framed(arrays: Mapping[str, np.ndarray], columns: Sequence[Column], window: Window) -> Frame:
    types = {column.name: column.sql_type for column in columns}
    times = arrays[columns[0].name]
    if window.since is None or len(times) <= window.limit:
        return Frame(arrays, types)
    return Frame({name: array[: window.limit] for name, array in arrays.items()}, types, times[window.limit])


def _expected(service: Service, address: Address) -> str | None:
    """The open time of the newest candle that has closed; None past the end of the calendar."""
    calendar = address.market.calendar_of(address.series.instrument)
    return service.expected.open_time(calendar, address.series.timeframe, service.now())


def _head(service: Service, question: Question, frame: Frame, version: Version) -> dict[str, Any]:
    market, series = question.address.market, question.address.series
    calendar, now = market.calendar_of(series.instrument), service.now()
    times = frame.arrays[question.columns[0].name]
    is_newest = question.window.until is None and question.window.since is None
    expected = _expected(service, question.address)
    behind = None
    if len(times) and expected is not None and is_newest:
        behind = int(bars_behind(calendar, series.timeframe, times[-1:], now)[0])
    return {
        "market": market.name,
        "instrument": series.instrument,
        "timeframe": series.timeframe.value,
        "layer": question.layer.value,
        "records": len(frame),
        "last_updated": None if version.changed_at is None else iso_utc(version.changed_at),
        "version": version.number or None,
        "expected_open_time": expected,
        "bars_behind": behind,
    }


async def _encoded(question: Question, frame: Frame, head: Mapping[str, Any]) -> bytes:
    is_fx = question.names is Names.fx_refresh
    if question.kind in (Format.csv, Format.parquet, Format.arrow):
        return await asyncio.to_thread(encoded, frame, head, question.kind, question.time, fx_refresh=is_fx)
    return encoded(frame, head, question.kind, question.time, fx_refresh=is_fx)


def _tag(service: Service, question: Question, head: Mapping[str, Any], content: bytes) -> str:
    """The epoch, the version and the question; before the first version, the content in place of them."""
    if head["version"] is None:
        return f'"{digest(content)}-{question.key}"'
    asked = digest(question.key, head["expected_open_time"], head["pushed"])
    return f'"{service.feed.epoch[:8]}-{head["version"]}-{asked}"'


def _headers(frame: Frame, head: Mapping[str, Any], version: Version) -> dict[str, str]:
    headers = {"X-Records": str(len(frame))}
    if version.changed_at is not None:
        headers |= {
            "X-Version": str(version.number),
            "Last-Modified": http_date(version.changed_at.replace(tzinfo=UTC)),
        }
    if head.get("next"):
        headers["Link"] = f'<{head["next"]}>; rel="next"'
    return headers


def _next_url(question: Question, following: np.datetime64) -> str:
    """The address of the rows that follow; the same however the question was spelled."""
    address, window = question.address, question.window
    all_columns = [column.name for column in columns_of(address.market, question.layer, question.names)]
    shown = [column.name for column in question.columns]
    since, until = (
        None if time is None else encoding.iso_times(np.array([time]))[0] for time in (following, window.until)
    )
    asked = {
        "market": address.market.name,
        "layer": question.layer.value,
        "columns": None if shown == all_columns or question.as_of else ",".join(shown),
        "limit": window.limit,
        "since": since,
        "until": until,
        "as_of": question.as_of.isoformat() if question.as_of else None,
        "format": question.kind.value,
        "time": question.time.value,
        "names": question.names.value,
        "adjusted": "true" if question.adjusted else None,
    }
    path = f"/api/v1/data/{quote(address.series.instrument)}/{address.series.timeframe.value}"
    return f"{path}?{urlencode({name: value for name, value in asked.items() if value is not None})}"


def _first(values: Any) -> Any:
    return values[0] if len(values) else None
