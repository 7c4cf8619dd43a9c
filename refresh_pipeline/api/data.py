"""Candles and what is computed from them: GET /data/{instrument}/{timeframe} and its newest row."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from refresh_pipeline.api import encoding, frames
from refresh_pipeline.api.addressing import Address, find_series
from refresh_pipeline.api.answers import Body, answer
from refresh_pipeline.api.encoding import Format, TimeStyle, digest, encoded, format_of
from refresh_pipeline.api.frames import Column, Frame, Names, Window, columns_of
from refresh_pipeline.api.parameters import (
    MarketParameter,
    SinceParameter,
    UntilParameter,
    parsed_instant,
    parsed_time,
)
from refresh_pipeline.api.problems import Problem, ProblemError, invalid_parameter
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.market.candles import instant, iso_utc
from refresh_pipeline.market.export_spec import Layer
from refresh_pipeline.market.freshness import bars_behind

router = APIRouter(prefix="/api/v1", tags=["data"])

MOST_CELLS = 1_000_000

Instrument = Annotated[str, Path(description="The instrument: EUR/USD, EUR%2FUSD, EUR-USD, EURUSD or eur/usd.")]
TimeframeName = Annotated[str, Path(description="The timeframe: m1, H1, D1, or an alias such as 1h.")]
LayerParameter = Annotated[Layer, Query(description="The table, or all tables side by side.")]
ColumnsParameter = Annotated[str | None, Query(description="A comma list of columns, in the answer's order.")]
LimitParameter = Annotated[int, Query(ge=1, le=10_000, description="The number of rows at most.")]
AsOf = Annotated[str | None, Query(description="Candles as they stood at this instant; layer candles only.")]
FormatParameter = Annotated[Format | None, Query(description="The format; without it, Accept decides.")]
TimeParameter = Annotated[TimeStyle, Query(description="How times are written.")]
NamesParameter = Annotated[Names, Query(description="Whose column names.")]


@dataclass(frozen=True, slots=True)
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

    @property
    def parts(self) -> tuple[object, ...]:
        """What tells two questions apart, however their series is spelled."""
        shown = tuple(column.name for column in self.columns)
        series, window = self.address.series.key, self.window
        times = (str(window.since), str(window.until), str(self.as_of))
        return (
            self.address.market.name,
            series,
            self.layer,
            shown,
            window.limit,
            times,
            self.kind,
            self.time,
            self.names,
        )


@router.get("/data/{instrument:path}/{timeframe}/latest")
async def latest(
    request: Request,
    *,
    instrument: Instrument,
    timeframe: TimeframeName,
    market: MarketParameter = None,
    layer: LayerParameter = Layer.enhanced,
    columns: ColumnsParameter = None,
    time: TimeParameter = TimeStyle.iso,
    names: NamesParameter = Names.own,
) -> Response:
    """The newest row of a series."""
    service = service_of(request)
    address = find_series(service.markets, instrument, timeframe, market)
    chosen = _chosen(address, layer, columns, names)
    question = Question(address, layer, chosen, Window(1), None, Format.json, time, names)
    frame = await read(service, question)
    head = _head(service, question, frame)
    shown = {name: encoding.shown_times(array, time, names is Names.fx_refresh) for name, array in frame.arrays.items()}
    row = {name: _first(encoding.json_values(array, frame.types[name])) for name, array in shown.items()}
    kept = ("market", "instrument", "timeframe", "layer", "last_updated", "version")
    body = {name: head[name] for name in kept} | {"latest": row if len(frame) else None}
    content = encoding.orjson.dumps(body, option=encoding.NUMPY)
    return answer(request, Body(content, "application/json", encoding.tag_of(content), _headers(frame, head)))


@router.get("/data/{instrument:path}/{timeframe}")
async def data(
    request: Request,
    *,
    instrument: Instrument,
    timeframe: TimeframeName,
    market: MarketParameter = None,
    layer: LayerParameter = Layer.enhanced,
    columns: ColumnsParameter = None,
    limit: LimitParameter = 500,
    since: SinceParameter = None,
    until: UntilParameter = None,
    as_of: AsOf = None,
    format: FormatParameter = None,  # noqa: A002 (the parameter's name in the address)
    time: TimeParameter = TimeStyle.iso,
    names: NamesParameter = Names.own,
) -> Response:
    """Rows of a series, oldest first: the newest `limit`, or those from `since` on."""
    service = service_of(request)
    address = find_series(service.markets, instrument, timeframe, market)
    kind = format or format_of(request.headers.get("accept", ""))
    moment = parsed_instant("as_of", as_of)
    chosen = _chosen(address, layer, columns, names, is_past=moment is not None)
    window = Window(limit, parsed_time("since", since), parsed_time("until", until))
    question = Question(address, layer, chosen, window, moment, kind, time, names)
    _refuse_too_many(question)
    frame = await read(service, question)
    head = _head(service, question, frame)
    if frame.following is not None:
        head["next"] = _next_url(request, question, frame.following)
    content = await _encoded(question, frame, head)
    body = Body(content, encoding.MEDIA_TYPES[kind], _tag(question, head, content), _headers(frame, head))
    return answer(request, body, may_pack=kind not in encoding.BINARY)


async def read(service: Service, question: Question) -> Frame:
    """The rows of a question, read in several openings where they are many."""
    market, series, window = question.address.market, question.address.series, question.window
    columns = question.columns
    if question.as_of is not None:
        moment = question.as_of
        past = await service.reader.ask(lambda c: frames.read_as_of(c, market, series, moment, window))
        return _framed({column.name: past[column.name] for column in columns}, columns, window)
    if window.limit * len(columns) <= frames.CELLS_A_QUESTION:
        return _framed(
            await service.reader.ask(lambda c: frames.read_window(c, market.name, columns, series, window)),
            columns,
            window,
        )
    table = columns[0].table
    times = await service.reader.ask(lambda c: frames.read_times(c, market.name, table, series, window))
    rows = max(frames.CELLS_A_QUESTION // len(columns), 1)
    pieces = [frames.empty(columns)] if not len(times) else []
    for first in range(0, len(times), rows):
        bounds = (times[first], times[min(first + rows, len(times)) - 1])
        pieces.append(
            await service.reader.ask(lambda c, b=bounds: frames.read_between(c, market.name, columns, series, b))
        )
    return _framed(frames.joined_pieces(pieces), columns, window)


def _framed(arrays: Mapping[str, np.ndarray], columns: Sequence[Column], window: Window) -> Frame:
    types = {column.name: column.sql_type for column in columns}
    times = arrays[columns[0].name]
    if window.since is None or len(times) <= window.limit:
        return Frame(arrays, types)
    return Frame({name: array[: window.limit] for name, array in arrays.items()}, types, times[window.limit])


def _chosen(
    address: Address, layer: Layer, columns: str | None, names: Names, *, is_past: bool = False
) -> list[Column]:
    if names is Names.fx_refresh and layer in (Layer.indicators, Layer.joined):
        raise invalid_parameter("names", "allowed with layer candles or enhanced", names.value)
    if is_past and (layer is not Layer.candles or names is not Names.own):
        raise invalid_parameter("as_of", "allowed with layer=candles and names=own alone", layer.value)
    listed = columns_of(address.market, layer, names)
    if is_past:
        past = frames.as_of_columns(address.market)
        listed = [column for column in listed if column.name in past]
    return frames.chosen_columns(listed, columns)


def _refuse_too_many(question: Question) -> None:
    columns, limit = len(question.columns), question.window.limit
    if columns * limit > MOST_CELLS:
        allowed = MOST_CELLS // columns
        raise ProblemError(
            Problem.too_many_cells,
            f"limit: found {limit} rows of {columns} columns; allowed: {allowed} rows, or fewer columns",
            limit=allowed,
        )


def _head(service: Service, question: Question, frame: Frame) -> dict[str, Any]:
    market, series = question.address.market, question.address.series
    calendar, now = market.calendar_of(series.instrument), service.now()
    times = frame.arrays[question.columns[0].name]
    is_newest = question.window.until is None and question.window.since is None
    is_known = calendar.knows(instant(now))
    behind = None
    if len(times) and is_known and is_newest:
        behind = int(bars_behind(calendar, series.timeframe, times[-1:], now)[0])
    return {
        "market": market.name,
        "instrument": series.instrument,
        "timeframe": series.timeframe.value,
        "layer": question.layer.value,
        "records": len(frame),
        "last_updated": None,
        "version": None,
        "expected_open_time": iso_utc(calendar.last_closed(series.timeframe, instant(now))) if is_known else None,
        "bars_behind": behind,
    }


async def _encoded(question: Question, frame: Frame, head: Mapping[str, Any]) -> bytes:
    is_fx = question.names is Names.fx_refresh
    if question.kind in (Format.csv, Format.parquet, Format.arrow):
        return await asyncio.to_thread(encoded, frame, head, question.kind, question.time, fx_refresh=is_fx)
    return encoded(frame, head, question.kind, question.time, fx_refresh=is_fx)


def _tag(question: Question, head: Mapping[str, Any], content: bytes) -> str:
    return f'"{digest(content)}-{digest(*question.parts)}"'


def _headers(frame: Frame, head: Mapping[str, Any]) -> dict[str, str]:
    headers = {"X-Records": str(len(frame))}
    if head.get("version") is not None:
        headers["X-Version"] = str(head["version"])
    if head.get("next"):
        headers["Link"] = f'<{head["next"]}>; rel="next"'
    return headers


def _next_url(request: Request, question: Question, following: np.datetime64) -> str:
    series = question.address.series
    asked = {name: value for name, value in request.query_params.items() if name != "since"}
    since = encoding.iso_times(np.array([following]))[0]
    path = f"/api/v1/data/{quote(series.instrument)}/{series.timeframe.value}"
    return f"{path}?{urlencode({**asked, 'since': since})}"


def _first(values: Any) -> Any:
    return values[0] if len(values) else None
