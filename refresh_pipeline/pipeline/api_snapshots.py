"""Refreshes API snapshots: asks what is due, all at once, and stores what changed. No Dagster."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from refresh_pipeline.market.apis import ApiQuestion, Collection, Override, overridden
from refresh_pipeline.sources import Secrets
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.arrays import timestamp
from refresh_pipeline.warehouse.connection import transaction
from refresh_pipeline.warehouse.outcomes import Attempt
from refresh_pipeline.warehouse.snapshots import ApiStatus, prepare

if TYPE_CHECKING:  # the API asks which APIs are stale, and writes nothing
    from refresh_pipeline.warehouse.warehouse import Warehouse

# Intervals, and a moment for a run, after which an API that was not answered is stale.
TICKS_OF_GRACE, GRACE = 3, timedelta(minutes=1)
NEVER = datetime.min  # noqa: DTZ901 (as the warehouse's instants, without a zone)
NO_OVERRIDES: Mapping[str, Override] = {}


def due(
    collection: Collection,
    statuses: Mapping[str, ApiStatus],
    now: datetime,
    overrides: Mapping[str, Override] = NO_OVERRIDES,
) -> list[ApiQuestion]:
    """The questions to ask at `now`: those that are switched on and were never asked, or whose time has come."""
    questions = [overridden(question, overrides) for question in collection.questions]
    at = timestamp(now)
    return [
        question
        for question in questions
        if question.api.enabled and (question.id not in statuses or _due_at(question, statuses[question.id], at) <= at)
    ]


def _due_at(question: ApiQuestion, status: ApiStatus, at: datetime) -> datetime:
    # An attempt of the future is from a clock that was ahead.
    if status.attempted_at > at + snapshots.CLOCK_SLACK:
        return at
    # An interval that was shortened counts at once.
    return status.next_at(question.api.every)


def due_now(
    warehouse: "Warehouse",
    collection: Collection,
    now: datetime,
    overrides: Mapping[str, Override] = NO_OVERRIDES,
) -> list[ApiQuestion]:
    """The questions to ask at `now`, by what the warehouse says of the last attempts."""
    return due(collection, _statuses(warehouse, collection), now, overrides)


def _statuses(warehouse: "Warehouse", collection: Collection) -> Mapping[str, ApiStatus]:
    if not warehouse.exists:
        return {}
    with warehouse.reader() as connection:
        known = snapshots.has_tables(connection, collection.name)
        return snapshots.statuses(connection, collection.name) if known else {}


def stale(
    warehouse: "Warehouse",
    collection: Collection,
    now: datetime,
    overrides: Mapping[str, Override] = NO_OVERRIDES,
) -> dict[str, str]:
    """By API, why it is not fresh: it was not answered within three of its intervals."""
    with warehouse.reader() as connection:
        return stale_apis(connection, collection, now, overrides)


def stale_apis(
    connection: duckdb.DuckDBPyConnection,
    collection: Collection,
    now: datetime,
    overrides: Mapping[str, Override] = NO_OVERRIDES,
) -> dict[str, str]:
    """The same over an open connection."""
    questions = [overridden(question, overrides) for question in collection.questions]
    enabled = [question for question in questions if question.api.enabled]
    statuses = snapshots.statuses(connection, collection.name)
    heads = snapshots.newest_heads(connection, collection.name, [question.id for question in enabled])
    faults: dict[str, str] = {}
    for question in enabled:
        seen = heads[question.id].seen_at if question.id in heads else NEVER
        if seen < timestamp(now) - question.api.every * TICKS_OF_GRACE - GRACE:
            status = statuses.get(question.id)
            reason = (status.reason if status else None) or "it was not asked"
            last = f"{seen:%Y-%m-%d %H:%M} UTC" if question.id in heads else "never"
            faults[question.id] = f"answered last: {last}; {reason}"
    return faults


def refresh(
    warehouse: "Warehouse",
    collection: Collection,
    questions: Sequence[ApiQuestion],
    now: datetime,
    secrets: Secrets,
    *,
    limits_dir: Path,
) -> dict[str, Attempt]:
    """Ask these questions and store what came; gives the outcome of each by its id.

    `limits_dir` holds the accounts of how often hosts were asked.
    """
    # Late: with it comes aiohttp, which loading the definitions should not take.
    from refresh_pipeline.pipeline.api_requests import asked  # noqa: PLC0415

    if not questions:
        return {}
    prepare(warehouse.get_connection, collection)
    with warehouse.get_connection() as connection:
        known = snapshots.newest_heads(connection, collection.name, [question.id for question in questions])
        statuses = snapshots.statuses(connection, collection.name)
    failures = {name: status.failures for name, status in statuses.items()}
    with_known = [(question, known.get(question.id), failures.get(question.id, 0)) for question in questions]
    arrivals = asyncio.run(asked(collection, with_known, now, secrets, limits_dir))
    with warehouse.get_connection() as connection, transaction(connection):
        return snapshots.store(connection, collection, arrivals, now)


def columns_without_values(warehouse: "Warehouse", collection: Collection) -> dict[str, list[str]]:
    """By API, the columns whose paths find nothing in its newest payload: the API changed its shape."""
    empty: dict[str, list[str]] = {}
    with warehouse.reader() as connection:
        stored = {question.id for question in collection.questions} & {
            name for (name,) in connection.execute(f'select distinct api from "{collection.name}".snapshots').fetchall()
        }
        for question in collection.questions:
            columns = list(question.api.columns)
            if question.id not in stored or not columns:
                continue
            row = _counts(connection, collection.name, question, columns)
            if missing := [name for name, count in zip(columns, row, strict=True) if count == 0]:
                empty[question.id] = missing
    return empty


def _counts(
    connection: duckdb.DuckDBPyConnection, collection: str, question: ApiQuestion, columns: Sequence[str]
) -> tuple[int, ...]:
    """How many values each column has in the newest payload."""
    counts = ", ".join(f'count("{name}")' for name in columns)
    of_partition = " and api = $api" if question.values else ""
    [row] = connection.execute(
        f'select {counts} from "{collection}"."{question.base}" where fetched_at = '
        f'(select max(fetched_at) from "{collection}".snapshots where api = $api){of_partition}',
        {"api": question.id},
    ).fetchall()
    return row
