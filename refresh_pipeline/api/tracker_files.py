"""The tracker's commands, `/api/v2`: exports and their download, cleanup, backup, and APIs of one's own.

A download is looked up by the name of an export; nothing that a client sends is joined to a path.
"""

import asyncio
import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path as FilePath
from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Body, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse, Response

from refresh_pipeline.api.answers import json_response
from refresh_pipeline.api.problems import Problem, ProblemError
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.api.tracker import Entry, entries_of, payloads_of
from refresh_pipeline.api_files import CUSTOM, custom_file
from refresh_pipeline.market.apis import ApiError, parse_collection
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.market.plain_yaml import plain_yaml
from refresh_pipeline.pipeline.job_names import BACKUP
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.connection import WarehouseBusy, connect, transaction

router = APIRouter(prefix="/api/v2", tags=["tracker"])

MOST_PAYLOADS = 1000
# Seconds that a cleanup waits for the warehouse's lock.
PATIENCE = 5.0
Names = Annotated[list[Annotated[str, Field(max_length=120)]], Field(max_length=1000)]
Confirm = Annotated[bool, Query(description="Deletes data only with confirm=true.")]


class ExportBody(BaseModel):
    """The body of an export: the APIs, all without any, and whether earlier payloads come along."""

    model_config = ConfigDict(extra="forbid")

    api_ids: Names | None = None
    include_history: bool = False


class ApiBody(BaseModel):
    """An API of one's own, in the tracker's words."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(max_length=80)
    base_url: str = Field(max_length=2000)
    name: str = Field(default="", max_length=200)
    category: str = Field(default="", max_length=100)
    docs_url: str = Field(default="", max_length=2000)
    notes: str = Field(default="", max_length=2000)
    interval: int = Field(default=3600, ge=10, le=604_800)
    enabled: bool = True


@router.post("/export/json")
async def export_json(
    request: Request,
    body: Annotated[Names | ExportBody | None, Body(description="APIs, or api_ids and include_history.")] = None,
    include_history: Annotated[bool, Query(description="Whether earlier payloads come along.")] = False,
) -> Response:
    """Write payloads into a JSON file to download."""
    service = service_of(request)
    names = body.api_ids if isinstance(body, ExportBody) else body
    history = include_history or (isinstance(body, ExportBody) and body.include_history)
    payloads = await _payloads(service, names, MOST_PAYLOADS if history else 1)
    content = {name: rows if history else rows[0] for name, rows in payloads.items()}
    return await _written(service, "export", "json", json.dumps(content, indent=2, ensure_ascii=False))


@router.post("/export/csv")
async def export_csv(
    request: Request,
    body: Annotated[Names | ExportBody | None, Body(description="APIs; all without any.")] = None,
    flatten: Annotated[bool, Query(description="Whether nested values get columns of their own.")] = True,
) -> Response:
    """Write the newest payloads into a CSV file to download."""
    service = service_of(request)
    names = body.api_ids if isinstance(body, ExportBody) else body
    payloads = await _payloads(service, names, 1)
    rows = [row for found in payloads.values() for row in found]
    return await _written(service, "export", "csv", _csv(rows, flatten=flatten))


@router.post("/export/history/{api_id}")
async def export_history(
    request: Request, api_id: Annotated[str, Path(max_length=120, description="The API.")]
) -> Response:
    """Write every stored payload of one API into a JSON file to download."""
    service = service_of(request)
    payloads = await _payloads(service, [api_id], MOST_PAYLOADS)
    content = {"api_id": api_id, "history": payloads.get(api_id, [])}
    return await _written(service, "history", "json", json.dumps(content, indent=2, ensure_ascii=False))


@router.get("/download")
async def download(
    request: Request, file: Annotated[str, Query(max_length=200, description="The name that an export gave.")]
) -> Response:
    """A file of an export, by its name."""
    folder = _folder(service_of(request))
    found = {path.name: path for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}
    if file not in found:
        raise ProblemError(Problem.unknown_file, f"found {file!r}; an export gives the name of its file")
    return FileResponse(found[file], filename=file)


@router.post("/backup")
async def backup(request: Request) -> Response:
    """Start a run that backs everything up."""
    run = await service_of(request).dagster.launch(BACKUP, {"refresh/asked_by": "api"}, {})
    return json_response({"status": "success", "message": "Backup started", "run_id": run.id}, status=202)


@router.post("/restore")
async def restore() -> Response:
    """A restore is a command of the machine itself."""
    detail = "a restore replaces the warehouse while nothing else uses it; stop refresh up, then run the command"
    raise ProblemError(Problem.not_over_http, detail, command="refresh restore")


@router.post("/cleanup/cache")
async def cleanup_cache(request: Request, confirm: Confirm = False) -> Response:
    """Delete nothing: the newest payload of an API is what is known of it."""
    _require(confirm)
    return json_response({"status": "success", "message": "The newest payloads are kept", "removed_count": 0})


@router.post("/cleanup/history")
async def cleanup_history(
    request: Request,
    confirm: Confirm = False,
    api_id: Annotated[str | None, Query(max_length=120, description="One API; all without it.")] = None,
) -> Response:
    """Delete all payloads but the newest one of each API."""
    _require(confirm)
    return await _cleaned(service_of(request), api_id, 0)


@router.post("/cleanup/old-data")
async def cleanup_old(
    request: Request,
    confirm: Confirm = False,
    days: Annotated[int, Query(ge=1, le=10_000, description="Days to keep.")] = 7,
) -> Response:
    """Delete payloads that were seen last so many days ago, never the newest one of an API."""
    _require(confirm)
    return await _cleaned(service_of(request), None, days)


@router.post("/config/apis")
async def add_api(request: Request, body: ApiBody) -> Response:
    """Add an API to the collection `custom`."""
    service = service_of(request)
    api = {"url": body.base_url, "every": f"{body.interval}s", "enabled": body.enabled, "name": body.name}
    api |= {"category": body.category, "docs": body.docs_url, "notes": body.notes}
    await asyncio.to_thread(_change_custom, service, lambda apis: {**apis, body.id: api})
    message = f"{body.id} is in the collection custom; refresh up asks it from its next tick on"
    return json_response({"status": "success", "message": message}, status=201)


@router.delete("/config/apis/{api_id}")
async def remove_api(
    request: Request, api_id: Annotated[str, Path(max_length=120, description="An API of the collection custom.")]
) -> Response:
    """Remove an API from the collection `custom`; others are in files."""
    service = service_of(request)

    def without(apis: Mapping[str, Any]) -> Mapping[str, Any]:
        if api_id not in apis:
            raise ProblemError(Problem.unknown_api, f"found {api_id!r}, allowed: an API of the collection custom")
        return {name: api for name, api in apis.items() if name != api_id}

    await asyncio.to_thread(_change_custom, service, without)
    return json_response({"status": "success", "message": f"{api_id} is removed"})


def _change_custom(service: Service, change: Any) -> None:
    file = custom_file(service.settings)
    content = _custom_content(file) if file.is_file() else {"name": "custom", "apis": {}}
    content["apis"] = dict(change(content.get("apis") or {}))
    if not content["apis"]:
        file.unlink(missing_ok=True)
        return
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    try:
        parse_collection(text, CUSTOM)
    except ApiError as error:
        raise ProblemError(Problem.invalid_body, str(error), errors=[]) from error
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _custom_content(file: FilePath) -> dict[str, Any]:
    text = file.read_text(encoding="utf-8")
    try:
        parse_collection(text, CUSTOM)
    except ApiError as error:
        raise ProblemError(Problem.invalid_body, f"the file that is there is wrong: {error}", errors=[]) from error
    return plain_yaml(text)


def _require(confirm: bool) -> None:
    if not confirm:
        raise ProblemError(Problem.confirmation_needed, "this deletes stored payloads; add ?confirm=true")


async def _cleaned(service: Service, api_id: str | None, days: int) -> Response:
    entries = await _chosen(service, None if api_id is None else [api_id])
    before = service.now() - timedelta(days=days) if days else None

    def delete() -> int:
        with connect(service.settings.warehouse, patience=PATIENCE) as connection, transaction(connection):
            return sum(
                snapshots.delete_history(connection, entry.collection.name, entry.question.id, before)
                for entry in entries.values()
                if snapshots.has_tables(connection, entry.collection.name)
            )

    try:
        count = await asyncio.to_thread(delete)
    except WarehouseBusy as error:
        raise ProblemError(Problem.busy, str(error), headers={"Retry-After": "5"}) from error
    return json_response({"status": "success", "message": f"{count} payloads deleted", "removed_count": count})


async def _chosen(service: Service, names: Sequence[str] | None) -> dict[str, Entry]:
    entries = await entries_of(service)
    if unknown := [name for name in names or () if name not in entries]:
        raise ProblemError(Problem.unknown_api, f"found {unknown[0]!r}; /api/v2/config/apis lists the APIs")
    return {name: entry for name, entry in entries.items() if not names or name in names}


async def _payloads(service: Service, names: Sequence[str] | None, limit: int) -> dict[str, list[dict[str, Any]]]:
    entries = await _chosen(service, names)
    found = {name: await payloads_of(service, name, entry, limit) for name, entry in entries.items()}
    return {name: payloads for name, payloads in found.items() if payloads}


def _folder(service: Service) -> FilePath:
    return service.settings.data / "apis" / "exports"


async def _written(service: Service, kind: str, ending: str, text: str) -> Response:
    folder, stamp = _folder(service), iso_utc(service.now()).translate({ord(letter): None for letter in "-:"})

    def write() -> str:
        folder.mkdir(parents=True, exist_ok=True)
        number = 1
        while (path := folder / f"{kind}_{stamp}_{number}.{ending}").exists():
            number += 1
        path.write_text(text, encoding="utf-8")
        return path.name

    name = await asyncio.to_thread(write)
    url = f"/api/v2/download?file={name}"
    return json_response({"status": "success", "filepath": name, "download_url": url})


def _csv(rows: Sequence[Mapping[str, Any]], *, flatten: bool) -> str:
    flat = [
        {
            "api_id": row["api_id"],
            "timestamp": row["timestamp"],
            **(_flat(row["data"]) if flatten else {"data": row["data"]}),
        }
        for row in rows
    ]
    names = list(dict.fromkeys(name for row in flat for name in row)) or ["api_id", "timestamp"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in flat)
    return text.getvalue()


def _flat(value: Any, name: str = "data") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {key: part for inner, content in value.items() for key, part in _flat(content, f"{name}.{inner}").items()}


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
