"""Export files as the manifest lists them, and uploads. Files are sent from the disk, and by its names alone."""

import asyncio
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import duckdb
from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from starlette.responses import FileResponse, Response, StreamingResponse

from refresh_pipeline.api.addressing import chosen_markets
from refresh_pipeline.api.answers import tagged_json
from refresh_pipeline.api.encoding import matches
from refresh_pipeline.api.parameters import MarketParameter
from refresh_pipeline.api.problems import Problem, ProblemError
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.destinations.upload_url import OFF
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.market.destination_spec import UPLOADS, FileSpec
from refresh_pipeline.market.model import Market
from refresh_pipeline.pipeline.uploads_off import default_folder, markets_without_uploads
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse.queries import has_tables
from refresh_pipeline.warehouse.schema import Table, qualified

router = APIRouter(prefix="/api/v1", tags=["files"])

EXPORT_FIELDS = ("path", "rows", "bytes", "sha256", "exported_at")
FURTHER = ("export", "layer", "format", "instrument", "timeframe", "first_open_time", "last_open_time")
UPLOAD_FIELDS = ("destination", "path", "url", "bytes", "sha256", "content_hash", "hash_name", "uploaded_at")
Row = dict[str, Any]


@router.get("/exports")
async def exports(request: Request, market: MarketParameter = None) -> Response:
    """The manifest of export files; `path` is the address below /files."""
    service = service_of(request)
    listed: list[Row] = []
    for one in chosen_markets(service.markets, market):
        listed += await manifest_of(service, one)
    return tagged_json(request, {"records": len(listed), "exports": listed})


@router.get("/files/{path:path}")
async def file(
    request: Request, path: Annotated[str, PathParameter(description="A path that the manifest lists.")]
) -> Response:
    """One export file; with Range a part of it."""
    service = service_of(request)
    entry = await _entry(service, path)
    name = service.settings.exports_dir / entry["path"]
    found = await asyncio.to_thread(_stat, name)
    if found is None:
        raise ProblemError(Problem.unknown_file, f"{path}: the manifest lists it, and the file is gone; publish again")
    tag = f'"{entry["sha256"]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Accept-Ranges": "bytes"}
    known = request.headers.get("if-none-match")
    if known is not None and matches(known, tag):
        return Response(None, 304, headers)
    is_longer = bool(entry.get("block_hashes")) and found.st_size > entry["bytes"]
    listed = os.stat_result((*found[:6], entry["bytes"], *found[7:10])) if is_longer else found
    if is_longer and "range" not in request.headers:
        headers |= {"Content-Disposition": f'attachment; filename="{name.name}"', "Content-Length": str(entry["bytes"])}
        return StreamingResponse(_first_bytes(name, entry["bytes"]), 200, headers)
    return FileResponse(
        name, headers=headers, filename=name.name, content_disposition_type="attachment", stat_result=listed
    )


def _stat(path: Path) -> os.stat_result | None:
    return path.stat() if path.is_file() else None


def _first_bytes(path: Path, count: int) -> Iterator[bytes]:
    """A file that grows, as the manifest has it: rows that were appended since are of another entity tag."""
    with path.open("rb") as file:
        while count and (piece := file.read(min(count, 64 * 1024))):
            count -= len(piece)
            yield piece


@router.get("/uploads")
async def uploads(request: Request, market: MarketParameter = None) -> Response:
    """Every file at every destination."""
    service = service_of(request)
    listed: list[Row] = []
    for one in chosen_markets(service.markets, market):
        listed += await service.reader.ask(lambda c, m=one: uploaded_rows(c, m))
    return tagged_json(request, {"records": len(listed), "uploads": listed})


@router.get("/upload/status")
async def upload_status(request: Request) -> Response:
    """Whether files arrive at their destinations, and why uploads are off."""
    service = service_of(request)
    rows, failed = [], []
    for one in service.markets:
        rows += await service.reader.ask(lambda c, m=one: uploaded_rows(c, m))
        failed += await service.reader.ask(lambda c, m=one: failed_uploads(c, m))
    return tagged_json(request, _status(service, rows, failed))


async def manifest_of(service: Service, market: Market) -> list[Row]:
    """The manifest of a market's export files."""
    return await service.reader.ask(lambda c: manifest_rows(c, market))


def manifest_rows(connection: duckdb.DuckDBPyConnection, market: Market) -> list[Row]:
    """The rows of the table `exports` as JSON has them."""
    if not has_tables(connection, market.name):
        return []
    names = (*EXPORT_FIELDS, *FURTHER)
    rows = connection.execute(
        f"select {', '.join(names)} from {qualified(market.name, Table.exports)} order by path"
    ).fetchall()
    return [_shown(names, row) | {"market": market.name} for row in rows]


def uploaded_rows(connection: duckdb.DuckDBPyConnection, market: Market) -> list[Row]:
    """The rows of the table `uploads` as JSON has them."""
    if not has_tables(connection, market.name):
        return []
    names = (*UPLOAD_FIELDS, "instrument", "timeframe")
    rows = connection.execute(
        f"select {', '.join(names)} from {qualified(market.name, Table.uploads)} order by destination, path"
    ).fetchall()
    return [_shown(names, row) | {"market": market.name} for row in rows]


def failed_uploads(connection: duckdb.DuckDBPyConnection, market: Market) -> list[Row]:
    """The series whose last upload failed."""
    if not has_tables(connection, market.name):
        return []
    rows = connection.execute(
        f"select asset, instrument, timeframe, reason, attempted_at from {qualified(market.name, Table.outcomes)} "
        "where outcome = 'failed' and (asset = 'uploads' or asset like '%\\_upload' escape '\\' "
        "or asset like '%\\_redis' escape '\\') order by attempted_at"
    ).fetchall()
    names = ("asset", "instrument", "timeframe", "reason", "attempted_at")
    return [_shown(names, row) | {"market": market.name} for row in rows]


def _shown(names: Sequence[str], row: Sequence[Any]) -> Row:
    return {
        name: iso_utc(value) if name.endswith(("_at", "_time")) and value is not None else value
        for name, value in zip(names, row, strict=True)
    }


async def _entry(service: Service, path: str) -> Row:
    for market in service.markets:
        found = await service.reader.ask(lambda c, m=market: _listed(c, m, path))
        if found is not None and (service.settings.exports_dir / found["path"]).resolve().is_relative_to(
            service.settings.exports_dir.resolve()
        ):
            return found
    raise ProblemError(Problem.unknown_file, f"path: found {path!r}; /api/v1/exports lists the files")


def _listed(connection: duckdb.DuckDBPyConnection, market: Market, path: str) -> Row | None:
    if not has_tables(connection, market.name):
        return None
    # Every column: the manifest of an older file lacks `block_hashes` until its next refresh.
    answer = connection.execute(f"select * from {qualified(market.name, Table.exports)} where path = ? limit 1", [path])
    names = [column[0] for column in answer.description or ()]
    return next((dict(zip(names, row, strict=True)) for row in answer.fetchall()), None)


def uploads_files(settings: Settings, markets: Sequence[Market]) -> bool:
    """Whether a market's export files go to a destination."""
    further = (spec for market in markets for name, spec in market.destinations.items() if name != UPLOADS)
    return len(markets_without_uploads(settings, markets)) < len(markets) or any(
        isinstance(spec, FileSpec) for spec in further
    )


def _status(service: Service, rows: Sequence[Row], failed: Sequence[Row]) -> Row:
    settings = service.settings
    url = settings.upload_url or ""
    has_dropbox = bool(settings.dropbox_refresh_token or settings.dropbox_access_token)
    by_destination: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_destination.setdefault((row["market"], row["destination"]), []).append(row)
    faults = [
        f"{row['market']} {row['asset']} {row['instrument']} {row['timeframe']}: {row['reason']}" for row in failed
    ]
    without = {market.name for market in markets_without_uploads(settings, service.markets)}
    is_off = len(without) == len(service.markets)
    shown = _plain(url) or ("dropbox:///" if has_dropbox else None if is_off else default_folder(settings).as_uri())
    return {
        "upload_enabled": uploads_files(settings, service.markets),
        "upload_off": OFF if without else None,
        "dropbox_configured": has_dropbox,
        "upload_path_current": shown,
        "upload_path_full": shown,
        "last_upload": max((row["uploaded_at"] for row in rows), default=None),
        "upload_errors": faults,
        "timestamp": iso_utc(service.now()),
        "destinations": [
            {
                "market": market,
                "destination": name,
                "enabled": name != UPLOADS or market not in without,
                "files": len(files),
                "bytes": sum(row["bytes"] or 0 for row in files),
                "last_upload": max(row["uploaded_at"] for row in files),
                "failed": sum(row["market"] == market for row in failed),
            }
            for (market, name), files in by_destination.items()
        ],
    }


def _plain(url: str) -> str:
    """A destination's URL without a password, a query or an access key."""
    return re.sub(r"[?#].*$", "", re.sub(r"(?<=//)[^/@]*@", "", url))
