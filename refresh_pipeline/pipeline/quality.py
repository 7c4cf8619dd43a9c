"""What must be true of stored candles, exports and uploads: each question with its faults. No Dagster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np

from refresh_pipeline.destinations import Destination, DestinationError
from refresh_pipeline.files.atomic import sha256_of
from refresh_pipeline.market.calendars.base import Calendar, length_of
from refresh_pipeline.market.candles import PRICE_COLUMNS, TIME_UNIT, instant
from refresh_pipeline.market.destination_spec import FileSpec, RedisSpec
from refresh_pipeline.market.export_spec import Format, Layer, Layout
from refresh_pipeline.market.freshness import latest_due
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.outliers import price_faults
from refresh_pipeline.pipeline.export import Wanted, wanted_files
from refresh_pipeline.pipeline.redis_cache import series_kept
from refresh_pipeline.pipeline.upload import remotes
from refresh_pipeline.warehouse import queries
from refresh_pipeline.warehouse.gaps import gaps as find_gaps
from refresh_pipeline.warehouse.manifests import Exported, Published
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline.warehouse.queries import Fault, SeriesReport
from refresh_pipeline.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from refresh_pipeline.destinations.redis import RedisDestination


# Two days of minutes; what is older was looked at when it was new.
BARS_LOOKED_AT = 3_000


# So many series' prices fit into a few dozen megabytes, with all that is made of them.
SERIES_AT_ONCE = 64


AGREEMENT_LOOKS_BACK = np.timedelta64(7, "D")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found: nothing is a pass. Of many faults there may be more than are listed."""

    name: str
    faults: Sequence[Fault]
    examined: int
    is_cut_short: bool = False

    @property
    def summary(self) -> str | None:
        """What is wrong, in a few words."""
        at_least = "at least " if self.is_cut_short else ""
        return f"{at_least}{len(self.faults)} of {self.examined} are not so" if self.faults else None


def raw_verdicts(warehouse: Warehouse, market: Market, now: datetime) -> list[Verdict]:
    """The verdicts on a market's raw candles, as of `now`; on whether sources agree where there are several."""
    with warehouse.session():
        warehouse.prepare(market)
        warehouse.write_expected_bars(market, now)
    with warehouse.reader() as connection:
        stored = queries.series_report(connection, market.name, market.series)
        faults = [
            _not_fetched(stored),
            queries.incoherent_prices(connection, market.name),
            queries.repeated_open_times(connection, market.name),
            off_grid(connection, market),
            stale(market, stored, now),
            missing(connection, market, now),
            implausible(connection, market, now),
        ]
        agreement = [sources_agree(connection, market, now)] if market.fallbacks else []
    candles = sum(each.candle_count for each in stored)
    not_fetched, incoherent, repeated, off, behind, gaps, odd = faults
    return [
        Verdict("every_series_was_fetched", not_fetched, len(stored)),
        Verdict("prices_are_coherent", incoherent, candles, _is_cut_short(incoherent)),
        Verdict(
            "open_times_are_unique_and_on_the_grid",
            [*repeated, *off],
            candles,
            _is_cut_short(repeated) or _is_cut_short(off),
        ),
        Verdict("every_series_is_fresh", behind, len(stored)),
        Verdict("no_candles_are_missing", gaps, len(stored)),
        Verdict("prices_are_plausible", odd, len(stored)),
        *agreement,
    ]


def _is_cut_short(faults: Sequence[Fault]) -> bool:
    return len(faults) >= queries.EXAMPLES


def _not_fetched(stored: Sequence[SeriesReport]) -> list[Fault]:
    return [
        Fault(each.series, each.last_open_time, each.reason or "failed")
        for each in stored
        if each.outcome == Outcome.failed
    ]


def sources_agree(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> Verdict:
    """Whether the candles that two sources gave lately are about the same."""
    since = (instant(now) - AGREEMENT_LOOKS_BACK).astype(datetime)
    apart, examined = queries.deviations(connection, market.name, market.max_deviation_percent / 100, since)
    return Verdict("sources_agree", apart, examined, _is_cut_short(apart))


def off_grid(connection: duckdb.DuckDBPyConnection, market: Market) -> list[Fault]:
    """Candles that open where no bar of the calendar opens, or while the market is closed."""
    faults: list[Fault] = []
    for calendar, instruments in _calendars(market).items():
        for timeframe, open_times in queries.distinct_open_times(connection, market.name, instruments).items():
            on_grid = calendar.has_bar(timeframe, open_times)
            if not on_grid.all():
                faults += queries.candles_at(connection, market.name, timeframe, open_times[~on_grid], instruments)
    return faults


def _calendars(market: Market) -> dict[Calendar, list[str] | None]:
    """The instruments of each calendar of a market; None where there is but one, for every instrument."""
    calendars: dict[Calendar, list[str] | None] = {}
    for instrument in market.instruments:
        calendars.setdefault(market.calendar_of(instrument), []).append(instrument)  # pyright: ignore
    return calendars if len(calendars) > 1 else dict.fromkeys(calendars)


def stale(market: Market, stored: Sequence[SeriesReport], now: datetime) -> list[Fault]:
    """Series that lack the newest candle that should be there."""
    expected = latest_due(market, now)
    return [
        Fault(each.series, each.last_open_time, _behind(each, expected[each.series]))
        for each in stored
        if each.last_open_time is None or each.last_open_time < expected[each.series]
    ]


def missing(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> list[Fault]:
    """Gaps, at the beginning, in the middle and at the end, of which the source has not said that it has nothing."""
    return [
        Fault(gap.series, gap.first, f"{gap.candles} missing up to {gap.last.astype('datetime64[s]')} ({gap.place})")
        for gap in find_gaps(connection, market, now)
        if not gap.is_confirmed
    ]


def implausible(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> list[Fault]:
    """Candles whose price cannot be right, among the newest few thousand of each series."""
    faults: list[Fault] = []
    for timeframe in market.timeframes:
        since = instant(now) - length_of(timeframe) * int(BARS_LOOKED_AT / market.calendar.open_share)
        series = [each for each in market.series if each.timeframe is timeframe]
        for first in range(0, len(series), SERIES_AT_ONCE):
            batch = series[first : first + SERIES_AT_ONCE]
            rows = queries.prices_since(connection, market.name, batch, since)
            starts = np.searchsorted(rows["series_no"], np.arange(len(batch) + 1))
            found = price_faults({name: rows[name] for name in PRICE_COLUMNS}, starts)
            whose, opened = rows["series_no"][found.rows], rows["open_time"][found.rows].astype(TIME_UNIT)
            faults += [
                Fault(batch[number], at, f"{kind.value}: {ratio:.4g} times")
                for number, at, kind, ratio in zip(whose.tolist(), opened, found.kinds, found.ratios, strict=True)
            ]
    return faults


def _behind(report: SeriesReport, expected: np.datetime64) -> str:
    if report.last_open_time is None:
        return f"no candles at all ({report.outcome or 'never asked for'})"
    return f"newest candle expected: {expected.astype('datetime64[s]')}"


def export_verdict(warehouse: Warehouse, market: Market, root: Path) -> Verdict:
    """Whether the files are as the manifest says, and the manifest as the tables say."""
    warehouse.prepare(market)
    manifest = {each.path: each for each in warehouse.exported(market, market.series)}
    with warehouse.reader() as connection:
        stored = queries.series_with_candles(connection, market.name)
        wanted = [file for series in market.series if series in stored for file in wanted_files(market, series)]
        whole = {file.path: file.series for file in wanted if file.path in manifest and _is_whole(file)}
        differing = queries.exports_that_differ(connection, market.name, root, whole)
    missing = [
        Fault(each.series, None, f"{each.path}: was never exported") for each in wanted if each.path not in manifest
    ]
    altered = [fault for each in wanted if each.path in manifest and (fault := _altered(root, manifest[each.path]))]
    return Verdict("exports_match_the_table", [*missing, *altered, *differing], len(wanted))


def _is_whole(file: Wanted) -> bool:
    """Whether the file's candles can be held against the table's by DuckDB alone."""
    own_names = file.export.layout is not Layout.fx_refresh and file.layer is not Layer.indicators
    return own_names and file.kind is Format.parquet and str(file.export.window) == "full"


def _altered(root: Path, file: Exported) -> Fault | None:
    path = root / file.path
    if not path.exists():
        return Fault(file.series, None, f"{file.path}: the file is gone")
    if path.stat().st_size != file.bytes or sha256_of(path) != file.sha256:
        return Fault(file.series, None, f"{file.path}: the file is not the one that was written")
    return None


def upload_verdict(
    warehouse: Warehouse, market: Market, spec: FileSpec, open_destination: Callable[[], Destination]
) -> Verdict:
    """Whether a destination holds what was last exported."""
    warehouse.prepare(market)
    name = f"{spec.asset}_match_the_exports"
    manifest = {each.path: each for each in warehouse.exported(market, market.series)}
    files = remotes(market, spec, market.series, manifest)
    uploaded = {each.path: each for each in warehouse.uploaded(market, spec.name, market.series)}
    if not files:
        return Verdict(name, [], 0)
    try:
        hashes = open_destination().hashes(list(files))
    except DestinationError as error:
        return Verdict(name, [Fault(next(iter(files.values())).series, None, str(error))], len(files))
    faults = [
        fault
        for remote, file in files.items()
        if (fault := _not_there(file, uploaded.get(file.path), hashes.get(remote)))
    ]
    return Verdict(name, faults, len(files))


def window_verdict(
    warehouse: Warehouse, market: Market, spec: RedisSpec, open_destination: Callable[[], "RedisDestination"]
) -> Verdict:
    """Whether a Redis server holds the whole window of every series, as many candles as the warehouse has of it."""
    warehouse.prepare(market)
    name, batch = f"{spec.asset}_are_whole", series_kept(spec, market.series)
    wanted = {s: len(r["open_time"]) for s, r in warehouse.newest_candles(market, batch, timedelta(days=spec.days))}
    wanted = {series: count for series, count in wanted.items() if count}
    try:
        held = open_destination().counts(list(wanted))
    except DestinationError as error:
        return Verdict(name, [Fault(series, None, str(error)) for series in list(wanted)[:1]], len(wanted))
    faults = [
        Fault(series, None, f"{held.get(series, 0)} candles there, {count} wanted")
        for series, count in wanted.items()
        if held.get(series, 0) < count
    ]
    return Verdict(name, faults, len(wanted))


def _not_there(file: Exported, upload: Published | None, there: str | None) -> Fault | None:
    if upload is None:
        return Fault(file.series, None, f"{file.path}: was never uploaded")
    if there is None:
        return Fault(file.series, None, f"{file.path}: is gone from the destination")
    if there != upload.content_hash:
        return Fault(file.series, None, f"{file.path}: the destination holds something else than was uploaded")
    if upload.sha256 != file.sha256:
        return Fault(file.series, None, f"{file.path}: exported anew since it was uploaded")
    # Somebody changed the export between writing and uploading it.
    if upload.hash_name == "sha256" and upload.content_hash != file.sha256:
        return Fault(file.series, None, f"{file.path}: what was uploaded is not what was exported")
    return None
