"""API snapshots as the warehouse holds them, in the shapes of the tracker's messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import duckdb
import orjson

from refresh_pipeline.api.dagster_client import DagsterClient
from refresh_pipeline.api.news import News, Topic
from refresh_pipeline.api.reading import Reader
from refresh_pipeline.api_files import custom_file, load_usable, overrides, write_override
from refresh_pipeline.instance.file_states import file_states
from refresh_pipeline.market.apis import ApiQuestion, Collection, Override, overridden
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.market.partition_ranges import RANGE_END, RANGE_START
from refresh_pipeline.pipeline.job_names import snapshots_job_name
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.snapshots import ApiStatus, Snapshot
from refresh_pipeline.warehouse.versions import Change

# Tags of a run that was asked for here.
ASKED_BY = "refresh/asked_by"
Row = dict[str, Any]


@dataclass(slots=True)
class StoredSnapshots:
    """The newest payloads and the schedules of the loaded collections."""

    settings: Settings
    loaded: Sequence[Collection]
    reader: Reader
    dagster: DagsterClient
    _custom: Mapping[str, tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._custom = file_states([custom_file(self.settings)])

    @property
    def collections(self) -> Sequence[Collection]:
        """The loaded collections; APIs that commands have added or removed meanwhile count at once."""
        state = file_states([custom_file(self.settings)])
        if state != self._custom:
            self._custom, self.loaded = state, load_usable(self.settings)[0]
        return self.loaded

    def knows(self, api_id: str) -> bool:
        """Whether there is such an API."""
        return self._found(api_id) is not None

    async def newest(self, api_id: str | None = None) -> Mapping[str, Any]:
        """The newest payload by API: of one, or of all."""
        rows: Row = {}
        for collection in self.collections:
            wanted = [one for one in collection.questions if api_id in (None, one.id)]
            if wanted:
                stored = await self.reader.ask(lambda c, n=collection.name, w=wanted: _newest(c, n, w))
                rows |= {one.id: _payload(one, stored[one.id]) for one in wanted if one.id in stored}
        return rows

    async def schedules(self) -> Mapping[str, Any]:
        """The schedule of each API."""
        rows: Row = {}
        for collection in self.collections:
            statuses = await self.reader.ask(lambda c, n=collection.name: _statuses(c, n))
            changed = overrides(self.settings, collection.name)
            for question in collection.questions:
                row = _schedule(overridden(question, changed), statuses.get(question.id))
                rows[question.id] = row
        return rows

    async def reschedule(self, api_id: str, interval: int | None, enabled: bool | None) -> Mapping[str, Any]:
        """Change the interval in seconds, or switch an API on or off; gives its schedule."""
        found = self._found(api_id)
        if found is None:
            raise KeyError(api_id)
        every = None if interval is None else timedelta(seconds=interval)
        write_override(self.settings, found[0].name, found[1].base, Override(every, enabled))
        return (await self.schedules())[api_id]

    async def force(self, api_id: str) -> str:
        """Ask an API now, by a run; gives `success` once it is queued.

        Raises:
            ProblemError: control-unavailable.
        """
        found = self._found(api_id)
        if found is None:
            raise KeyError(api_id)
        tags = {RANGE_START: api_id, RANGE_END: api_id, ASKED_BY: "api"}
        await self.dagster.launch(snapshots_job_name(found[0].name), tags, {})
        return "success"

    async def news_of(self, changes: Sequence[Change]) -> list[News]:
        """A message for each API whose payload changed."""
        names = {collection.name for collection in self.collections}
        changed = [one for one in changes if one.asset == snapshots.ASSET and one.market in names]
        news = []
        for change in changed:
            row = (await self.newest(change.instrument)).get(change.instrument)
            if row is not None:
                body = {"type": "api_update", **row}
                news.append(News(Topic.apis, ("api", change.instrument), body, version=change.version))
        return news

    def _found(self, api_id: str) -> tuple[Collection, ApiQuestion] | None:
        pairs = ((collection, one) for collection in self.collections for one in collection.questions)
        return next((pair for pair in pairs if pair[1].id == api_id), None)


def _newest(connection: duckdb.DuckDBPyConnection, name: str, wanted: Sequence[ApiQuestion]) -> dict[str, Snapshot]:
    if not snapshots.has_tables(connection, name):
        return {}
    return snapshots.newest(connection, name, [question.id for question in wanted])


def _statuses(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, ApiStatus]:
    return snapshots.statuses(connection, name) if snapshots.has_tables(connection, name) else {}


def _payload(question: ApiQuestion, stored: Snapshot) -> Row:
    return {
        "api_id": question.id,
        "timestamp": iso_utc(stored.seen_at),
        "data": _parsed(stored.payload),
        "metadata": {
            "name": question.api.name or question.id,
            "category": question.api.category,
            "status": stored.status,
            "content_type": stored.content_type,
            "bytes": stored.bytes,
            "fetched_at": iso_utc(stored.fetched_at),
        },
    }


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _schedule(question: ApiQuestion, status: ApiStatus | None) -> Row:
    every = question.api.every
    return {
        "api_id": question.id,
        "name": question.api.name or question.id,
        "category": question.api.category,
        "interval": int(every.total_seconds()),
        "update_type": question.api.update_type or "periodic",
        "enabled": question.api.enabled,
        "last_update": None if status is None else iso_utc(status.attempted_at),
        "next_update": None if status is None else iso_utc(status.next_at(every)),
        "last_status": None if status is None else ("failed" if status.failures else "success"),
        "success_count": 0 if status is None else status.successes,
        "error_count": 0 if status is None else status.errors,
        "last_error": status.reason if status and status.failures else None,
    }
