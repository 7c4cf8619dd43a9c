"""The steps of a refresh, one by one, without Dagster: for tests that look at a single one."""

from collections.abc import Sequence
from datetime import datetime

from refresh_pipeline.destinations.folder import FolderDestination
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline import compute, export, fetch, upload
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline_tests.project_folder import NOW, World

BTC = Series("BTC/USD", Timeframe.m15)
ETH = Series("ETH/USD", Timeframe.m15)
SOL = Series("SOL/USD", Timeframe.m15)


def fetched(world: World, now: datetime = NOW, batch: Sequence[Series] = (BTC, ETH, SOL)) -> dict[Series, Attempt]:
    market, warehouse = world.market, world.warehouse
    warehouse.prepare(market)
    requests = fetch.requests_for(market, warehouse.series_stats(market, batch), now)
    return fetch.fetch_candles(warehouse, market, open_source(market, world.root / "limits"), requests, now)


def computed(world: World, batch: Sequence[Series] = (BTC, ETH, SOL)) -> dict[Series, Attempt]:
    done = [
        compute.compute(world.warehouse, world.market, table, batch)
        for table in (Table.enhanced_candles, Table.indicators)
    ]
    return done[-1]


def exported(world: World, now: datetime = NOW, batch: Sequence[Series] = (BTC, ETH, SOL)) -> dict[Series, Attempt]:
    return export.export(world.warehouse, world.market, world.settings.exports_dir, batch, now)


def uploaded(world: World, now: datetime = NOW, batch: Sequence[Series] = (BTC, ETH, SOL)) -> dict[Series, Attempt]:
    destination = FolderDestination(world.root / "there")
    root = world.settings.exports_dir
    spec = world.market.uploads
    return upload.upload(world.warehouse, world.market, spec, batch, root=root, destination=destination, now=now)


def outcomes(done: dict[Series, Attempt]) -> list[Outcome]:
    return [attempt.outcome for attempt in done.values()]


def published(world: World) -> None:
    """Everything up to the files."""
    fetched(world)
    computed(world)
    exported(world)
