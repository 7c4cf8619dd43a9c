"""What API snapshots held, as rows: GET /snapshots, and the columns of one API's payloads over time."""

import asyncio
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import duckdb
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from refresh_pipeline.api.answers import Body, answer, json_response
from refresh_pipeline.api.encoding import BINARY, MEDIA_TYPES, Format, TimeStyle, encoded, format_of, tag_of
from refresh_pipeline.api.frames import Frame
from refresh_pipeline.api.parameters import SinceParameter, UntilParameter, parsed_instant
from refresh_pipeline.api.problems import Problem, ProblemError
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.api_files import load_usable
from refresh_pipeline.market.apis import Collection
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.snapshots import KnownRows

router = APIRouter(prefix="/api/v1", tags=["snapshots"])

# Bytes of payloads in one answer.
MOST_BYTES = 32 * 1024 * 1024
Row = dict[str, Any]


@router.get("/snapshots")
async def listed(request: Request) -> Response:
    """Every API of the enabled collections, with the number and the times of its stored payloads."""
    service = service_of(request)
    rows: list[Row] = []
    for collection in await _collections(service):
        found = await service.reader.ask(lambda c, n=collection.name: _counts(c, n))
        rows += [
            {
                "collection": collection.name,
                "api": question.id,
                "category": question.api.category,
                "columns": list(question.api.columns) or ["payload"],
                "payloads": count,
                "first_fetched_at": None if oldest is None else iso_utc(oldest),
                "last_fetched_at": None if newest is None else iso_utc(newest),
            }
            for question in collection.questions
            for count, oldest, newest in [found.get(question.id, (0, None, None))]
        ]
    return json_response({"records": len(rows), "snapshots": rows})


@router.get("/snapshots/{collection}/{api}")
async def rows(
    request: Request,
    *,
    collection: Annotated[str, Path(max_length=40, description="The collection.")],
    api: Annotated[str, Path(max_length=80, description="The API, as GET /snapshots lists it.")],
    since: SinceParameter = None,
    until: UntilParameter = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="The number of payloads at most.")] = 100,
    format: Annotated[  # noqa: A002 (the parameter's name in the address)
        Format | None, Query(description="The format; without it, Accept decides.")
    ] = None,
) -> Response:
    """The columns of an API's payloads, oldest first: the newest `limit`, or those first seen from `since` on."""
    service, kind = service_of(request), format or format_of(request.headers.get("accept", ""))
    await _require_known(service, collection, api)
    bounds = (parsed_instant("since", since), parsed_instant("until", until))
    found = await service.reader.ask(lambda c: _rows(c, collection, api, bounds, limit))
    following = (
        None
        if found.following is None
        else _next(collection, api, found.following, until=bounds[1], limit=limit, kind=kind)
    )
    frame = Frame(found.arrays, found.types)
    head = {"collection": collection, "api": api, "records": len(frame), "next": following}
    content = await asyncio.to_thread(encoded, frame, head, kind, TimeStyle.iso, fx_refresh=False)
    headers = {"X-Records": str(len(frame))}
    if following is not None:
        headers["Link"] = f'<{following}>; rel="next"'
    # Parquet files of the same rows may differ: the tag stands for the rows.
    tag = tag_of(
        collection,
        api,
        kind,
        bounds,
        limit,
        following,
        *(array.tobytes() if array.dtype.kind != "O" else tuple(array.tolist()) for array in found.arrays.values()),
    )
    return answer(request, Body(content, MEDIA_TYPES[kind], tag, headers), may_pack=kind not in BINARY)


async def _collections(service: Service) -> list[Collection]:
    return (await asyncio.to_thread(load_usable, service.settings))[0]


async def _require_known(service: Service, collection: str, api: str) -> None:
    names = {one.name: [question.id for question in one.questions] for one in await _collections(service)}
    if api not in names.get(collection, ()):
        detail = f"found {collection}/{api}; GET /api/v1/snapshots lists the APIs"
        raise ProblemError(Problem.unknown_api, detail, allowed=names.get(collection) or list(names))


def _counts(connection: duckdb.DuckDBPyConnection, collection: str) -> dict[str, tuple[int, datetime, datetime]]:
    if not snapshots.has_tables(connection, collection):
        return {}
    return {api: (count, oldest, newest) for api, count, oldest, newest in snapshots.counts(connection, collection)}


def _rows(
    connection: duckdb.DuckDBPyConnection,
    collection: str,
    api: str,
    bounds: tuple[datetime | None, datetime | None],
    limit: int,
) -> KnownRows:
    if not snapshots.has_tables(connection, collection):
        return KnownRows(dict.fromkeys(("fetched_at", "seen_at"), snapshots.NO_TIMES), {})
    newest = snapshots.newest_heads(connection, collection, [api]).get(api)
    if newest is not None and newest.bytes * limit > MOST_BYTES:
        allowed = max(MOST_BYTES // newest.bytes, 1)
        if limit > allowed:
            detail = f"limit: found {limit} payloads of some {newest.bytes} bytes; allowed: {allowed}"
            raise ProblemError(Problem.too_many_cells, detail, limit=allowed)
    return snapshots.rows_of(connection, collection, api, since=bounds[0], until=bounds[1], limit=limit)


def _next(collection: str, api: str, following: datetime, *, until: datetime | None, limit: int, kind: Format) -> str:
    asked = {"since": iso_utc(following), "until": None if until is None else iso_utc(until)}
    query = {**asked, "limit": limit, "format": kind.value}
    shown = urlencode({name: value for name, value in query.items() if value is not None})
    return f"/api/v1/snapshots/{quote(collection)}/{quote(api)}?{shown}"
