"""What the web UI shows of each asset: description, owners, kinds, columns, table, freshness."""

from collections.abc import Callable
from datetime import timedelta
from urllib.parse import quote

import dagster as dg

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import QUOTE_COLUMNS
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.orchestration.partitions import grid
from refresh_pipeline.settings import load_settings
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.schema import FIXED_TABLES, Table, candle_columns, columns_of

DESCRIPTIONS = {
    Table.raw_candles: "Closed candles as {source} sent them. Late corrections win (the value they replace is kept in "
    "raw_candle_revisions); candles whose numbers contradict themselves are kept in rejected_candles instead.",
    Table.enhanced_candles: "Candles with Bill Williams' columns: oscillators, alligators, zones, fractals, peaks, "
    "mouth, market facilitation. Only what changed since the last time is computed, and equals computing everything. "
    "Fractals and peaks are known some bars later; the view enhanced_candles_known says when.",
    Table.indicators: "Averages, momentum, volatility, volume, cycles, patterns, sessions, levels and regimes of every "
    "candle; the market's YAML chooses among them. Only what changed since the last time is computed, and "
    "equals computing everything.",
    Table.exports: "The files that the market's YAML asks for (without a word of it, a CSV file of candles per "
    "series, and all columns of all series in Parquet), written whole or not at all, each with a manifest row.",
    Table.uploads: "The export files at their destination: what REFRESH_UPLOAD_URL names, Dropbox where its "
    "credentials are set, or a folder where the market's YAML has `uploads`. Nothing is sent where none of them names "
    "one. Unchanged files are left alone; what was sent is verified there.",
}
KINDS = {
    Table.raw_candles: ("duckdb",),
    Table.enhanced_candles: ("duckdb", "numpy"),
    Table.indicators: ("duckdb", "numpy"),
    Table.exports: ("csv", "parquet"),
    Table.uploads: ("file",),
}
# The tag `layer`, which filters the catalog: tag:layer=computed.
LAYERS = {
    Table.raw_candles: "raw",
    Table.enhanced_candles: "computed",
    Table.indicators: "computed",
    Table.exports: "published",
    Table.uploads: "published",
}
MANUAL = {
    Table.raw_candles: "docs/data.md (tables), docs/markets.md (what is fetched), `refresh status`, `refresh gaps`",
    Table.enhanced_candles: "docs/enhanced-candles.md, `refresh chart`",
    Table.indicators: "docs/indicators.md, `refresh query`",
    Table.exports: "docs/exports.md, `refresh exports verify`",
    Table.uploads: "docs/destinations.md, `refresh publish`",
}
COLUMN_NOTES = {
    "instrument": "canonical name",
    "timeframe": "canonical name",
    "open_time": "UTC, the inclusive left edge of the bar",
    "open": "price at the bar's beginning",
    "high": "highest price",
    "low": "lowest price",
    "close": "price at the bar's end",
    "volume": "as the venue counts it; null where it does not",
    "source": "who served the candle",
    "fetched_at": "UTC, when it was stored",
    "base_bars": "shorter candles that it was made of; null for the source's native candles",
    "complete": "whether these are all that the calendar expects; null for native candles",
    "export": "name of the export in the market's YAML",
    "layer": "candles, enhanced, indicators or joined",
    "shape": "layout, compression and window",
    "destination": "name of the destination in the market's YAML",
    "format": "csv, parquet, json or feather",
    "path": "relative to the folder of exports",
    "rows": "candles in the file",
    "bytes": "size of the file",
    "sha256": "of the file's bytes",
    "block_hashes": "of a file that grows: the SHA-256 of each block of 4 MiB",
    "content_hash": "as the destination reports it",
    "hash_name": "which hash the destination uses",
    "url": "where it lies",
    "exported_at": "UTC",
    "uploaded_at": "UTC",
    "first_open_time": "UTC, of the file's first candle",
    "last_open_time": "UTC, of the file's last candle",
}
PUBLISHED = (Table.exports, Table.uploads)
MISSED_TICKS = 3
SLACK = timedelta(minutes=1)
# The deadline of markets with closing hours whose candles are all longer than a day: the second of each month.
MONTHLY = "0 18 2 * *"


def asset(
    table: Table, market: Market, after: dg.AssetsDefinition | None = None
) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
    """`dg.asset` for one table of one market, with everything that says what it is."""
    return dg.asset(
        key_prefix=market.name,
        group_name=market.name,
        deps=[after] if after else None,
        description=DESCRIPTIONS[table].format(
            source=" or ".join(source.kind for source in (market.source, *market.fallbacks))
        ),
        owners=list(market.owners),
        kinds=set(KINDS[table]),
        tags={"layer": LAYERS[table], "source": market.source.kind, "calendar": market.calendar_spec.name},
        partitions_def=grid(market),
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=freshness(table, market),
        metadata={
            "dagster/column_schema": column_schema(table, market),
            "dagster/table_name": f"{market.name}.{table.value}",
            "dashboard": dg.MetadataValue.url(dashboard_address(market)),
            "manual": dg.MetadataValue.md(MANUAL[table]),
        },
    )


def dashboard_address(market: Market) -> str:
    """The market's page of the dashboard that `refresh up` serves on this machine."""
    return f"http://127.0.0.1:{load_settings().api_port}/?market={market.name}"


def series_address(market: Market) -> Callable[[Series], str]:
    """The address of each series' page of the dashboard."""
    base = f"http://127.0.0.1:{load_settings().api_port}/series/{market.name}"
    return lambda series: f"{base}/{quote(series.instrument)}/{series.timeframe.value}"


def column_schema(table: Table, market: Market) -> dg.TableSchema:
    """The table's columns with type and meaning."""
    columns = [dg.TableColumn(name, kind, description=note) for name, kind, note in _columns(table, market)]
    return dg.TableSchema(columns)


def _columns(table: Table, market: Market) -> list[tuple[str, str, str]]:
    columns, computation = FIXED_TABLES.get(table, {}), computations(market).get(table)
    if table is Table.raw_candles:
        columns = columns | dict.fromkeys(candle_columns(market.two_sided), "double")
    if computation is not None:
        columns = columns_of(computation, market.two_sided)
    notes = COLUMN_NOTES | dict.fromkeys(QUOTE_COLUMNS, "one side of the quote")
    if computation is not None:
        notes |= {column.name: f"{column.description} ({column.unit})" for column in computation.columns}
    return [(name, kind, notes[name]) for name, kind in columns.items()]


def freshness(table: Table, market: Market) -> dg.FreshnessPolicy | None:
    """How old an asset may become before the web UI says so; None for a static market."""
    if market.static:
        return None
    if table in PUBLISHED:
        every = market.publish
        return dg.FreshnessPolicy.time_window(fail_window=every * MISSED_TICKS, warn_window=every * 2)
    tick = timedelta(minutes=min(market.timeframes).minutes)
    if market.calendar.open_share < 1.0:
        return _by_the_clock(market.calendar, tick)
    # A tick takes its seconds: a warning after two missed ticks, a failure after three.
    return dg.FreshnessPolicy.time_window(
        fail_window=tick * MISSED_TICKS + SLACK, warn_window=tick * (MISSED_TICKS - 1) + SLACK
    )


def _by_the_clock(calendar: Calendar, tick: timedelta) -> dg.FreshnessPolicy:
    # Dagster refuses a window longer than the time between two deadlines.
    if tick <= timedelta(hours=1) and calendar.hourly_deadlines:
        deadline, window = calendar.hourly_deadlines, timedelta(hours=1)
    elif tick <= timedelta(days=1):
        deadline, window = calendar.daily_deadlines, timedelta(days=1)
    else:
        deadline, window = MONTHLY, timedelta(days=28)
    return dg.FreshnessPolicy.cron(deadline_cron=deadline, lower_bound_delta=window, timezone=calendar.zone)
