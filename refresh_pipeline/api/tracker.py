"""The routes of the tracker that this product replaces, `/api/v2`, answered from API snapshots.

Paths, methods and keys are the tracker's; times are in UTC, keys are masked, and what is unknown is 404.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import duckdb
import orjson
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from refresh_pipeline.api.answers import json_response
from refresh_pipeline.api.problems import Problem, ProblemError
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.api_files import load_usable, overrides, write_override
from refresh_pipeline.market.api_import import tracker_entry
from refresh_pipeline.market.apis import ApiQuestion, Collection, Override, overridden
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.market.partition_ranges import RANGE_END, RANGE_START
from refresh_pipeline.pipeline.job_names import snapshots_job_name
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.snapshots import ApiStatus, Snapshot

router = APIRouter(prefix="/api/v2", tags=["tracker"])

SHORTEST, LONGEST = 10, 604_800
Identifier = Annotated[str, Path(max_length=120, description="The API, as /api/v2/config/apis names it.")]


@dataclass(frozen=True, slots=True)
class Entry:
    """One question with its collection, as an override of it has it now."""

    collection: Collection
    question: ApiQuestion


async def entries_of(service: Service) -> dict[str, Entry]:
    """Every question of the enabled collections by its id; a second one of an id has its collection's name before."""

    def read() -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for collection in load_usable(service.settings)[0]:
            changed = overrides(service.settings, collection.name)
            for question in collection.questions:
                name = question.id if question.id not in entries else f"{collection.name}.{question.id}"
                entries[name] = Entry(collection, overridden(question, changed))
        return entries

    return await asyncio.to_thread(read)


async def _entry(service: Service, name: str) -> Entry:
    entries = await entries_of(service)
    if name not in entries:
        raise ProblemError(Problem.unknown_api, f"found {name!r}; /api/v2/config/apis lists the APIs")
    return entries[name]


@router.get("/config/apis")
async def config_apis(request: Request) -> Response:
    """Every API of the enabled collections; keys are masked."""
    entries = await entries_of(service_of(request))
    apis = {name: tracker_entry(name, entry.question.api) for name, entry in entries.items()}
    return json_response({"apis": apis, "total": len(apis)})


@router.get("/config/apis/category/{category}")
async def config_category(
    request: Request, category: Annotated[str, Path(max_length=100, description="A category of /config/categories.")]
) -> Response:
    """The APIs of one category."""
    entries = await entries_of(service_of(request))
    apis = [tracker_entry(name, entry.question.api) for name, entry in entries.items()]
    chosen = [api for api in apis if api["category"] == category]
    if not chosen:
        raise ProblemError(Problem.unknown_api, f"category: found {category!r}; see /api/v2/config/categories")
    return json_response({"category": category, "apis": chosen, "count": len(chosen)})


@router.get("/config/apis/{api_id}")
async def config_api(request: Request, api_id: Identifier) -> Response:
    """One API."""
    entry = await _entry(service_of(request), api_id)
    return json_response(tracker_entry(api_id, entry.question.api))


@router.get("/config/categories")
async def config_categories(request: Request) -> Response:
    """The categories with the number and the names of their APIs."""
    stats: dict[str, dict[str, Any]] = {}
    for name, entry in (await entries_of(service_of(request))).items():
        category = tracker_entry(name, entry.question.api)["category"]
        found = stats.setdefault(category, {"count": 0, "apis": []})
        found["count"] += 1
        found["apis"].append(name)
    return json_response({"categories": sorted(stats), "stats": stats})


@router.get("/config/export")
async def config_export(request: Request) -> Response:
    """The catalogue as a file; keys are masked."""
    entries = await entries_of(service_of(request))
    apis = [tracker_entry(name, entry.question.api) for name, entry in entries.items()]
    return _file({"apis": apis, "total": len(apis)}, "config_export.json")


@router.get("/schedule/tasks")
async def schedule_tasks(request: Request) -> Response:
    """Every API with its interval and its last and next update."""
    return json_response(await _tasks(service_of(request)))


@router.get("/schedule/tasks/{api_id}")
async def schedule_task(request: Request, api_id: Identifier) -> Response:
    """One API with its interval and its last and next update."""
    service = service_of(request)
    await _entry(service, api_id)
    return json_response((await _tasks(service))[api_id])


class TaskBody(BaseModel):
    """The body of PUT /schedule/tasks/{id}."""

    model_config = ConfigDict(extra="forbid")

    interval: int | None = Field(default=None, ge=SHORTEST, le=LONGEST)
    enabled: bool | None = None


@router.put("/schedule/tasks/{api_id}")
async def change_task(
    request: Request,
    api_id: Identifier,
    interval: Annotated[int | None, Query(ge=SHORTEST, le=LONGEST, description="Seconds between two updates.")] = None,
    enabled: Annotated[bool | None, Query(description="Whether the API is asked.")] = None,
    body: TaskBody | None = None,
) -> Response:
    """Change the interval or the switch of an API; the next tick goes by it."""
    service = service_of(request)
    entry = await _entry(service, api_id)
    seconds = interval if interval is not None else body.interval if body else None
    switch = enabled if enabled is not None else body.enabled if body else None
    changed = Override(None if seconds is None else timedelta(seconds=seconds), switch)
    await asyncio.to_thread(write_override, service.settings, entry.collection.name, entry.question.id, changed)
    task = (await _tasks(service))[api_id]
    return json_response({"status": "success", "message": f"Schedule of {api_id} updated", "task": task})


@router.post("/schedule/tasks/{api_id}/force-update")
async def force_update(request: Request, api_id: Identifier) -> Response:
    """Ask one API now, by a run of its collection."""
    service = service_of(request)
    entry = await _entry(service, api_id)
    tags = {RANGE_START: entry.question.id, RANGE_END: entry.question.id, "refresh/asked_by": "api"}
    run = await service.dagster.launch(snapshots_job_name(entry.collection.name), tags, {})
    task = (await _tasks(service))[api_id]
    content = {"status": "success", "message": f"Update of {api_id} started", "task": task, "run_id": run.id}
    return json_response(content, status=202)


@router.get("/schedule/export")
async def schedule_export(request: Request) -> Response:
    """The schedules as a file."""
    return _file({"schedules": await _tasks(service_of(request))}, "schedule_export.json")


@router.get("/data/cached")
async def data_cached(request: Request) -> Response:
    """The newest payload of every API that has one."""
    service = service_of(request)
    entries = await entries_of(service)
    newest = await _newest(service, entries)
    return json_response({name: _cached(name, snapshot) for name, snapshot in newest.items()})


@router.get("/data/cached/{api_id}")
async def data_cached_one(request: Request, api_id: Identifier) -> Response:
    """The newest payload of one API."""
    service = service_of(request)
    entry = await _entry(service, api_id)
    newest = await _newest(service, {api_id: entry})
    if not newest:
        raise ProblemError(Problem.unknown_api, f"{api_id} has no payload yet; POST .../force-update asks for one")
    return json_response(_cached(api_id, newest[api_id]))


@router.get("/data/history/{api_id}")
async def data_history(
    request: Request,
    api_id: Identifier,
    limit: Annotated[int, Query(ge=1, le=1000, description="Payloads at most, newest first.")] = 100,
) -> Response:
    """The newest payloads of one API that differ, newest first."""
    service = service_of(request)
    entry = await _entry(service, api_id)
    payloads = await payloads_of(service, api_id, entry, limit)
    return json_response({"api_id": api_id, "history": payloads, "count": len(payloads)})


async def payloads_of(service: Service, name: str, entry: Entry, limit: int) -> list[dict[str, Any]]:
    """The newest payloads of one API, newest first, as the tracker shows them."""
    collection, question = entry.collection.name, entry.question.id

    def read(connection: duckdb.DuckDBPyConnection) -> list[Snapshot]:
        known = snapshots.has_tables(connection, collection)
        return snapshots.history(connection, collection, question, limit) if known else []

    return [_cached(name, each) for each in await service.reader.ask(read)]


@router.get("/data/statistics")
async def data_statistics(request: Request) -> Response:
    """How many payloads are stored, and from when to when."""
    service = service_of(request)
    entries = await entries_of(service)
    counts = await _counts(service, entries)
    statistics = {
        name: {"record_count": count, "oldest": iso_utc(oldest), "newest": iso_utc(newest)}
        for name, (count, oldest, newest) in counts.items()
    }
    total = sum(each["record_count"] for each in statistics.values())
    return json_response(
        {
            "cached_apis": len(statistics),
            "total_history_records": total,
            "apis_with_history": len(statistics),
            "api_statistics": statistics,
        }
    )


@router.get("/status")
async def status(request: Request) -> Response:
    """What is configured, scheduled and stored."""
    service = service_of(request)
    entries = await entries_of(service)
    counts = await _counts(service, entries)
    categories = {tracker_entry(name, entry.question.api)["category"] for name, entry in entries.items()}
    realtime = sum(entry.question.api.every < timedelta(minutes=1) for entry in entries.values())
    return json_response(
        {
            "timestamp": iso_utc(service.now()),
            "services": {
                "config_loader": {
                    "apis_loaded": len(entries),
                    "categories": len(categories),
                    "schedules": len(entries),
                },
                "scheduler": {
                    "running": await _is_running(service),
                    "total_tasks": len(entries),
                    "realtime_tasks": realtime,
                    "cache_size": len(counts),
                },
                "persistence": {
                    "cached_apis": len(counts),
                    "total_history_records": sum(count for count, *_ in counts.values()),
                },
                "websocket": {"connections": sum(service.listeners.values())},
            },
        }
    )


@router.get("/health")
async def health(request: Request) -> Response:
    """Whether the parts work: 503 where the scheduler does not."""
    service = service_of(request)
    running = await _is_running(service)
    parts = {"config": True, "scheduler": running, "persistence": True, "websocket": True}
    content = {"status": "healthy" if running else "degraded", "timestamp": iso_utc(service.now()), "services": parts}
    return json_response(content, status=200 if running else 503)


async def _is_running(service: Service) -> bool:
    try:
        daemons = await service.dagster.daemons()
    except ProblemError:
        return False
    return bool(daemons) and all(daemon.get("healthy") for daemon in daemons if daemon.get("required", True))


async def _tasks(service: Service) -> dict[str, dict[str, Any]]:
    entries = await entries_of(service)
    statuses = await service.reader.ask(lambda c: _statuses(c, _collections(entries)))
    return {
        name: _task(name, entry.question, statuses.get((entry.collection.name, entry.question.id)))
        for name, entry in entries.items()
    }


def _collections(entries: Mapping[str, Entry]) -> list[str]:
    return list(dict.fromkeys(entry.collection.name for entry in entries.values()))


def _statuses(connection: duckdb.DuckDBPyConnection, collections: Sequence[str]) -> dict[tuple[str, str], ApiStatus]:
    return {
        (name, status.api): status
        for name in collections
        if snapshots.has_tables(connection, name)
        for status in snapshots.statuses(connection, name).values()
    }


def _task(name: str, question: ApiQuestion, status: ApiStatus | None) -> dict[str, Any]:
    entry = tracker_entry(name, question.api)
    return {
        "api_id": name,
        "name": entry["name"],
        "category": entry["category"],
        "interval": int(question.api.every.total_seconds()),
        "update_type": entry["update_type"],
        "enabled": question.api.enabled,
        "last_update": iso_utc(status.attempted_at) if status else None,
        "next_update": _next(question, status),
        "last_status": None if status is None else "failed" if status.failures else "success",
        "success_count": status.successes if status else 0,
        "error_count": status.errors if status else 0,
        "last_error": status.reason if status and status.failures else None,
    }


def _next(question: ApiQuestion, status: ApiStatus | None) -> str | None:
    if status is None or not question.api.enabled:
        return None
    return iso_utc(status.next_at(question.api.every))


async def _newest(service: Service, entries: Mapping[str, Entry]) -> dict[str, Snapshot]:
    def read(connection: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], Snapshot]:
        found = {}
        for name in _collections(entries):
            if snapshots.has_tables(connection, name):
                asked = [entry.question.id for entry in entries.values() if entry.collection.name == name]
                newest = snapshots.newest(connection, name, asked)
                found |= {(name, api): snapshot for api, snapshot in newest.items()}
        return found

    found = await service.reader.ask(read)
    keys = {name: (entry.collection.name, entry.question.id) for name, entry in entries.items()}
    return {name: found[key] for name, key in keys.items() if key in found}


async def _counts(service: Service, entries: Mapping[str, Entry]) -> dict[str, tuple[int, datetime, datetime]]:
    def read(connection: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], tuple[int, datetime, datetime]]:
        return {
            (name, api): (count, oldest, newest)
            for name in _collections(entries)
            if snapshots.has_tables(connection, name)
            for api, count, oldest, newest in snapshots.counts(connection, name)
        }

    found = await service.reader.ask(read)
    keys = {name: (entry.collection.name, entry.question.id) for name, entry in entries.items()}
    return {name: found[key] for name, key in keys.items() if key in found}


def _cached(name: str, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "api_id": name,
        "timestamp": _iso(snapshot.fetched_at),
        "data": _content(snapshot.payload),
        "metadata": {
            "seen_at": _iso(snapshot.seen_at),
            "status": snapshot.status,
            "url": snapshot.url_used,
            "content_type": snapshot.content_type,
            "bytes": snapshot.bytes,
            "content_hash": snapshot.content_hash,
        },
    }


def _content(payload: str) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        return payload


def _iso(moment: datetime) -> str:
    return moment.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")


def _file(content: Mapping[str, Any], name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(orjson.dumps(content, option=orjson.OPT_INDENT_2), media_type="application/json", headers=headers)
