"""Refreshes API snapshots: asks what is due, all at once, and stores what changed. No Dagster."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

import duckdb

from refresh_pipeline.market.apis import ApiQuestion, Collection, Override, overridden, wait_after
from refresh_pipeline.sources import Secrets, SourceError
from refresh_pipeline.sources.any_api import ApiAnswer, ApiClient, AskAgainLater, Known
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.arrays import timestamp
from refresh_pipeline.warehouse.connection import transaction
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.snapshots import ApiStatus, Arrival, Snapshot
from refresh_pipeline.warehouse.warehouse import Warehouse

NO_OVERRIDES: Mapping[str, Override] = {}


def prepare(warehouse: Warehouse, collection: Collection) -> None:
    """Create the collection's tables and views, or bring them forward."""
    with warehouse.get_connection() as connection, transaction(connection):
        snapshots.ensure(connection, collection)


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
        if question.api.enabled and (question.id not in statuses or _due_at(question, statuses[question.id]) <= at)
    ]


def _due_at(question: ApiQuestion, status: ApiStatus) -> datetime:
    # An interval that was shortened counts at once; one that failed waits for what was decided then.
    if status.failures:
        return status.due_at
    return status.attempted_at + question.api.every


def refresh(
    warehouse: Warehouse,
    collection: Collection,
    questions: Sequence[ApiQuestion],
    now: datetime,
    secrets: Secrets,
) -> dict[str, Attempt]:
    """Ask these questions and store what came; gives the outcome of each by its id."""
    if not questions:
        return {}
    prepare(warehouse, collection)
    with warehouse.get_connection() as connection:
        known = snapshots.newest(connection, collection.name, [question.id for question in questions])
        statuses = snapshots.statuses(connection, collection.name)
    failures = {name: status.failures for name, status in statuses.items()}
    with_known = [(question, known.get(question.id), failures.get(question.id, 0)) for question in questions]
    arrivals = asyncio.run(_asked(collection, with_known, now, secrets))
    with warehouse.get_connection() as connection, transaction(connection):
        return snapshots.store(connection, collection, arrivals, now)


async def _asked(
    collection: Collection,
    questions: Sequence[tuple[ApiQuestion, Snapshot | None, int]],
    now: datetime,
    secrets: Secrets,
) -> dict[str, Arrival]:
    """What came of each question, given its newest payload and its failures in a row."""
    async with ApiClient(secrets, allow_private=collection.allow_private) as client:
        arrivals = await asyncio.gather(*(_arrival(client, *each, now=now) for each in questions))
    return {question.id: arrival for (question, _, _), arrival in zip(questions, arrivals, strict=True)}


async def _arrival(
    client: ApiClient, question: ApiQuestion, known: Snapshot | None, failures: int, *, now: datetime
) -> Arrival:
    began = time.monotonic()
    try:
        answer = await client.ask(question, Known(known.etag, known.last_modified) if known else Known())
    except SourceError as error:
        silence = error.seconds if isinstance(error, AskAgainLater) else None
        due_at = timestamp(now) + wait_after(question.api.every, failures + 1, silence)
        failed = Attempt(Outcome.failed, str(error), error.transient, seconds=time.monotonic() - began)
        return Arrival(failed, due_at)
    attempt = Attempt(Outcome.updated, seconds=time.monotonic() - began)
    return _of_answer(answer, attempt, timestamp(now) + question.api.every)


def _of_answer(answer: ApiAnswer, attempt: Attempt, due_at: datetime) -> Arrival:
    return Arrival(
        attempt,
        due_at,
        answer.payload,
        answer.status,
        answer.url,
        answer.content_type,
        answer.bytes,
        answer.etag,
        answer.last_modified,
    )


def columns_without_values(warehouse: Warehouse, collection: Collection) -> dict[str, list[str]]:
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
