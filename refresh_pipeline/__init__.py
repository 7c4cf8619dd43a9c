"""Refresh Pipeline keeps market candles fresh, with the indicators and files that are computed from them.

A **market** is a set of instruments from one source with one trading calendar. A **series** is one instrument on one
timeframe: `EUR/USD|H1`. A **candle** has an `open_time` (UTC, the left edge), open, high, low, close and volume; it is
stored once it has closed. A **tick** is one firing of a market's schedule. A **wide run** is the one run that a tick
requests: it refreshes every due series at once.

The rooms from the top. A room imports the rooms below it, never one above.

1. `orchestration.assets` is the story, per market: raw_candles -> enhanced_candles -> indicators -> exports -> uploads.
   The rest of `orchestration` is what Dagster sees: checks, schedules, sensors, jobs, resources. `definitions` is what
   Dagster loads.
2. `pipeline` is the work of an asset, series by series and without Dagster: fetch, compute, backfill, export, upload.
   `operations` is backup and maintenance, `monitoring` finds problems and notifies people.
3. `warehouse` is where candles live: one DuckDB file. `destinations` is where files go, `files` how they are written
   and read.
4. `sources` is where candles come from, one module per venue. `analytics` is what is computed, and pure. `instance`
   makes Dagster fast and bounded.
5. `market` is what is refreshed: series, timeframes, calendars, the catalog of markets. It is pure. `settings` is the
   only module that reads the environment.
6. `cli` is the `refresh` command, `client` reads a data folder or an API from Python.

Imports point downward only: cli, client, definitions > orchestration > monitoring > pipeline, operations > warehouse,
destinations > files, sources, analytics, instance, market_files > market, settings. CONTRIBUTING.md lists where to find
each topic and what an addition touches; docs/architecture.md tells the story of a tick.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refresh_pipeline.client import connect as connect


def __getattr__(name: str) -> Any:
    """`refresh_pipeline.connect`; the client is imported where it is used."""
    if name == "connect":
        from refresh_pipeline.client import connect  # noqa: PLC0415 (every program of ours imports this package)

        return connect
    raise AttributeError(f"module 'refresh_pipeline' has no attribute {name!r}")
