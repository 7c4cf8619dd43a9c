"""What changed: GET /changes, which may wait for the next change."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from refresh_pipeline.api.answers import json_response
from refresh_pipeline.api.service import service_of
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.warehouse import versions
from refresh_pipeline.warehouse.versions import Change, Changes

router = APIRouter(prefix="/api/v1", tags=["changes"])

LONGEST_WAIT = 60


@router.get("/changes")
async def changes(
    request: Request,
    after: Annotated[int, Query(ge=0, lt=2**63, description="The newest version that is known; 0 for all.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="The number of changes at most.")] = 1000,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait for a change.")] = 0,
    epoch: Annotated[str | None, Query(description="The epoch that the version is of.")] = None,
) -> Response:
    """The series that changed after a version, oldest change first, one row per asset and series."""
    service = service_of(request)
    feed = service.feed
    if after >= feed.version and wait:
        await feed.wait_beyond(after, wait)
    if after and after == feed.version and epoch in (None, feed.epoch):
        return json_response(changes_body(Changes(feed.epoch, feed.version, ())))
    read = await service.reader.ask(lambda c: versions.changes(c, after, limit, epoch=epoch))
    return json_response(changes_body(read))


def changes_body(read: Changes) -> dict[str, Any]:
    """Changes as JSON has them."""
    listed = [change_row(change) for change in read.changes]
    return {"epoch": read.epoch, "version": read.version, "changes": listed, "reset": read.reset}


def change_row(change: Change) -> dict[str, Any]:
    """One change as JSON has it."""
    return {
        "version": change.version,
        "market": change.market,
        "asset": change.asset,
        "instrument": change.instrument,
        "timeframe": change.timeframe,
        "since": None if change.since is None else iso_utc(change.since),
        "changed_at": iso_utc(change.changed_at),
    }
