"""Candles and what is computed from them: GET /data/{instrument}/{timeframe} and its newest row.

A request becomes a question here; `rows` answers it.
"""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from refresh_pipeline.api import frames
from refresh_pipeline.api.addressing import Address, find_series
from refresh_pipeline.api.encoding import Format, TimeStyle, format_of
from refresh_pipeline.api.frames import Column, Names, Window, columns_of
from refresh_pipeline.api.parameters import (
    MarketParameter,
    SinceParameter,
    UntilParameter,
    parsed_instant,
    parsed_time,
)
from refresh_pipeline.api.problems import Problem, ProblemError, invalid_parameter
from refresh_pipeline.api.rows import NewestRow, Question
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.market.export_spec import Layer
from refresh_pipeline.market.model import Market

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
AdjustedParameter = Annotated[bool, Query(description="Prices of before a split or dividend as if after it.")]
NamesParameter = Annotated[Names, Query(description="Whose column names.")]


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
    chosen = _chosen(service, address, layer, columns, names)
    question = NewestRow(address, layer, chosen, Window(1), None, Format.json, time, names)
    service.known.put(request, question)
    return await question.answer(service, request.headers)


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
    adjusted: AdjustedParameter = False,
) -> Response:
    """Rows of a series, oldest first: the newest `limit`, or those from `since` on."""
    service = service_of(request)
    address = find_series(service.markets, instrument, timeframe, market)
    kind = format or format_of(request.headers.get("accept", ""))
    moment = parsed_instant("as_of", as_of)
    chosen = _chosen(service, address, layer, columns, names, is_past=moment is not None)
    window = Window(limit, parsed_time("since", since), parsed_time("until", until))
    if adjusted and (layer is not Layer.candles or names is not Names.own or moment is not None):
        raise invalid_parameter("adjusted", "allowed with layer=candles and names=own, and without as_of", adjusted)
    question = Question(address, layer, chosen, window, moment, kind, time, names, adjusted)
    _refuse_too_many(question)
    service.known.put(request, question)
    return await question.answer(service, request.headers)


def _chosen(
    service: Service, address: Address, layer: Layer, columns: str | None, names: Names, *, is_past: bool = False
) -> Sequence[Column]:
    if names is Names.fx_refresh and layer in (Layer.indicators, Layer.joined):
        raise invalid_parameter("names", "allowed with layer candles or enhanced", names.value)
    if is_past and (layer is not Layer.candles or names is not Names.own):
        raise invalid_parameter("as_of", "allowed with layer=candles and names=own alone", layer.value)
    listed = _columns_of(service, address.market, layer, names)
    if is_past:
        past = frames.as_of_columns(address.market)
        listed = [column for column in listed if column.name in past]
    return frames.chosen_columns(listed, columns)


def _columns_of(service: Service, market: Market, layer: Layer, names: Names) -> Sequence[Column]:
    """All columns of a layer: one list for all questions, which are kept by the thousand."""
    key = (market.name, layer, names)
    if key not in service.columns:
        service.columns[key] = columns_of(market, layer, names)
    return service.columns[key]


def _refuse_too_many(question: Question) -> None:
    columns, limit = len(question.columns), question.window.limit
    if columns * limit > MOST_CELLS:
        allowed = MOST_CELLS // columns
        raise ProblemError(
            Problem.too_many_cells,
            f"limit: found {limit} rows of {columns} columns; allowed: {allowed} rows, or fewer columns",
            limit=allowed,
        )
