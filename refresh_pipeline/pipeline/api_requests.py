"""Puts the questions of a collection, all at once, and says of each answer when to ask again."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from refresh_pipeline.market.apis import ApiQuestion, Collection, wait_after
from refresh_pipeline.sources import Secrets, SourceError
from refresh_pipeline.sources.any_api import ApiAnswer, ApiClient, AskAgainLater, Known
from refresh_pipeline.warehouse.arrays import timestamp
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.snapshots import Arrival, Snapshot, minute_of

# Seconds of Retry-After that are kept at most.
LONGEST_SILENCE = 86_400


async def asked(
    collection: Collection,
    questions: Sequence[tuple[ApiQuestion, Snapshot | None, int]],
    now: datetime,
    secrets: Secrets,
    limits_dir: Path,
) -> dict[str, Arrival]:
    """What came of each question, given its newest payload and its failures in a row."""
    async with ApiClient(secrets, limits_dir, allow_private=collection.allow_private) as client:
        arrivals = await asyncio.gather(*(_arrival(client, *each, now=now) for each in questions))
    return {question.id: arrival for (question, _, _), arrival in zip(questions, arrivals, strict=True)}


async def _arrival(
    client: ApiClient, question: ApiQuestion, known: Snapshot | None, failures: int, *, now: datetime
) -> Arrival:
    began = time.monotonic()
    try:
        answer = await client.ask(question, Known(known.etag, known.last_modified) if known else Known())
    except SourceError as error:
        due_at = minute_of(timestamp(now)) + wait_after(question.api.every, failures + 1)
        if isinstance(error, AskAgainLater):
            due_at = max(due_at, timestamp(now) + timedelta(seconds=min(error.seconds or 0, LONGEST_SILENCE)))
        failed = Attempt(Outcome.failed, str(error), error.transient, seconds=time.monotonic() - began)
        return Arrival(failed, due_at)
    attempt = Attempt(Outcome.updated, seconds=time.monotonic() - began)
    return _of_answer(answer, attempt, minute_of(timestamp(now)) + question.api.every)


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
