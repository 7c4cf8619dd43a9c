"""Checks of stored candles, exports and uploads: what each one examines and the faults it finds. No Dagster."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import duckdb
import numpy as np

from refresh_pipeline.destinations import Destination, DestinationError
from refresh_pipeline.destinations.upload_url import OFF
from refresh_pipeline.market.calendars.base import Calendar, length_of
from refresh_pipeline.market.candles import CANDLE_COLUMNS, PRICE_COLUMNS, TIME_UNIT, Candles, instant
from refresh_pipeline.market.destination_spec import FileSpec, RedisSpec
from refresh_pipeline.market.export_spec import Format, Layer, Layout
from refresh_pipeline.market.freshness import behind, latest_due
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.outliers import price_faults
from refresh_pipeline.market.resampling import resample_counted
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline.export import is_as_written
from refresh_pipeline.pipeline.export_content import Wanted, wanted_files
from refresh_pipeline.pipeline.export_dataset import dataset_rows, datasets
from refresh_pipeline.pipeline.redis_cache import series_kept
from refresh_pipeline.pipeline.upload import remotes, with_datasets
from refresh_pipeline.warehouse import forgetting, queries
from refresh_pipeline.warehouse.acknowledgements import acknowledged, identity
from refresh_pipeline.warehouse.gaps import gaps as find_gaps
from refresh_pipeline.warehouse.manifests import Exported, Published
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline.warehouse.queries import Fault, SeriesReport
from refresh_pipeline.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from refresh_pipeline.destinations.redis import RedisDestination


# Bars of each series whose prices are examined: two days of minutes. Older ones were examined when they were new.
BARS_EXAMINED = 3_000
# The prices of so many series, with the arrays computed from them, fit into a few dozen megabytes.
SERIES_AT_ONCE = 64
# Of each series, so many candles are compared with the longer ones of their time, to this relative precision.
BASE_BARS_COMPARED = 700
# As many candles as of the series whose prices are examined at once.
INSTRUMENTS_COMPARED = SERIES_AT_ONCE * BARS_EXAMINED // BASE_BARS_COMPARED
ROUNDING = 1e-9
AGREEMENT_LOOKS_BACK = np.timedelta64(7, "D")
SERIES, CANDLES, FILES = "series", "candles", "files"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check: no fault is a pass. `noun` names what was examined: series, candles or files."""

    faults: Sequence[Fault]
    examined: int
    noun: str
    # There may be more faults than are listed.
    is_cut_short: bool = False
    # Faults that a person has accepted; they are not among `faults`.
    acknowledged: int = 0
    # Why nothing was examined, where that is no fault.
    remark: str = ""

    @property
    def summary(self) -> str | None:
        """The number of faults, or of series with faults, and of acknowledged ones in words; None where there are none.

        Where there is a remark, it comes last.

        >>> from refresh_pipeline.market.series import Series
        >>> from refresh_pipeline.market.timeframe import Timeframe
        >>> Verdict([Fault(Series("A", Timeframe.m1), None, "gone")] * 2, 40, "series").summary
        '1 of 40 series failed'
        """
        at_least = "at least " if self.is_cut_short else ""
        # A series may have several faults: gaps, for instance.
        count = len({fault.series for fault in self.faults}) if self.noun == SERIES else len(self.faults)
        failed = [f"{at_least}{count} of {self.examined} {self.noun} failed"] if self.faults else []
        accepted = [f"{self.acknowledged} acknowledged"] if self.acknowledged else []
        remark = [self.remark] if self.remark else []
        return ", ".join(failed + accepted + remark) or None

    def without(self, accepted: Collection[tuple[str, str, str]]) -> "Verdict":
        """The verdict without the faults of these identities; unchanged where not every fault is listed."""
        left = [fault for fault in self.faults if identity(fault) not in accepted]
        if self.is_cut_short or len(left) == len(self.faults):
            return self
        return replace(self, faults=left, acknowledged=len(self.faults) - len(left))


@dataclass(frozen=True, slots=True)
class Examination:
    """The raw candles of a market as a check sees them at an instant."""

    connection: duckdb.DuckDBPyConnection
    market: Market
    reports: Sequence[SeriesReport]
    now: datetime
    clock: datetime

    def of_series(self, faults: Sequence[Fault]) -> Verdict:
        """The verdict on every series, given those that failed."""
        return Verdict(faults, len(self.reports), SERIES)

    def of_candles(self, *parts: Sequence[Fault]) -> Verdict:
        """The verdict on every stored candle, given those that failed; each part may have been cut short."""
        examined = sum(report.candle_count for report in self.reports)
        faults = [fault for part in parts for fault in part]
        return Verdict(faults, examined, CANDLES, any(_is_cut_short(part) for part in parts))


class CandleCheck(NamedTuple):
    """A sentence about raw candles that should be true: its name, its text in the web UI, and how it is examined."""

    name: str
    text: str
    examine: Callable[[Examination], Verdict]
    applies: Callable[[Market], bool] = lambda _: True


def candle_checks(market: Market) -> list[CandleCheck]:
    """The checks of a market's raw candles."""
    return [check for check in CANDLE_CHECKS if check.applies(market)]


def candle_verdicts(
    warehouse: Warehouse,
    market: Market,
    now: datetime,
    names: Collection[str] | None = None,
    clock: datetime | None = None,
) -> dict[str, Verdict]:
    """The verdict of each check of a market's raw candles as of `now`, by name; `names` selects some of them.

    `clock` is the machine's, read where it is left out.
    """
    warehouse.prepare(market)
    with warehouse.reader() as connection:
        reports = queries.series_report(connection, market.name, market.series)
        examination = Examination(connection, market, reports, now, clock or datetime.now(UTC))
        chosen = [check for check in candle_checks(market) if names is None or check.name in names]
        accepted: dict[str, set[tuple[str, str, str]]] = {}
        for entry in acknowledged(connection, market.name):
            accepted.setdefault(entry.check, set()).add(identity(entry.fault))
        return {check.name: check.examine(examination).without(accepted.get(check.name, ())) for check in chosen}


def _is_cut_short(faults: Sequence[Fault]) -> bool:
    return len(faults) >= queries.EXAMPLES


def fetched(examination: Examination) -> Verdict:
    """Whether the last attempt at each series succeeded."""
    return examination.of_series(
        [
            Fault(report.series, report.last_open_time, report.reason or "failed")
            for report in examination.reports
            if report.outcome == Outcome.failed
        ]
    )


def rejected(examination: Examination) -> Verdict:
    """Whether no candle was rejected at the last attempt, nor earlier without one being stored in its place."""
    return examination.of_series(
        [
            Fault(report.series, report.last_open_time, report.rejections)
            for report in examination.reports
            if report.rejections
        ]
    )


def coherent(examination: Examination) -> Verdict:
    """Whether no candle contradicts itself."""
    return examination.of_candles(queries.incoherent_prices(examination.connection, examination.market.name))


def unique_and_on_the_grid(examination: Examination) -> Verdict:
    """Whether each candle is stored once, at an open time of the calendar."""
    connection, market = examination.connection, examination.market
    return examination.of_candles(queries.repeated_open_times(connection, market.name), off_grid(connection, market))


def not_from_the_future(examination: Examination) -> Verdict:
    """Whether no candle closes later than now, which is the clock's for a run that looks at the past."""
    now = max(examination.now, examination.clock)
    stored = forgetting.closing_after(examination.connection, examination.market, now)
    return examination.of_series(
        [
            Fault(series, times[0], f"{len(times)} close later than now: remove them with refresh forget --future")
            for series, times in stored.items()
        ]
    )


def fresh(examination: Examination) -> Verdict:
    """Whether each series has the newest candle that is due."""
    return examination.of_series(stale(examination.market, examination.reports, examination.now))


def calendar_known(examination: Examination) -> Verdict:
    """Whether the calendar knows the sessions of the next 60 days; past its end no candle is expected."""
    market = examination.market
    warning = market.calendar.warning(instant(examination.now))
    return Verdict([Fault(market.series[0], None, warning)] if warning else [], 1, "calendars")


def plausible(examination: Examination) -> Verdict:
    """Whether the newest prices of each series are plausible."""
    return examination.of_series(implausible(examination.connection, examination.market, examination.now))


def complete(examination: Examination) -> Verdict:
    """Whether no candle is missing that the source may have."""
    return examination.of_series(missing(examination.connection, examination.market, examination.now))


def sources_agree(examination: Examination) -> Verdict:
    """Whether the candles that two sources gave in the last days have about the same prices."""
    market = examination.market
    since = (instant(examination.now) - AGREEMENT_LOOKS_BACK).astype(datetime)
    limit = market.max_deviation_percent / 100
    apart, examined = queries.deviations(examination.connection, market.name, limit, since)
    return Verdict(apart, examined, CANDLES, _is_cut_short(apart))


def timeframes_agree(examination: Examination) -> Verdict:
    """Whether each newest candle has the high and the low of the stored shorter ones of its time.

    A candle that is made from shorter ones has theirs to a rounding. A native one may differ by the market's
    `max_deviation_percent`: venues count auctions, late trades and quotes differently by timeframe.
    """
    market, connection = examination.market, examination.connection
    faults: list[Fault] = []
    examined = 0
    for timeframe, base in _comparable(market):
        since = market.calendar.floor(
            timeframe, np.array([instant(examination.now) - length_of(base) * BASE_BARS_COMPARED], dtype=TIME_UNIT)
        )[0]
        for first in range(0, len(market.instruments), INSTRUMENTS_COMPARED):
            instruments = list(market.instruments)[first : first + INSTRUMENTS_COMPARED]
            found, compared = _disagreements(connection, market, instruments, (timeframe, base), since)
            faults += found
            examined += compared
    return Verdict(faults, examined, CANDLES)


def _comparable(market: Market) -> list[tuple[Timeframe, Timeframe]]:
    """Each timeframe with the longest shorter one of the market that divides it."""
    pairs = [
        (longer, [base for base in market.timeframes if base is not longer and base.divides(longer)])
        for longer in market.timeframes
    ]
    return [(longer, max(bases)) for longer, bases in pairs if bases]


def _disagreements(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    instruments: Sequence[str],
    timeframes: tuple[Timeframe, Timeframe],
    since: np.datetime64,
) -> tuple[list[Fault], int]:
    """Longer candles that differ from what their base candles give, and how many were compared."""
    rows = [
        queries.candles_since(connection, market.name, [Series(i, each) for i in instruments], since)
        for each in timeframes
    ]
    ends = [np.searchsorted(each["series_no"], np.arange(len(instruments) + 1)) for each in rows]
    faults: list[Fault] = []
    examined = 0
    for number, instrument in enumerate(instruments):
        longer, base = (
            {name: values[own[number] : own[number + 1]] for name, values in each.items()}
            for each, own in zip(rows, ends, strict=True)
        )
        made = resample_counted(
            Candles.of(base["open_time"], (), **{name: base[name] for name in CANDLE_COLUMNS}),
            *timeframes,
            market.calendar_of(instrument),
        )
        whole = np.flatnonzero((made["complete"] > 0) & np.isin(made.open_time, longer["open_time"]))
        stored = np.searchsorted(longer["open_time"], made.open_time[whole])
        native = np.isnan(longer["base_bars"][stored])
        tolerance = np.where(native, market.max_deviation_percent / 100, ROUNDING)
        examined += len(stored)
        for name in ("high", "low"):
            given, wanted = longer[name][stored], made[name][whole]
            with np.errstate(divide="ignore", invalid="ignore"):
                deviation = np.abs(given / wanted - 1)
            faults += [
                Fault(
                    Series(instrument, timeframes[0]),
                    made.open_time[int(whole[row])],
                    f"{name} is {given[row]:g}, its {timeframes[1]} candles give {wanted[row]:g}",
                )
                for row in np.flatnonzero(deviation > tolerance)
            ]
    return faults, examined


# One entry is a whole check: the web UI and runs read them from here.
CANDLE_CHECKS = (
    CandleCheck("every_series_was_fetched", "The last attempt at every series got an answer.", fetched),
    CandleCheck(
        "nothing_was_rejected",
        "No candle of the last answers was rejected, and none is missing because it was.",
        rejected,
    ),
    CandleCheck(
        "prices_are_coherent", "In every candle high is highest, low is lowest, and all prices are positive.", coherent
    ),
    CandleCheck(
        "open_times_are_unique_and_on_the_grid",
        "Each candle is stored once and opens at a time of the market's calendar.",
        unique_and_on_the_grid,
    ),
    CandleCheck("no_candle_is_from_the_future", "No stored candle closes later than now.", not_from_the_future),
    CandleCheck("every_series_is_fresh", "Each series has the newest candle that the calendar says has closed.", fresh),
    CandleCheck(
        "calendar_is_known",
        "The calendar knows the market's sessions for the next 60 days.",
        calendar_known,
        applies=lambda market: market.calendar.last_known is not None,
    ),
    CandleCheck(
        "prices_are_plausible",
        "No recent price jumps and returns, is off by a factor of 100, or steps as at a split.",
        plausible,
    ),
    CandleCheck(
        "no_candles_are_missing",
        "Every candle that the calendar expects is stored, except those that the source does not have.",
        complete,
    ),
    CandleCheck(
        "timeframes_agree",
        "Each newest candle has the highest high and the lowest low of the shorter ones of its time.",
        timeframes_agree,
    ),
    CandleCheck(
        "sources_agree",
        "Where two sources have the same candle, their prices differ by no more than the allowed percentage.",
        sources_agree,
        applies=lambda market: bool(market.fallbacks),
    ),
)


def off_grid(connection: duckdb.DuckDBPyConnection, market: Market) -> list[Fault]:
    """Candles that open where no bar of the calendar opens, or while the market is closed."""
    faults: list[Fault] = []
    for calendar, instruments in _calendars(market).items():
        for timeframe, open_times in queries.distinct_open_times(connection, market.name, instruments).items():
            on_grid = calendar.allows(timeframe, open_times)
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
        for each in behind(market, stored, now)
    ]


def missing(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> list[Fault]:
    """Gaps at the beginning, in the middle and at the end, except those that the source has no candles for."""
    return [
        Fault(gap.series, gap.first, f"{gap.candles} missing up to {gap.last.astype('datetime64[s]')} ({gap.place})")
        for gap in find_gaps(connection, market, now)
        if not gap.is_confirmed
    ]


def implausible(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> list[Fault]:
    """Candles whose price cannot be right, among the newest few thousand of each series."""
    faults: list[Fault] = []
    for timeframe in market.timeframes:
        since = instant(now) - length_of(timeframe) * int(BARS_EXAMINED / market.calendar.open_share)
        series = [each for each in market.series if each.timeframe is timeframe]
        for first in range(0, len(series), SERIES_AT_ONCE):
            batch = series[first : first + SERIES_AT_ONCE]
            rows = queries.prices_since(connection, market.name, batch, since)
            starts = np.searchsorted(rows["series_no"], np.arange(len(batch) + 1))
            found = price_faults({name: rows[name] for name in (*PRICE_COLUMNS, "volume")}, starts)
            whose, opened = rows["series_no"][found.rows], rows["open_time"][found.rows].astype(TIME_UNIT)
            faults += [
                Fault(batch[number], at, f"{kind.value}: {ratio:.4g} times")
                for number, at, kind, ratio in zip(whose.tolist(), opened, found.kinds, found.ratios, strict=True)
            ]
    return faults


def _behind(report: SeriesReport, expected: np.datetime64) -> str:
    if report.last_open_time is None:
        return f"no candles at all ({report.outcome or 'never attempted'})"
    return f"newest candle expected: {expected.astype('datetime64[s]')}"


def export_verdict(warehouse: Warehouse, market: Market, root: Path) -> Verdict:
    """Whether every file is unaltered since it was written, and holds the rows of the tables."""
    with warehouse.session(market.name):
        warehouse.prepare(market)
        manifest = {each.path: each for each in warehouse.exported(market, market.series)}
        shared = dataset_rows(warehouse, market)
    with warehouse.reader() as connection:
        stored = queries.series_with_candles(connection, market.name)
        wanted = [file for series in market.series if series in stored for file in wanted_files(market, series)]
        whole = {file.path: file.series for file in wanted if file.path in manifest and _is_whole(file)}
        differing = queries.exports_that_differ(connection, market.name, root, whole)
    missing = [
        Fault(each.series, None, f"{each.path}: was never exported") for each in wanted if each.path not in manifest
    ]
    altered = [fault for each in wanted if each.path in manifest and (fault := _altered(root, manifest[each.path]))]
    altered += [fault for each in shared if (fault := _altered(root, each))]
    held = {each.series.timeframe for each in shared}
    missing += [
        Fault(each, None, f"the dataset of {each.timeframe} was never exported")
        for each in sorted(stored & set(market.series), key=str)
        if datasets(market) and each.timeframe not in held
    ]
    return Verdict([*missing, *altered, *differing], len(wanted) + len(shared), FILES)


def _is_whole(file: Wanted) -> bool:
    """Whether the file's candles can be held against the table's by DuckDB alone."""
    own_names = file.export.layout is not Layout.fx_refresh and file.layer is not Layer.indicators
    return own_names and file.kind is Format.parquet and str(file.export.window) == "full"


def _altered(root: Path, file: Exported) -> Fault | None:
    path = root / file.path
    if not path.exists():
        return Fault(file.series, None, f"{file.path}: the file is gone")
    if not is_as_written(root, file):
        return Fault(file.series, None, f"{file.path}: the file is not the one that was written")
    return None


def upload_verdict(
    warehouse: Warehouse, market: Market, spec: FileSpec, open_destination: Callable[[], Destination | None]
) -> Verdict:
    """Whether a destination holds what was last exported; nothing is examined where uploads are off."""
    series = with_datasets(market.series)
    with warehouse.session(market.name):
        warehouse.prepare(market)
        manifest = {each.path: each for each in warehouse.exported(market, series)}
        uploaded = {each.path: each for each in warehouse.uploaded(market, spec.name, series)}
    files = remotes(market, spec, market.series, manifest)
    if not files:
        return Verdict([], 0, FILES)
    try:
        destination = open_destination()
        if destination is None:
            return Verdict([], 0, FILES, remark=OFF)
        hashes = destination.hashes(list(files))
    except DestinationError as error:
        return Verdict([Fault(next(iter(files.values())).series, None, str(error))], len(files), FILES)
    faults = [
        fault
        for remote, file in files.items()
        if (fault := _not_there(file, uploaded.get(file.path), hashes.get(remote)))
    ]
    return Verdict(faults, len(files), FILES)


def window_verdict(
    warehouse: Warehouse, market: Market, spec: RedisSpec, open_destination: Callable[[], "RedisDestination"]
) -> Verdict:
    """Whether a Redis server holds as many candles of each series' window as the warehouse."""
    warehouse.prepare(market)
    batch = series_kept(spec, market.series)
    wanted = {s: len(r["open_time"]) for s, r in warehouse.newest_candles(market, batch, timedelta(days=spec.days))}
    wanted = {series: count for series, count in wanted.items() if count}
    try:
        held = open_destination().counts(list(wanted))
    except DestinationError as error:
        return Verdict([Fault(series, None, str(error)) for series in list(wanted)[:1]], len(wanted), SERIES)
    faults = [
        Fault(series, None, f"{held.get(series, 0)} candles at the destination, {count} wanted")
        for series, count in wanted.items()
        if held.get(series, 0) < count
    ]
    return Verdict(faults, len(wanted), SERIES)


def _not_there(file: Exported, upload: Published | None, content_hash: str | None) -> Fault | None:
    if upload is None:
        return Fault(file.series, None, f"{file.path}: was never uploaded")
    if content_hash is None:
        return Fault(file.series, None, f"{file.path}: is gone from the destination")
    if content_hash != upload.content_hash:
        return Fault(file.series, None, f"{file.path}: the destination holds another content than was uploaded")
    if upload.sha256 != file.sha256:
        return Fault(file.series, None, f"{file.path}: exported anew since it was uploaded")
    # The export file was changed between writing and uploading it. One of several blocks has a hash of another kind.
    if upload.hash_name == "sha256" and file.has_plain_hash and upload.content_hash != file.sha256:
        return Fault(file.series, None, f"{file.path}: the uploaded content is not the exported one")
    return None
